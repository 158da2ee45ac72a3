"""Compresses the bodies of long requests."""

from __future__ import annotations

import contextlib
import gzip
import importlib

from llm_chatgpt import config


def compress(content: bytes) -> tuple[bytes, str]:
    """A request's body to send, and its content encoding; empty if it is better sent as it is.

    Codex CLI sends zstd (docs/protocol.md); Python has it from 3.14 on, or with the package
    zstandard.
    """
    if len(content) <= config.COMPRESS_ABOVE_BYTES or config.is_off("COMPRESS"):
        return content, ""
    for module in ("compression.zstd", "zstandard"):
        with contextlib.suppress(ImportError):
            return importlib.import_module(module).compress(content), "zstd"
    if len(content) > config.GZIP_UP_TO_BYTES:
        return content, ""
    return gzip.compress(content), "gzip"
