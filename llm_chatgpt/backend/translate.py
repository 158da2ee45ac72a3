"""Translate the service's events into llm's StreamEvents.

Bytes go in, events come out. Nothing else is read or written, except that generated images are
passed to `save_image`. docs/protocol.md describes the events under "Stream".
"""

from __future__ import annotations

import contextlib
import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import llm
from llm.parts import ReasoningPart, StreamEvent, TextPart, ToolCallPart

from llm_chatgpt import config
from llm_chatgpt.backend.answer import Answer, Item, Round
from llm_chatgpt.backend.images import decode_image
from llm_chatgpt.backend.passage import Passage, readable_part, without_citations
from llm_chatgpt.backend.sse import SSEDecoder, is_event_stream
from llm_chatgpt.values import as_list, as_mapping, as_text, cleaned, depth, json_object

# The fields of an event, an item or a response.
Fields = Mapping[str, Any]
# The place of a text: its item, the name of a list in the finished item, and the index there.
Place = tuple[Item, str, int]
# For each event with a piece of text: the kind of its item, and the name of the list in the
# finished item that has the whole text.
_DELTAS = {
    "response.output_text.delta": ("message", "content"),
    "response.refusal.delta": ("message", "content"),
    "response.reasoning_summary_text.delta": ("reasoning", "summary"),
    "response.reasoning_text.delta": ("reasoning", "content"),
}
# The last event of an answer (P163, P165, P166).
_ENDS = ("response.completed", "response.incomplete", "response.failed")
# An answer with one of these is used, even if it also has an `error`.
_USABLE_STATUSES = ("completed", "incomplete")
# The fields of an item that are too large to be logged.
_LARGE = ("encrypted_content", "result")
# The waiting line's text while a hosted tool runs.
_ACTIVITIES = {"web_search_call": "Searching the web", "image_generation_call": "Drawing"}
# The allowed nesting of a call's arguments: llm parses them again, which fails at deeper levels.
_ARGUMENT_LEVELS = 200


