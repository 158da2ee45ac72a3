"""A picture drawn on its own, without a conversation; and what all pictures need: their size
and a file."""

from __future__ import annotations

import base64
import datetime
import pathlib
import secrets
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

from llm_chatgpt import config, http
from llm_chatgpt.backend import refusals
from llm_chatgpt.errors import ChatGPTError, ConnectionFailed, RequestRefused
from llm_chatgpt.files import os_reason, user_dir, write_new
from llm_chatgpt.login.tokens import Tokens, backend_headers
from llm_chatgpt.text import notice, printable
from llm_chatgpt.values import as_mapping, as_text, first_mapping


class Format(NamedTuple):
    """What a picture's first bytes say: png, jpeg or webp, and its size in pixels, None if it
    cannot be read."""

    kind: str
    width: int | None = None
    height: int | None = None


def read_format(data: bytes) -> Format | None:
    """None if the data is no PNG, JPEG or WebP picture."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        kind, read = "png", _png_size
    elif data.startswith(b"\xff\xd8\xff"):
        kind, read = "jpeg", _jpeg_size
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        kind, read = "webp", _webp_size
    else:
        return None
    try:
        return Format(kind, *read(data))
    except struct.error:
        return Format(kind)


def _png_size(data: bytes) -> tuple[int, ...]:
    return struct.unpack_from(">II", data, 16)


def _jpeg_size(data: bytes) -> tuple[int, ...]:
    place = 2
    while True:
        # Any number of fill bytes may stand before a marker's code.
        while data[place : place + 2] == b"\xff\xff":
            place += 1
        marker, length = struct.unpack_from(">HH", data, place)
        # The frame's header; the other numbers in this range are tables.
        if 0xFFC0 <= marker <= 0xFFCF and marker not in (0xFFC4, 0xFFC8, 0xFFCC):
            height, width = struct.unpack_from(">HH", data, place + 5)
            return width, height
        place += 2 + length


def _webp_size(data: bytes) -> tuple[int, ...]:
    chunk = data[12:16]
    if chunk == b"VP8X":
        low, high, low2, high2 = struct.unpack_from("<HBHB", data, 24)
        return (high << 16) + low + 1, (high2 << 16) + low2 + 1
    if chunk == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return bits % 2**14 + 1, (bits >> 14) % 2**14 + 1
    return tuple(number % 2**14 for number in struct.unpack_from("<HH", data, 26))


def decode_picture(encoded: object) -> bytes:
    """A picture from base64; empty if it is none.

    In slices, because decoding keeps all other threads waiting.
    """
    text = as_text(encoded) or ""
    try:
        slices = (text[begin : begin + 2**20] for begin in range(0, len(text), 2**20))
        return b"".join(base64.b64decode(part, validate=True) for part in slices)
    except ValueError:
        return b""


def request_picture(tokens: Tokens, login: str, options: Mapping[str, Any]) -> bytes:
    """Have a picture drawn, or with `images` have those changed. Takes a minute or two.

    `options` are those of the service (docs/protocol.md), `login` is the command that signs in
    again. Nothing is sent twice, because a request may count against the limits even if its
    answer is lost. Raises ChatGPTError, as RequestRefused for an error status.
    """
    route = tokens.route
    if not route.images_path:
        raise ChatGPTError(
            "OpenAI's official sign-in does not draw pictures on their own. Use --account NAME "
            "with a Codex login ('llm chatgpt login')."
        )
    way = "edits" if "images" in options else "generations"
    try:
        reply = http.send(
            "POST",
            f"{route.base_url(tokens.origin)}{route.images_path}/{way}",
            headers=backend_headers(tokens),
            json=options,
            seconds=config.PICTURE_TIMEOUT_SECONDS,
            max_bytes=config.MAX_PICTURE_REPLY_BYTES,
        )
    except ConnectionFailed as error:
        raise ChatGPTError(f"{error.message} Check the network and try again.") from error
    if reply.status != 200:
        raise _refusal(reply, login)
    picture = decode_picture(first_mapping(as_mapping(reply.data).get("data")).get("b64_json"))
    if not picture:
        raise ChatGPTError("No picture came. Try again, or describe it differently.")
    return picture


def _refusal(reply: http.Reply, login: str) -> ChatGPTError:
    error = refusals.explain_refusal(reply, login=login)
    if error.code != refusals.MODEL_NOT_FOUND:
        return error
    # The usual sentence names a model that answers prompts.
    said = refusals.error_message(reply)
    return RequestRefused(f"{said} Choose one with --model.", code=error.code, status=reply.status)


def picture_name(suffix: str) -> str:
    """A file name that no other picture has."""
    return f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(4)}.{suffix}"


def picture_folder() -> pathlib.Path:
    """Where pictures go unless the user says otherwise. Raises OSError if it cannot be made."""
    folder = user_dir() / "chatgpt-images"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def save_picture(picture: bytes, suffix: str, chosen: str | None, *, mid_line: bool = False) -> str:
    """Write a picture to a new file and return its path.

    Where the `chosen` file cannot be written, a warning says so and the default folder is
    used. Raises ChatGPTError if that fails, too. `mid_line` is as for `notice`.
    """
    if chosen:
        try:
            path = pathlib.Path(chosen).expanduser()
            path.parent.mkdir(parents=True, exist_ok=True)
            write_new(path, picture)
            return str(path)
        # An unknown ~user is a RuntimeError, a path with a null byte a ValueError.
        except (OSError, RuntimeError, ValueError) as error:
            problem = f"could not save the picture in {printable(chosen, 200)} ({_reason(error)})"
            notice(f"Warning: {problem}; using the default folder.", mid_line=mid_line)
    try:
        path = picture_folder() / picture_name(suffix)
        write_new(path, picture)
        return str(path)
    except OSError as error:
        raise ChatGPTError(
            f"Could not save the picture in chatgpt-images in llm's folder ({_reason(error)})."
        ) from error


def _reason(error: Exception) -> str:
    return printable(os_reason(error) if isinstance(error, OSError) else error, 200)
