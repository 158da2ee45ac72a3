"""The service's events -> llm's StreamEvents."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import llm
from llm.parts import StreamEvent

from llm_chatgpt import config
from llm_chatgpt.backend.sse import SSEDecoder
from llm_chatgpt.values import as_list, as_mapping


class _Item:
    """One item of the answer while it arrives."""

    def __init__(self, part_index: int, message_index: int, call_id: str | None = None):
        self.part_index = part_index
        self.message_index = message_index
        self.call_id = call_id
        self.named = False
        self.done = False
        # Which pieces (content or summary indexes) have arrived as deltas.
        self.pieces: set[object] = set()
        self.arguments: list[StreamEvent] = []


class EventTranslator:
    """The service's events -> llm's StreamEvents, and what is known at the end.

    Pure: bytes in, events out. Each item of the answer becomes one part. Unknown events,
    junk and wrong types are passed over; `output_item.done` has the last word.
    """

    def __init__(
        self,
        *,
        account_key: str = "",
        save_image: Callable[[bytes, str], str] | None = None,
    ) -> None:
        self.account_key = account_key
        self.save_image = save_image
        # "completed", "incomplete", "failed" or "error" once the answer has ended.
        self.ended: str | None = None
        self.response: dict[str, Any] = {}
        self.error: Mapping[str, Any] = {}
        self.tool_calls: list[llm.ToolCall] = []
        self.started = False
        self.mid_line = False
        self.had_reasoning = False
        self._decoder = SSEDecoder()
        self._items: dict[object, _Item] = {}
        self._output: dict[object, dict[str, Any]] = {}
        self._parts = 0
        self._messages = 0
        self._open_reasoning: _Item | None = None
        self._half_character = ""
        self._events: list[StreamEvent] = []

    def feed(self, chunk: bytes) -> Iterator[StreamEvent]:
        """The events of a chunk, the first of them before the last of it is looked at."""
        for start in range(0, len(chunk), config.FEED_BYTES):
            yield from self._translate(self._decoder.feed(chunk[start : start + config.FEED_BYTES]))

    def finish(self) -> list[StreamEvent]:
        return self._translate(self._decoder.flush())

    @property
    def output(self) -> list[dict[str, Any]]:
        """The finished items in their order; the final event's list is empty."""
        order = sorted(self._output, key=lambda key: (not isinstance(key, int), str(key).zfill(9)))
        return [self._output[key] for key in order]

    def _translate(self, frames: list[bytes]) -> list[StreamEvent]:
        self._events = []
        for frame in frames:
            if self.ended:
                break
            try:
                event = json.loads(frame.decode())
                kind = event["type"]
            except (ValueError, RecursionError, KeyError, TypeError):
                continue
            handler = self._HANDLERS.get(kind) if isinstance(kind, str) else None
            if handler is not None:
                handler(self, event)
        return self._events

    # Text

    def _text_delta(self, event: dict[str, Any]) -> None:
        item = self._item(event, "message")
        item.pieces.add(_hashable(event.get("content_index")))
        self._emit_text(item, event.get("delta"))

    def _text_done(self, event: dict[str, Any]) -> None:
        item = self._item(event, "message")
        piece = _hashable(event.get("content_index"))
        if piece not in item.pieces:
            item.pieces.add(piece)
            self._emit_text(item, event.get("text", event.get("refusal")))

    def _emit_text(self, item: _Item, text: object) -> None:
        if not isinstance(text, str) or not text:
            return
        text = self._whole_characters(text)
        if not text:
            return
        self.started = True
        self.mid_line = not text.endswith("\n")
        self._open_reasoning = None
        last = self._events[-1] if self._events else None
        # What has arrived together leaves together.
        if last and last.type == "text" and last.part_index == item.part_index:
            last.chunk += text
        else:
            self._emit("text", text, item)

    def _whole_characters(self, text: str) -> str:
        """Text without half characters, which JSON's \\u escapes can hold and no terminal."""
        text = self._half_character + text
        self._half_character = ""
        if text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text):
            return text
        if "\ud800" <= text[-1] <= "\udbff":
            text, self._half_character = text[:-1], text[-1]
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    # Reasoning

    def _reasoning_part(self, event: dict[str, Any]) -> None:
        item = self._item(event, "reasoning")
        if item.pieces:
            self._emit("reasoning", "\n\n", item)

    def _reasoning_delta(self, event: dict[str, Any]) -> None:
        item = self._item(event, "reasoning")
        self._emit_reasoning(item, event.get("delta"))
        item.pieces.add(_piece(event))

    def _reasoning_done(self, event: dict[str, Any]) -> None:
        item = self._item(event, "reasoning")
        if _piece(event) not in item.pieces:
            self._emit_reasoning(item, event.get("text"))
            item.pieces.add(_piece(event))

    def _emit_reasoning(self, item: _Item, text: object) -> None:
        if not isinstance(text, str) or not text:
            return
        if self._open_reasoning is not item:
            self._close_reasoning()
        self._open_reasoning = item
        self.started = self.mid_line = True
        self._emit("reasoning", self._whole_characters(text), item)

    def _close_reasoning(self) -> None:
        """Two summaries in a row would run into each other on the person's screen."""
        if self._open_reasoning is not None:
            self._emit("reasoning", "\n\n", self._open_reasoning)
            self._open_reasoning = None

    # Tool calls

    def _arguments_delta(self, event: dict[str, Any]) -> None:
        item = self._item(event, "function_call")
        delta = event.get("delta")
        if item.named and isinstance(delta, str) and delta:
            item.arguments.append(self._emit("tool_call_args", delta, item))

    def _name_call(self, item: _Item, fields: Mapping[str, Any]) -> None:
        call_id, name = fields.get("call_id"), fields.get("name")
        if not item.named and isinstance(call_id, str) and isinstance(name, str) and name:
            item.named = self.started = True
            item.call_id = call_id
            self._close_reasoning()
            self._emit("tool_call_name", name, item)

    def _call_done(self, item: _Item, fields: Mapping[str, Any]) -> None:
        self._name_call(item, fields)
        arguments = fields.get("arguments")
        if not item.named or not isinstance(arguments, str):
            return
        if "".join(event.chunk for event in item.arguments) != arguments:
            # llm keeps the events themselves, so a wrong one can still be put right.
            for event in item.arguments:
                event.chunk = ""
            self._emit("tool_call_args", arguments, item)
        if fields.get("status") == "incomplete":
            return
        try:
            parsed = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            parsed = None
        self.tool_calls.append(
            llm.ToolCall(
                name=fields["name"] if isinstance(fields.get("name"), str) else "",
                arguments=parsed if isinstance(parsed, dict) else {"_raw": arguments},
                tool_call_id=item.call_id,
            )
        )

    # Items

    def _item(self, event: Mapping[str, Any], kind: str) -> _Item:
        """The item that an event belongs to, made on first sight."""
        fields = as_mapping(event.get("item"))
        key = _hashable(event.get("output_index"))
        if key is None:
            key = _hashable(event.get("item_id") or fields.get("id"))
        item = self._items.get((key, kind))
        if item is None:
            if kind == "message":
                self._messages += 1
            item = _Item(self._parts, max(0, self._messages - 1))
            self._parts += 1
            self._items[(key, kind)] = item
        return item

    def _item_added(self, event: dict[str, Any]) -> None:
        fields = as_mapping(event.get("item"))
        kind = fields.get("type")
        if kind == "function_call":
            self._name_call(self._item(event, kind), fields)
        elif kind in ("message", "reasoning"):
            self._item(event, kind)

    def _item_done(self, event: dict[str, Any]) -> None:
        fields = event.get("item")
        if not isinstance(fields, dict) or not isinstance(fields.get("type"), str):
            return
        kind = fields["type"]
        item = self._item(event, kind)
        if item.done:
            return
        item.done = True
        kept = {k: v for k, v in fields.items() if k not in ("encrypted_content", "result")}
        key = _hashable(event.get("output_index"))
        self._output[len(self._output) if key is None else key] = kept
        if kind == "message":
            self._message_done(item, fields)
        elif kind == "reasoning":
            self._reasoning_item_done(item, fields)
        elif kind == "function_call":
            self._call_done(item, fields)
        elif kind == "web_search_call":
            self._search_done(item, fields)
        elif kind == "image_generation_call":
            self._image_done(item, fields)

    def _message_done(self, item: _Item, fields: Mapping[str, Any]) -> None:
        parts = [p for p in as_list(fields.get("content")) if isinstance(p, dict)]
        if not item.pieces:
            for part in parts:
                self._emit_text(item, part.get("text", part.get("refusal")))
        annotations = [a for part in parts for a in as_list(part.get("annotations"))]
        if annotations:
            self._emit("text", "", item, metadata={"annotations": annotations})

    def _reasoning_item_done(self, item: _Item, fields: Mapping[str, Any]) -> None:
        self.had_reasoning = True
        summary = [p for p in as_list(fields.get("summary")) if isinstance(p, dict)]
        if not item.pieces:
            texts = [p.get("text") for p in [*summary, *as_list(fields.get("content"))] if p]
            self._emit_reasoning(item, "\n\n".join(t for t in texts if isinstance(t, str)))
        metadata: dict[str, Any] = {}
        encrypted = fields.get("encrypted_content")
        if isinstance(encrypted, str) and encrypted:
            metadata = {"encrypted_content": encrypted, "account": self.account_key}
            if summary:
                metadata["summary"] = summary
        if metadata:
            self._emit("reasoning", "", item, metadata=metadata)

    def _search_done(self, item: _Item, fields: Mapping[str, Any]) -> None:
        action = as_mapping(fields.get("action"))
        status = fields.get("status")
        result = json.dumps(action["sources"]) if action.get("sources") else status
        self._server_call(item, fields, "web_search", dict(action), result)

    def _image_done(self, item: _Item, fields: Mapping[str, Any]) -> None:
        try:
            picture = base64.b64decode(fields.get("result") or "", validate=True)
        except (ValueError, TypeError):
            picture = b""
        output_format = fields.get("output_format")
        result = "no picture came"
        if picture and self.save_image:
            suffix = output_format if output_format in ("png", "jpeg", "webp") else "png"
            result = self.save_image(picture, suffix)
        prompt = fields.get("revised_prompt")
        arguments = {"prompt": prompt} if isinstance(prompt, str) else {}
        self._server_call(item, fields, "image_generation", arguments, result)

    def _server_call(
        self, item: _Item, fields: Mapping[str, Any], name: str, arguments: object, result: object
    ) -> None:
        """A call that the server carried out itself, with its result in a part of its own."""
        identifier = fields.get("id")
        item.call_id = identifier if isinstance(identifier, str) else f"{name}_{item.part_index}"
        self.started = True
        self._emit("tool_call_name", name, item, server=True, metadata={"type": fields.get("type")})
        self._emit("tool_call_args", json.dumps(arguments), item, server=True)
        outcome = _Item(self._parts, item.message_index, call_id=item.call_id)
        self._parts += 1
        text = result if isinstance(result, str) else "completed"
        self._emit("tool_result", text, outcome, server=True, tool_name=name)

    def _emit(
        self,
        kind: str,
        chunk: str,
        item: _Item,
        *,
        server: bool = False,
        tool_name: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> StreamEvent:
        event = StreamEvent(
            type=kind,
            chunk=chunk,
            part_index=item.part_index,
            tool_call_id=item.call_id,
            server_executed=server,
            tool_name=tool_name,
            provider_metadata={config.METADATA_KEY: metadata} if metadata else None,
            message_index=item.message_index,
        )
        self._events.append(event)
        return event

    # The end

    def _completed(self, event: dict[str, Any]) -> None:
        self.ended = "completed"
        self.response = dict(as_mapping(event.get("response")))

    def _incomplete(self, event: dict[str, Any]) -> None:
        self.ended = "incomplete"
        self.response = dict(as_mapping(event.get("response")))

    def _failed(self, event: dict[str, Any]) -> None:
        self.ended = "failed"
        self.error = as_mapping(as_mapping(event.get("response")).get("error"))

    def _error(self, event: dict[str, Any]) -> None:
        # In an object of its own, or flat in the event.
        self.ended = "error"
        error = event.get("error")
        self.error = error if isinstance(error, dict) else event

    _HANDLERS: ClassVar[dict[str, Callable[[EventTranslator, dict[str, Any]], None]]] = {
        "response.output_item.added": _item_added,
        "response.output_item.done": _item_done,
        "response.output_text.delta": _text_delta,
        "response.output_text.done": _text_done,
        "response.refusal.delta": _text_delta,
        "response.refusal.done": _text_done,
        "response.reasoning_summary_part.added": _reasoning_part,
        "response.reasoning_summary_text.delta": _reasoning_delta,
        "response.reasoning_summary_text.done": _reasoning_done,
        "response.reasoning_text.delta": _reasoning_delta,
        "response.reasoning_text.done": _reasoning_done,
        "response.function_call_arguments.delta": _arguments_delta,
        "response.completed": _completed,
        "response.incomplete": _incomplete,
        "response.failed": _failed,
        "error": _error,
    }


def _hashable(value: object) -> object:
    return value if isinstance(value, (int, str)) else None


def _piece(event: Mapping[str, Any]) -> object:
    return (event.get("type", "")[:26], _hashable(event.get("summary_index")))
