"""Collect one answer for llm: its items, and the blank lines between its texts.

An answer can take several requests, its rounds (P171, P172). Each request's events fill a Round of
their own, which is dropped if the request fails, and joins the Answer if it is complete.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import llm
from llm.parts import Message, Part, StreamEvent

from llm_chatgpt import config
from llm_chatgpt.backend.history import REQUEST

# The plugin's metadata on a part.
Metadata = Mapping[str, Any]
# Metadata of a part that is never sent back (input.py).
NOT_REPLAYED = {"replay": False}
# Calls that can be repeated (P196): llm runs them itself, or they only look something up.
_REPEATABLE = ("function_call", "web_search_call", "file_search_call", "tool_search_call")

# Numbers for llm's parts. None is used twice, because a response that is run again after a failure
# keeps its earlier parts.
_part_numbers = itertools.count()


@dataclasses.dataclass(eq=False)
class Item:
    """One item of the answer. It becomes one part of llm's message."""

    kind: str
    part_index: int
    message_index: int
    # The item's place in the output of its round.
    output_index: float
    call_id: str | None = None
    name: str = ""
    # A commentary is a message that llm records as reasoning (P162).
    is_commentary: bool = False
    # Whether the item has anything for the user: text, a picture, or a call of one of llm's tools.
    has_content: bool = False
    # llm's events of this part. llm reads them again at the end, so `correct` can change them.
    events: list[StreamEvent] = dataclasses.field(default_factory=list)
    # The plugin's metadata on its part.
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)
    # The finished item, without the fields that are too large to be logged.
    finished: dict[str, Any] | None = None
    # The llm part to send in the next round's request; None until the item is finished.
    part: Part | None = None

    @property
    def text(self) -> str:
        """The text of the part that llm records, or the name and arguments of a call."""
        return "".join(event.chunk for event in self.events)

    @property
    def is_aside(self) -> bool:
        """Whether llm gets this item's text as reasoning."""
        return self.kind == "reasoning" or self.is_commentary

    @property
    def acts(self) -> bool:
        """Whether this is a call of a hosted tool with effects, such as image generation."""
        return self.kind.endswith("_call") and self.kind not in _REPEATABLE

    def correct(self, text: str) -> None:
        """Make llm record this text instead of the text that was shown."""
        if self.text != text:
            for event in self.events:
                event.chunk = ""
            self.events[0].chunk = text


