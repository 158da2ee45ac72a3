"""Create images outside a conversation; decode and save any image."""

from __future__ import annotations

import base64
import datetime
import os
import pathlib
import secrets
import struct
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from llm_chatgpt import clients, config, http
from llm_chatgpt.backend import refusals
from llm_chatgpt.errors import ChatGPTError, RequestRefused
from llm_chatgpt.files import os_reason, replace_file, user_dir, write_new
from llm_chatgpt.login.tokens import Tokens, backend_headers
from llm_chatgpt.text import in_thread, notice, printable
from llm_chatgpt.values import as_mapping, as_text, first_mapping
from llm_chatgpt.waiting import Waiting


def image_kind(data: bytes) -> str | None:
    """Tell png, jpeg or webp by the first bytes; None for anything else."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    return "webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


class Size(NamedTuple):
    """An image's width and height in pixels."""

    width: int
    height: int


def png_size(data: bytes) -> Size | None:
    """Read the size of a PNG image, which the service sends; None for other formats."""
    if image_kind(data) != "png" or len(data) < 24:
        return None
    return Size(*struct.unpack_from(">II", data, 16))


def decode_image(encoded: object) -> bytes:
    """Decode an image from base64; empty if it is not base64.

    In slices, because decoding keeps all other threads waiting.
    """
    text = as_text(encoded) or ""
    try:
        slices = (text[begin : begin + 2**20] for begin in range(0, len(text), 2**20))
        return b"".join(base64.b64decode(part, validate=True) for part in slices)
    except ValueError:
        return b""


# The options that are sent unless the user chooses others.
DEFAULT_OPTIONS = {"size": "auto", "quality": "auto", "background": "opaque"}


class Answer(NamedTuple):
    """An image, and the other fields of the service's answer."""

    picture: bytes
    fields: Mapping[str, Any]


def build_body(
    prompt: str, model: str, options: Mapping[str, str | None], images: Sequence[str]
) -> dict[str, Any]:
    """Build the request's JSON. `images` are data URLs of the images to edit."""
    body: dict[str, Any] = {
        # Arguments may hold bytes that are no text, which JSON cannot hold.
        "prompt": prompt.strip().encode("utf-8", "replace").decode(),
        "model": model,
        **{name: options.get(name) or value for name, value in DEFAULT_OPTIONS.items()},
    }
    if images:
        body["images"] = [{"image_url": image} for image in images]
    return body


def data_url(data: bytes, name: str) -> str:
    """Encode an image as a data URL. Raises ChatGPTError unless it is PNG, JPEG or WebP."""
    kind = image_kind(data)
    if kind is None:
        raise ChatGPTError(
            f"Could not send {printable(name, 100)}: it is not a PNG, JPEG or WebP image.",
            "Convert it or leave it out.",
        )
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def request_image(tokens: Tokens, login: str, body: Mapping[str, Any]) -> Answer:
    """Create an image, or edit the `images` of the body. Takes a minute or two.

    `login` is the command that signs in again. Nothing is sent twice, because a request may count
    against the limits even if its answer is lost. Raises ChatGPTError, as RequestRefused for an
    error status.
    """
    url = _url(tokens, body)
    with Waiting("Creating the image", hint="takes a minute or two"):
        reply = http.send(
            "POST",
            url,
            headers=backend_headers(tokens),
            json=body,
            seconds=config.IMAGE_TIMEOUT_SECONDS,
        )
    return _read_answer(reply, tokens, login)


async def request_image_async(tokens: Tokens, login: str, body: Mapping[str, Any]) -> Answer:
    """`request_image` for an event loop. It can be cancelled at any time."""
    url = _url(tokens, body)
    request = {
        "method": "POST",
        "url": url,
        "headers": backend_headers(tokens),
        "json": body,
        "timeout": clients.timeout(config.IMAGE_TIMEOUT_SECONDS),
    }
    with Waiting("Creating the image", hint="takes a minute or two"):
        async with http.AsyncStream(request) as stream:
            content = await stream.read()
    reply = http.Reply(stream.status, stream.headers, content, urlsplit(url).netloc)
    return await in_thread(_read_answer, reply, tokens, login)


def _url(tokens: Tokens, body: Mapping[str, Any]) -> str:
    route = tokens.route
    if not route.images_path:
        raise ChatGPTError(
            "OpenAI's official sign-in cannot create images.",
            "Use a Codex login ('llm chatgpt login').",
        )
    action = "edits" if "images" in body else "generations"
    return f"{route.base_url(tokens.origin)}{route.images_path}/{action}"


