"""The user's terminal, keyboard, browser and clipboard."""

from __future__ import annotations

import base64
import contextlib
import importlib
import os
import select
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import click

from llm_chatgpt import config
from llm_chatgpt.waiting import is_terminal as is_terminal


def styled(text: str, **styles: Any) -> str:
    """Give a text a colour or weight, which click removes if the output is not a terminal."""
    return text if os.environ.get("NO_COLOR") else click.style(text, **styles)


class Keyboard:
    """The user's keyboard, read line by line."""

    def __init__(self) -> None:
        # The beginning of the next line on a Windows console.
        self._typed = ""

    def read_line(self, seconds: float) -> str | None:
        """Return the next line; None if it does not come within `seconds`.

        Raises EOFError, or OSError or ValueError where the terminal cannot be read.
        """
        if config.WINDOWS:
            return self._read_console(seconds)
        # Not through sys.stdin: a thread that waits in it would keep the program from ending.
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
    """Check whether there is a browser that `open_address` can start."""
    return config.WINDOWS or bool(_browser_command())


def _browser_command() -> str:
    """Return the command of the user's browser, with %s for the address; empty if there is none."""
    command = os.environ.get("BROWSER", "").partition(os.pathsep)[0].rstrip(" &")
    if command:
        return command if "%s" in command else f"{command} %s"
    if sys.platform == "darwin":
        return "open %s"
    # Without a display, xdg-open looks for a text browser, which would have no terminal.
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return "xdg-open %s" if display and shutil.which("xdg-open") else ""


def open_address(url: str) -> bool:
    """Open a web page, or a file by its file: URL, for the user. Returns False if that fails.

    Unlike `webbrowser` and `click.launch`, this does not wait for the browser, and the browser can
    neither write to our stdout nor end with our Ctrl-C.
    """
    try:
        if config.WINDOWS:
            # Not a command: Windows could run a program with that name in the current folder.
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
        self._commands = _clipboard_commands() if local else []
        self._through_terminal = os.environ.get("TERM", "dumb") not in ("dumb", "linux")
        self.available = bool(self._commands) or self._through_terminal

    def copy_code(self, code: str) -> str:
        """Copy a code, and return a sentence that says whether that succeeded."""
        for command in self._commands:
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                subprocess.run(  # noqa: S603 - the user's own clipboard
                    command,
                    input=code.encode(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    timeout=5,
                    check=True,
                )
                return "Copied the code."
        if not self._through_terminal:
            return "Could not copy the code."
        # OSC 52, a request to copy that terminals do not answer.
        encoded = base64.b64encode(code.encode()).decode()
        click.echo(f"\x1b]52;c;{encoded}\a", nl=False, err=True)
        return "Asked your terminal to copy the code; not every terminal does."


def _clipboard_commands() -> list[list[str]]:
    """Return the installed commands that copy their input. Some may fail: xclip needs X11."""
    if config.WINDOWS:
        # With its path: Windows could run a program with that name in the current folder.
        return [[os.path.join(os.environ.get("SYSTEMROOT", r"C:\Windows"), "System32", "clip.exe")]]
    # WSL has Windows' clip.exe.
    commands = ("pbcopy", "wl-copy", "xclip -selection clipboard", "clip.exe")
    return [command for command in map(str.split, commands) if shutil.which(command[0])]
