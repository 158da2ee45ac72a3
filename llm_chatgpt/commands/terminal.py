"""The user's terminal, keyboard and browser."""

from __future__ import annotations

import base64
import contextlib
import importlib
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import click

from llm_chatgpt import config


def is_terminal(stream: Any) -> bool:
    # A stream that was closed before the program began is None.
    return stream is not None and stream.isatty()


def styled(text: str, **styles: Any) -> str:
    """Text with a colour or weight, which click shows on terminals only."""
    return text if os.environ.get("NO_COLOR") else click.style(text, **styles)


class Keyboard:
    """Lines typed on this terminal, read without waiting longer than asked for."""

    def __init__(self) -> None:
        # What has been typed of the next line on a Windows console.
        self._typed = ""

    def read_line(self, seconds: float) -> str | None:
        """The next line; None if there is none in time.

        Raises EOFError, or OSError or ValueError where the terminal cannot be read.
        """
        return self._read_console(seconds) if config.WINDOWS else self._read_terminal(seconds)

    def _read_terminal(self, seconds: float) -> str | None:
        import select

        # Not through sys.stdin: a thread that waits in there hangs the program's end.
        terminal = sys.stdin.fileno()
        if not select.select([terminal], [], [], seconds)[0]:
            return None
        data = os.read(terminal, 65536)
        if not data:
            raise EOFError
        return data.decode(errors="replace")

    def _read_console(self, seconds: float) -> str | None:
        msvcrt: Any = importlib.import_module("msvcrt")
        end = time.monotonic() + seconds
        while True:
            while msvcrt.kbhit():
                key = msvcrt.getwche()
                if key in "\r\n":
                    line, self._typed = self._typed, ""
                    return line
                self._typed = self._typed[:-1] if key == "\b" else self._typed + key
            if time.monotonic() >= end:
                return None
            time.sleep(0.05)


def has_browser() -> bool:
    """Whether there is a browser that `open_in_browser` can start."""
    return config.WINDOWS or bool(_browser_command())


def _browser_command() -> str:
    """The command of the user's browser, with %s for the address; empty where there is none."""
    chosen = os.environ.get("BROWSER", "").partition(os.pathsep)[0].rstrip(" &")
    if chosen:
        return chosen if "%s" in chosen else f"{chosen} %s"
    if sys.platform == "darwin":
        return "open %s"
    # Without a display, a text browser would open in this terminal.
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return "xdg-open %s" if display and shutil.which("xdg-open") else ""


def open_in_browser(url: str) -> bool:
    """Open a page in the user's browser; False where that is not possible.

    Unlike with `webbrowser` and `click.launch`, the browser cannot write to our stdout, does
    not end with our Ctrl-C, and is not waited for.
    """
    try:
        if config.WINDOWS:
            # Not a command: one in the current folder could be run in its place.
            start: Callable[[str], None] = getattr(os, "startfile")  # noqa: B009 - Windows only
            start(url)
            return True
        command = [word.replace("%s", url) for word in shlex.split(_browser_command())]
        if not command:
            return False
        subprocess.Popen(  # noqa: S603 - the user's own browser
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except (OSError, ValueError):
        return False
    return True


class Clipboard:
    """The user's clipboard, reached by a command of this machine or through the terminal."""

    def __init__(self, *, local: bool):
        # Over SSH, a command would fill the clipboard of the wrong machine.
        self._command = _clipboard_command() if local else []
        self._through_terminal = not config.WINDOWS and os.environ.get("TERM", "dumb") not in (
            "dumb",
            "linux",
        )

    @property
    def available(self) -> bool:
        return bool(self._command) or self._through_terminal

    def copy(self, text: str) -> str:
        """Copy a text, and return a sentence that says whether it succeeded."""
        if self._command:
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                subprocess.run(  # noqa: S603 - the user's own clipboard
                    self._command,
                    input=text.encode(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    timeout=5,
                    check=True,
                )
                return "Copied the code."
        if not self._through_terminal:
            return "Could not copy the code."
        # "OSC 52". No terminal answers whether it did it.
        encoded = base64.b64encode(text.encode()).decode()
        click.echo(f"\x1b]52;c;{encoded}\a", nl=False, err=True)
        return "Asked your terminal to copy the code; not every terminal does."


def _clipboard_command() -> list[str]:
    """The command that copies its input to the clipboard; empty if there is none."""
    if config.WINDOWS:
        # Not by its name: a program in the current folder could be run in its place.
        return [os.path.join(os.environ.get("SYSTEMROOT", r"C:\Windows"), "System32", "clip.exe")]
    for words, display in (
        ("pbcopy", None),
        ("wl-copy", "WAYLAND_DISPLAY"),
        ("xclip -selection clipboard", "DISPLAY"),
        ("clip.exe", "WSL_DISTRO_NAME"),
    ):
        command = words.split()
        if (display is None or os.environ.get(display)) and shutil.which(command[0]):
            return command
    return []
