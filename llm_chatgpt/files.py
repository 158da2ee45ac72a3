"""llm's folder and keys, and the writing of a file as a whole."""

from __future__ import annotations

import contextlib
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any, cast

import llm

from llm_chatgpt import config
from llm_chatgpt.values import as_mapping


def user_dir() -> pathlib.Path:
    """llm's folder, which LLM_USER_PATH can move."""
    return cast(pathlib.Path, llm.user_dir())


def replace_file(source: pathlib.Path, target: pathlib.Path) -> None:
    # On Windows a reader that has the file open makes this fail for a moment.
    for attempt in range(50):
        try:
            os.replace(source, target)
            return
        except PermissionError:
            if not config.WINDOWS or attempt == 49:
                raise
            time.sleep(0.02)


def sync_folder(folder: pathlib.Path) -> None:
    if config.WINDOWS:
        return
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def os_reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


def llm_keys() -> Mapping[str, Any]:
    # llm itself says what is wrong with a damaged file, where it needs it.
    try:
        return as_mapping(llm.load_keys())
    except (OSError, ValueError):
        return {}
