"""Read the state of earlier requests from the metadata of their answers.

This state is not in the messages: a system prompt that they lack, the effort, and the parts of the
input that the service has refused. The first part of an answer stores it. Later requests repeat it,
so that they begin with the same bytes as the earlier ones, whether llm has the messages in memory,
in its logs or as JSON. A place is the index of a message.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import llm
from llm.parts import AttachmentPart, Message, TextPart, ToolResultPart

from llm_chatgpt import config
from llm_chatgpt.values import as_list, as_mapping, as_text

# The key of this state in the plugin's metadata, and its fields.
REQUEST, SYSTEM, EFFORT, WITHOUT = "request", "system", "effort", "without"


def plugin_metadata(part: Any) -> Mapping[str, Any]:
    """Return the metadata that this plugin has stored with a part."""
    return as_mapping((part.provider_metadata or {}).get(config.METADATA_KEY))


def _stored_state(message: Message) -> Mapping[str, Any]:
    """Return the state that is stored with an answer; empty for other messages."""
    states = (as_mapping(plugin_metadata(part).get(REQUEST)) for part in message.parts)
    return next(filter(None, states), {})


def effort_of(answer: Message) -> str | None:
    """Return the requested effort that an answer has stored (P214); None if it has none."""
    return as_text(_stored_state(answer).get(EFFORT))


def without_of(message: Message) -> frozenset[str]:
    """Return the names of the input parts that an answer's request left out."""
    return frozenset(map(str, as_list(_stored_state(message).get(WITHOUT))))


def is_own_answer(message: Message) -> bool:
    """Check whether a message is an answer that this plugin has received."""
    return message.role == "assistant" and any(map(plugin_metadata, message.parts))


def new_messages(messages: Sequence[Message]) -> Sequence[Message]:
    """Return the messages after the last answer."""
    places = range(len(messages), 0, -1)
    start = next((place for place in places if messages[place - 1].role == "assistant"), 0)
    return messages[start:]


def answered_calls(messages: Sequence[Message]) -> list[object]:
    """Return the ids of the tool calls whose results the model has not seen yet."""
    parts = (part for message in new_messages(messages) for part in message.parts)
    return [part.tool_call_id for part in parts if isinstance(part, ToolResultPart)]


# System prompts -----------------------------------------------------------------------


def system_text(message: Message) -> str:
    """Return the text of a message, such as a system prompt."""
    return "".join(part.text for part in message.parts if isinstance(part, TextPart))


def with_system_prompts(messages: Sequence[Message], system: str) -> tuple[list[Message], bool]:
    """Insert missing system prompts: those of earlier requests, and the new prompt's `system`.

    `llm -c -s`, and `messages=` with `system=`, leave them out of the messages. Each is inserted
    at the beginning of its turn, or at the beginning of the conversation if the request was the
    first. Also returns whether `system` was inserted; if so, the answer must store it.
    """
    starts = _turn_starts(messages)
    stored = []
    # Whether the beginning has a system prompt already, or a request was sent without one. Foreign
    # answers do not count: some programs repeat the system prompt with each request.
    beginning_is_fixed = False
    for place, message in enumerate(messages):
        if text := as_text(_stored_state(message).get(SYSTEM)):
            stored.append((starts[place] if beginning_is_fixed else 0, text))
        beginning_is_fixed |= message.role == "system" or is_own_answer(message)
    complete = list(messages)
    for place, text in reversed(stored):
        complete.insert(place, llm.system(text))
    place = starts[-1] + len(stored) if beginning_is_fixed else 0
    current = [system_text(m) for m in complete[:place] if m.role == "system"][-1:]
    is_missing = bool(system) and system not in current
    if is_missing:
        complete.insert(place, llm.system(system))
    return complete, is_missing


def _turn_starts(messages: Sequence[Message]) -> list[int]:
    """Return a list whose entry `n` is the place where the turn of an answer at place `n` begins.

    The last entry is for the new answer. A turn begins at the user's own message. If the answer
    directly follows another answer or a system prompt, its turn begins at the answer itself.
    """
    starts, start, previous = [0], 0, "system"
    for place, message in enumerate(messages):
        role = message.role
        # llm puts the attachments of a tool's result into a message of the user.
        is_result = previous == "tool" and all(isinstance(p, AttachmentPart) for p in message.parts)
        is_user = role not in ("assistant", "tool", "system")
        if is_user and previous in ("assistant", "system", "tool") and not is_result:
            start = place
        starts.append(place + 1 if role in ("assistant", "system") else start)
        previous = role
    return starts
