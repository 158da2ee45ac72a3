"""Compresses the bodies of long requests."""

from __future__ import annotations

import contextlib
import importlib

from llm_chatgpt import config


def compress(content: bytes) -> tuple[bytes, dict[str, str]]:
    """Compress a request's body. Returns what to send, and the header that says how.

    Without that header, the content is unchanged.

    Codex CLI sends zstd (docs/protocol.md); Python has it from 3.14 on, or with the package
    zstandard.
    """
    if len(content) <= config.COMPRESS_ABOVE_BYTES or config.is_off("COMPRESS"):
        return content, {}
    for module in ("compression.zstd", "zstandard"):
        with contextlib.suppress(ImportError):
            return importlib.import_module(module).compress(content), {"Content-Encoding": "zstd"}
    if len(content) > config.GZIP_UP_TO_BYTES:
        return content, {}
    import gzip

    return gzip.compress(content), {"Content-Encoding": "gzip"}
