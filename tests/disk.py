"""Simulates a full disk: files can be created, but not written."""

from __future__ import annotations

import io
import os
import re
from typing import Any

import pytest


class _Full(io.FileIO):
    def write(self, _: Any) -> int:
        raise OSError(28, "No space left on device")


def fill_disk(
    monkeypatch: pytest.MonkeyPatch, file: str | None = None, after: int = 0
) -> list[str]:
    """Make writes to new files fail, or only those to new versions of `file`.

    The first `after` writes succeed. Returns a list of the files that could not be written, which
    grows with each failure.
    """
    pattern = re.compile(rf"{re.escape(file)}\.[0-9a-f]+\.tmp" if file else r".*\.tmp")
    real_open, real_fdopen = os.open, os.fdopen
    names: dict[int, str] = {}
    written: list[str] = []
    refused: list[str] = []

    def open_file(path: Any, *rest: Any, **more: Any) -> int:
        handle = real_open(path, *rest, **more)
        names[handle] = os.path.basename(os.fspath(path))
        return handle

    def open_handle(handle: int, *rest: Any, **more: Any) -> Any:
        name = names.get(handle, "")
        if not pattern.fullmatch(name):
            return real_fdopen(handle, *rest, **more)
        if len(written) < after:
            written.append(name)
            return real_fdopen(handle, *rest, **more)
        refused.append(name)
        return io.BufferedWriter(_Full(handle, "wb"))

    monkeypatch.setattr(os, "open", open_file)
    monkeypatch.setattr(os, "fdopen", open_handle)
    return refused
