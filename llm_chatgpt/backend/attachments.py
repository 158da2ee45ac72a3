"""Translate llm's attachments to `input_image` and `input_file`, the parts of a message."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Container
from typing import Any
from urllib.parse import unquote, unquote_to_bytes, urlsplit

import llm

from llm_chatgpt import config, http
from llm_chatgpt.backend.pictures import image_kind
from llm_chatgpt.text import printable

# File suffixes and their types.
PICTURE_SUFFIXES = {f".{kind.partition('/')[2]}": kind for kind in sorted(config.IMAGE_TYPES)}
_SUFFIXES = {suffix: kind for kind, suffix in config.FILE_TYPES.items()} | PICTURE_SUFFIXES
_SUFFIXES |= {".jpg": "image/jpeg", ".htm": "text/html"}
_TEXT_TYPES = {kind for kind in config.FILE_TYPES if kind.startswith("text/")}
_TEXT_TYPES |= {"application/json", "application/xml"}


class CannotSend(Exception):
    """Why an attachment cannot be sent, and what the user can do about it (its `args`)."""


class Attachments:
    """Turns the attachments of one request into parts of its messages."""

    def __init__(self, *, image_detail: str | None, takes_images: bool):
        self.has_files = False
        # The addresses of images that the service could not download.
        self.unreachable: Container[str] = ()
        self._image_detail = image_detail
        self._takes_images = takes_images

    def part(self, attachment: llm.Attachment) -> dict[str, Any]:
        """Return an attachment as part of a message. Reads the file or fetches the address.

        Raises CannotSend.
        """
        try:
            if is_data_url(attachment):
                attachment = _read_data_url(attachment)
            kind = _kind(attachment)
            self._check_type(kind)
            if kind in config.IMAGE_TYPES and self._can_be_downloaded(attachment.url or ""):
                return self._image(str(attachment.url))
            content = _content(attachment, kind)
        except FileNotFoundError as error:
            raise CannotSend("no longer exists", "Name another file") from error
        except http.fetch_errors() as error:
            raise CannotSend("cannot be read", "Check it") from error
        kind = _actual_kind(kind, content)
        self._check_type(kind)
        data = f"data:{kind};base64,{base64.b64encode(content).decode()}"
        if kind in config.IMAGE_TYPES:
            return self._image(data)
        self.has_files = True
        return {"type": "input_file", "filename": _filename(attachment, kind), "file_data": data}

    def _can_be_downloaded(self, url: str) -> bool:
        """Check whether the service can download an image itself: that has not failed yet."""
        return url.startswith("https://") and url not in self.unreachable

    def _check_type(self, kind: str) -> None:
        if kind in config.IMAGE_TYPES:
            if not self._takes_images:
                raise CannotSend("cannot be read by this model", "Use another model")
        elif kind not in config.FILE_TYPES:
            named = printable(kind, 60) if kind else "of an unknown type"
            raise CannotSend(f"is {named}", "Convert it to PNG, JPEG, WebP, GIF or PDF,")

    def _image(self, url: str) -> dict[str, Any]:
        detail = {"detail": self._image_detail} if self._image_detail else {}
        return {"type": "input_image", "image_url": url, **detail}


def is_data_url(attachment: llm.Attachment) -> bool:
    """Check whether the attachment's address is its content."""
    return (attachment.url or "")[:5].lower() == "data:"


def _read_data_url(attachment: llm.Attachment) -> llm.Attachment:
    """Return the same attachment with its content and type. Raises ValueError."""
    header, _, data = str(attachment.url)[5:].partition(",")
    content = unquote_to_bytes(data)
    if header.lower().endswith(";base64"):
        content = base64.b64decode(content)
    return llm.Attachment(type=attachment.type or header.partition(";")[0], content=content)


def _kind(attachment: llm.Attachment) -> str:
    """Return the MIME type without parameters; empty if it is unknown.

    An https address without a type is the file that its suffix names, otherwise an image.
    """
    if attachment.type or not (attachment.url or "").startswith("https://"):
        kind = (attachment.resolve_type() or "").partition(";")[0].strip().lower()
        return "image/jpeg" if kind == "image/jpg" else kind
    # llm would ask the server in every turn, and another answer would change the earlier messages.
    path = urlsplit(str(attachment.url)).path.lower()
    files = (kind for kind, suffix in config.FILE_TYPES.items() if path.endswith(suffix))
    return next(files, "image/png")


def _content(attachment: llm.Attachment, kind: str) -> bytes:
    """Read a file or fetch an address. Raises CannotSend."""
    limit = None if kind in config.IMAGE_TYPES else config.MAX_FILE_MIB * 2**20
    too_large = CannotSend(f"is larger than {config.MAX_FILE_MIB} MiB", "Shorten or split it,")
    # Before reading: such a file may be too large for the memory, too.
    path = None if attachment.content else attachment.path
    if limit and path and os.path.getsize(path) > limit:
        raise too_large
    content: bytes | None = attachment.content_bytes()
    if not content:
        raise CannotSend("is empty" if content == b"" else "cannot be read", "Check it")
    if limit and len(content) > limit:
        raise too_large
    return content


def _actual_kind(kind: str, content: bytes) -> str:
    """Return the type that the first bytes tell. Raises CannotSend.

    A file may have changed since llm looked at it, and an address may return anything. Text can
    begin with any bytes.
    """
    if kind in _TEXT_TYPES:
        return kind
    if suffix := image_kind(content):
        return f"image/{suffix}"
    if content.startswith(b"GIF8"):
        return "image/gif"
    if content.startswith(b"%PDF-"):
        return "application/pdf"
    if kind in config.IMAGE_TYPES:
        raise CannotSend("is no PNG, JPEG, WebP or GIF image", "Check it")
    return kind


def _filename(attachment: llm.Attachment, kind: str) -> str:
    """Return the file name to send; its suffix matches the type."""
    path = attachment.path or unquote(urlsplit(attachment.url or "").path)
    name = os.path.basename(path) or "attachment"
    suffix = re.search(r"\.[a-z]\w{0,9}$", name.lower())
    named = _SUFFIXES.get(suffix[0], kind) if suffix else None
    # Any text is plain text.
    matches = named == kind or (kind == "text/plain" and named in _TEXT_TYPES)
    return name if matches else name + config.FILE_TYPES[kind]
