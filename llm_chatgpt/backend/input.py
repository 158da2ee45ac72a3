"""llm's messages -> the request's `instructions` and `input`."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

import llm
from llm.parts import AttachmentPart, Message, ReasoningPart, TextPart, ToolCallPart, ToolResultPart

from llm_chatgpt import config
from llm_chatgpt.backend.attachments import Attachments, CannotSend
from llm_chatgpt.errors import ChatGPTError
from llm_chatgpt.text import printable
from llm_chatgpt.values import as_list, as_mapping, as_text


class InputBuilder:
    """Collects `instructions` and `items`; `build` fills them.

    The same messages always give the same items, so that a longer conversation begins with
    the bytes that the service has cached. Reasoning is sent back only to the account that it
    came from, and ids never, because the service stores nothing (docs/protocol.md).

    Every call gets an output, every output a call, and every pair an id of its own: the service
    refuses one without the other, and a history may have either: an answer that was cut short,
    or another model's ids, which may be missing or begin anew in every turn.
    """

    def __init__(self, *, account_key: str, image_detail: str | None, takes_images: bool):
        self.account_key = account_key
        self.attachments = Attachments(image_detail=image_detail, takes_images=takes_images)
        self.instructions = ""
        self.items: list[dict[str, Any]] = []
        # What the user should know about the attachments.
        self.notes: list[str] = []
        # The role of the last item, if that is a message which still grows.
        self._role: str | None = None
        # Calls that wait for their output, oldest first: the original id and the one sent.
        self._waiting: list[tuple[object, str]] = []
        self._call_ids: set[str] = set()

    def build(
        self, messages: Iterable[Message], system: str, answer: Iterable[Message] = ()
    ) -> None:
        """`answer` is what the model has said to these messages already, if it shall go on.

        Raises ChatGPTError for an attachment of the new message that cannot be sent.
        """
        messages = list(messages)
        answers = [n for n, message in enumerate(messages) if message.role == "assistant"]
        said = []
        for number, message in enumerate(messages):
            if message.role == "system":
                text = "".join(part.text for part in message.parts if isinstance(part, TextPart))
                said.append(text)
                if self.items:
                    # The service refuses the role system (docs/protocol.md).
                    self._add_text("developer", text)
                else:
                    self.instructions = "\n\n".join(filter(None, (self.instructions, text)))
            else:
                self._add(message, new=number > max(answers, default=-1))
        # `llm -c -s` and messages= with system= leave the system prompt out of the messages.
        if system not in said:
            if self.instructions:
                self._add_text("developer", system)
            else:
                self.instructions = system
        self._add_missing_outputs()
        for message in answer:
            self._add(message, new=False)

    def begin_with_system_message(self) -> None:
        """Send the instructions as the first message."""
        if self.instructions:
            content = [{"type": "input_text", "text": self.instructions}]
            self.items.insert(0, {"type": "message", "role": "developer", "content": content})

    def _add(self, message: Message, *, new: bool) -> None:
        role = message.role if message.role in ("user", "assistant", "developer") else "user"
        self._role = None
        for part in message.parts:
            ours = _our_metadata(part)
            if ours.get("replay") is False:
                continue
            # A commentary is a message, which only llm takes for reasoning.
            if isinstance(part, TextPart) or (
                isinstance(part, ReasoningPart) and ours.get("type") == "message"
            ):
                self._add_text(role, part.text, as_text(ours.get("phase")))
            elif isinstance(part, AttachmentPart):
                # The service takes them from the user only.
                owner = "user" if role == "assistant" else role
                self._add_content(owner, self._attachment(part.attachment, new=new))
            else:
                self._role = None
                if isinstance(part, ReasoningPart):
                    self._add_reasoning(part)
                elif isinstance(part, ToolCallPart):
                    self._add_tool_call(part)
                elif isinstance(part, ToolResultPart) and not part.server_executed:
                    self._add_tool_result(part)

    def _add_text(self, role: str, text: str, phase: str | None = None) -> None:
        if not text:
            return
        kind = "output_text" if role == "assistant" else "input_text"
        content = {"type": kind, "text": text}
        if phase:
            # A message goes back alone, with the phase that it came with.
            self._add_item("message", role=role, phase=phase, content=[content])
        else:
            self._add_content(role, content)

    def _add_content(self, role: str, content: dict[str, Any]) -> None:
        if role != self._role:
            if role != "assistant":
                self._add_missing_outputs()
            self._add_item("message", role=role, content=[])
            self._role = role
        self.items[-1]["content"].append(content)

    def _add_item(self, kind: str, **fields: Any) -> None:
        self.items.append({"type": kind, **fields})
        self._role = None

    def _add_reasoning(self, part: ReasoningPart) -> None:
        ours = _our_metadata(part)
        encrypted = as_text(ours.get("encrypted_content"))
        if encrypted and ours.get("account") == self.account_key:
            summary = as_list(ours.get("summary"))
            self._add_item("reasoning", summary=summary, encrypted_content=encrypted)

    def _add_tool_call(self, part: ToolCallPart) -> None:
        arguments = part.arguments
        if not part.server_executed:
            # Arguments that are no JSON object are stored so by llm; they go back as they came.
            raw = arguments.get("_raw") if list(as_mapping(arguments)) == ["_raw"] else None
            text = raw if isinstance(raw, str) else json.dumps(arguments)
            self._add_call(part.tool_call_id, part.name, text)
            return
        kind = _our_metadata(part).get("type")
        if kind == "web_search_call":
            action = {k: v for k, v in as_mapping(arguments).items() if k != "sources"}
            self._add_item(kind, status="completed", action=action)
        elif kind == "image_generation_call":
            prompt = as_mapping(arguments).get("prompt")
            text = f"[drew an image: {prompt}]" if prompt else "[drew an image]"
            self._add_text("assistant", text)
            self._role = None

    def _add_tool_result(self, part: ToolResultPart) -> None:
        output: Any = part.output
        if part.attachments:
            output = [{"type": "input_text", "text": part.output}] if part.output else []
            output += [self._attachment(found, new=False) for found in part.attachments]
        if not any(original == part.tool_call_id for original, _ in self._waiting):
            self._add_call(part.tool_call_id, part.name, "{}")
        self._add_output(part.tool_call_id, output)

    def _add_call(self, original: object, name: str, arguments: str) -> None:
        call_id = _unused(original, self._call_ids)
        self._waiting.append((original, call_id))
        self._add_item("function_call", call_id=call_id, name=tool_name(name), arguments=arguments)

    def _add_output(self, original: object, output: Any) -> None:
        pair = next(pair for pair in self._waiting if pair[0] == original)
        self._waiting.remove(pair)
        self._add_item("function_call_output", call_id=pair[1], output=output)

    def _add_missing_outputs(self) -> None:
        for original, _ in self._waiting.copy():
            self._add_output(original, "[this call was not carried out]")

    def _attachment(self, attachment: llm.Attachment | None, *, new: bool) -> dict[str, Any]:
        if attachment is None:
            return _note("an attachment that was not kept")
        try:
            return self.attachments.part(attachment)
        except CannotSend as error:
            name = attachment.url or os.path.basename(attachment.path or "") or "without a name"
            name = printable(name, 100)
            problem, advice = error.args
            if new:
                raise ChatGPTError(
                    f"Could not send the attachment {name}: it {problem}. {advice} or leave it out."
                ) from error
            self.notes.append(f"Warning: attachment {name} {problem}; sent a note in its place.")
            return _note(f"attachment left out: it {problem}")


def _our_metadata(part: Any) -> Mapping[str, Any]:
    return as_mapping((part.provider_metadata or {}).get(config.METADATA_KEY))


def _note(text: str) -> dict[str, Any]:
    return {"type": "input_text", "text": f"[{text}]"}


def tool_name(name: str) -> str:
    """A name that the service accepts; other models' tools may be called anything."""
    return re.sub(r"[^a-zA-Z0-9_-]", "_", name or "")[:128] or "tool"


def _unused(call_id: object, used: set[str]) -> str:
    new = call_id if isinstance(call_id, str) and call_id else f"call_{len(used) + 1}"
    while new in used or len(new) > 64:
        new = f"call_{hashlib.sha256(f'{len(used)} {new}'.encode()).hexdigest()[:40]}"
    used.add(new)
    return new
