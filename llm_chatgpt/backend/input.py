"""Translate llm's messages to the request's `instructions` and `input`."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

import llm
from llm.parts import AttachmentPart, Message, ReasoningPart, TextPart, ToolCallPart, ToolResultPart

from llm_chatgpt.backend import optional_parts
from llm_chatgpt.backend.attachments import (
    IMAGE_SUFFIXES,
    Attachments,
    CannotSend,
    is_data_url,
)
from llm_chatgpt.backend.catalogue import ModelInfo
from llm_chatgpt.backend.history import (
    EFFORT,
    SYSTEM,
    WITHOUT,
    is_own_answer,
    plugin_metadata,
    read_history,
    system_text,
)
from llm_chatgpt.errors import ChatGPTError
from llm_chatgpt.login.tokens import Tokens
from llm_chatgpt.text import printable
from llm_chatgpt.values import as_list, as_mapping, as_text

# The actions of web searches that the service accepts in the input (docs/protocol.md).
_SEARCH_ACTIONS = ("search", "open_page", "find_in_page")


class InputBuilder:
    """Builds `instructions` and `items` from the messages of a conversation.

    The same messages always give the same items, and a longer conversation begins with the
    bytes of the shorter one: the service caches them, and reasoning may be bound to them. `request`
    holds what the messages do not tell; the answer must store it (history.py).

    Reasoning is sent back only to the account and the model that it came from. Ids are sent back
    only if the service insists on them, because it stores nothing (docs/protocol.md).

    Every call gets an output, every output a call, and every pair its own id, because the service
    refuses unpaired ones. A history can have those: an answer that was cut short, or another
    model's ids, which may be missing or repeat in every turn.
    """

    def __init__(
        self,
        info: ModelInfo,
        tokens: Tokens,
        options: Mapping[str, Any],
        without: frozenset[str] = frozenset(),
    ):
        """`without` names the parts that the service has refused, as in `retry.Attempt`."""
        self.attachments = Attachments(
            image_detail=options.get("image_detail"), takes_images=info.takes_images
        )
        self.instructions = ""
        self.items: list[dict[str, Any]] = []
        # Warnings about attachments that cannot be sent.
        self.notes: list[str] = []
        # The request's state that its messages do not tell (history.py).
        self.request: dict[str, Any] = {}
        if refused := sorted(optional_parts.parts_of_input(without)):
            self.request[WITHOUT] = refused
        # The effort in the request's own field; None for the model's own. If efforts can be
        # updated, this stays that of the first request, because another one would miss the cache.
        self.effort = _sent_effort(options)
        self._info = info
        self._account_key = tokens.account_key
        self._updates_effort = info.effort_updates and tokens.route.effort_updates
        self._without = without
        # The system prompts in force at this place of the conversation.
        self._system_prompts = {""}
        # The last item's role if it is a message to which content can be added; else None.
        self._role: str | None = None
        # Calls that wait for their output, oldest first: the original id and the one sent.
        self._waiting: list[tuple[object, str]] = []
        self._call_ids: set[str] = set()
        # The id of the last image generation call, and the pictures not yet sent.
        self._drawing: str | None = None
        self._drawn: list[llm.Attachment] = []

    def build(
        self, messages: Iterable[Message], system: str, answer: Iterable[Message] = ()
    ) -> None:
        """Fill `items`. `answer` is the beginning of the model's answer, if it wants to go on.

        Raises ChatGPTError for an attachment of the new message that cannot be sent.
        """
        messages = list(messages)
        history = read_history(messages)
        reasoning_from = history.reasoning_from
        if optional_parts.REASONING in self._without:
            reasoning_from = len(messages)
        self._without |= history.without
        self.attachments.unreachable = self._without
        requested = in_force = self.effort
        self._updates_effort &= optional_parts.EFFORT_UPDATES not in self._without
        if self._updates_effort:
            self.effort = in_force = next(iter(history.efforts.values()), requested)
            self.request |= {EFFORT: requested} if requested else {}
        for place in range(len(messages) + 1):
            for text in history.systems.get(place, ()):
                self._add_system(text, first=not self.instructions)
            if place == history.own_place:
                self._add_own_system(system, messages[place:])
            if place < len(messages):
                in_force = self._change_effort(in_force, history.efforts.get(place, in_force))
                new, reasoning = place >= history.new_from, place >= reasoning_from
                self._add_message(messages[place], new=new, reasoning=reasoning)
        self._add_missing_outputs()
        if not self.items:
            self._add_blank()
        self._change_effort(in_force, requested)
        for message in answer:
            self._add_message(message, new=False, reasoning=True)

    def _change_effort(self, old: str | None, new: str | None) -> str | None:
        """Add an item if the next answer has another effort. Returns the effort now in force.

        None stands for the model's own effort.
        """
        default = self._info.default_effort
        effort = new or default
        if not self._updates_effort or effort in (None, old or default):
            return old
        self._add_missing_outputs()
        self._add_item("configuration_update", reasoning={"effort": effort})
        return new

    def begin_with_system_message(self) -> None:
        """Send the instructions as the first message."""
        if self.instructions:
            content = [{"type": "input_text", "text": self.instructions}]
            self.items.insert(0, {"type": "message", "role": "developer", "content": content})

    def _add_own_system(self, system: str, turn: list[Message]) -> None:
        """Add the prompt's own system prompt unless the messages have it.

        `llm -c -s`, and `messages=` with `system=`, leave it out of them. `turn` holds this
        turn's messages.
        """
        if system not in self._system_prompts and system not in map(system_text, turn):
            self._add_system(system, first=not self.instructions)
            self.request[SYSTEM] = system

    def _add_system(self, text: str, *, first: bool) -> None:
        """Add a system prompt. `first` says that it can be part of the instructions."""
        if first and not self.items:
            self._system_prompts.add(text)
            self.instructions = "\n\n".join(filter(None, (self.instructions, text)))
        else:
            self._system_prompts = {text}
            self._role = None
            # The service refuses the role system (docs/protocol.md).
            self._add_text("developer", text)

    def _add_blank(self) -> None:
        """Add an empty message: the service refuses an `input` without any."""
        self._add_item("message", role="user", content=[{"type": "input_text", "text": ""}])

    def _add_message(self, message: Message, *, new: bool, reasoning: bool) -> None:
        system = system_text(message)
        if system is not None:
            self._add_system(system, first=True)
            return
        role = message.role if message.role in ("user", "assistant", "developer") else "user"
        if not self.items and is_own_answer(message):
            # This answer was to a system prompt alone.
            self._add_blank()
        self._role = None
        if message.role == "user":
            for picture in self._drawn:
                self._add_content(role, self._attachment(picture, new=False))
            self._drawn = []
        for part in message.parts:
            metadata = plugin_metadata(part)
            if metadata.get("replay") is False:
                continue
            # A commentary is a message to the service, though llm records it as reasoning.
            if isinstance(part, TextPart) or (
                isinstance(part, ReasoningPart) and metadata.get("type") == "message"
            ):
                self._add_text(role, part.text, as_text(metadata.get("phase")))
            elif isinstance(part, AttachmentPart):
                # The assistant's messages cannot have attachments.
                owner = "user" if role == "assistant" else role
                self._add_content(owner, self._attachment(part.attachment, new=new))
            else:
                self._role = None
                if isinstance(part, ReasoningPart):
                    if reasoning:
                        self._add_reasoning(metadata)
                elif isinstance(part, ToolCallPart):
                    self._add_tool_call(part)
                elif isinstance(part, ToolResultPart):
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

    def _add_reasoning(self, metadata: Mapping[str, Any]) -> None:
        encrypted = as_text(metadata.get("encrypted_content"))
        origin = (metadata.get("account"), metadata.get("model"))
        if encrypted and origin == (self._account_key, self._info.slug):
            summary = as_list(metadata.get("summary"))
            self._add_item("reasoning", summary=summary, encrypted_content=encrypted)

    def _add_tool_call(self, part: ToolCallPart) -> None:
        if not part.server_executed:
            self._add_call(part.tool_call_id, part.name, _arguments(part))
            return
        kind = plugin_metadata(part).get("type")
        if kind == "web_search_call":
            self._add_search(part)
        elif kind == "image_generation_call":
            prompt = as_mapping(part.arguments).get("prompt")
            text = f"[drew an image: {prompt}]" if prompt else "[drew an image]"
            self._add_text("assistant", text)
            self._role = None
            self._drawing = part.tool_call_id

    def _add_search(self, part: ToolCallPart) -> None:
        action = {k: v for k, v in as_mapping(part.arguments).items() if k != "sources"}
        if optional_parts.SEARCHES in self._without or action.get("type") not in _SEARCH_ACTIONS:
            return
        item_id = {}
        if optional_parts.SEARCHES_WITHOUT_ID in self._without:
            # The translator invents such an id if the service has sent none.
            if not part.tool_call_id or part.tool_call_id.startswith("web_search_"):
                return
            item_id = {"id": part.tool_call_id}
        self._add_item("web_search_call", **item_id, status="completed", action=action)

    def _add_tool_result(self, part: ToolResultPart) -> None:
        if part.server_executed:
            self._note_picture(part)
            return
        output: Any = part.output
        if part.attachments:
            output = [{"type": "input_text", "text": part.output}] if part.output else []
            output += [self._attachment(each, new=False) for each in part.attachments]
        if not any(original == part.tool_call_id for original, _ in self._waiting):
            self._add_call(part.tool_call_id, part.name, "{}")
        self._add_output(part.tool_call_id, output)

    def _note_picture(self, part: ToolResultPart) -> None:
        """Remember a generated picture, to send it with the user's next message."""
        suffix = os.path.splitext(part.output)[1]
        drawn = self._drawing is not None and part.tool_call_id == self._drawing
        if drawn and suffix in IMAGE_SUFFIXES and self._info.takes_images:
            self._drawn.append(llm.Attachment(type=IMAGE_SUFFIXES[suffix], path=part.output))
        self._drawing = None

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


