"""llm's messages -> the request's `input`."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import llm
from llm.parts import AttachmentPart, Message, ReasoningPart, TextPart, ToolCallPart, ToolResultPart

from llm_chatgpt import config
from llm_chatgpt.text import printable
from llm_chatgpt.values import as_mapping


class InputBuilder:
    """llm's messages as the request's `instructions` and `input` (responses.md 4).

    Earlier messages always give the same items, so that earlier input is a prefix of later
    input. Reasoning goes back only to the account that it came from, ids never.
    """

    def __init__(
        self, *, account_key: str, image_detail: str | None = None, takes_images: bool = True
    ):
        self.account_key = account_key
        self.image_detail = image_detail
        self.takes_images = takes_images
        self.instructions = ""
        self.items: list[dict[str, Any]] = []
        # What stands in the items for the base64 of an image, and the base64: see `encode`.
        self.images: dict[str, bytes] = {}
        self.lost_attachments: list[str] = []
        self._system_texts: list[str] = []
        self._content: list[dict[str, Any]] = []

    def build(self, messages: Iterable[Message], system: str) -> None:
        for message in messages:
            if message.role == "system":
                self._add_system("".join(_texts(message)))
            else:
                self._add(message)
        # `llm -c -s` and messages= with system= leave the system prompt out of the messages.
        if system and system not in self._system_texts:
            if self.instructions:
                self.items.append(_message_item("developer", system))
            else:
                self.instructions = system
        self.items = _paired(self.items)
        self.instructions = self.instructions or config.DEFAULT_INSTRUCTIONS

    def _add_system(self, text: str) -> None:
        if not text:
            return
        self._system_texts.append(text)
        if not self.items:
            self.instructions = f"{self.instructions}\n\n{text}" if self.instructions else text
        else:
            # The backend refuses the role system (responses.md 3).
            self.items.append(_message_item("developer", text))

    def _add(self, message: Message) -> None:
        role = message.role if message.role in ("user", "assistant", "developer") else "user"
        text_type = "output_text" if role == "assistant" else "input_text"
        for part in message.parts:
            if isinstance(part, TextPart):
                if part.text:
                    self._content.append({"type": text_type, "text": part.text})
                continue
            if isinstance(part, AttachmentPart) and role != "assistant":
                self._content.append(self._attachment(part.attachment))
                continue
            self._close_message(role)
            if isinstance(part, AttachmentPart):
                self._content.append(self._attachment(part.attachment))
                self._close_message("user")
            elif isinstance(part, ReasoningPart):
                self._add_reasoning(part)
            elif isinstance(part, ToolCallPart):
                self._add_tool_call(part)
            elif isinstance(part, ToolResultPart):
                self._add_tool_result(part)
        self._close_message(role)

    def _close_message(self, role: str) -> None:
        if self._content:
            self.items.append({"type": "message", "role": role, "content": self._content})
            self._content = []

    def _add_reasoning(self, part: ReasoningPart) -> None:
        ours = _our_metadata(part)
        encrypted = ours.get("encrypted_content")
        if isinstance(encrypted, str) and ours.get("account") == self.account_key:
            summary = ours.get("summary")
            self.items.append(
                {
                    "type": "reasoning",
                    "summary": summary if isinstance(summary, list) else [],
                    "encrypted_content": encrypted,
                }
            )

    def _add_tool_call(self, part: ToolCallPart) -> None:
        if not part.server_executed:
            arguments = part.arguments
            raw = arguments.get("_raw") if isinstance(arguments, dict) else None
            text = raw if isinstance(raw, str) and len(arguments) == 1 else json.dumps(arguments)
            self.items.append(
                {
                    "type": "function_call",
                    "call_id": part.tool_call_id,
                    "name": tool_name(part.name),
                    "arguments": text,
                }
            )
            return
        kind = _our_metadata(part).get("type")
        if kind == "web_search_call":
            action = {k: v for k, v in as_mapping(part.arguments).items() if k != "sources"}
            self.items.append({"type": kind, "status": "completed", "action": action})
        elif kind == "image_generation_call":
            prompt = as_mapping(part.arguments).get("prompt")
            text = f"[drew an image: {prompt}]" if prompt else "[drew an image]"
            self.items.append(_message_item("assistant", text))

    def _add_tool_result(self, part: ToolResultPart) -> None:
        if part.server_executed:
            return
        output: Any = part.output
        if part.attachments:
            output = [{"type": "input_text", "text": part.output}] if part.output else []
            output += [self._attachment(attachment) for attachment in part.attachments]
        self.items.append(
            {
                "type": "function_call_output",
                "call_id": part.tool_call_id,
                "output": output,
                # Taken off again when calls and outputs are paired.
                "name": tool_name(part.name),
            }
        )

    def _attachment(self, attachment: llm.Attachment | None) -> dict[str, Any]:
        if attachment is None:
            return {"type": "input_text", "text": "[an attachment that was not kept]"}
        url = attachment.url or ""
        # What llm's own reading and fetching of attachments can raise.
        libraries = filter(None, map(sys.modules.get, ("httpx", "httpx2")))
        gone: tuple[type[Exception], ...] = (OSError, *(http.HTTPError for http in libraries))
        try:
            # Asking llm for the type of an address would fetch it at every turn.
            kind = attachment.type or ("image/*" if url else attachment.resolve_type())
            if not self.takes_images or not kind or not kind.startswith("image/"):
                left_out = f"[attachment left out, because it is {printable(kind, 60)}]"
                return {"type": "input_text", "text": left_out}
            if not url.startswith("https://"):
                kind = attachment.resolve_type() if kind == "image/*" else kind
                stand_in = f"<<image {attachment.id()}>>"
                self.images[stand_in] = base64.b64encode(attachment.content_bytes())
                url = f"data:{kind};base64,{stand_in}"
        except gone:
            name = attachment.url or os.path.basename(attachment.path or "") or "attachment"
            self.lost_attachments.append(printable(name, 100))
            return {"type": "input_text", "text": "[an attachment that is gone]"}
        part = {"type": "input_image", "image_url": url}
        if self.image_detail:
            part["detail"] = self.image_detail
        return part


def encode(body: Mapping[str, Any], images: Mapping[str, bytes]) -> bytes:
    """The request's bytes, with the images put in last: an image of 10 MB passes through
    JSON's encoder as a few letters and is copied once (a benchmark's row)."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    pieces = [text.encode("utf-8", "replace")]
    for stand_in, image in images.items():
        pieces = [
            part for piece in pieces for part in _separated(piece.split(stand_in.encode()), image)
        ]
    return b"".join(pieces)


