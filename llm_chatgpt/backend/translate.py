"""Translate the service's events to llm's StreamEvents.

Bytes go in, events come out. Nothing else is read or written, except that a generated picture is
passed to `save_image`. docs/protocol.md, "Stream", tells what each event means.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import llm
from llm.parts import ReasoningPart, StreamEvent, TextPart, ToolCallPart

from llm_chatgpt import config
from llm_chatgpt.backend.answer import Answer, Item
from llm_chatgpt.backend.images import decode_image
from llm_chatgpt.backend.passage import Passage, readable_part, without_citations
from llm_chatgpt.backend.sse import SSEDecoder, is_event_stream
from llm_chatgpt.values import as_list, as_mapping, as_text, cleaned, depth

# For each family of text events, the kind of its item, and the list in the finished item that
# holds the same text.
_TEXTS = {
    "response.output_text": ("message", "content"),
    "response.refusal": ("message", "content"),
    "response.reasoning_summary_text": ("reasoning", "summary"),
    "response.reasoning_text": ("reasoning", "content"),
}
# The last event of a stream, and how the answer ended unless its `status` differs.
_ENDS = {
    "response.completed": "completed",
    "response.done": "completed",
    "response.incomplete": "incomplete",
    "response.failed": "failed",
}
# What the user is told while the service runs one of its tools.
_ACTIVITIES = {"web_search_call": "Searching the web", "image_generation_call": "Drawing"}
# llm parses the arguments again, which fails at deeper nesting.
_ARGUMENT_LEVELS = 200


class EventTranslator:
    """Reads one request's answer: `feed` it bytes, then `finish`, and read the attributes.

    It adds to `answer`, which holds the earlier rounds. Each item becomes one part. Unknown
    events, junk and wrong types are ignored. A finished item overrides its deltas.
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
        # llm's names of the tools, by the names in the request.
        self.tool_names = tool_names or {}
        # "completed", "incomplete", "failed" or "error" once the answer has ended.
        self.ended: str | None = None
        self.error: Mapping[str, Any] = {}
        # Whether anything of this request's answer was shown, or a hosted tool with effects was
        # called. From then on the request is not sent again.
        self.started = False
        # What a tool of the service does, for the user; empty while none runs.
        self.activity = ""
        # The reply's Content-Type. The service's streams have none.
        self.content_type = ""
        self._is_stream: bool | None = None
        self._page: list[bytes] = []
        self._decoder = SSEDecoder()
        self._items: dict[object, Item] = {}

    def takes_long(self, chunk: bytes) -> bool:
        """Check whether this chunk may complete a large event, such as a picture."""
        return self._decoder.pending + len(chunk) > config.LARGE_EVENT_BYTES and b"\n" in chunk

    def feed(self, chunk: bytes) -> list[StreamEvent]:
        """Return llm's events for the next bytes of the answer."""
        if self._is_stream is None and chunk.strip():
            self._is_stream = is_event_stream(self.content_type, chunk)
        if self._is_stream is False:
            self._page.append(chunk)
            return []
        return self._translate(self._decoder.feed(chunk))

    def finish(self) -> list[StreamEvent]:
        """Return llm's events for what the end of the stream completes."""
        response = cleaned(_read_json(self.page))
        # A proxy can turn the stream into one whole response.
        if "output" in response or response.get("object") == "response":
            self._end("completed", response)
        return self._translate(self._decoder.flush())

    @property
    def page(self) -> bytes:
        """The body of a reply that is not a stream; empty for a stream."""
        return b"".join(self._page)

    def _translate(self, frames: list[bytes]) -> list[StreamEvent]:
        for frame in frames:
            if self.ended:
                break
            event = _read_json(frame)
            if isinstance(kind := event.get("type"), str):
                # A delta can end in half a character, whose other half is in the next one.
                self._handle(kind, event if kind.endswith(".delta") else cleaned(event))
        # Until something is shown, the prompt can be sent again, so llm gets no event yet.
        if not self.started:
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
        elif kind in _ENDS:
            self._end(_ENDS[kind], as_mapping(event.get("response")))
        elif kind == "error":
            self.ended = kind
            # The fields are in `error`, or in the event itself.
            error = event.get("error")
            self.error = error if isinstance(error, dict) else event

    def _end(self, ended: str, response: Mapping[str, Any]) -> None:
        """Read the last event. Its `status` overrides its name.

        If no item has come, it may have them in `output`.
        """
        status, error = response.get("status"), response.get("error")
        if status in ("failed", "cancelled") or (
            error and status not in ("completed", "incomplete")
        ):
            ended = "failed"
        elif status == "incomplete" and ended == "completed":
            ended = "incomplete"
        self.error = {"message": error} if isinstance(error, str) else as_mapping(error)
        if ended != "failed":
            if not any(item.finished for item in self._items.values()):
                for index, item in enumerate(as_list(response.get("output"))):
                    self._item_done({"output_index": index, "item": item})
            for item in self._items.values():
                for place, passage in item.passages.items() if not item.finished else ():
                    self._show(item, place, passage.held)
            self.answer.ended, self.answer.response = ended, response
            self.answer.usages.append(response.get("usage"))
        self.ended = ended

    # Text and reasoning

    def _text(self, event: Mapping[str, Any], kind: str, field: str, step: str) -> None:
        text = event.get("delta") if step == "delta" else event.get("text", event.get("refusal"))
        item = self._item(event, kind)
        if not isinstance(text, str) or not text or item.finished is not None:
            return
        index = event.get(f"{field}_index")
        place = (field, index if isinstance(index, int) else 0)
        passage = item.passages.setdefault(place, Passage())
        if step == "delta":
            self._show(item, place, passage.add(text))
        else:
            self._show(item, place, passage.rest(without_citations(text)))

    def _show(self, item: Item, place: tuple[str, int], text: str) -> None:
        if text:
            self.started = True
            item.passages[place].shown.append(text)
            self.answer.show(item, place, text)

    def _texts_done(self, item: Item, fields: Mapping[str, Any]) -> list[str]:
        """Show the missing ends of a finished item's texts, and record the whole texts.

        Returns the texts.
        """
        texts = {}
        for field in ("summary", "content"):
            for index, part in enumerate(map(as_mapping, as_list(fields.get(field)))):
                whole = as_text(part.get("text", part.get("refusal")))
                if text := without_citations(whole or ""):
                    texts[field, index] = text
                    passage = item.passages.setdefault((field, index), Passage())
                    self._show(item, (field, index), passage.rest(text))
        if item.kind == "message" and texts:
            item.correct("".join(texts.values()))
        elif texts and item.passages.keys() <= texts.keys():
            item.correct("\n\n".join(texts.values()))
        return list(texts.values())

    def _message_done(self, item: Item, fields: Mapping[str, Any]) -> None:
        text = "".join(self._texts_done(item, fields))
        parts = [readable_part(as_mapping(part)) for part in as_list(fields.get("content"))]
        if item.finished and parts:
            item.finished["content"] = parts
        annotations = [one for part in parts for one in as_list(part.get("annotations"))]
        for annotation in annotations:
            self._cite(annotation)
        before = item.metadata
        phase = as_text(fields.get("phase"))
        item.metadata = before | ({"phase": phase} if phase else {})
        item.metadata |= {"annotations": annotations} if annotations else {}
        if item.passages and item.metadata != before:
            kind = "reasoning" if item.is_commentary else "text"
            self.answer.emit(kind, "", item, item.metadata)
        item.part = (ReasoningPart if item.is_commentary else TextPart)(
            text or item.text, provider_metadata={config.METADATA_KEY: item.metadata}
        )

    def _cite(self, annotation: object) -> None:
        fields = as_mapping(annotation)
        url = as_text(fields.get("url"))
        if url and fields.get("type") == "url_citation":
            self.answer.cited.setdefault(url, as_text(fields.get("title")) or "")

    def _reasoning_done(self, item: Item, fields: Mapping[str, Any]) -> None:
        self.answer.had_reasoning = True
        self._texts_done(item, fields)
        encrypted = as_text(fields.get("encrypted_content"))
        if encrypted:
            metadata: dict[str, Any] = {"account": self.account_key, "model": self.slug}
            metadata["encrypted_content"] = encrypted
            summary = [part for part in as_list(fields.get("summary")) if as_mapping(part)]
            metadata |= {"summary": summary} if summary else {}
            self.answer.emit("reasoning", "", item, metadata)
            item.part = ReasoningPart(provider_metadata={config.METADATA_KEY: metadata})

    # Tool calls

    def _name_call(self, item: Item, fields: Mapping[str, Any]) -> None:
        call_id, name = fields.get("call_id"), as_text(fields.get("name"))
        if not name or not isinstance(call_id, str):
            return
        if not item.name:
            self.started = self.answer.has_content = True
            self.answer.end_aside()
            self.answer.emit("tool_call_name", "", item)
        item.name, item.call_id = self.tool_names.get(name, name), call_id
        item.events[0].chunk = item.name
        for event in item.events:
            event.tool_call_id = call_id

    def _arguments_delta(self, event: Mapping[str, Any]) -> None:
        item = self._item(event, "function_call")
        delta = as_text(event.get("delta"))
        if item.name and delta and item.finished is None:
            self.answer.emit("tool_call_args", delta, item)

    def _call_done(self, item: Item, fields: Mapping[str, Any]) -> None:
        self._name_call(item, fields)
        written = fields.get("arguments")
        if not item.name or not isinstance(written, str):
            return
        arguments, text = _read_arguments(written)
        if item.text != item.name + text:
            for event in item.events[1:]:
                event.chunk = ""
            self.answer.emit("tool_call_args", text, item)
        if written and text == written and written != json.dumps(arguments):
            # llm keeps only the object, but the service gets its own text back.
            self.answer.emit("tool_call_args", "", item, {"arguments": written})
        # A call that was cut short is recorded, but not run.
        if fields.get("status") == "incomplete":
            return
        call = llm.ToolCall(name=item.name, arguments=arguments, tool_call_id=item.call_id)
        self.answer.tool_calls.append(call)

    # Hosted tools

    def _search_done(self, item: Item, fields: Mapping[str, Any]) -> None:
        action = as_mapping(fields.get("action"))
        sources = action.get("sources")
        for source in map(as_mapping, as_list(sources)):
            if url := as_text(source.get("url")):
                self.answer.found.setdefault(url, as_text(source.get("title")) or "")
        result = json.dumps(sources) if sources else as_text(fields.get("status"))
        self._server_call(item, fields, "web_search", action, result or "completed")

    def _image_done(self, item: Item, fields: Mapping[str, Any]) -> None:
        picture = decode_image(fields.get("result"))
        result = "no picture came"
        if picture and self.save_image:
            self.answer.has_content = True
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
        """Add a call and its result, each as a part, like llm's own OpenAI models."""
        item.call_id = as_text(fields.get("id")) or f"{name}_{item.part_index}"
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
        kind = fields.get("type")
        if not isinstance(kind, str):
            return
        item = self._item(event, kind)
        self.activity = _ACTIVITIES.get(kind, "")
        if kind == "function_call":
            self._name_call(item, fields)
        elif kind == "image_generation_call":
            # The picture's path needs a line of its own.
            self.answer.end_aside()
        elif kind == "message" and (phase := as_text(fields.get("phase"))) and not item.passages:
            item.is_commentary = phase == "commentary"
            item.metadata = {**({"type": "message"} if item.is_commentary else {}), "phase": phase}

    def _item_done(self, event: Mapping[str, Any]) -> None:
        fields = as_mapping(event.get("item"))
        kind = fields.get("type")
        if not isinstance(kind, str):
            return
        item = self._item(event, kind)
        self.activity = ""
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
        """Find or create the item that an event belongs to."""
        index = event.get("output_index")
        names = (index, event.get("item_id"), as_mapping(event.get("item")).get("id"))
        key = (kind, next((name for name in names if isinstance(name, (int, str))), None))
        if key not in self._items:
            place = index if isinstance(index, int) else float("inf")
            self._items[key] = self.answer.new_item(kind, place)
            self.started |= self._items[key].acts
        return self._items[key]


def _read_json(data: bytes) -> Mapping[str, Any]:
    """Parse a JSON object; empty for anything else."""
    try:
        return as_mapping(json.loads(data))
    except (ValueError, RecursionError):
        return {}


def _read_arguments(written: str) -> tuple[dict[str, Any], str]:
    """Parse the arguments of a call. Returns them, and JSON from which llm parses them again.

    Anything but an object, or one that is nested too deep, becomes a text named `_raw`, as in llm.
    """
    try:
        parsed = json.loads(written or "{}")
        deep = depth(parsed) > _ARGUMENT_LEVELS
    except (ValueError, RecursionError):
        parsed, deep = None, True
    if deep or not isinstance(parsed, dict):
        raw = {"_raw": written}
        return raw, json.dumps(raw)
    arguments = cleaned(parsed, _ARGUMENT_LEVELS)
    return arguments, written if arguments == parsed else json.dumps(arguments)