class EventTranslator:
    """Translates the answer to one request: `feed` it the bytes, then call `finish`.

    It fills `round`, with one part for each item. Unknown events, invalid JSON and wrong types are
    ignored. A finished item overrides its deltas (P155).
    """

    def __init__(
        self,
        round_: Round | None = None,
        *,
        origin: Mapping[str, str] | None = None,
        save_image: Callable[[bytes, str], str] | None = None,
        tool_names: Mapping[str, str] | None = None,
    ) -> None:
        self.round = round_ or Round(Answer())
        # The account and the model, which are stored with reasoning (P103).
        self.origin = origin or {}
        self.save_image = save_image
        # Maps the tools' names in the request to llm's names.
        self.tool_names = tool_names or {}
        # "completed", "incomplete" or "failed" once the answer has ended.
        self.ended: str | None = None
        self.error: Fields = {}
        # Whether text, reasoning or a call of one of llm's tools has arrived, or a hosted tool with
        # effects was called. From then on the request is not sent again (P196).
        self.started = False
        # The waiting line's text while a hosted tool runs; otherwise empty.
        self.activity = ""
        # The reply's Content-Type; the service's streams have none (P154).
        self.content_type = ""
        # The pieces of `plain_body`, so that a long one takes linear time.
        self._plain_pieces: list[bytes] = []
        self._is_stream: bool | None = None
        self._decoder = SSEDecoder()
        self._items: dict[object, Item] = {}
        self._passages: defaultdict[Place, Passage] = defaultdict(Passage)

    def takes_long(self, chunk: bytes) -> bool:
        """Check whether this chunk may complete a large event, such as an image."""
        return self._decoder.pending + len(chunk) > config.LARGE_EVENT_BYTES and b"\n" in chunk

    def feed(self, chunk: bytes) -> list[StreamEvent]:
        """Return llm's events for the next bytes of the answer."""
        if self._is_stream is None and chunk.strip():
            self._is_stream = is_event_stream(self.content_type, chunk)
        if self._is_stream is False:
            self._plain_pieces.append(chunk)
            return []
        return self._translate(self._decoder.feed(chunk))

    def finish(self) -> list[StreamEvent]:
        """Return llm's events that are complete only at the end of the stream."""
        response = cleaned(json_object(self.plain_body))
        # A proxy can turn the stream into one whole response (P158).
        if "output" in response or response.get("object") == "response":
            self._end("completed", response)
        return self._translate(self._decoder.flush())

    @property
    def plain_body(self) -> bytes:
        """The body of a reply that is not a stream (P158); empty for a stream."""
        return b"".join(self._plain_pieces)

    def _translate(self, frames: list[bytes]) -> list[StreamEvent]:
        for frame in frames:
            if self.ended:
                break
            event = json_object(frame)
            if isinstance(kind := event.get("type"), str):
                # A delta can end in half a character; the next delta has the other half.
                self._handle(kind, event if kind.endswith(".delta") else cleaned(event))
        # Until something is shown, the prompt can be sent again, so llm gets no event yet.
        return self.round.take_events() if self.started else []

    def _handle(self, kind: str, event: Fields) -> None:
        if kind in _DELTAS:
            self._text_delta(event, *_DELTAS[kind])
        elif kind == "response.function_call_arguments.delta":
            self._arguments_delta(event)
        elif kind in ("response.output_item.added", "response.output_item.done"):
            self._read_item(event, is_finished=kind.endswith("done"))
        elif kind in _ENDS:
            self._end(kind.removeprefix("response."), as_mapping(event.get("response")))
        elif kind == "error":
            # The fields are in `error`, or in the event itself (P167).
            self._end("failed", {"error": as_mapping(event.get("error")) or event})

    def _end(self, ended: str, response: Fields) -> None:
        """Read the last event. The worse of its name and `status` counts (P170).

        An `error` counts, too, unless the status is usable.
        """
        status, error = response.get("status"), response.get("error")
        if status == "incomplete" and ended == "completed":
            ended = status
        elif status in ("failed", "cancelled") or (error and status not in _USABLE_STATUSES):
            ended = "failed"
        self.error = {"message": error} if isinstance(error, str) else as_mapping(error)
        if ended != "failed":
            # The items may be only in `output` (P163).
            if not any(item.finished for item in self._items.values()):
                for index, item in enumerate(as_list(response.get("output"))):
                    self._read_item({"output_index": index, "item": item}, is_finished=True)
            # The citation at the end of an unfinished item will not be closed, so it is text.
            for place, passage in list(self._passages.items()):
                if place[0].finished is None:
                    self._show(place, passage.held_back)
            self.round.ended, self.round.response = ended, response
        self.ended = ended

    # Items

    def _item(self, event: Fields, kind: str) -> Item:
        """Find or create the item that an event belongs to."""
        index = event.get("output_index")
        ids = (index, event.get("item_id"), as_mapping(event.get("item")).get("id"))
        key = (kind, next((item_id for item_id in ids if isinstance(item_id, (int, str))), None))
        if key not in self._items:
            place = index if isinstance(index, int) else float("inf")
            self._items[key] = self.round.new_item(kind, place)
            self.started |= self._items[key].has_effects
        return self._items[key]

    def _read_item(self, event: Fields, *, is_finished: bool) -> None:
        """Read an item that begins or is finished."""
        fields = as_mapping(event.get("item"))
        kind = as_text(fields.get("type"))
        if not kind:
            return
        item = self._item(event, kind)
        self.activity = "" if is_finished else _ACTIVITIES.get(kind, "")
        if not is_finished:
            self._begin_item(item, fields)
        elif item.finished is None:
            item.finished = {name: v for name, v in fields.items() if name not in _LARGE}
            readers = {
                "message": self._message_done,
                "reasoning": self._reasoning_done,
                "function_call": self._call_done,
                "web_search_call": self._search_done,
                "image_generation_call": self._image_done,
            }
            if kind in readers:
                readers[kind](item, fields)

    def _begin_item(self, item: Item, fields: Fields) -> None:
        phase = as_text(fields.get("phase"))
        if item.kind == "function_call":
            self._name_call(item, fields)
        elif item.kind == "message" and phase and not item.events:
            item.is_commentary = phase == "commentary"
            item.metadata = {**({"type": "message"} if item.is_commentary else {}), "phase": phase}

    # Text and reasoning

    def _text_delta(self, event: Fields, kind: str, field: str) -> None:
        item, delta = self._item(event, kind), event.get("delta")
        if isinstance(delta, str) and item.finished is None:
            index = event.get(f"{field}_index")
            place = (item, field, index if isinstance(index, int) else 0)
            self._show(place, self._passages[place].add(delta))

    def _show(self, place: Place, text: str) -> None:
        if text:
            self.started = True
            self._passages[place].shown_pieces.append(text)
            self.round.show(place[0], place, text)

    def _texts_done(self, item: Item, fields: Fields) -> None:
        """Show the rest of a finished item's texts, and record the whole texts."""
        texts = []
        for field in ("summary", "content"):
            for index, part in enumerate(map(as_mapping, as_list(fields.get(field)))):
                whole = as_text(part.get("text", part.get("refusal")))
                if text := without_citations(whole or ""):
                    texts.append(text)
                    place = (item, field, index)
                    self._show(place, self._passages[place].rest(text))
        if texts:
            self.round.correct(item, ("" if item.kind == "message" else "\n\n").join(texts))

    def _message_done(self, item: Item, fields: Fields) -> None:
        self._texts_done(item, fields)
        parts = [readable_part(part) for part in map(as_mapping, as_list(fields.get("content")))]
        if item.finished and parts:
            item.finished["content"] = parts
        annotations = [entry for part in parts for entry in as_list(part.get("annotations"))]
        metadata = {"phase": as_text(fields.get("phase")), "annotations": annotations}
        earlier = item.metadata
        item.metadata = earlier | {name: value for name, value in metadata.items() if value}
        if item.events and item.metadata != earlier:
            self.round.emit("reasoning" if item.as_reasoning else "text", "", item, item.metadata)
        item.part = (ReasoningPart if item.is_commentary else TextPart)(
            item.text, provider_metadata={config.METADATA_KEY: item.metadata}
        )

    def _reasoning_done(self, item: Item, fields: Fields) -> None:
        self._texts_done(item, fields)
        if encrypted := as_text(fields.get("encrypted_content")):
            metadata: dict[str, Any] = {**self.origin, "encrypted_content": encrypted}
            if summary := as_list(fields.get("summary")):
                metadata["summary"] = summary
            self.round.emit("reasoning", "", item, metadata)
            item.part = ReasoningPart(provider_metadata={config.METADATA_KEY: metadata})

    # Tool calls

    def _name_call(self, item: Item, fields: Fields) -> None:
        name, call_id = as_text(fields.get("name")), as_text(fields.get("call_id"))
        if not name or not call_id:
            return
        if not item.name:
            self.started = item.has_content = True
            self.round.end_reasoning()
            self.round.emit("tool_call_name", "", item)
        item.name, item.call_id = self.tool_names.get(name, name), call_id
        item.events[0].chunk = item.name
        for event in item.events:
            event.tool_call_id = call_id

    def _arguments_delta(self, event: Fields) -> None:
        item = self._item(event, "function_call")
        delta = as_text(event.get("delta"))
        if item.name and delta and item.finished is None:
            self.round.emit("tool_call_args", delta, item)

    def _call_done(self, item: Item, fields: Fields) -> None:
        self._name_call(item, fields)
        written = fields.get("arguments")
        if not item.name or not isinstance(written, str):
            return
        arguments, text = _read_arguments(written)
        if item.text != item.name + text:
            for event in item.events[1:]:
                event.chunk = ""
            self.round.emit("tool_call_args", text, item)
        if written and text == written and written != json.dumps(arguments):
            # llm stores only the object, but the model's own text is sent back (P117).
            self.round.emit("tool_call_args", "", item, {"arguments": written})
        # An incomplete call (P165) is recorded, but not run.
        if fields.get("status") != "incomplete":
            call = llm.ToolCall(name=item.name, arguments=arguments, tool_call_id=item.call_id)
            self.round.tool_calls.append(call)

    # Hosted tools

    def _search_done(self, item: Item, fields: Fields) -> None:
        action = as_mapping(fields.get("action"))
        sources = action.get("sources")
        result = json.dumps(sources) if sources else as_text(fields.get("status"))
        self._add_hosted_call(item, fields, action, result or "completed")

    def _image_done(self, item: Item, fields: Fields) -> None:
        image = decode_image(fields.get("result"))
        result = "no image received"
        if image and self.save_image:
            item.has_content = True
            named = fields.get("output_format")
            image_format = named if named in ("png", "jpeg", "webp") else "png"
            result = self.save_image(image, image_format)
        prompt = as_text(fields.get("revised_prompt"))
        arguments = {"prompt": prompt} if prompt else {}
        self._add_hosted_call(item, fields, arguments, result)

    def _add_hosted_call(self, item: Item, fields: Fields, arguments: Fields, result: str) -> None:
        """Add a call and its result, each as a part, like llm's own OpenAI models."""
        name = item.kind.removesuffix("_call")
        item.call_id = as_text(fields.get("id")) or f"{name}_{item.part_index}"
        kind = {"type": item.kind}
        self.round.emit("tool_call_name", name, item, kind, server_executed=True)
        self.round.emit("tool_call_args", json.dumps(arguments), item, server_executed=True)
        outcome = self.round.new_item("tool_result", item.output_index)
        outcome.call_id = item.call_id
        self.round.emit("tool_result", result, outcome, server_executed=True, tool_name=name)
        metadata = {config.METADATA_KEY: kind}
        item.part = ToolCallPart(
            name, dict(arguments), server_executed=True, provider_metadata=metadata
        )


def _read_arguments(written: str) -> tuple[dict[str, Any], str]:
    """Parse the arguments of a call. Returns them, and their JSON, which llm parses again.

    Text that is not an object, or is nested too deeply, becomes an argument named `_raw`, as in
    llm (P156).
    """
    with contextlib.suppress(ValueError, RecursionError):
        parsed = json.loads(written or "{}")
        if isinstance(parsed, dict) and depth(parsed) <= _ARGUMENT_LEVELS:
            arguments = cleaned(parsed, _ARGUMENT_LEVELS)
            return arguments, written if arguments == parsed else json.dumps(arguments)
    raw = {"_raw": written}
    return raw, json.dumps(raw)
