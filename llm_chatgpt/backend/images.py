"""Create images outside a conversation; decode and save any image.

Images created here are PNG files. Those of a conversation arrive in its stream, as PNG, JPEG or
WebP, and are only decoded and saved here.
"""

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

from llm_chatgpt import config, http
from llm_chatgpt.backend import refusals
from llm_chatgpt.backend.catalogue import RESERVE
from llm_chatgpt.backend.endpoints import add_resets
from llm_chatgpt.errors import ChatGPTError, UsageLimitReached
from llm_chatgpt.files import os_reason, replace_file, user_dir, write_new
from llm_chatgpt.login.credentials import with_login
from llm_chatgpt.login.tokens import Tokens, backend_headers
from llm_chatgpt.text import notice, printable
from llm_chatgpt.values import as_text, first_mapping
from llm_chatgpt.waiting import Waiting


def image_format_of(data: bytes) -> str | None:
    """Recognize png, jpeg or webp by the first bytes; None for anything else."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    return "webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def png_size(data: bytes) -> tuple[int, int] | None:
    """Read the width and height of a PNG image; None for other formats."""
    if image_format_of(data) != "png" or len(data) < 24:
        return None
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


# Characters of base64 to decode at a time: a multiple of four.
_SLICE = 2**20


def decode_image(encoded: object) -> bytes:
    """Decode an image from base64; empty if it is not base64.

    Decodes in slices, because decoding blocks all other threads, including an event loop's.
    """
    text = as_text(encoded) or ""
    try:
        slices = (text[start : start + _SLICE] for start in range(0, len(text), _SLICE))
        return b"".join(base64.b64decode(part, validate=True) for part in slices)
    except ValueError:
        return b""


# The options that are sent unless the user chooses others.
DEFAULT_OPTIONS = {"size": "auto", "quality": "auto", "background": "opaque"}


class ImageAnswer(NamedTuple):
    """An image, and the other fields of the service's answer (P151)."""

    image: bytes
    fields: Mapping[str, Any]


def build_body(
    prompt: str, model: str, options: Mapping[str, str | None], images: Sequence[str]
) -> dict[str, Any]:
    """Build the request's JSON. `images` are data URLs of the images to edit."""
    body: dict[str, Any] = {
        # A command line may contain bytes that are not UTF-8, which JSON cannot contain.
        "prompt": prompt.strip().encode("utf-8", "replace").decode(),
        "model": model,
        **{name: options.get(name) or value for name, value in DEFAULT_OPTIONS.items()},
    }
    if images:
        body["images"] = [{"image_url": image} for image in images]
    return body


def data_url(data: bytes, name: str) -> str:
    """Encode an image as a data URL. Raises ChatGPTError unless it is PNG, JPEG or WebP."""
    image_format = image_format_of(data)
    if image_format is None:
        raise ChatGPTError(
            f"Could not send {printable(name, 100)}: it is not a PNG, JPEG or WebP image.",
            "Convert it or leave it out.",
        )
    return f"data:image/{image_format};base64,{base64.b64encode(data).decode()}"


def create_image(key: str | None, body: Mapping[str, Any]) -> ImageAnswer:
    """Create an image, or edit the `images` of the body, with the login that `key` names.

    Takes a minute or two. Nothing is sent again except after a 401, because a request may count
    against the limits even if its answer is lost (P151). Raises ChatGPTError; for an error status,
    RequestRefused.
    """

    def send(tokens: Tokens, login_command: str) -> ImageAnswer:
        with Waiting("Creating the image", hint="takes a minute or two"):
            reply = http.send(
                **_request(tokens, body),
                seconds=config.IMAGE_TIMEOUT_SECONDS,
                max_bytes=config.MAX_IMAGE_REPLY_BYTES,
            )
        return _parse(reply, tokens, login_command, key)

    return with_login(key, send)


def _request(tokens: Tokens, body: Mapping[str, Any]) -> dict[str, Any]:
    """Build the request for an image (P145)."""
    route = tokens.route
    if not route.images_path:
        raise ChatGPTError(
            "OpenAI's official sign-in cannot create images.",
            "Use a Codex login ('llm chatgpt login').",
        )
    action = "edits" if "images" in body else "generations"
    url = f"{route.base_url(tokens.origin)}{route.images_path}/{action}"
    return {"method": "POST", "url": url, "headers": backend_headers(tokens), "json": body}


