"""Find llm's folder and keys; read and write files.

The functions that read or write a file raise OSError if the system refuses.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import llm

from llm_chatgpt import config
from llm_chatgpt.errors import ChatGPTError
from llm_chatgpt.text import printable
from llm_chatgpt.values import as_mapping, as_text


def user_dir() -> pathlib.Path:
    """Return llm's folder, and create it if it is missing. LLM_USER_PATH can name another."""
    return cast(pathlib.Path, llm.user_dir())


def llm_key(name: str) -> str | None:
    """Return the key with this name, from `llm keys set` or a plugin that stores keys elsewhere.

    None if there is no such key, or llm's file is damaged. Raises ChatGPTError if the plugin fails.
    """
    try:
        return as_text(llm.get_key(alias=name))
    except (OSError, ValueError):
        return None
    except Exception as error:
        raise ChatGPTError(f"Could not read a key of llm: {printable(error)}") from error


def llm_keys() -> Mapping[str, Any]:
    """Return the keys that `llm keys set` has stored, by name; empty if the file is damaged."""
    try:
        return as_mapping(llm.load_keys())
    except (OSError, ValueError):
        # llm itself reports the damage when it needs the file.
        return {}


def read_file(path: pathlib.Path) -> bytes:
    """Read a whole file. Raises OSError, also for a FIFO or a device, which might never end."""

    def read() -> bytes:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise OSError(errno.EINVAL, "not a regular file")
        return path.read_bytes()

    return _retried(read)


def write_whole(path: pathlib.Path, content: bytes) -> None:
    """Replace a file's content: readers see the old content or the new one, never a part of it.

    Only the user can read the file.
    """
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    handle = os.open(temporary, flags, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        replace_file(temporary, path)
        _sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def shorten_in_place(path: pathlib.Path, content: bytes) -> None:
    """Overwrite a file with JSON that is not longer than the file. Works even on a full disk.

    The JSON is padded with spaces before the file is truncated, so that the file is always valid
    JSON. Raises OSError, also for a symbolic link.
    """
    with path.open("r+b") as file:
        size = os.fstat(file.fileno()).st_size
        if len(content) > size or path.is_symlink():
            raise OSError("a symbolic link, or shorter than the new content")
        file.write(content.ljust(size))
        file.flush()
        os.fsync(file.fileno())
        file.truncate(len(content))


def write_new(path: pathlib.Path, content: bytes) -> None:
    """Create a file; if it cannot be written completely, delete it. Raises OSError if it exists."""
    file = path.open("xb")
    try:
        with file:
            file.write(content)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def remove_leftovers(path: pathlib.Path) -> None:
    """Delete temporary files left by killed processes. The caller must hold the lock."""
    for leftover in path.parent.glob(f"{path.name}.*.tmp"):
        with contextlib.suppress(OSError):
            leftover.unlink()


def replace_file(source: pathlib.Path, target: pathlib.Path) -> None:
    """Replace `target` with `source` atomically."""
    _retried(lambda: os.replace(source, target))


def _sync_folder(folder: pathlib.Path) -> None:
    """Make a rename survive a power cut. Does nothing on Windows, which cannot open a folder."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


Result = TypeVar("Result")


def _retried(action: Callable[[], Result]) -> Result:
    """Run a file operation and return its result.

    On Windows, repeat it for up to a second if it fails because another program reads or replaces
    the file.
    """
    for _ in range(50 if config.WINDOWS else 0):
        try:
            return action()
        except PermissionError:
            time.sleep(0.02)
    return action()


def os_reason(error: Exception) -> str:
    """Return the system's reason for an error, without a path."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
