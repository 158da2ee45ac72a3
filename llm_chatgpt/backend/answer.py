"""Collect one answer for llm: its items, and the blank lines between its texts.

An answer can take several requests (P171, P172). The events of each fill a new Round, which joins
the Answer when it is complete. A Round that fails is dropped, unless it continues the answer (P171)
and part of it has been shown.
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
# Types of calls without effects of their own (P196): llm runs the tool later, or the call only
# looks something up.
_WITHOUT_EFFECTS = ("function_call", "web_search_call", "file_search_call", "tool_search_call")

# Indexes for llm's parts. Each is used once per process, because a response that is run again after
# a failure keeps its earlier parts.
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
    # Whether the item gives the user anything: text, an image, or a call of one of llm's tools.
    has_content: bool = False
    # llm's events of this part. llm prints each once, and reads all again to record the answer.
    events: list[StreamEvent] = dataclasses.field(default_factory=list)
    # The text to record in place of the events' text; None if they have it already.
    correction: str | None = None
    # The plugin's metadata on its part.
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)
    # The finished item, without the fields that are too large to be logged.
    finished: dict[str, Any] | None = None
    # The llm part to send in the next round's request; None until the item is finished.
    part: Part | None = None

    @property
    def text(self) -> str:
        """The text of the part that llm records, or the name and arguments of a call."""
        if self.correction is not None:
            return self.correction
        return "".join(event.chunk for event in self.events)

    @property
    def as_reasoning(self) -> bool:
        """Whether llm gets this item's text as reasoning."""
        return self.kind == "reasoning" or self.is_commentary

    @property
    def has_effects(self) -> bool:
        """Whether this is a call that may have effects, such as image generation."""
        return self.kind.endswith("_call") and self.kind not in _WITHOUT_EFFECTS

    def apply_correction(self) -> None:
        """Write the correction into the events, which llm has printed."""
        if self.correction is not None:
            for event in self.events:
                event.chunk = ""
            self.events[0].chunk, self.correction = self.correction, None