def _parse(reply: http.Reply, tokens: Tokens, login_command: str, key: str | None) -> ImageAnswer:
    if reply.status != 200:
        error = refusals.explain_refusal(reply, refusals.RefusedRequest(tokens, login_command))
        if error.code == refusals.MODEL_NOT_FOUND:
            # The usual advice names a text model.
            error.replace_advice("Choose another with -m.")
        if isinstance(error, UsageLimitReached):
            # This slug keeps Luna Reserve out of the advice, because it creates no images.
            add_resets(error, tokens, RESERVE.slug, key)
        raise error
    fields = dict(reply.data)
    image = decode_image(first_mapping(fields.pop("data", None)).get("b64_json"))
    if not image:
        raise ChatGPTError("The service sent no image.", "Try again, or describe it differently.")
    return ImageAnswer(image, fields)


# Files -----------------------------------------------------------------------------

# Errors of paths: an unknown ~user raises RuntimeError, a null byte ValueError.
_PATH_ERRORS = (OSError, RuntimeError, ValueError)


def _output_path(output: str) -> pathlib.Path:
    """Return the path of the file to write. Raises RuntimeError for an unknown ~user.

    Replaces the suffix of another image format with .png, because the image is not converted.
    """
    path = pathlib.Path(output).expanduser()
    other_suffixes = (".jpg", ".jpeg", ".webp", ".gif", ".tif", ".tiff", ".bmp")
    return path.with_suffix(".png") if path.suffix.lower() in other_suffixes else path


def image_file_name(image_format: str) -> str:
    """Return a unique file name, made of the time and random characters."""
    return f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(4)}.{image_format}"


def _default_path(image_format: str) -> pathlib.Path:
    return user_dir() / "chatgpt-images" / image_file_name(image_format)


def check_output(
    output: str | None, *, replace: bool = False, if_exists: str = "Choose another name."
) -> None:
    """Create the new file's folder, and raise ChatGPTError if the file cannot be written.

    `if_exists` is the advice for an existing file. Called before the request, because an image
    that cannot be saved would still count against the limits.
    """
    where = f"as {printable(output, 200)}" if output else "in chatgpt-images in llm's folder"
    try:
        path = _output_path(output) if output else _default_path("png")
        exists = os.path.lexists(path) and not replace
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except _PATH_ERRORS as error:
        raise ChatGPTError(
            f"Could not save the image {where} ({_reason(error)}).", "Choose another place with -o."
        ) from error
    if exists:
        raise ChatGPTError(f"{printable(path, 200)} already exists.", if_exists)
    if output and path.suffix != pathlib.Path(output).suffix:
        notice(f"Note: images are PNG files, so this one will be saved as {printable(path, 200)}.")


class SavedImage(NamedTuple):
    """An image's absolute path, and its width and height in pixels (None: unknown)."""

    path: str
    width: int | None = None
    height: int | None = None


def save_answer(
    answer: ImageAnswer, body: Mapping[str, Any], output: str | None, *, replace: bool = False
) -> SavedImage:
    """Write the image with `write_image`. Prints a note if it does not have the requested size."""
    image_format = image_format_of(answer.image) or "png"
    chosen = str(_output_path(output)) if output else None
    path = write_image(answer.image, image_format, chosen, replace=replace)
    size = png_size(answer.image)
    if size is None:
        return SavedImage(path)
    actual, requested = f"{size[0]}x{size[1]}", body["size"]
    if requested not in ("auto", actual):
        notice(f"Note: the image is {actual}, not {printable(requested, 40)}.")
    return SavedImage(path, *size)


def write_image(image: bytes, image_format: str, chosen: str | None, replace: bool = False) -> str:
    """Write an image to a new file, or `replace` an old one, and return its absolute path.

    If the `chosen` file cannot be written, prints a warning and uses the default folder. Raises
    ChatGPTError if that fails, too.
    """
    if chosen:
        try:
            return _write(pathlib.Path(chosen).expanduser(), image, replace)
        except _PATH_ERRORS as error:
            problem = f"could not save the image as {printable(chosen, 200)} ({_reason(error)})"
            notice(f"Warning: {problem}; using the default folder.")
    try:
        return _write(_default_path(image_format), image)
    except OSError as error:
        raise ChatGPTError(
            f"Could not save the image in chatgpt-images in llm's folder ({_reason(error)})."
        ) from error


def _write(path: pathlib.Path, image: bytes, replace: bool = False) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    if replace:
        temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
        write_new(temporary, image)
        replace_file(temporary, path)
    else:
        write_new(path, image)
    # Later turns read the file again, perhaps from another working directory.
    return os.path.abspath(path)


def _reason(error: Exception) -> str:
    return printable(os_reason(error), 200)
