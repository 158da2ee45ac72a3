"""Translate llm's messages into the request's `instructions` and `input`.

docs/protocol.md describes the items in P97 to P126.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import llm
from llm.parts import AttachmentPart, Message, ReasoningPart, TextPart, ToolCallPart, ToolResultPart

from llm_chatgpt import config
from llm_chatgpt.backend import history, optional_parts
from llm_chatgpt.backend.attachments import CannotSend, attachment_part, is_data_url
from llm_chatgpt.backend.catalogue import ModelInfo, sent_effort
from llm_chatgpt.backend.history import is_own_answer, plugin_metadata
from llm_chatgpt.errors import ChatGPTError
from llm_chatgpt.login.tokens import Tokens
from llm_chatgpt.text import printable
from llm_chatgpt.values import as_list, as_mapping, as_text

# The actions of web searches that the service accepts in the input (P104).
_SEARCH_ACTIONS = ("search", "open_page", "find_in_page")


class InputBuilder:
    """Builds `instructions` and `items` from the messages of a conversation.

    The same messages always give the same items, and a longer conversation begins with the same
    bytes as a shorter one, because the service caches them and reasoning may be bound to them
    (P124). `state` is the state of the request, which the answer must store (history.py).

    Reasoning is sent back only to the account and the model that it came from (P103). The service
    stores no items and may refuse their ids, so ids are sent back only if it requires them (P102,
    P105).

    Every call gets an output, every output gets a call, and every pair gets a call id of its own,
    because the service refuses unpaired items (P101). A history can contain them: answers may have
    been cut short, and another model's ids may be missing or repeated.
    """

    def __init__(
        self,
        info: ModelInfo,
        tokens: Tokens,
        options: Mapping[str, Any],
        without: frozenset[str] = frozenset(),
    ):
        """Begin an empty input. `without` names the parts to leave out, as in `retry.Attempt`."""
        self.instructions = ""
        self.items: list[dict[str, Any]] = []
        # Warnings about attachments that cannot be sent.
        self.notes: list[str] = []
        self.state: dict[str, Any] = {}
        if refused := sorted(optional_parts.parts_of_input(without)):
            self.state[history.WITHOUT] = refused
        # The value of `reasoning.effort`; None for the model's default. If the model supports
        # effort updates, `build` replaces it with the effort of the first request, because a change
        # would miss the cache (P214).
        self.body_effort = sent_effort(options.get("reasoning_effort"))
        self._image_detail: str | None = options.get("image_detail")
        self._info = info
        self._account_key = tokens.account_key
        self._updates_effort = info.effort_updates and tokens.route.effort_updates
        self._without = without
        # The role of the last item if it is a message to which content can be added.
        self._open_role: str | None = None
        # Calls that have no output yet, oldest first: the original id and the sent id.
        self._open_calls: list[tuple[object, str]] = []
        self._call_ids: set[str] = set()
        # The ids of the calls that created images, and the images to send with the next message.
        self._image_calls: set[str | None] = set()
        self._pending_images: list[llm.Attachment] = []

    def build(
        self, messages: Sequence[Message], system: str, answer: Iterable[Message] = ()
    ) -> None:
        """Fill `instructions` and `items`. `answer` holds the earlier rounds of the answer, if any.

        Raises ChatGPTError for an attachment of the new message that cannot be sent.
        """
        messages, must_store_system = history.with_system_prompts(messages, system)
        if must_store_system:
            self.state[history.SYSTEM] = system
        # The parts that earlier requests left out, one set for each message. Reasoning is left out
        # up to the last request that was refused because of it.
        refused = [history.without_of(message) for message in messages]
        places = [place for place, parts in enumerate(refused) if optional_parts.REASONING in parts]
        if optional_parts.REASONING in self._without:
            places.append(len(messages))
        reasoning_from = max(places, default=0)
        self._without = self._without.union(*refused)
        requested_effort = self.body_effort
        self._updates_effort &= optional_parts.EFFORT_UPDATES not in self._without
        if self._updates_effort:
            first = next(filter(is_own_answer, messages), None)
            self.body_effort = history.effort_of(first) if first else requested_effort
            self.state |= {history.EFFORT: requested_effort} if requested_effort else {}
        self._current_effort = self.body_effort or self._info.default_effort
        new = history.new_messages(messages)
        # After a tool has run, an error would lose its result, so no attachment counts as new.
        tool_ran = any(message.role == "tool" for message in new)
        new_from = len(messages) - (0 if tool_ran else len(new))
        for place, message in enumerate(messages):
            if is_own_answer(message):
                self._change_effort(history.effort_of(message))
            self._add_message(message, new=place >= new_from, reasoning=place >= reasoning_from)
        self._add_missing_outputs()
        if not self.items:
            self._add_empty_message()
        self._change_effort(requested_effort)
        for message in answer:
            self._add_message(message, new=False, reasoning=True)

    def _change_effort(self, effort: str | None) -> None:
        """Add an item if the next answer's effort differs; None is the model's default (P214)."""
        effort = effort or self._info.default_effort
        if self._updates_effort and effort and effort != self._current_effort:
            self._add_missing_outputs()
            self._add_item("configuration_update", reasoning={"effort": effort})
            self._current_effort = effort

    def _add_empty_message(self) -> None:
        """Add an empty user message, because the service may refuse an empty `input` (P98)."""
        self._add_item("message", role="user", content=[{"type": "input_text", "text": ""}])

    def _add_message(self, message: Message, *, new: bool, reasoning: bool) -> None:
        self._open_role = None
        if message.role == "system":
            self._add_system(history.system_text(message))
            return
        role = message.role if message.role in ("user", "assistant", "developer") else "user"
        if not self.items and is_own_answer(message):
            # The prompt of this answer had nothing but a system prompt.
            self._add_empty_message()
        if message.role == "user":
            for image in self._pending_images:
                self._add_content(role, self._attachment(image, new=False))
            self._pending_images = []
        for part in message.parts:
            metadata = plugin_metadata(part)
            if metadata.get("replay") is False:
                continue
            # For the service, commentary is a message; llm records it as reasoning.
            if isinstance(part, TextPart) or (
                isinstance(part, ReasoningPart) and metadata.get("type") == "message"
            ):
                self._add_text(role, part.text, as_text(metadata.get("phase")))
            elif isinstance(part, AttachmentPart):
                # The assistant's messages cannot have attachments.
                content = self._attachment(part.attachment, new=new)
                self._add_content("user" if role == "assistant" else role, content)
            elif isinstance(part, ReasoningPart) and reasoning:
                self._add_reasoning(metadata)
            elif isinstance(part, ToolCallPart):
                self._add_tool_call(part)
            elif isinstance(part, ToolResultPart):
                self._add_tool_result(part)

    def _add_system(self, text: str) -> None:
        """Add a system prompt to the instructions, or after other items as a message."""
        if self.items:
            self._add_text("developer", text)
        else:
            self.instructions = "\n\n".join(filter(None, (self.instructions, text)))

    def _add_text(self, role: str, text: str, phase: str | None = None) -> None:
        if not text:
            return
        if role != "assistant":
            self._add_content(role, {"type": "input_text", "text": text})
            return
        # Each message is sent back as an item of its own, with its original phase (P161).
        fields = {"phase": phase} if phase else {}
        content = [{"type": "output_text", "text": text}]
        self._add_item("message", role=role, **fields, content=content)

    def _add_content(self, role: str, content: dict[str, Any]) -> None:
        """Add content to the last item if it is a message of this role, or to a new message."""
        if role != self._open_role:
            self._add_missing_outputs()
            self._add_item("message", role=role, content=[])
            self._open_role = role
        self.items[-1]["content"].append(content)

    def _add_item(self, kind: str, **fields: Any) -> None:
        self.items.append({"type": kind, **fields})
        self._open_role = None

    def _add_reasoning(self, metadata: Mapping[str, Any]) -> None:
        encrypted = as_text(metadata.get("encrypted_content"))
        origin = (metadata.get("account"), metadata.get("model"))
        if encrypted and origin == (self._account_key, self._info.slug):
            summary = as_list(metadata.get("summary"))
            self._add_item("reasoning", summary=summary, encrypted_content=encrypted)

    def _add_tool_call(self, part: ToolCallPart) -> None:
        kind = plugin_metadata(part).get("type")
        if not part.server_executed:
            self._add_call(part.tool_call_id, part.name, _arguments(part))
        elif kind == "web_search_call":
            action = {k: v for k, v in as_mapping(part.arguments).items() if k != "sources"}
            is_accepted = action.get("type") in _SEARCH_ACTIONS
            if is_accepted and optional_parts.SEARCHES not in self._without:
                needs_id = optional_parts.SEARCHES_WITHOUT_ID in self._without
                item_id = {"id": part.tool_call_id} if needs_id else {}
                self._add_item(kind, **item_id, status="completed", action=action)
        elif kind == "image_generation_call":
            # The image follows with the user's next message (P120).
            prompt = as_mapping(part.arguments).get("prompt")
            self._add_text(
                "assistant", f"[drew an image: {prompt}]" if prompt else "[drew an image]"
            )
            self._image_calls.add(part.tool_call_id)

    def _add_tool_result(self, part: ToolResultPart) -> None:
        if part.server_executed:
            kind = f"image/{os.path.splitext(part.output)[1][1:]}"
            is_image = part.tool_call_id in self._image_calls and kind in config.IMAGE_TYPES
            if is_image and self._info.takes_images:
                self._pending_images.append(llm.Attachment(type=kind, path=part.output))
            return
        output: Any = part.output
        if part.attachments:
            output = [{"type": "input_text", "text": part.output}] if part.output else []
            output += [self._attachment(each, new=False) for each in part.attachments]
        calls = (pair for pair in self._open_calls if pair[0] == part.tool_call_id)
        self._add_output(
            next(calls, None) or self._add_call(part.tool_call_id, part.name, "{}"), output
        )

    def _add_call(self, original: object, name: str, arguments: str) -> tuple[object, str]:
        call = (original, _unique_id(original, self._call_ids))
        self._open_calls.append(call)
        self._add_item("function_call", call_id=call[1], name=tool_name(name), arguments=arguments)
        return call

    def _add_output(self, call: tuple[object, str], output: Any) -> None:
        self._open_calls.remove(call)
        self._add_item("function_call_output", call_id=call[1], output=output)

    def _add_missing_outputs(self) -> None:
        for call in self._open_calls.copy():
            self._add_output(call, "[this call was not carried out]")

    def _attachment(self, attachment: llm.Attachment | None, *, new: bool) -> dict[str, Any]:
        """Translate an attachment, or return a note in its place if it cannot be sent.

        Raises ChatGPTError instead if the attachment is `new`.
        """
        if attachment is None:
            return _note("an attachment that was not kept")
        try:
            return attachment_part(
                attachment,
                unreachable=self._without,
                image_detail=self._image_detail,
                takes_images=self._info.takes_images,
            )
        except CannotSend as error:
            url = "" if is_data_url(attachment) else attachment.url
            name = url or os.path.basename(attachment.path or "") or "without a name"
            name = printable(name, 100)
            problem, advice = error.args
            if new:
                raise ChatGPTError(
                    f"Could not send the attachment {name}: it {problem}.",
                    f"{advice} or leave it out.",
                ) from error
            self.notes.append(f"Warning: attachment {name} {problem}; sent a note in its place.")
            return _note(f"attachment left out: it {problem}")


def _arguments(part: ToolCallPart) -> str:
    """Return the arguments of a call as JSON: the model's own text if it has the same value."""
    arguments = part.arguments
    # llm stores arguments that are not JSON under this name.
    raw = arguments.get("_raw") if list(as_mapping(arguments)) == ["_raw"] else None
    if isinstance(raw, str):
        return raw
    written = as_text(plugin_metadata(part).get("arguments"))
    with contextlib.suppress(ValueError, RecursionError):
        # Compared as JSON, because 1, 1.0 and True are equal in Python.
        value = json.dumps(json.loads(written or ""), sort_keys=True)
        if written and value == json.dumps(arguments, sort_keys=True):
            return written
    return json.dumps(arguments)


def system_message(text: str) -> dict[str, Any]:
    """Return a system prompt as a developer message: the role `system` is refused (P97)."""
    content = [{"type": "input_text", "text": text}]
    return {"type": "message", "role": "developer", "content": content}


def _note(text: str) -> dict[str, Any]:
    return {"type": "input_text", "text": f"[{text}]"}


def tool_name(name: str) -> str:
    """Replace the characters that the service does not accept in a function's name (P127)."""
    return re.sub(r"[^a-zA-Z0-9_-]", "_", name or "")[:128] or "tool"


def _unique_id(call_id: object, used: set[str]) -> str:
    """Return the id, or a new one if it is missing, too long or already in use."""
    is_usable = isinstance(call_id, str) and 0 < len(call_id) <= 64 and call_id not in used
    digest = hashlib.sha256(f"{len(used)} {call_id}".encode()).hexdigest()
    unique = str(call_id) if is_usable else f"call_{digest[:40]}"
    used.add(unique)
    return unique
