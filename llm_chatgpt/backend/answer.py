"""One answer as llm sees it: its parts and messages, and the blank lines between them.

An answer can take several requests, its rounds (docs/protocol.md, "The end of an answer"). All
of them write to one Answer, so that llm gets one response with one numbering.
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

# On a part that only readers need: it is left out when the conversation is sent again.
NOT_REPLAYED = {"replay": False}
# What the metadata of reasoning holds to send it back.
REASONING = ("account", "model", "encrypted_content", "summary")
# Calls that may be repeated: this program carries them out itself, or they only look something up.
_REPEATABLE = ("function_call", "web_search_call", "file_search_call", "tool_search_call")


class Item:
    """One item of the answer, which becomes one part of llm's message."""

    def __init__(self, kind: str, part_index: int, message_index: int, order: tuple[int, float]):
        self.kind = kind
        self.part_index = part_index
        self.message_index = message_index
        self.order = order
        self.call_id: str | None = None
        self.name = ""
        # Whether it is a commentary: a message that llm records as reasoning.
        self.is_commentary = False
        # Its texts, by the list of the finished item that they are in, and their place there.
        self.passages: dict[tuple[str, int], Passage] = {}
        # llm's events of this part. llm reads them again at the end, so they can be corrected.
        self.events: list[StreamEvent] = []
        # Our metadata on its part so far.
        self.metadata: dict[str, Any] = {}
        # The finished item, without the fields that are too large to be logged.
        self.finished: dict[str, Any] | None = None
        # The llm part to send in the next round's request; None until the item is finished.
        self.part: Part | None = None

    @property
    def text(self) -> str:
        """What llm records as the part's text, or as a call's name and arguments."""
        return "".join(event.chunk for event in self.events)

    @property
    def acts(self) -> bool:
        """Whether the service has called a tool that does something, such as drawing a picture."""
        return self.kind.endswith("_call") and self.kind not in _REPEATABLE

    def correct(self, text: str) -> None:
        """Let llm record this text, whatever was shown."""
        if self.text != text:
            for event in self.events:
                event.chunk = ""
            self.events[0].chunk = text


class Answer:
    """What has arrived of one answer, over all its rounds.

    `numbers` are those of llm's parts. A response that was asked again after a failure still has
    the parts from before.
    """

    def __init__(self, numbers: Iterator[int] | None = None) -> None:
        # What the request had beside its messages (history.py); stored with the first part.
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
        # Whether it has anything for the user: text, a picture, or a call of llm's tools.
        self.has_content = False
        # Whether the last thing the user saw ended in mid-line.
        self.mid_line = False
        # Addresses and titles of what the answer cites, and of what searches have found.
        self.cited: dict[str, str] = {}
        self.found: dict[str, str] = {}
        self.items: list[Item] = []
        # Events that llm has not been given yet.
        self.events: list[StreamEvent] = []
        self._numbers = numbers or itertools.count()
        self._messages = 0
        self._first: int | None = None
        # The message of the answer that was shown last.
        self._answering: Item | None = None
        # The piece of reasoning or commentary that was shown last, if nothing else was since.
        self._aside: tuple[Item, object] | None = None

    def copy(self) -> Answer:
        """A copy that an attempt can add to; it is discarded if the attempt fails."""
        other = copy.copy(self)
        for name in ("usages", "tool_calls", "cited", "found", "items", "events"):
            setattr(other, name, copy.copy(getattr(self, name)))
        return other

    @property
    def output(self) -> list[dict[str, Any]]:
        """The finished items in their order; the final event's own list is empty."""
        items = sorted(self.items, key=lambda item: item.order)
        return [item.finished for item in items if item.finished is not None]

    @property
    def sources(self) -> list[tuple[str, str]]:
        """Titles and addresses of the pages that the answer cites; without any, of those
        that its web searches found. In their order, each once; a title may be empty."""
        return [(title, url) for url, title in (self.cited or self.found).items()]

    @property
    def has_calls(self) -> bool:
        """Whether the model has called a tool of llm's, however that went."""
        return any(item.kind == "function_call" for item in self.items)

    @property
    def acted(self) -> bool:
        """Whether the service has called a tool that does something."""
        return any(item.acts for item in self.items)

    @property
    def messages(self) -> list[Message]:
        """The finished items for the next round's request, each a message of its own."""
        return [Message("assistant", [item.part]) for item in self.items if item.part]

    def new_item(self, kind: str, index: float) -> Item:
        """An item that begins; `index` is its place in the round's output."""
        # Items between two messages belong to the first of them, as in llm itself.
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
        """Give llm an event of this item's part."""
        begins = self._first is None
        if begins:
            self._first = item.part_index
        # llm keeps only the last metadata that a part is given.
        if self.request and item.part_index == self._first and (begins or metadata):
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
        """Send back nothing of the last round, whose reasoning led to no answer."""
        request = len(self.usages) - 1
        for item in (item for item in self.items if item.order[0] == request):
            item.part = None
            for event in item.events if item.kind == "reasoning" else ():
                ours = (event.provider_metadata or {}).get(config.METADATA_KEY, {})
                kept = {name: value for name, value in ours.items() if name not in REASONING}
                event.provider_metadata = {config.METADATA_KEY: kept} if kept else None

    # What the user sees

    def show(self, item: Item, piece: tuple[str, int], text: str) -> None:
        """Pass on text of an item: of its message, or of this piece of its reasoning."""
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
            # The metadata is the part's, so its first event is enough.
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
        """Add a blank line after reasoning, so that the next text does not run into it."""
        if self._aside:
            item, _ = self._aside
            # The text of a commentary goes back as it came, without anything added.
            if item.is_commentary:
                self._add_part("reasoning", "\n\n", item)
            else:
                self.emit("reasoning", "\n\n", item)
            self.mid_line = False
        self._aside = None

    def _add_part(
        self, kind: str, text: str, item: Item, metadata: Mapping[str, Any] | None = None
    ) -> None:
        """A part beside the item's own, for readers only."""
        part = Item(kind, next(self._numbers), item.message_index, item.order)
        self.emit(kind, text, part, metadata)

    def repeat_commentary(self) -> None:
        """Give an answer that is nothing but commentary a text; a tool call makes it go on."""
        commentaries = [item for item in self.items if item.is_commentary and item.text]
        if commentaries and self._answering is None and not self.tool_calls:
            text = "\n\n".join(item.text for item in commentaries)
            self._add_part("text", text, commentaries[-1], NOT_REPLAYED)
            self.mid_line = not text.endswith("\n")