def _separated(pieces: list[bytes], separator: bytes) -> Iterator[bytes]:
    for number, piece in enumerate(pieces):
        if number:
            yield separator
        yield piece


def _texts(message: Message) -> list[str]:
    return [part.text for part in message.parts if isinstance(part, TextPart)]


def _our_metadata(part: Any) -> Mapping[str, Any]:
    return as_mapping((part.provider_metadata or {}).get(config.METADATA_KEY))


def _message_item(role: str, text: str) -> dict[str, Any]:
    kind = "output_text" if role == "assistant" else "input_text"
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text}]}


def tool_name(name: str) -> str:
    """A name that the backend accepts; other models' tools may be called anything."""
    return re.sub(r"[^a-zA-Z0-9_-]", "_", name or "")[:128] or "tool"


def _call_id(call_id: object, fallback: str) -> str:
    if not isinstance(call_id, str) or not call_id:
        return fallback
    if len(call_id) <= 64:
        return call_id
    return f"call_{hashlib.sha256(call_id.encode()).hexdigest()[:40]}"


def _paired(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The items with an output for every call and a call for every output.

    The backend refuses either alone, and a history may have both: an answer that was cut
    short, another model's ids (or none), ids that begin anew in every turn.
    """
    paired: list[dict[str, Any]] = []
    # Calls that wait for their output, oldest first: original id -> the one that is sent.
    waiting: list[tuple[object, str]] = []
    used: set[str] = set()

    def settle() -> None:
        for _, call_id in waiting:
            paired.append(
                {
                    "type": "function_call_output",
                    "call_id": call_id,
                    "output": "[this call was not carried out]",
                }
            )
        waiting.clear()

    def unused(call_id: object) -> str:
        fitting = _call_id(call_id, f"call_{len(used) + 1}")
        while fitting in used:
            fitting = f"call_{len(used) + 1}_{fitting}"[:64]
        used.add(fitting)
        return fitting

    for item in items:
        if item["type"] == "function_call":
            call_id = unused(item["call_id"])
            waiting.append((item["call_id"], call_id))
            paired.append({**item, "call_id": call_id})
        elif item["type"] == "function_call_output":
            match = next((pair for pair in waiting if pair[0] == item["call_id"]), None)
            if match is None:
                match = (item["call_id"], unused(item["call_id"]))
                paired.append(
                    {
                        "type": "function_call",
                        "call_id": match[1],
                        "name": item["name"],
                        "arguments": "{}",
                    }
                )
            else:
                waiting.remove(match)
            paired.append({"type": item["type"], "call_id": match[1], "output": item["output"]})
        else:
            if item["type"] == "message" and item["role"] != "assistant":
                settle()
            paired.append(item)
    settle()
    return paired
