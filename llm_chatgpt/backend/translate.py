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
from llm.parts import ReasoningPart, StreamEvent, TextPart, ToolCallPart

from llm_chatgpt import config
from llm_chatgpt.backend.answer import Answer, Item
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


class EventTranslator:
    """Reads one request's answer: `feed` it bytes, then `finish`, and read the attributes.

    It adds to `answer`, which holds the rounds before. Each item becomes one part. Unknown
    events, junk and wrong types are ignored. A finished item has the last word on what its
    deltas said.
    """

    def __init__(
        self,
        answer: Answer | None = None,
        *,
        account_key: str = "",
        slug: str = "",
        save_image: Callable[[bytes, str], str] | None = None,
        tool_names: Mapping[str, str] | None = None,
    ) -> None:
        self.answer = answer or Answer()
        self.account_key = account_key
        self.slug = slug
        self.save_image = save_image
        # llm's names of the tools, by the names that the service was told.
        self.tool_names = tool_names or {}
        # "completed", "incomplete", "failed" or "error" once the answer has ended.
        self.ended: str | None = None
        self.error: Mapping[str, Any] = {}
        # Whether the user has seen anything of this request's answer yet.
        self.started = False
        self._decoder = SSEDecoder()
        # JSON can hold halves of a character (\ud83d), which no terminal can show.
        self._characters = codecs.getincrementaldecoder("utf-16-le")("replace")
        self._items: dict[object, Item] = {}

    def feed(self, chunk: bytes) -> list[StreamEvent]:
        """llm's events for the next bytes of the answer."""
        return self._translate(self._decoder.feed(chunk))

    def finish(self) -> list[StreamEvent]:
        """llm's events for what the end of the stream completes."""
        return self._translate(self._decoder.flush())

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
        events, self.answer.events = self.answer.events, []
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
            response = as_mapping(event.get("response"))
            self.error = as_mapping(response.get("error"))
            if step != "failed":
                self.answer.ended, self.answer.response = step, response
                self.answer.usages.append(response.get("usage"))
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

    def _show_rest(self, item: Item, fields: Mapping[str, Any]) -> None:
        """Pass on the text of a finished item that no earlier event has brought."""
        for field in ("summary", "content"):
            for index, part in enumerate(map(as_mapping, as_list(fields.get(field)))):
                text = part.get("text", part.get("refusal"))
                if (field, index) not in item.pieces and isinstance(text, str) and text:
                    self._show(item, (field, index), text)

    def _show(self, item: Item, piece: tuple[str, int], text: str) -> None:
        item.pieces.add(piece)
        text = self._characters.decode(text.encode("utf-16-le", "surrogatepass"))
        if text:
            self.started = True
            self.answer.show(item, piece, text)

    def _message_done(self, item: Item, fields: Mapping[str, Any]) -> None:
        self._show_rest(item, fields)
        parts = [as_mapping(part) for part in as_list(fields.get("content"))]
        annotations = [found for part in parts for found in as_list(part.get("annotations"))]
        for annotation in annotations:
            self._cite(annotation)
        known = item.metadata
        phase = as_text(fields.get("phase"))
        news = {"phase": phase} if phase else {}
        item.metadata = {**known, **news, **({"annotations": annotations} if annotations else {})}
        if item.pieces and item.metadata != known:
            kind = "reasoning" if item.is_commentary else "text"
            self.answer.emit(kind, "", item, item.metadata)
        text = "".join(as_text(part.get("text", part.get("refusal"))) or "" for part in parts)
        item.part = (ReasoningPart if item.is_commentary else TextPart)(
            text, provider_metadata={config.METADATA_KEY: item.metadata}
        )

    def _cite(self, annotation: object) -> None:
        fields = as_mapping(annotation)
        url = as_text(fields.get("url"))
        if url and fields.get("type") == "url_citation":
            self.answer.cited.setdefault(url, as_text(fields.get("title")) or "")

    def _reasoning_done(self, item: Item, fields: Mapping[str, Any]) -> None:
        self.answer.had_reasoning = True
        self._show_rest(item, fields)
        encrypted = as_text(fields.get("encrypted_content"))
        if encrypted:
            metadata: dict[str, Any] = {"account": self.account_key}
            metadata |= {"model": self.slug} if self.slug else {}
            metadata |= {"encrypted_content": encrypted}
            summary = [part for part in as_list(fields.get("summary")) if as_mapping(part)]
            metadata |= {"summary": summary} if summary else {}
            self.answer.emit("reasoning", "", item, metadata)
            item.part = ReasoningPart(provider_metadata={config.METADATA_KEY: metadata})

    # Tool calls

    def _name_call(self, item: Item, fields: Mapping[str, Any]) -> None:
        call_id, name = fields.get("call_id"), as_text(fields.get("name"))
        if not item.name and name and isinstance(call_id, str):
            item.name, item.call_id = self.tool_names.get(name, name), call_id
            self.started = True
            self.answer.end_aside()
            self.answer.emit("tool_call_name", item.name, item)

    def _arguments_delta(self, event: Mapping[str, Any]) -> None:
        item = self._item(event, "function_call")
        delta = as_text(event.get("delta"))
        if item.name and delta:
            item.arguments.append(self.answer.emit("tool_call_args", delta, item))

    def _call_done(self, item: Item, fields: Mapping[str, Any]) -> None:
        self._name_call(item, fields)
        arguments = fields.get("arguments")
        if not item.name or not isinstance(arguments, str):
            return
        if "".join(event.chunk for event in item.arguments) != arguments:
            # llm reads the events again at the end, so wrong ones can still be emptied.
            for event in item.arguments:
                event.chunk = ""
            self.answer.emit("tool_call_args", arguments, item)
        try:
            parsed = json.loads(arguments or "{}")
            written_alike = json.dumps(parsed) == (arguments or "{}")
        except (ValueError, RecursionError):
            parsed, written_alike = None, True
        if not written_alike:
            # llm stores the object only; the text goes back to the service as it came.
            self.answer.emit("tool_call_args", "", item, {"arguments": arguments})
        # A call that was cut short is stored, but not carried out.
        if fields.get("status") == "incomplete":
            return
        call = llm.ToolCall(
            name=item.name,
            arguments=parsed if isinstance(parsed, dict) else {"_raw": arguments},
            tool_call_id=item.call_id,
        )
        self.answer.tool_calls.append(call)

    # What the service carries out itself

    def _search_done(self, item: Item, fields: Mapping[str, Any]) -> None:
        action = as_mapping(fields.get("action"))
        sources = action.get("sources")
        for source in map(as_mapping, as_list(sources)):
            if url := as_text(source.get("url")):
                self.answer.found.setdefault(url, as_text(source.get("title")) or "")
        result = json.dumps(sources) if sources else as_text(fields.get("status"))
        self._server_call(item, fields, "web_search", action, result or "completed")

    def _image_done(self, item: Item, fields: Mapping[str, Any]) -> None:
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
        item: Item,
        fields: Mapping[str, Any],
        name: str,
        arguments: Mapping[str, Any],
        result: str,
    ) -> None:
        """A call and its result, each a part, as llm's own OpenAI models have them."""
        item.call_id = as_text(fields.get("id")) or f"{name}_{item.part_index}"
        self.started = True
        kind = {"type": item.kind}
        self.answer.emit("tool_call_name", name, item, kind, server_executed=True)
        self.answer.emit("tool_call_args", json.dumps(arguments), item, server_executed=True)
        outcome = self.answer.new_item("tool_result", item.order[1])
        outcome.call_id = item.call_id
        self.answer.emit("tool_result", result, outcome, server_executed=True, tool_name=name)
        item.part = ToolCallPart(
            name,
            dict(arguments),
            server_executed=True,
            provider_metadata={config.METADATA_KEY: kind},
        )

    # Items

    def _item_added(self, event: Mapping[str, Any]) -> None:
        fields = as_mapping(event.get("item"))
        if fields.get("type") in ("message", "reasoning", "function_call"):
            item = self._item(event, fields["type"])
            if item.kind == "function_call":
                self._name_call(item, fields)
            phase = as_text(fields.get("phase"))
            if item.kind == "message" and phase and not item.pieces:
                item.is_commentary = phase == "commentary"
                kind = {"type": "message"} if item.is_commentary else {}
                item.metadata = {**kind, "phase": phase}
        elif fields.get("type") == "image_generation_call":
            # Before the picture's path is told, on a line of its own.
            self.answer.end_aside()

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

    def _item(self, event: Mapping[str, Any], kind: str) -> Item:
        """The item that an event belongs to, made on first sight."""
        index = event.get("output_index")
        names = (index, event.get("item_id"), as_mapping(event.get("item")).get("id"))
        key = (kind, next((name for name in names if isinstance(name, (int, str))), None))
        if key not in self._items:
            place = index if isinstance(index, int) else float("inf")
            self._items[key] = self.answer.new_item(kind, place)
        return self._items[key]
