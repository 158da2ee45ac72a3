"""Run the real command in a pseudo-terminal, and type into it."""

from __future__ import annotations

import contextlib
import os
import re
import select
import struct
import subprocess
import sys
import time
from typing import Any

import pytest

from conftest import make_logs

needs_pty = pytest.mark.skipif(os.name == "nt", reason="Windows has no such terminals")


class Terminal:
    """`llm ...` whose stdin, stdout and stderr are a terminal that is `columns` wide.

    `screen` is everything printed so far, without colours and bold type.
    """

    def __init__(
        self,
        *arguments: str,
        columns: int = 80,
        program: tuple[str, ...] = ("-m", "llm"),
        **options: Any,
    ):
        if arguments[0] != "chatgpt":
            make_logs()
        import fcntl
        import pty
        import termios

        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        streams = {"stdin": slave, "stdout": slave, "stderr": slave, **options}
        self.process = subprocess.Popen(
            [sys.executable, *program, *arguments], start_new_session=True, **streams
        )
        os.close(slave)
        self.raw = ""

    @property
    def screen(self) -> str:
        return re.sub(r"\x1b\[[\d;]*m", "", self.raw)

    @property
    def rows(self) -> list[str]:
        """The lines on the screen, without trailing spaces."""
        rows: list[list[str]] = [[]]
        column = 0
        for character in self.screen:
            if character == "\r":
                column = 0
            elif character == "\n":
                rows.append([])
            else:
                rows[-1][column : column + 1] = character
                column += 1
        return ["".join(row).rstrip() for row in rows]

    def wait_for(self, pattern: str, seconds: float = 20) -> re.Match[str]:
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self.screen)):
            ready, _, _ = select.select([self.master], [], [], max(0, end - time.monotonic()))
            assert ready, self.screen
            try:
                data = os.read(self.master, 65536)
            except OSError:
                data = b""
            assert data, self.screen
            self.raw += data.decode()
        return found

    def address(self) -> str:
        """Wait for the address that a login prints, and return it."""
        return self.wait_for(r"\n  (http://127\S+)\r")[1]

    def type(self, text: str) -> None:
        os.write(self.master, text.encode() + b"\n")

    def end(self) -> int:
        """Wait for the end of the program, complete `screen`, and return the exit code."""
        with contextlib.suppress(AssertionError):
            self.wait_for(r"(?!)", 20)
        code = self.process.wait(timeout=20)
        os.close(self.master)
        return code