def _sent_effort(options: Mapping[str, Any]) -> str | None:
    """Return the effort to send: the official client sends its highest step, ultra, as max."""
    effort: str | None = options.get("reasoning_effort")
    return "max" if effort == "ultra" else effort


def _arguments(part: ToolCallPart) -> str:
    """Return the arguments of a call as JSON: the model's own text if it has the same value."""
    arguments = part.arguments
    # llm stores arguments that are not JSON under this name.
    unread = arguments.get("_raw") if list(as_mapping(arguments)) == ["_raw"] else None
    if isinstance(unread, str):
        return unread
    written = as_text(plugin_metadata(part).get("arguments"))
    with contextlib.suppress(ValueError, RecursionError):
        if written and _sorted_json(json.loads(written)) == _sorted_json(arguments):
            return written
    return json.dumps(arguments)


def _sorted_json(value: object) -> str:
    # 1, 1.0 and True are equal in Python, but not as JSON.
    return json.dumps(value, sort_keys=True)


def _note(text: str) -> dict[str, Any]:
    return {"type": "input_text", "text": f"[{text}]"}


def tool_name(name: str) -> str:
    """Replace what the service does not accept in a name of a function."""
    return re.sub(r"[^a-zA-Z0-9_-]", "_", name or "")[:128] or "tool"


def _unused(call_id: object, used: set[str]) -> str:
    """Return the id, or another one if it is missing, too long or used already."""
    new = call_id if isinstance(call_id, str) and call_id else f"call_{len(used) + 1}"
    while new in used or len(new) > 64:
        new = f"call_{hashlib.sha256(f'{len(used)} {new}'.encode()).hexdigest()[:40]}"
    used.add(new)
    return new