class Round:
    """The answer to one request, which continues `answer`.

    `state` is the state of the request, which the first part of the answer stores as metadata
    (history.py).
    """

    def __init__(self, answer: Answer, state: Metadata | None = None) -> None:
        self.items: list[Item] = []
        self.tool_calls: list[llm.ToolCall] = []
        # How the round ended: "completed" or "incomplete"; None if it has not ended properly.
        self.ended: str | None = None
        # The response in its last event.
        self.response: Mapping[str, Any] = {}
        # Events that llm has not received yet.
        self._events: list[StreamEvent] = []
        self._corrected_items: list[Item] = []
        self._message_count = sum(item.kind == "message" for item in answer.items)
        self._first_item = next((item for item in answer.items if item.events), None)
        self._state = {} if self._first_item else state
        previous = answer.rounds[-1] if answer.rounds else None
        # The last message that was shown as text, in this round or an earlier one.
        self.last_message: Item | None = previous.last_message if previous else None
        # The item whose text was shown last, and the place of the text if it is reasoning. None
        # after the blank line that ends reasoning.
        self.last_text: tuple[Item, object] | None = previous.last_text if previous else None

    def take_events(self) -> list[StreamEvent]:
        """Return the events that llm has not received yet, and forget them."""
        events, self._events = self._events, []
        if self._corrected_items:
            new_parts = {event.part_index for event in events}
            for item in self._corrected_items:
                if item.part_index not in new_parts:
                    item.apply_correction()
        return events

    def correct(self, item: Item, text: str) -> None:
        """Make llm record this text in place of the shown text, which stays on the screen."""
        if item.text != text:
            item.correction = text
            self._corrected_items.append(item)

    def new_item(self, kind: str, output_index: float) -> Item:
        """Create an item and add it to the round."""
        # Items between two messages belong to the first message, as in llm itself.
        self._message_count += kind == "message"
        item = Item(kind, next(_part_numbers), max(0, self._message_count - 1), output_index)
        self.items.append(item)
        return item

    def emit(
        self, kind: str, chunk: str, item: Item, metadata: Metadata | None = None, **fields: Any
    ) -> None:
        """Add an event to an item's part."""
        self._first_item = self._first_item or item
        # llm keeps only the last metadata of a part.
        if item is self._first_item and self._state and (metadata or not item.events):
            metadata = {**(metadata or {}), REQUEST: self._state}
        event = StreamEvent(
            type=kind,
            chunk=chunk,
            part_index=item.part_index,
            message_index=item.message_index,
            tool_call_id=item.call_id,
            provider_metadata={config.METADATA_KEY: metadata} if metadata else None,
            **fields,
        )
        item.events.append(event)
        self._events.append(event)

    def exclude_reasoning(self) -> None:
        """Keep the reasoning of this empty round out of later requests (P172)."""
        for item in self.items:
            item.part = None
            for event in item.events if item.kind == "reasoning" else ():
                if event.provider_metadata:
                    event.provider_metadata[config.METADATA_KEY] |= NOT_REPLAYED

    # Text and blank lines

    def show(self, item: Item, place: object, text: str) -> None:
        """Show text of an item. A blank line separates reasoning texts with different `place`s."""
        text_place = (item, place if item.kind == "reasoning" else None)
        if self.last_text != text_place:
            self._separate(item)
            self.last_text = text_place
        if item.as_reasoning:
            self.emit("reasoning", text, item, item.metadata)
        else:
            # The part needs its metadata once.
            self.emit("text", text, item, None if self.last_message is item else item.metadata)
            self.last_message = item
        item.has_content |= item.kind == "message"

    def _separate(self, item: Item) -> None:
        """Add a blank line between the text that was shown last and this item's."""
        if item.as_reasoning:
            self.end_reasoning()
            if self.last_text and not self.last_text[0].text.endswith("\n"):
                self.add_part("reasoning", "\n\n", item)
        # llm itself ends the line between reasoning and text.
        elif self.last_message not in (None, item):
            self.add_part("text", "\n\n", item)

    def end_reasoning(self) -> None:
        """Add a blank line if reasoning or commentary was shown last."""
        if not self.last_text or not self.last_text[0].as_reasoning:
            return
        item, self.last_text = self.last_text[0], None
        # A commentary is sent back unchanged, so its blank line is a part of its own.
        if item.is_commentary:
            self.add_part("reasoning", "\n\n", item)
        else:
            self.emit("reasoning", "\n\n", item)

    def add_part(self, kind: str, text: str, item: Item) -> None:
        """Add an extra part, such as a blank line, that is shown but never sent back."""
        part = Item(kind, next(_part_numbers), item.message_index, item.output_index)
        self.emit(kind, text, part, NOT_REPLAYED)


class Answer:
    """A whole answer: its complete rounds, and perhaps a last one that failed midway."""

    def __init__(self) -> None:
        self.rounds: list[Round] = []

    @property
    def last_round(self) -> Round:
        """The last complete round."""
        return next(round_ for round_ in reversed(self.rounds) if round_.ended)

    @property
    def items(self) -> list[Item]:
        return [item for round_ in self.rounds for item in round_.items]

    @property
    def output(self) -> list[dict[str, Any]]:
        """The finished items in order. The `output` of the last event is empty (P163)."""
        sorted_items = (sorted(r.items, key=lambda item: item.output_index) for r in self.rounds)
        items = itertools.chain.from_iterable(sorted_items)
        return [item.finished for item in items if item.finished is not None]

    @property
    def tool_calls(self) -> list[llm.ToolCall]:
        return [call for round_ in self.rounds for call in round_.tool_calls]

    @property
    def has_content(self) -> bool:
        """Whether the answer gives the user anything: text, an image, or a call of llm's tools."""
        return any(item.has_content for item in self.items)

    @property
    def messages(self) -> list[Message]:
        """The finished items as messages for the next round's request."""
        return [Message("assistant", [item.part]) for item in self.items if item.part]

    def repeat_commentary(self) -> list[StreamEvent]:
        """Return events that repeat commentary as text if no other text or call came (P162)."""
        commentaries = [item for item in self.items if item.is_commentary and item.text]
        last = self.rounds[-1]
        if commentaries and not last.last_message and not self.tool_calls:
            text = "\n\n".join(item.text for item in commentaries)
            last.add_part("text", text, commentaries[-1])
        return last.take_events()