class Round:
    """The answer to one request, which continues `answer`.

    `request` is the state of the request that its messages do not tell (history.py); the first
    part of the answer stores it.
    """

    def __init__(self, answer: Answer, request: Metadata | None = None) -> None:
        self.items: list[Item] = []
        self.tool_calls: list[llm.ToolCall] = []
        # How the round ended ("completed" or "incomplete"); None if it did not.
        self.ended: str | None = None
        # The response in its last event.
        self.response: Mapping[str, Any] = {}
        # Events that llm has not received yet.
        self._events: list[StreamEvent] = []
        self._messages = sum(item.kind == "message" for item in answer.items)
        self._first = next((item for item in answer.items if item.events), None)
        self._request = {} if self._first else request
        before = answer.rounds[-1] if answer.rounds else None
        # The last message that was shown as text, in this round or an earlier one.
        self.last_message: Item | None = before.last_message if before else None
        # The text that was shown last: its item, and for reasoning its place. None after its blank
        # line.
        self.last_text: tuple[Item, object] | None = before.last_text if before else None

    def take_events(self) -> list[StreamEvent]:
        """Return the events that llm has not received yet, once."""
        events, self._events = self._events, []
        return events

    def new_item(self, kind: str, output_index: float) -> Item:
        """Begin an item."""
        # Items between two messages belong to the first one, as in llm itself.
        self._messages += kind == "message"
        item = Item(kind, next(_part_numbers), max(0, self._messages - 1), output_index)
        self.items.append(item)
        return item

    def emit(
        self, kind: str, chunk: str, item: Item, metadata: Metadata | None = None, **more: Any
    ) -> None:
        """Add an event of this item's part."""
        self._first = self._first or item
        # llm keeps only the last metadata that a part is given.
        if item is self._first and self._request and (metadata or not item.events):
            metadata = {**(metadata or {}), REQUEST: self._request}
        event = StreamEvent(
            type=kind,
            chunk=chunk,
            part_index=item.part_index,
            message_index=item.message_index,
            tool_call_id=item.call_id,
            provider_metadata={config.METADATA_KEY: metadata} if metadata else None,
            **more,
        )
        item.events.append(event)
        self._events.append(event)

    def keep_reasoning_out(self) -> None:
        """Keep the reasoning of this round, which has no answer, out of later requests (P172)."""
        for item in self.items:
            item.part = None
            for event in item.events if item.kind == "reasoning" else ():
                if event.provider_metadata:
                    event.provider_metadata[config.METADATA_KEY] |= NOT_REPLAYED

    # Text and blank lines

    def show(self, item: Item, place: object, text: str) -> None:
        """Show text of an item. Texts of reasoning at different places are set apart."""
        shown = (item, place if item.kind == "reasoning" else None)
        if self.last_text != shown:
            self._separate(item)
            self.last_text = shown
        if item.is_aside:
            self.emit("reasoning", text, item, item.metadata)
        else:
            # The part needs its metadata once.
            self.emit("text", text, item, None if self.last_message is item else item.metadata)
            self.last_message = item
        item.has_content |= item.kind == "message"

    def _separate(self, item: Item) -> None:
        """Add a blank line between the text that was shown last and this item's."""
        if item.is_aside:
            self.end_aside()
            if self.last_text and not self.last_text[0].text.endswith("\n"):
                self.add_part("reasoning", "\n\n", item)
        # llm itself ends the line between reasoning and text.
        elif self.last_message not in (None, item):
            self.add_part("text", "\n\n", item, NOT_REPLAYED)

    def end_aside(self) -> None:
        """Add a blank line if reasoning or commentary was shown last."""
        if not self.last_text or not self.last_text[0].is_aside:
            return
        item, self.last_text = self.last_text[0], None
        # A commentary is sent back as it came, so nothing is added to it.
        if item.is_commentary:
            self.add_part("reasoning", "\n\n", item)
        else:
            self.emit("reasoning", "\n\n", item)

    def add_part(self, kind: str, text: str, item: Item, metadata: Metadata | None = None) -> None:
        """Add a part beside the item's own, for readers only."""
        part = Item(kind, next(_part_numbers), item.message_index, item.output_index)
        self.emit(kind, text, part, metadata)


class Answer:
    """A whole answer: its complete rounds, and perhaps one that failed after it was shown."""

    def __init__(self) -> None:
        self.rounds: list[Round] = []

    @property
    def last_round(self) -> Round:
        """The last complete round."""
        return next(one for one in reversed(self.rounds) if one.ended)

    @property
    def items(self) -> list[Item]:
        return [item for one in self.rounds for item in one.items]

    @property
    def output(self) -> list[dict[str, Any]]:
        """The finished items in their order. The last event's own list is empty (P163)."""
        in_order = (sorted(one.items, key=lambda item: item.output_index) for one in self.rounds)
        items = itertools.chain.from_iterable(in_order)
        return [item.finished for item in items if item.finished is not None]

    @property
    def tool_calls(self) -> list[llm.ToolCall]:
        return [call for one in self.rounds for call in one.tool_calls]

    @property
    def has_content(self) -> bool:
        """Whether there is anything for the user: text, a picture, or a call of llm's tools."""
        return any(item.has_content for item in self.items)

    @property
    def messages(self) -> list[Message]:
        """The finished items as messages for the next round's request."""
        return [Message("assistant", [item.part]) for item in self.items if item.part]

    def repeat_commentary(self) -> list[StreamEvent]:
        """Return the commentary as text if the answer has no other text and no call (P162)."""
        commentaries = [item for item in self.items if item.is_commentary and item.text]
        last = self.rounds[-1]
        if commentaries and not last.last_message and not self.tool_calls:
            text = "\n\n".join(item.text for item in commentaries)
            last.add_part("text", text, commentaries[-1], NOT_REPLAYED)
        return last.take_events()
