"""Show the waiting line, which names the current wait on the terminal and counts its seconds.

A thread writes the line while a `Waiting` block runs. The line never mixes with other output: code
that prints erases it first (`line_erased`), and the thread writes nothing while other output has an
unfinished line. Programs that use the plugin outside llm's commands get no such line.
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

# How long a wait must last before the line appears, and how often it is updated.
_DELAY_SECONDS = 0.5
_TICK_SECONDS = 0.25


def in_command() -> bool:
    """Check whether a command runs, as opposed to another program that uses the plugin."""
    return click.get_current_context(silent=True) is not None


def is_terminal(stream: TextIO | None) -> bool:
    """Check whether a standard stream is a terminal. None stands for a closed stream."""
    return stream is not None and stream.isatty()


def stderr_is_terminal() -> bool:
    """Check whether a command runs and its notices appear on a terminal."""
    return in_command() and is_terminal(sys.stderr)


def shows_waiting() -> bool:
    """Check whether waits are shown: on a terminal, unless LLM_CHATGPT_PROGRESS is 0."""
    return stderr_is_terminal() and not config.is_off("PROGRESS")


def width() -> int:
    """Return the number of columns of the user's terminal."""
    for stream in (sys.stderr, sys.stdout):
        # A stream may be closed, or not be a terminal.
        with contextlib.suppress(AttributeError, OSError, ValueError):
            return os.get_terminal_size(stream.fileno()).columns or 80
    return 80


class Waiting:
    """Context manager that shows the line during a wait, and counts up, or down from `seconds`.

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
        # By the wall clock, which also counts the time while the machine sleeps.
        passed = max(0.0, time.time() - self._began)
        if passed < _DELAY_SECONDS:
            return ""
        activity = self._activity if isinstance(self._activity, str) else self._activity()
        clock = _clock(passed)
        if self._seconds is not None:
            clock = f"{_clock(max(0.0, self._seconds - passed))} left"
        text = f"{activity}, {clock}{self._hint}"
        # A line that is wider than the terminal could not be overwritten.
        return text if len(text) < width() - 1 else clock


def _clock(seconds: float) -> str:
    minutes, second = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{second:02}" if hours else f"{minutes}:{second:02}"


class _Line:
    """The waiting line. A process has one, as it has one terminal."""

    def __init__(self) -> None:
        # Held while anything but an answer is written.
        self.lock = threading.RLock()
        # Whether other output on this terminal has left a line unfinished.
        self.mid_line = False
        # The running waits. The line shows the last one.
        self._waits: list[Waiting] = []
        self._on_screen = ""
        self._is_ticking = False

    def add(self, wait: Waiting) -> None:
        with self.lock:
            self._waits.append(wait)
            if not self._is_ticking:
                self._is_ticking = True
                threading.Thread(target=self._tick, name="chatgpt-waiting", daemon=True).start()

    def remove(self, wait: Waiting) -> None:
        with self.lock:
            self._waits.remove(wait)
            self.erase()

    def erase(self) -> None:
        if self._on_screen:
            # Erase the whole line, because Ctrl-C leaves ^C there.
            self._write(" " * (width() - 1) + "\r")
            self._on_screen = ""

    def _tick(self) -> None:
        while True:
            with self.lock:
                self._is_ticking = bool(self._waits)
                if not self._is_ticking:
                    return
                text = "" if self.mid_line else self._waits[-1].text()
                if text and text != self._on_screen and _in_foreground():
                    # Spaces overwrite the rest of a longer line, and separate it from what the user
                    # types.
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
    """Check whether this program owns the terminal. After `&` the shell owns it."""
    try:
        return os.tcgetpgrp(sys.stderr.fileno()) == os.getpgrp()
    # Windows has no such functions, and the terminal may belong to another session.
    except (AttributeError, OSError, ValueError):
        return True


@contextlib.contextmanager
def line_erased() -> Iterator[None]:
    """Context manager for output other than the answer: erases the waiting line, and ends an
    unfinished line of the answer."""
    with line.lock:
        line.erase()
        if line.mid_line:
            line.mid_line = False
            with contextlib.suppress(OSError, ValueError):
                click.echo("", err=True)
        yield
