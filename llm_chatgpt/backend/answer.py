"""Collect one answer for llm: its parts, its messages, and the blank lines between them.

An answer can take several requests, its rounds (docs/protocol.md, "The end of an answer"). All
rounds write to one Answer, so that llm gets one response with one numbering.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import llm
from llm.parts import Message, Part, StreamEvent

from llm_chatgpt import config
from llm_chatgpt.backend.history import REQUEST
from llm_chatgpt.backend.passage import Passage

# Metadata of a part that only readers need: it is never sent back.
NOT_REPLAYED = {"replay": False}
# The metadata fields that are needed to send reasoning back.
REASONING = ("account", "model", "encrypted_content", "summary")
# Calls that can be repeated: llm runs them itself, or they only look something up.
_REPEATABLE = ("function_call", "web_search_call", "file_search_call", "tool_search_call")


class Item:
    """One item of the answer. It becomes one part of llm's message."""

    def __init__(self, kind: str, part_index: int, message_index: int, order: tuple[int, float]):
        self.kind = kind
        self.part_index = part_index
        self.message_index = message_index
        self.order = order
        self.call_id: str | None = None
        self.name = ""
        # A commentary is a message that llm records as reasoning.
        self.is_commentary = False
        # Its texts, by the list of the finished item that holds them and their place in it.
        self.passages: dict[tuple[str, int], Passage] = {}
        # llm's events of this part. llm reads them again at the end, so `correct` can change them.
        self.events: list[StreamEvent] = []
        # The plugin's metadata on its part.
        self.metadata: dict[str, Any] = {}
        # The finished item, without the fields that are too large to be logged.
        self.finished: dict[str, Any] | None = None
        # The llm part to send in the next round's request; None until the item is finished.
        self.part: Part | None = None

    @property
    def text(self) -> str:
        """The text of the part that llm records, or the name and arguments of a call."""
        return "".join(event.chunk for event in self.events)

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


