"""The service's events -> llm's StreamEvents.

Bytes in, events out; nothing else is read or written, except that a drawn picture is
handed to `save_image`. What the events mean is in docs/protocol.md.
"""

from __future__ import annotations

import base64
import codecs
import json
from collections.abc import Callable, Mapping
from typing import Any

import llm
from llm.parts import StreamEvent

from llm_chatgpt import config
from llm_chatgpt.backend.sse import SSEDecoder
from llm_chatgpt.values import as_list, as_mapping, as_text

# A family of events that bring text: the kind of item it belongs to, and the list in the
# finished item that holds the same text once more.
_TEXTS = {
    "response.output_text": ("message", "content"),
    "response.refusal": ("message", "content"),
    "response.reasoning_summary_text": ("reasoning", "summary"),
    "response.reasoning_text": ("reasoning", "content"),
}


class _Item:
    """One item of the answer, which becomes one part of llm's message."""

    def __init__(self, kind: str, part_index: int, message_index: int, order: float):
        self.kind = kind
        self.part_index = part_index
        self.message_index = message_index
        self.order = order
        self.call_id: str | None = None
        self.name = ""
        # The pieces of text that have been passed on: (list of the finished item, index).
        self.pieces: set[tuple[str, int]] = set()
        self.arguments: list[StreamEvent] = []
        # The finished item without what is too large or too private to be logged.
        self.finished: dict[str, Any] | None = None


