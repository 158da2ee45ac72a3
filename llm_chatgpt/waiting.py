"""Show the waiting line: it names the current wait on the user's terminal, and counts its seconds.

A thread writes the line, only while a `Waiting` block runs, and never beside other output: code
that prints something takes the line away first (`beside_line`), and no line is written into an
unfinished line of other output. A program that uses the plugin without a command has no such line.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TextIO

import click

from llm_chatgpt import config

# How long a wait must last to be worth a line, and how often the line is written again.
_DELAY_SECONDS = 0.5
_TICK_SECONDS = 0.25


def in_command() -> bool:
    """Check whether a command runs, as opposed to another program that uses the plugin."""
    return click.get_current_context(silent=True) is not None


def is_terminal(stream: TextIO | None) -> bool:
    """Check whether a standard stream is a terminal. One that was closed at the start is None."""
    return stream is not None and stream.isatty()


def stderr_is_terminal() -> bool:
    """Check whether a command runs whose notices appear on a terminal."""
    return in_command() and is_terminal(sys.stderr)


def shows_waiting() -> bool:
    """Check whether waits are shown: on a terminal, unless LLM_CHATGPT_PROGRESS is 0."""
    return stderr_is_terminal() and not config.is_off("PROGRESS")


def width() -> int:
    """Return the number of columns of the user's terminal."""
    for stream in (sys.stderr, sys.stdout):
        # A stream may be closed, or no terminal.
        with contextlib.suppress(AttributeError, OSError, ValueError):
            return os.get_terminal_size(stream.fileno()).columns or 80
    return 80


class Waiting:
    """Context manager around a wait: shows the line, and counts up, or down from `seconds`.

    `activity` names the wait. `hint` follows the time in brackets.
    """

    def __init__(
        self, activity: str | Callable[[], str], seconds: float | None = None, hint: str = ""
    ):
        self._activity = activity
        self._seconds = seconds
        self._hint = f" ({hint})" if hint else ""
        self._began = 0.0
        self._is_shown = shows_waiting()

    def __enter__(self) -> None:
        if self._is_shown:
            self._began = time.time()
            line.add(self)

    def __exit__(self, *_: object) -> None:
        if self._is_shown:
            line.remove(self)

    def text(self) -> str:
        """Return the text of the line; empty if the wait has only just begun."""
        # By the clock, so that a machine may sleep meanwhile.
        passed = max(0.0, time.time() - self._began)
        if passed < _DELAY_SECONDS:
            return ""
        activity = self._activity if isinstance(self._activity, str) else self._activity()
        clock = _clock(passed)
        if self._seconds is not None:
            clock = f"{_clock(max(0.0, self._seconds - passed))} left"
        text = f"{activity}, {clock}{self._hint}"
        # A line that is too long would begin a new one each second.
        return text if len(text) < width() - 1 else clock


def _clock(seconds: float) -> str:
    minutes, second = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{second:02}" if hours else f"{minutes}:{second:02}"


class _Line:
    """The waiting line. A process has one, as it has one terminal."""

    def __init__(self) -> None:
        # Held while anything is written beside an answer.
        self.lock = threading.RLock()
        # Whether other output on this terminal has not ended its line.
        self.mid_line = False
        # The waits that have begun, of which the last one is shown.
        self._waits: list[Waiting] = []
        self._on_screen = ""
        self._ticks = False

    def add(self, wait: Waiting) -> None:
        with self.lock:
            self._waits.append(wait)
            if not self._ticks:
                self._ticks = True
                threading.Thread(target=self._tick, name="chatgpt-waiting", daemon=True).start()

    def remove(self, wait: Waiting) -> None:
        with self.lock:
            self._waits.remove(wait)
            self.erase()

    def erase(self) -> None:
        if self._on_screen:
            # All of it, because Ctrl-C has left ^C there.
            self._write(" " * (width() - 1) + "\r")
            self._on_screen = ""

    def _tick(self) -> None:
        while True:
            with self.lock:
                self._ticks = bool(self._waits)
                if not self._ticks:
                    return
                text = "" if self.mid_line else self._waits[-1].text()
                if text and text != self._on_screen and _in_foreground():
                    # Spaces cover the rest of a longer line, and keep apart what a user types.
                    length = max(len(text) + 1, len(self._on_screen))
                    self._write(text.ljust(min(length, width() - 1)))
                    self._on_screen = text
            time.sleep(_TICK_SECONDS)

    def _write(self, text: str) -> None:
        # The terminal may be gone.
        with contextlib.suppress(OSError, ValueError):
            click.echo(f"\r{text}", nl=False, err=True)


line = _Line()


def _in_foreground() -> bool:
    """Check whether the terminal belongs to this program. After `&` it belongs to the shell."""
    try:
        return os.tcgetpgrp(sys.stderr.fileno()) == os.getpgrp()
    # Windows does not know this, and the terminal may belong to another session.
    except (AttributeError, OSError, ValueError):
        return True


@contextlib.contextmanager
def beside_line() -> Iterator[None]:
    """Context manager for output beside the answer: erases the line, and ends the answer's line."""
    with line.lock:
        line.erase()
        if line.mid_line:
            line.mid_line = False
            with contextlib.suppress(OSError, ValueError):
                click.echo("", err=True)
        yield
