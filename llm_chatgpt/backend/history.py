"""Read from a conversation's answers how their requests were made.

An answer stores with its first part the state of its request that the messages do not tell: a
system prompt of its own, the effort, and the parts that the service had refused. Later requests
repeat it, so that they begin with the same bytes, whether llm has kept the messages in memory, in
its logs or as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from llm.parts import AttachmentPart, Message, TextPart, ToolResultPart

from llm_chatgpt import config
from llm_chatgpt.backend import optional_parts
from llm_chatgpt.values import as_list, as_mapping, as_text

# The key of an answer's request in the plugin's metadata, and its fields.
REQUEST, SYSTEM, EFFORT, WITHOUT = "request", "system", "effort", "without"


class History(NamedTuple):
    """The state of a conversation's earlier requests. Places are indexes of messages.

    `efforts` maps the places of answers to the efforts of their requests, None for the model's
    own. `systems` holds the system prompts that stood before the message at a place and are not
    among the messages; `own_place` is the place of a new one. `without` names the parts of the
    input that the service has refused (optional_parts.py); the messages before `reasoning_from` are
    sent without their reasoning. From `new_from` on, an attachment that cannot be sent is an
    error.
    """

    efforts: Mapping[int, str | None]
    systems: Mapping[int, list[str]]
    own_place: int
    without: frozenset[str]
    reasoning_from: int
    new_from: int


def read_history(messages: Sequence[Message]) -> History:
    """Read the state of the earlier requests from their answers."""
    starts = _turn_starts(messages)
    efforts: dict[int, str | None] = {}
    systems: dict[int, list[str]] = {}
    without: frozenset[str] = frozenset()
    reasoning_from = 0
    # Some programs repeat the system prompt with each request. It stands at the beginning, unless
    # an earlier request is known not to have had it.
    begun = False
    for number, message in enumerate(messages):
        request = _request(message)
        if is_own_answer(message):
            efforts[number] = as_text(request.get(EFFORT))
        if text := as_text(request.get(SYSTEM)):
            systems.setdefault(starts[number] if begun else 0, []).append(text)
        begun = begun or message.role == "system" or is_own_answer(message)
        refused = frozenset(map(str, as_list(request.get(WITHOUT))))
        without |= refused
        if optional_parts.REASONING in refused:
            reasoning_from = number
    own_place = starts[-1] if begun else 0
    return History(efforts, systems, own_place, without, reasoning_from, _new_from(messages))


def answered_calls(messages: Sequence[Message]) -> list[object]:
    """Return the ids of the tool calls whose results the model has not seen yet."""
    new = messages[_after_last_answer(messages) :]
    parts = (part for message in new for part in message.parts)
    return [part.tool_call_id for part in parts if isinstance(part, ToolResultPart)]


def plugin_metadata(part: Any) -> Mapping[str, Any]:
    """Return the metadata that this plugin has stored with a part."""
    return as_mapping((part.provider_metadata or {}).get(config.METADATA_KEY))


def is_own_answer(message: Message) -> bool:
    """Check whether a message is an answer that this plugin has received."""
    return message.role == "assistant" and any(map(plugin_metadata, message.parts))


def system_text(message: Message) -> str | None:
    """Return the text of a system prompt; None for other messages."""
    if message.role != "system":
        return None
    return "".join(part.text for part in message.parts if isinstance(part, TextPart))


def _request(message: Message) -> Mapping[str, Any]:
    """Return what an answer has stored of its request."""
    stored = (as_mapping(plugin_metadata(part).get(REQUEST)) for part in message.parts)
    return next(filter(None, stored), {})


def _turn_starts(messages: Sequence[Message]) -> list[int]:
    """Return, for each number of messages, where the turn that follows them begins.

    That is at the user's own message, or after the last answer if there is none yet.
    """
    starts, start, before = [0], 0, "system"
    for number, message in enumerate(messages):
        role = message.role
        # llm puts the attachments of a tool's result into a message of the user.
        attached = all(isinstance(part, AttachmentPart) for part in message.parts)
        asks = role not in ("assistant", "tool", "system")
        if asks and (before in ("assistant", "system") or (before == "tool" and not attached)):
            start = number
        starts.append(number + 1 if role in ("assistant", "system") else start)
        before = role
    return starts


def _new_from(messages: Sequence[Message]) -> int:
    """Return the place after the last answer; the end if a tool has run since then.

    An error would lose the tool's work.
    """
    place = _after_last_answer(messages)
    tool_ran = any(message.role == "tool" for message in messages[place:])
    return len(messages) if tool_ran else place


def _after_last_answer(messages: Sequence[Message]) -> int:
    places = range(len(messages), 0, -1)
    return next((place for place in places if messages[place - 1].role == "assistant"), 0)
