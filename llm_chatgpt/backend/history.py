"""What earlier requests of a conversation had beside its messages, read from its answers.

An answer stores with its first part what its request had beside the messages: a system prompt
of its own, the effort, and what it went without because the service had refused it. Later
requests repeat that, so that they begin with the same bytes, whether llm has kept the messages in
memory, in its logs or as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from llm.parts import AttachmentPart, Message, TextPart, ToolResultPart

from llm_chatgpt import config
from llm_chatgpt.backend import refusable
from llm_chatgpt.values import as_list, as_mapping, as_text

# The key of an answer's request in our metadata, and its fields.
REQUEST, SYSTEM, EFFORT, WITHOUT = "request", "system", "effort", "without"


class History(NamedTuple):
    """Places are indexes of messages.

    `efforts` are those that the answers at these places were given with, None for the model's
    own. `systems` are the system prompts that stood before the message at a place, beside those
    among the messages, and `own_place` is the place of a new one. `without` names what the
    service has refused (refusable.py); the messages before `reasoning_from` go without their
    reasoning. An attachment that cannot be sent is an error in the messages from `new_from` on.
    """

    efforts: Mapping[int, str | None]
    systems: Mapping[int, list[str]]
    own_place: int
    without: frozenset[str]
    reasoning_from: int
    new_from: int


def read_history(messages: Sequence[Message]) -> History:
    """Read what earlier requests had beside their messages."""
    starts = _turn_starts(messages)
    efforts: dict[int, str | None] = {}
    systems: dict[int, list[str]] = {}
    without: frozenset[str] = frozenset()
    reasoning_from = 0
    # Other programs give the same system prompt beside the messages each time. It belongs to the
    # beginning, unless a request is known to have gone without it.
    begun = False
    for number, message in enumerate(messages):
        request = _request(message)
        if is_ours(message):
            efforts[number] = as_text(request.get(EFFORT))
        if text := as_text(request.get(SYSTEM)):
            systems.setdefault(starts[number] if begun else 0, []).append(text)
        begun = begun or message.role == "system" or is_ours(message)
        refused = frozenset(map(str, as_list(request.get(WITHOUT))))
        without |= refused
        if refusable.REASONING in refused:
            reasoning_from = number
    own_place = starts[-1] if begun else 0
    return History(efforts, systems, own_place, without, reasoning_from, _new_from(messages))


def answered_calls(messages: Sequence[Message]) -> list[object]:
    """The ids of the tool calls whose results the model has not seen yet."""
    new = messages[_after_last_answer(messages) :]
    parts = (part for message in new for part in message.parts)
    return [part.tool_call_id for part in parts if isinstance(part, ToolResultPart)]


def our_metadata(part: Any) -> Mapping[str, Any]:
    """What this plugin has stored with a part."""
    return as_mapping((part.provider_metadata or {}).get(config.METADATA_KEY))


def is_ours(message: Message) -> bool:
    """Whether a message is known to be an answer that this plugin has received."""
    return message.role == "assistant" and any(map(our_metadata, message.parts))


def system_text(message: Message) -> str | None:
    """The text of a system prompt; None for other messages."""
    if message.role != "system":
        return None
    return "".join(part.text for part in message.parts if isinstance(part, TextPart))


def _request(message: Message) -> Mapping[str, Any]:
    """What an answer has stored of its request."""
    stored = (as_mapping(our_metadata(part).get(REQUEST)) for part in message.parts)
    return next(filter(None, stored), {})


def _turn_starts(messages: Sequence[Message]) -> list[int]:
    """For each number of messages, the place where the turn that they ask for begins: at the
    user's own message, or after the last answer if there is none yet."""
    starts, start, before = [0], 0, "system"
    for number, message in enumerate(messages):
        role = message.role
        # llm puts what a tool has attached into a message of the user.
        attached = all(isinstance(part, AttachmentPart) for part in message.parts)
        asks = role not in ("assistant", "tool", "system")
        if asks and (before in ("assistant", "system") or (before == "tool" and not attached)):
            start = number
        starts.append(number + 1 if role in ("assistant", "system") else start)
        before = role
    return starts


def _new_from(messages: Sequence[Message]) -> int:
    """The place after the last answer. After a tool has run, the end: its work would be lost."""
    place = _after_last_answer(messages)
    ran = any(message.role == "tool" for message in messages[place:])
    return len(messages) if ran else place


def _after_last_answer(messages: Sequence[Message]) -> int:
    places = range(len(messages), 0, -1)
    return next((place for place in places if messages[place - 1].role == "assistant"), 0)