class Answer:
    """The content of one answer so far, over all its rounds.

    `numbers` counts llm's parts. A response that is run again after a failure keeps its earlier
    parts, so their numbers are not used again.
    """

    def __init__(self, numbers: Iterator[int] | None = None) -> None:
        # The state that the request's messages do not tell (history.py); the first part stores it.
        self.request: Mapping[str, Any] = {}
        # How many rounds were complete when the current one began.
        self.rounds = 0
        # How the last complete round ended ("completed" or "incomplete"), and its last event's
        # response.
        self.ended: str | None = None
        self.response: Mapping[str, Any] = {}
        self.usages: list[Any] = []
        self.tool_calls: list[llm.ToolCall] = []
        self.had_reasoning = False
        # Whether there is anything for the user: text, a picture, or a call of llm's tools.
        self.has_content = False
        # Whether the last text that was shown did not end its line.
        self.mid_line = False
        # Titles by address: of the pages that the answer cites, and of those that searches found.
        self.cited: dict[str, str] = {}
        self.found: dict[str, str] = {}
        self.items: list[Item] = []
        # Events that llm has not received yet.
        self.events: list[StreamEvent] = []
        self._numbers = numbers or itertools.count()
        self._messages = 0
        self._first: int | None = None
        # The last message of the answer that was shown.
        self._answering: Item | None = None
        # The last piece of reasoning or commentary, if nothing else was shown after it.
        self._aside: tuple[Item, object] | None = None

    def copy(self) -> Answer:
        """Return a copy for the next attempt, which is dropped if the attempt fails.

        Nothing is shared that an attempt adds to.
        """
        other = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, (list, dict)):
                setattr(other, name, value.copy())
        return other

    @property
    def output(self) -> list[dict[str, Any]]:
        """The finished items in their order. The final event's own list is empty."""
        items = sorted(self.items, key=lambda item: item.order)
        return [item.finished for item in items if item.finished is not None]

    @property
    def sources(self) -> list[tuple[str, str]]:
        """Titles and addresses of the cited pages, otherwise of those that searches found.

        A title may be empty.
        """
        return [(title, url) for url, title in (self.cited or self.found).items()]

    @property
    def has_calls(self) -> bool:
        """Whether the model has called one of llm's tools, even if the call was cut short."""
        return any(item.kind == "function_call" for item in self.items)

    @property
    def acted(self) -> bool:
        """Whether the service has called a hosted tool with effects."""
        return any(item.acts for item in self.items)

    @property
    def messages(self) -> list[Message]:
        """The finished items as messages for the next round's request."""
        return [Message("assistant", [item.part]) for item in self.items if item.part]

    def new_item(self, kind: str, index: float) -> Item:
        """Begin an item. `index` is its place in the round's output."""
        # Items between two messages belong to the first one, as in llm itself.
        self._messages += kind == "message"
        place = (len(self.usages), index)
        item = Item(kind, next(self._numbers), max(0, self._messages - 1), place)
        self.items.append(item)
        return item

    def emit(
        self,
        kind: str,
        chunk: str,
        item: Item,
        metadata: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> StreamEvent:
        """Add an event of this item's part."""
        is_first = self._first is None
        if is_first:
            self._first = item.part_index
        # llm keeps only the last metadata that a part is given.
        if self.request and item.part_index == self._first and (is_first or metadata):
            metadata = {**(metadata or {}), REQUEST: self.request}
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
        self.events.append(event)
        return event

    def discard_reasoning(self) -> None:
        """Keep the last round, which had no answer, out of later requests."""
        last_round = len(self.usages) - 1
        for item in (item for item in self.items if item.order[0] == last_round):
            item.part = None
            for event in item.events if item.kind == "reasoning" else ():
                metadata = (event.provider_metadata or {}).get(config.METADATA_KEY, {})
                others = {name: v for name, v in metadata.items() if name not in REASONING}
                event.provider_metadata = {config.METADATA_KEY: others} if others else None

    # Text and blank lines

    def show(self, item: Item, piece: tuple[str, int], text: str) -> None:
        """Show text of an item: of its message, or of this piece of its reasoning."""
        if item.kind == "reasoning":
            self._begin_aside(item, piece)
            self.emit("reasoning", text, item)
        elif item.is_commentary:
            self._begin_aside(item, None)
            self.emit("reasoning", text, item, item.metadata)
        else:
            # llm itself ends the line between reasoning and text.
            self._aside = None
            if self._answering not in (None, item):
                self._add_part("text", "\n\n", item, NOT_REPLAYED)
            # The part needs its metadata once.
            self.emit("text", text, item, None if self._answering is item else item.metadata)
            self._answering = item
        self.has_content |= item.kind == "message"
        self.mid_line = not text.endswith("\n")

    def _begin_aside(self, item: Item, piece: object) -> None:
        if self._aside != (item, piece):
            self.end_aside()
            if self._answering and self.mid_line:
                self._add_part("reasoning", "\n\n", item)
        self._aside = (item, piece)

    def end_aside(self) -> None:
        """Add a blank line after reasoning, so that it stands apart from the next text."""
        if self._aside:
            item, _ = self._aside
            # A commentary is sent back as it came, so nothing is added to it.
            if item.is_commentary:
                self._add_part("reasoning", "\n\n", item)
            else:
                self.emit("reasoning", "\n\n", item)
            self.mid_line = False
        self._aside = None

    def _add_part(
        self, kind: str, text: str, item: Item, metadata: Mapping[str, Any] | None = None
    ) -> None:
        """Add a part beside the item's own, for readers only."""
        part = Item(kind, next(self._numbers), item.message_index, item.order)
        self.emit(kind, text, part, metadata)

    def repeat_commentary(self) -> None:
        """Repeat the commentary as the answer's text if there is no other text and no call."""
        commentaries = [item for item in self.items if item.is_commentary and item.text]
        if commentaries and self._answering is None and not self.tool_calls:
            text = "\n\n".join(item.text for item in commentaries)
            self._add_part("text", text, commentaries[-1], NOT_REPLAYED)
            self.mid_line = not text.endswith("\n")
