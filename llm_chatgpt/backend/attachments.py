"""llm's attachments -> `input_image` and `input_file`, the parts of a message."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import llm

from llm_chatgpt import config, http
from llm_chatgpt.text import printable

_STAND_IN = re.compile(
    rb'("(?:image_url|file_data)":"data:[a-z]+/[a-z.+-]+;base64,)sha256:([0-9a-f]{64})'
)


class CannotSend(Exception):
    """Why an attachment cannot be sent, and what the user can do about it (its `args`)."""


class Encoded(NamedTuple):
    """The content of an attachment, its SHA-256, and the content in base64."""

    content: bytes
    digest: str
    data: bytes


class Attachments:
    """The images and files of one request.

    Their parts have stand-ins in place of the data, which `encode` puts in. `encoded` is what
    earlier requests of the same turn have encoded.
    """

    def __init__(self, *, image_detail: str | None, takes_images: bool):
        self.has_files = False
        self._image_detail = image_detail
        self._takes_images = takes_images
        self.encoded: list[Encoded] = []
        # SHA-256 of the data -> the data in base64.
        self._data: dict[bytes, bytes] = {}

    def part(self, attachment: llm.Attachment) -> dict[str, Any]:
        """An attachment as part of a message. Reads the file or fetches the address.

        Raises CannotSend.
        """
        try:
            kind = _kind(attachment)
            if kind in config.IMAGE_TYPES:
                return self._image(attachment, kind)
            if kind in config.FILE_TYPES:
                return self._file(attachment, kind)
        except FileNotFoundError as error:
            raise CannotSend("no longer exists", "Name another file") from error
        except http.fetch_errors() as error:
            raise CannotSend("cannot be read", "Check it") from error
        named = printable(kind, 60) if kind else "of an unknown type"
        raise CannotSend(f"is {named}", "Convert it to PNG, JPEG, WebP, GIF or PDF,")

    def _image(self, attachment: llm.Attachment, kind: str) -> dict[str, Any]:
        if not self._takes_images:
            raise CannotSend("cannot be read by this model", "Use another model")
        remote = (attachment.url or "").startswith("https://")
        url = attachment.url if remote else self._data_url(kind, attachment.content_bytes())
        detail = {"detail": self._image_detail} if self._image_detail else {}
        return {"type": "input_image", "image_url": url, **detail}

    def _file(self, attachment: llm.Attachment, kind: str) -> dict[str, Any]:
        too_large = CannotSend(f"is larger than {config.MAX_FILE_MIB} MiB", "Shorten or split it,")
        limit = config.MAX_FILE_MIB * 2**20
        # What is too large for the service may be too large for the memory, too.
        if attachment.path and not attachment.content and os.path.getsize(attachment.path) > limit:
            raise too_large
        content = attachment.content_bytes()
        if len(content or b"") > limit:
            raise too_large
        data = self._data_url(kind, content)
        self.has_files = True
        return {"type": "input_file", "filename": _filename(attachment, kind), "file_data": data}

    def _data_url(self, kind: str, content: bytes | None) -> str:
        if not content:
            raise CannotSend("is empty" if content == b"" else "cannot be read", "Check it")
        known = next((known for known in self.encoded if known.content == content), None)
        if known is None:
            digest = hashlib.sha256(content).hexdigest()
            self.encoded.append(known := Encoded(content, digest, base64.b64encode(content)))
        self._data[known.digest.encode()] = known.data
        return f"data:{kind};base64,sha256:{known.digest}"

    def encode(self, body: Mapping[str, Any]) -> bytes:
        """The request's bytes, with the attachments in their places.

        They are put in last, because JSON's encoder alone would take four times their size
        in memory. What users type cannot be taken for a stand-in: JSON escapes its quotes.
        """
        text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
        # In turn: text, the beginning of a data: URL, a digest.
        pieces = _STAND_IN.split(text.encode("utf-8", "replace"))
        pieces[2::3] = [self._data.get(digest, b"sha256:" + digest) for digest in pieces[2::3]]
        return b"".join(pieces)


def _kind(attachment: llm.Attachment) -> str:
    """The MIME type without parameters; empty if it is unknown.

    An https address without a type is the file that its suffix names, else an image.
    """
    if attachment.type or not (attachment.url or "").startswith("https://"):
        kind = (attachment.resolve_type() or "").partition(";")[0].strip().lower()
        return "image/jpeg" if kind == "image/jpg" else kind
    # llm would ask the server at every turn, and an answer could change what is sent again.
    path = urlsplit(str(attachment.url)).path.lower()
    files = (kind for kind, suffix in config.FILE_TYPES.items() if path.endswith(suffix))
    return next(files, "image/png")


def _filename(attachment: llm.Attachment, kind: str) -> str:
    """The name that the service is told; it always has a suffix."""
    path = attachment.path or unquote(urlsplit(attachment.url or "").path)
    name = os.path.basename(path) or "attachment"
    has_suffix = re.search(r"\.[a-z]\w{0,9}$", name, re.IGNORECASE)
    return name if has_suffix else name + config.FILE_TYPES[kind]