def _read_answer(reply: http.Reply, tokens: Tokens, login: str) -> Answer:
    if reply.status != 200:
        raise _refusal(reply, tokens, login)
    fields = dict(as_mapping(reply.data))
    picture = decode_image(first_mapping(fields.pop("data", None)).get("b64_json"))
    if not picture:
        raise ChatGPTError("The service sent no image.", "Try again, or describe it differently.")
    return Answer(picture, fields)


def _refusal(reply: http.Reply, tokens: Tokens, login: str) -> ChatGPTError:
    error = refusals.explain_refusal(reply, refusals.RefusedRequest(tokens, login))
    if error.code != refusals.MODEL_NOT_FOUND:
        return error
    # The usual sentence names a model that answers prompts.
    message = refusals.error_message(reply) or error.reason
    return RequestRefused(message, "Choose another with -m.", code=error.code, status=error.status)


def output_path(output: str) -> str:
    """The file to write: ~ stands for the home folder, and .png for the suffix of another image
    format, because nothing converts the image."""
    stem, suffix = os.path.splitext(os.path.expanduser(output))
    other_format = suffix.lower() in (".jpg", ".jpeg", ".webp", ".gif", ".tif", ".tiff", ".bmp")
    return stem + (".png" if other_format else suffix)


def check_place(output: str | None, *, replace: bool = False) -> None:
    """Make the folder of the new file. Raises ChatGPTError if the file could not be written.

    An image that cannot be saved would count against the limits for nothing.
    """
    path = output_path(output) if output else None
    if path and os.path.lexists(path) and not replace:
        raise ChatGPTError(f"{printable(path, 200)} already exists.", "Choose another name.")
    try:
        folder = os.path.dirname(path) or "." if path else image_folder()
        os.makedirs(folder, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        where = f"as {printable(path, 200)}" if path else "in chatgpt-images in llm's folder"
        raise ChatGPTError(
            f"Could not save the image {where} ({os_reason(error)}).",
            "Choose another place with -o.",
        ) from error
    if output and path and not path.endswith(os.path.splitext(output)[1]):
        notice(f"Note: images are PNG files, so this one will be saved as {printable(path, 200)}.")


class SavedImage(NamedTuple):
    """An image's absolute path, and its width and height in pixels (None: unknown)."""

    path: str
    width: int | None = None
    height: int | None = None


def save_answer(
    answer: Answer, body: Mapping[str, Any], output: str | None, *, replace: bool = False
) -> SavedImage:
    """Write the image to a file, as `write_image` does, and say if it has another size than
    `body` asks for."""
    kind = image_kind(answer.picture) or "png"
    chosen = output_path(output) if output else None
    path = os.path.abspath(write_image(answer.picture, kind, chosen, replace=replace))
    size = png_size(answer.picture)
    if size is None:
        return SavedImage(path)
    if body["size"] not in ("auto", f"{size.width}x{size.height}"):
        requested = printable(body["size"], 40)
        notice(f"Note: the image is {size.width}x{size.height}, not {requested}.")
    return SavedImage(path, *size)


def image_file_name(suffix: str) -> str:
    """Make up a file name that no other image has."""
    return f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(4)}.{suffix}"


def image_folder() -> pathlib.Path:
    """Create and return the default folder for images. Raises OSError."""
    folder = user_dir() / "chatgpt-images"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_image(picture: bytes, suffix: str, chosen: str | None, *, replace: bool = False) -> str:
    """Write an image to a new file, or `replace` an old one, and return its path.

    Where the `chosen` file cannot be written, a warning says so and the default folder is
    used. Raises ChatGPTError if that fails, too.
    """
    if chosen:
        try:
            path = pathlib.Path(chosen).expanduser()
            path.parent.mkdir(parents=True, exist_ok=True)
            if replace:
                temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
                write_new(temporary, picture)
                replace_file(temporary, path)
            else:
                write_new(path, picture)
            return str(path)
        # An unknown ~user is a RuntimeError, a path with a null byte a ValueError.
        except (OSError, RuntimeError, ValueError) as error:
            problem = f"could not save the image in {printable(chosen, 200)} ({_reason(error)})"
            notice(f"Warning: {problem}; using the default folder.")
    try:
        path = image_folder() / image_file_name(suffix)
        write_new(path, picture)
        return str(path)
    except OSError as error:
        raise ChatGPTError(
            f"Could not save the image in chatgpt-images in llm's folder ({_reason(error)})."
        ) from error


def _reason(error: Exception) -> str:
    return printable(os_reason(error) if isinstance(error, OSError) else error, 200)
