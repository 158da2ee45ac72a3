"""The line on the user's terminal that counts while something is awaited.

A thread writes it, only while a `Waiting` block runs, and never beside other output: who prints
something takes the line away first (`beside_line`), and no line is written into an unfinished line
of other output. A program that uses the plugin without a command has no such line.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator

import click

from llm_chatgpt import config

# How long a wait must last to be worth a line, and how often the line is looked at.
_DELAY_SECONDS = 0.5
_TICK_SECONDS = 0.25


def in_command() -> bool:
    """Whether a command runs, as opposed to another program that uses the plugin."""
    return click.get_current_context(silent=True) is not None


def stderr_is_terminal() -> bool:
    """Whether a command runs whose notices somebody reads as they come."""
    # A stream that was closed before the program began is None.
    return in_command() and sys.stderr is not None and sys.stderr.isatty()


def shows_waiting() -> bool:
    """Whether waits are shown: on a terminal, unless LLM_CHATGPT_PROGRESS is 0."""
    return stderr_is_terminal() and not config.is_off("PROGRESS")


def width() -> int:
    """The columns of the user's terminal."""
    for stream in (sys.stderr, sys.stdout):
        # A stream may be closed, or no terminal.
        with contextlib.suppress(AttributeError, OSError, ValueError):
            return os.get_terminal_size(stream.fileno()).columns or 80
    return 80


class Waiting:
    """Around a wait: shows what is awaited, and counts its seconds up, or down from `seconds`.

    `hint` follows in brackets where the terminal is wide enough.
    """

    def __init__(self, what: str | Callable[[], str], seconds: float | None = None, hint: str = ""):
        self._what = what
        self._seconds = seconds
        self._hint = f" ({hint})" if hint else ""
        self._began = 0.0
        # Whether a line is shown in this program at all.
        self.shown = False
        # Whether others may print at any moment.
        self.paused = False

    def __enter__(self) -> Waiting:
        self._began = time.time()
        self.shown = shows_waiting()
        if self.shown:
            _line.begin(self)
        return self

    def __exit__(self, *_: object) -> None:
        if self.shown:
            _line.end(self)

    def pause(self) -> None:
        """Show nothing until `go_on`."""
        if self.shown:
            with _line.lock:
                self.paused = True
                _line.erase()

    def restart(self, *, mid_line: bool) -> None:
        """Count from 0 again. `mid_line`: the last output has not ended its line."""
        _line.mid_line = mid_line
        self._began = time.time()

    def go_on(self) -> None:
        self.paused = False

    def text(self) -> str:
        """The line now; empty if the wait has only just begun."""
        # By the clock, so that a machine may sleep meanwhile.
        passed = max(0.0, time.time() - self._began)
        if passed < _DELAY_SECONDS:
            return ""
        what = self._what if isinstance(self._what, str) else self._what()
        clock = _clock(passed)
        if self._seconds is not None:
            clock = f"{_clock(max(0.0, self._seconds - passed))} left"
        lines = (f"{what}, {clock}{self._hint}", f"{what}, {clock}", clock)
        # A line that is too long would begin a new one each second.
        return next((line for line in lines if len(line) < width() - 1), "")


def _clock(seconds: float) -> str:
    minutes, second = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{second:02}" if hours else f"{minutes}:{second:02}"


class _Line:
    """The line, of which there is one in a process, as there is one terminal."""

    def __init__(self) -> None:
        # Held while anything is written beside an answer.
        self.lock = threading.RLock()
        # Whether what others have printed on this terminal has not ended its line.
        self.mid_line = False
        # The waits that last, of which the last one is shown.
        self._waits: list[Waiting] = []
        self._on_screen = ""
        self._ticks = False

    def begin(self, wait: Waiting) -> None:
        with self.lock:
            self._waits.append(wait)
            if not self._ticks:
                self._ticks = True
                threading.Thread(target=self._tick, name="chatgpt-waiting", daemon=True).start()

    def end(self, wait: Waiting) -> None:
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
                if not self.mid_line and not any(wait.paused for wait in self._waits):
                    self._draw(self._waits[-1].text())
            time.sleep(_TICK_SECONDS)

    def _draw(self, text: str) -> None:
        if text and text != self._on_screen and _in_foreground():
            # Spaces cover the rest of a longer line, and keep apart what a user types.
            length = max(len(text) + 1, len(self._on_screen))
            self._write(text.ljust(min(length, width() - 1)))
            self._on_screen = text

    def _write(self, text: str) -> None:
        # The terminal may be gone.
        with contextlib.suppress(OSError, ValueError):
            click.echo(f"\r{text}", nl=False, err=True)


_line = _Line()


def _in_foreground() -> bool:
    """Whether the terminal is this program's, and not the shell's that runs it with `&`."""
    try:
        return os.tcgetpgrp(sys.stderr.fileno()) == os.getpgrp()
    # Windows does not know this, and the terminal may belong to another session.
    except (AttributeError, OSError, ValueError):
        return True


@contextlib.contextmanager
def beside_line() -> Iterator[None]:
    """Around output beside the answer: takes the line away, and ends the answer's line."""
    with _line.lock:
        _line.erase()
        if _line.mid_line:
            _line.mid_line = False
            with contextlib.suppress(OSError, ValueError):
                click.echo("", err=True)
        yield
