"""Translate llm's attachments into `input_image`, `input_file` and `input_text`.

docs/protocol.md describes them in P106, P114, P115 and P126.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Container
from typing import Any
from urllib.parse import unquote, unquote_to_bytes, urlsplit

import llm

from llm_chatgpt import config, http
from llm_chatgpt.backend.images import image_format_of
from llm_chatgpt.text import printable


class CannotSend(Exception):
    """Error for an attachment that cannot be sent.

    `args` complete the sentences "it ..." and "... or leave it out." of the message.
    """


def attachment_part(
    attachment: llm.Attachment,
    *,
    unreachable: Container[str] = (),
    image_detail: str | None = None,
    takes_images: bool = True,
) -> dict[str, Any]:
    """Return an attachment as part of a message. May read a file or fetch an address.

    The service itself downloads images with https addresses (P106), except those in `unreachable`,
    where it has failed. Raises CannotSend.
    """
    url = attachment.url or ""
    try:
        if is_data_url(attachment):
            attachment = _read_data_url(attachment)
        kind = _declared_kind(attachment)
        if kind not in config.IMAGE_TYPES and not config.may_be_text(kind):
            raise _unknown_type(kind)
        as_link = kind in config.IMAGE_TYPES and url.startswith("https://")
        as_link = as_link and url not in unreachable
        if not as_link:
            content = _content(attachment, kind)
            kind = _actual_kind(kind, content)
    except FileNotFoundError as error:
        raise CannotSend("no longer exists", "Name another file") from error
    except http.fetch_errors() as error:
        raise CannotSend("cannot be read", "Check it") from error
    name = os.path.basename(attachment.path or unquote(urlsplit(attachment.url or "").path))
    if kind in config.TEXT_TYPES:
        name, text = printable(name, 200), content.decode("utf-8-sig")
        return {"type": "input_text", "text": f"{name}:\n\n{text}" if name else text}
    if not as_link:
        url = f"data:{kind};base64,{base64.b64encode(content).decode()}"
    if kind in config.IMAGE_TYPES:
        if not takes_images:
            raise CannotSend("cannot be read by this model", "Use another model")
        detail = {"detail": image_detail} if image_detail else {}
        return {"type": "input_image", "image_url": url, **detail}
    suffix = config.FILE_TYPES[kind]
    name = name if name.lower().endswith(suffix) else (name or "attachment") + suffix
    return {"type": "input_file", "filename": name, "file_data": url}


def is_data_url(attachment: llm.Attachment) -> bool:
    """Check whether the attachment is a data: URL, which contains its content."""
    return (attachment.url or "")[:5].lower() == "data:"


def _read_data_url(attachment: llm.Attachment) -> llm.Attachment:
    """Decode a data: URL into an attachment with content and type. Raises ValueError."""
    header, _, data = str(attachment.url)[5:].partition(",")
    content = unquote_to_bytes(data)
    if header.lower().endswith(";base64"):
        content = base64.b64decode(content)
    return llm.Attachment(type=attachment.type or header.partition(";")[0], content=content)


def _declared_kind(attachment: llm.Attachment) -> str:
    """Return the MIME type without parameters; empty if it is unknown.

    For an https address without a type, a known suffix decides; otherwise it counts as an image.
    """
    if attachment.type or not (attachment.url or "").startswith("https://"):
        kind = (attachment.resolve_type() or "").partition(";")[0].strip().lower()
        return "image/jpeg" if kind == "image/jpg" else kind
    # llm would ask the server in every turn, and a different reply would change earlier messages.
    path = urlsplit(str(attachment.url)).path.lower()
    suffixes = (config.FILE_TYPES | config.TEXT_TYPES).items()
    return next((kind for kind, suffix in suffixes if path.endswith(suffix)), "image/png")


def _content(attachment: llm.Attachment, kind: str) -> bytes:
    """Read a file or fetch an address. Raises CannotSend."""
    limit = None if kind in config.IMAGE_TYPES else config.MAX_FILE_MIB * 2**20
    too_large = CannotSend(f"is larger than {config.MAX_FILE_MIB} MiB", "Shorten or split it,")
    # Checked before reading, because the file may not fit into memory.
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
    """Return the type that the content shows, or else a declared PDF or Office type.

    Text becomes "text/plain", unless it is declared as a PDF, as an Office file, or as an image
    other than SVG. Raises CannotSend.

    A file may have changed since llm looked at it, and an address may return anything.
    """
    is_declared_text = kind.startswith("text/") or kind in config.TEXT_TYPES
    is_text = _is_text(content)
    # Checked first, because text can begin like an image or a PDF.
    if is_declared_text and is_text:
        return "text/plain"
    if image_format := image_format_of(content):
        return f"image/{image_format}"
    if content.startswith(b"GIF8"):
        return "image/gif"
    if content.startswith(b"%PDF-"):
        return "application/pdf"
    if kind in config.FILE_TYPES:
        return kind
    if kind in config.IMAGE_TYPES:
        raise CannotSend("is not a PNG, JPEG, WebP or GIF image", "Check it")
    if is_text:
        return "text/plain"
    raise CannotSend("is not UTF-8 text", "Convert it") if is_declared_text else _unknown_type(kind)


def _is_text(content: bytes) -> bool:
    try:
        content.decode()
    except ValueError:
        return False
    return b"\0" not in content


def _unknown_type(kind: str) -> CannotSend:
    description = printable(kind, 60) if kind else "of an unknown type"
    return CannotSend(f"is {description}", "Convert it to PNG, JPEG, WebP, GIF, PDF or UTF-8 text,")