class EventTranslator:
    """Reads one answer: `feed` it bytes, then `finish`, and read the attributes.

    Each item of the answer becomes one part. Unknown events, junk and wrong types are
    ignored. A finished item has the last word on what its deltas said.
    """

    def __init__(
        self,
        *,
        account_key: str = "",
        save_image: Callable[[bytes, str], str] | None = None,
        tool_names: Mapping[str, str] | None = None,
    ) -> None:
        self.account_key = account_key
        self.save_image = save_image
        # llm's names of the tools, by the names that the service was told.
        self.tool_names = tool_names or {}
        # "completed", "incomplete", "failed" or "error" once the answer has ended.
        self.ended: str | None = None
        self.response: Mapping[str, Any] = {}
        self.error: Mapping[str, Any] = {}
        self.tool_calls: list[llm.ToolCall] = []
        # Whether the user has seen anything yet, and whether it ended in mid-line.
        self.started = False
        self.mid_line = False
        self.had_reasoning = False
        self._decoder = SSEDecoder()
        # JSON can hold halves of a character (\ud83d), which no terminal can show.
        self._characters = codecs.getincrementaldecoder("utf-16-le")("replace")
        self._items: dict[object, _Item] = {}
        # Addresses and titles of what the answer cites, and of what searches have found.
        self._cited: dict[str, str] = {}
        self._found: dict[str, str] = {}
        self._parts = 0
        self._messages = 0
        # The piece of reasoning that was shown last, if nothing else was shown since.
        self._shown: tuple[_Item, tuple[str, int]] | None = None
        self._events: list[StreamEvent] = []

    def feed(self, chunk: bytes) -> list[StreamEvent]:
        """llm's events for the next bytes of the answer."""
        return self._translate(self._decoder.feed(chunk))

    def finish(self) -> list[StreamEvent]:
        """llm's events for what the end of the stream completes."""
        return self._translate(self._decoder.flush())

    @property
    def output(self) -> list[dict[str, Any]]:
        """The finished items in their order; the final event's own list is empty."""
        items = sorted(self._items.values(), key=lambda item: item.order)
        return [item.finished for item in items if item.finished is not None]

    @property
    def sources(self) -> list[tuple[str, str]]:
        """Titles and addresses of the pages that the answer cites; without any, of those
        that its web searches found. In their order, each once; a title may be empty."""
        return [(title, url) for url, title in (self._cited or self._found).items()]

    def _translate(self, frames: list[bytes]) -> list[StreamEvent]:
        for frame in frames:
            if self.ended:
                break
            try:
                event = json.loads(frame)
                kind = event["type"]
            except (ValueError, RecursionError, KeyError, TypeError):
                continue
            if isinstance(kind, str):
                self._handle(kind, event)
        # Until the user sees something, the prompt may be sent again, and nothing of this
        # attempt may then have reached llm.
        if not self.started and self.ended not in ("completed", "incomplete"):
            return []
        events, self._events = self._events, []
        return events

    def _handle(self, kind: str, event: Mapping[str, Any]) -> None:
        family, _, step = kind.rpartition(".")
        if family in _TEXTS and step in ("delta", "done"):
            self._text(event, *_TEXTS[family], step)
        elif kind == "response.output_text.annotation.added":
            self._cite(event.get("annotation"))
        elif kind == "response.function_call_arguments.delta":
            self._arguments_delta(event)
        elif kind == "response.output_item.added":
            self._item_added(event)
        elif kind == "response.output_item.done":
            self._item_done(event)
        elif kind in ("response.completed", "response.incomplete", "response.failed"):
            self.ended = step
            self.response = as_mapping(event.get("response"))
            self.error = as_mapping(self.response.get("error"))
        elif kind == "error":
            self.ended = kind
            # In an object of its own, or flat in the event.
            error = event.get("error")
            self.error = error if isinstance(error, dict) else event

    # Text and reasoning

    def _text(self, event: Mapping[str, Any], kind: str, field: str, step: str) -> None:
        text = event.get("delta") if step == "delta" else event.get("text", event.get("refusal"))
        if not isinstance(text, str) or not text:
            return
        item = self._item(event, kind)
        index = event.get(f"{field}_index")
        piece = (field, index if isinstance(index, int) else 0)
        if step == "delta" or piece not in item.pieces:
            self._show(item, piece, text)

    def _show_rest(self, item: _Item, fields: Mapping[str, Any]) -> None:
        """Pass on the text of a finished item that no earlier event has brought."""
        for field in ("summary", "content"):
            for index, part in enumerate(map(as_mapping, as_list(fields.get(field)))):
                text = part.get("text", part.get("refusal"))
                if (field, index) not in item.pieces and isinstance(text, str) and text:
                    self._show(item, (field, index), text)

    def _show(self, item: _Item, piece: tuple[str, int], text: str) -> None:
        item.pieces.add(piece)
        text = self._characters.decode(text.encode("utf-16-le", "surrogatepass"))
        if not text:
            return
        if item.kind == "reasoning":
            self._end_reasoning((item, piece))
        # llm itself ends the line between reasoning and text.
        self._shown = (item, piece) if item.kind == "reasoning" else None
        self.started = True
        self.mid_line = not text.endswith("\n")
        self._emit("reasoning" if item.kind == "reasoning" else "text", text, item)

    def _end_reasoning(self, upcoming: tuple[_Item, tuple[str, int]] | None = None) -> None:
        """A blank line after a piece of reasoning, or the next would run into it on screen."""
        if self._shown not in (None, upcoming):
            self._emit("reasoning", "\n\n", self._shown[0])
        self._shown = None

    def _message_done(self, item: _Item, fields: Mapping[str, Any]) -> None:
        self._show_rest(item, fields)
        parts = map(as_mapping, as_list(fields.get("content")))
        annotations = [found for part in parts for found in as_list(part.get("annotations"))]
        for annotation in annotations:
            self._cite(annotation)
        if annotations:
            self._emit("text", "", item, {"annotations": annotations})

    def _cite(self, annotation: object) -> None:
        fields = as_mapping(annotation)
        url = as_text(fields.get("url"))
        if url and fields.get("type") == "url_citation":
            self._cited.setdefault(url, as_text(fields.get("title")) or "")

    def _reasoning_done(self, item: _Item, fields: Mapping[str, Any]) -> None:
        self.had_reasoning = True
        self._show_rest(item, fields)
        encrypted = as_text(fields.get("encrypted_content"))
        if encrypted:
            metadata = {"encrypted_content": encrypted, "account": self.account_key}
            summary = [part for part in as_list(fields.get("summary")) if as_mapping(part)]
            self._emit("reasoning", "", item, metadata | ({"summary": summary} if summary else {}))

    # Tool calls

    def _name_call(self, item: _Item, fields: Mapping[str, Any]) -> None:
        call_id, name = fields.get("call_id"), as_text(fields.get("name"))
        if not item.name and name and isinstance(call_id, str):
            item.name, item.call_id = self.tool_names.get(name, name), call_id
            self.started = True
            self._end_reasoning()
            self._emit("tool_call_name", item.name, item)

    def _arguments_delta(self, event: Mapping[str, Any]) -> None:
        item = self._item(event, "function_call")
        delta = as_text(event.get("delta"))
        if item.name and delta:
            item.arguments.append(self._emit("tool_call_args", delta, item))

    def _call_done(self, item: _Item, fields: Mapping[str, Any]) -> None:
        self._name_call(item, fields)
        arguments = fields.get("arguments")
        if not item.name or not isinstance(arguments, str):
            return
        if "".join(event.chunk for event in item.arguments) != arguments:
            # llm reads the events again at the end, so wrong ones can still be emptied.
            for event in item.arguments:
                event.chunk = ""
            self._emit("tool_call_args", arguments, item)
        # A call that was cut short is stored, but not carried out.
        if fields.get("status") == "incomplete":
            return
        try:
            parsed = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            parsed = None
        call = llm.ToolCall(
            name=item.name,
            arguments=parsed if isinstance(parsed, dict) else {"_raw": arguments},
            tool_call_id=item.call_id,
        )
        self.tool_calls.append(call)

    # What the service carries out itself

    def _search_done(self, item: _Item, fields: Mapping[str, Any]) -> None:
        action = as_mapping(fields.get("action"))
        sources = action.get("sources")
        for source in map(as_mapping, as_list(sources)):
            if url := as_text(source.get("url")):
                self._found.setdefault(url, as_text(source.get("title")) or "")
        result = json.dumps(sources) if sources else as_text(fields.get("status"))
        self._server_call(item, fields, "web_search", action, result or "completed")

    def _image_done(self, item: _Item, fields: Mapping[str, Any]) -> None:
        try:
            picture = base64.b64decode(fields.get("result") or "", validate=True)
        except (ValueError, TypeError):
            picture = b""
        result = "no picture came"
        if picture and self.save_image:
            kind = fields.get("output_format")
            result = self.save_image(picture, kind if kind in ("png", "jpeg", "webp") else "png")
        prompt = as_text(fields.get("revised_prompt"))
        arguments = {"prompt": prompt} if prompt else {}
        self._server_call(item, fields, "image_generation", arguments, result)

    def _server_call(
        self,
        item: _Item,
        fields: Mapping[str, Any],
        name: str,
        arguments: Mapping[str, Any],
        result: str,
    ) -> None:
        """A call and its result, each a part, as llm's own OpenAI models have them."""
        item.call_id = as_text(fields.get("id")) or f"{name}_{item.part_index}"
        self.started = True
        kind = {"type": item.kind}
        self._emit("tool_call_name", name, item, kind, server_executed=True)
        self._emit("tool_call_args", json.dumps(arguments), item, server_executed=True)
        outcome = self._new_item("tool_result", item.order)
        outcome.call_id = item.call_id
        self._emit("tool_result", result, outcome, server_executed=True, tool_name=name)

    # Items

    def _item_added(self, event: Mapping[str, Any]) -> None:
        fields = as_mapping(event.get("item"))
        if fields.get("type") in ("message", "reasoning", "function_call"):
            item = self._item(event, fields["type"])
            if item.kind == "function_call":
                self._name_call(item, fields)
        elif fields.get("type") == "image_generation_call":
            # Before the picture's path is told, on a line of its own.
            self._end_reasoning()

    def _item_done(self, event: Mapping[str, Any]) -> None:
        fields = as_mapping(event.get("item"))
        kind = fields.get("type")
        if not isinstance(kind, str):
            return
        item = self._item(event, kind)
        if item.finished is not None:
            return
        large = ("encrypted_content", "result")
        item.finished = {name: value for name, value in fields.items() if name not in large}
        readers = {
            "message": self._message_done,
            "reasoning": self._reasoning_done,
            "function_call": self._call_done,
            "web_search_call": self._search_done,
            "image_generation_call": self._image_done,
        }
        if kind in readers:
            readers[kind](item, fields)

    def _item(self, event: Mapping[str, Any], kind: str) -> _Item:
        """The item that an event belongs to, made on first sight."""
        index = event.get("output_index")
        names = (index, event.get("item_id"), as_mapping(event.get("item")).get("id"))
        key = (kind, next((name for name in names if isinstance(name, (int, str))), None))
        if key not in self._items:
            order = index if isinstance(index, int) else float("inf")
            self._items[key] = self._new_item(kind, order)
        return self._items[key]

    def _new_item(self, kind: str, order: float) -> _Item:
        # What stands between two messages goes with the first of them, as in llm itself.
        self._messages += kind == "message"
        self._parts += 1
        return _Item(kind, self._parts - 1, max(0, self._messages - 1), order)

    def _emit(
        self,
        kind: str,
        chunk: str,
        item: _Item,
        metadata: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> StreamEvent:
        event = StreamEvent(
            type=kind,
            chunk=chunk,
            part_index=item.part_index,
            message_index=item.message_index,
            tool_call_id=item.call_id,
            provider_metadata={config.METADATA_KEY: metadata} if metadata else None,
            **more,
        )
        self._events.append(event)
        return event
