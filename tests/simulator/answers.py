"""Answers, and the events in which the service sends them.

Each kind of output item is a class that writes its own events. `default_answer` makes up an
answer for a user who tries the plugin by hand.
"""

from __future__ import annotations

import base64
import dataclasses
import itertools
import json
import re
import secrets
import uuid
from collections.abc import Callable, Generator
from typing import Any, ClassVar

from .png import png
from .replies import sse

# An image of one pixel.
PNG = png(1, 1)

# Yields an item's events, and returns the fields that only the finished item has.
Filling = Generator[bytes, None, dict[str, Any]]


class EventWriter:
    """Writes the events of one answer to the request `body`.

    `remember` is called with each encrypted reasoning that may be sent back in a later request.
    """

    def __init__(self, body: dict[str, Any], remember: Callable[[str], None]):
        self.body = body
        self.remember = remember
        self._numbers = itertools.count()

    def event(self, kind: str, **fields: Any) -> bytes:
        event = {"type": f"response.{kind}", "sequence_number": next(self._numbers)}
        return sse({**event, **fields})

    def delta(self, kind: str, **fields: Any) -> bytes:
        return self.event(f"{kind}.delta", **fields, obfuscation=secrets.token_hex(4))

    def includes(self, name: str) -> bool:
        return name in (self.body.get("include") or [])


@dataclasses.dataclass
class Item:
    """One item of the output: announced, filled piece by piece, and sent again as a whole."""

    kind: ClassVar[str]
    prefix: ClassVar[str]
    # The number of tokens counted for the item.
    tokens: ClassVar[int] = 5

    def begin(self, writer: EventWriter) -> dict[str, Any]:
        """The fields that the item has from the start."""
        return {"status": "in_progress"}

    def fill(self, writer: EventWriter, place: dict[str, Any]) -> Filling:
        """Yield the item's events; return its final fields. `place` has its id and index."""
        raise NotImplementedError

    def frames(self, writer: EventWriter, index: int) -> Generator[bytes, None, None]:
        identifier = f"{self.prefix}_{secrets.token_hex(24)}"
        item = {"id": identifier, "type": self.kind, **self.begin(writer)}
        yield writer.event("output_item.added", output_index=index, item=item)
        done = yield from self.fill(writer, {"item_id": identifier, "output_index": index})
        if "status" in item:
            done["status"] = "completed"
        item = self.finished({**item, **done})
        yield writer.event("output_item.done", output_index=index, item=item)

    def finished(self, item: dict[str, Any]) -> dict[str, Any]:
        """The item as its last event repeats it."""
        return item


@dataclasses.dataclass
class Message(Item):
    """`phase_in` says which events name the phase: "added", "done" or "both"."""

    text: str
    phase: str | None = dataclasses.field(default="final_answer", kw_only=True)
    phase_in: str = dataclasses.field(default="both", kw_only=True)
    kind = "message"
    prefix = "msg"

    @property
    def tokens(self) -> int:
        return max(1, len(self.text) // 4)

    def begin(self, writer: EventWriter) -> dict[str, Any]:
        item = {"status": "in_progress", "content": [], "role": "assistant"}
        return {**item, **self._phase("added")}

    def finished(self, item: dict[str, Any]) -> dict[str, Any]:
        item.pop("phase", None)
        return {**item, **self._phase("done")}

    def _phase(self, event: str) -> dict[str, str]:
        if self.phase is None or self.phase_in not in ("both", event):
            return {}
        return {"phase": self.phase}


@dataclasses.dataclass
class Say(Message):
    deltas: list[str] | None = None
    annotations: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def fill(self, writer: EventWriter, place: dict[str, Any]) -> Filling:
        place = {**place, "content_index": 0}
        part = {"type": "output_text", "annotations": [], "logprobs": [], "text": ""}
        yield writer.event("content_part.added", **place, part=part)
        for delta in self.deltas or pieces(self.text):
            yield writer.delta("output_text", **place, delta=delta, logprobs=[])
        for number, annotation in enumerate(self.annotations):
            yield writer.event(
                "output_text.annotation.added",
                **place,
                annotation_index=number,
                annotation=annotation,
            )
        yield writer.event("output_text.done", **place, text=self.text, logprobs=[])
        part = {**part, "text": self.text, "annotations": self.annotations}
        yield writer.event("content_part.done", **place, part=part)
        return {"content": [part]}


@dataclasses.dataclass
class Refuse(Message):
    def fill(self, writer: EventWriter, place: dict[str, Any]) -> Filling:
        place = {**place, "content_index": 0}
        part = {"type": "refusal", "refusal": ""}
        yield writer.event("content_part.added", **place, part=part)
        yield writer.delta("refusal", **place, delta=self.text)
        yield writer.event("refusal.done", **place, refusal=self.text)
        part = {**part, "refusal": self.text}
        yield writer.event("content_part.done", **place, part=part)
        return {"content": [part]}


@dataclasses.dataclass
class Think(Item):
    summary: list[str] = dataclasses.field(default_factory=list)
    kind = "reasoning"
    prefix = "rs"
    tokens = 64

    def begin(self, writer: EventWriter) -> dict[str, Any]:
        return {"summary": [], **self._encrypted(writer)}

    def _encrypted(self, writer: EventWriter) -> dict[str, Any]:
        if not writer.includes("reasoning.encrypted_content"):
            return {}
        return {"encrypted_content": f"gAAAA{secrets.token_hex(60)}"}

    def fill(self, writer: EventWriter, place: dict[str, Any]) -> Filling:
        parts = []
        # Summaries come only if the request asks for them.
        summary_option = (writer.body.get("reasoning") or {}).get("summary")
        for number, text in enumerate(self.summary if summary_option else []):
            here = {**place, "summary_index": number}
            part = {"type": "summary_text", "text": ""}
            yield writer.event("reasoning_summary_part.added", **here, part=part)
            for delta in pieces(text):
                yield writer.delta("reasoning_summary_text", **here, delta=delta)
            yield writer.event("reasoning_summary_text.done", **here, text=text)
            part = {"type": "summary_text", "text": text}
            yield writer.event("reasoning_summary_part.done", **here, part=part)
            parts.append(part)
        # Not the string from `begin`; only this one can be sent back.
        encrypted = self._encrypted(writer)
        for content in encrypted.values():
            writer.remember(content)
        return {"summary": parts, **encrypted}


@dataclasses.dataclass
class Call(Item):
    name: str
    arguments: Any
    call_id: str | None = None
    # The group that the tool was declared in.
    namespace: str | None = None
    kind = "function_call"
    prefix = "fc"
    tokens = 20

    def begin(self, writer: EventWriter) -> dict[str, Any]:
        return {
            "status": "in_progress",
            "arguments": "",
            "call_id": self.call_id or f"call_{secrets.token_hex(12)}",
            "name": self.name,
            **({"namespace": self.namespace} if self.namespace else {}),
        }

    def fill(self, writer: EventWriter, place: dict[str, Any]) -> Filling:
        arguments = self.arguments
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments)
        for delta in pieces(arguments, 7):
            yield writer.delta("function_call_arguments", **place, delta=delta)
        yield writer.event("function_call_arguments.done", **place, arguments=arguments)
        return {"arguments": arguments}


@dataclasses.dataclass
class Search(Item):
    """`action` replaces the usual action, a search for the query."""

    query: str
    sources: list[str] = dataclasses.field(default_factory=list)
    action: Any = dataclasses.field(default=..., kw_only=True)
    kind = "web_search_call"
    prefix = "ws"

    def fill(self, writer: EventWriter, place: dict[str, Any]) -> Filling:
        for step in ("in_progress", "searching", "completed"):
            yield writer.event(f"web_search_call.{step}", **place)
        if self.action is not ...:
            return {"action": self.action}
        action: dict[str, Any] = {"type": "search", "query": self.query, "queries": [self.query]}
        if writer.includes("web_search_call.action.sources"):
            action["sources"] = [{"type": "url", "url": url} for url in self.sources]
        return {"action": action}


@dataclasses.dataclass
class Draw(Item):
    prompt: str
    image: bytes = PNG
    output_format: str = "png"
    kind = "image_generation_call"
    prefix = "ig"

    def begin(self, writer: EventWriter) -> dict[str, Any]:
        return {"status": "in_progress", "result": None}

    def fill(self, writer: EventWriter, place: dict[str, Any]) -> Filling:
        for step in ("in_progress", "generating"):
            yield writer.event(f"image_generation_call.{step}", **place)
        image = base64.b64encode(self.image).decode()
        yield writer.event(
            "image_generation_call.partial_image",
            **place,
            partial_image_index=0,
            partial_image_b64=image,
        )
        yield writer.event("image_generation_call.completed", **place)
        return {
            "result": image,
            "revised_prompt": self.prompt,
            "output_format": self.output_format,
        }


@dataclasses.dataclass
class Compact(Item):
    """The conversation so far, as an item that only the service can read."""

    kind = "compaction"
    prefix = "cmp"

    def begin(self, writer: EventWriter) -> dict[str, Any]:
        return {"encrypted_content": ""}

    def fill(self, writer: EventWriter, place: dict[str, Any]) -> Filling:
        yield from ()
        return {"encrypted_content": f"gAAAA{secrets.token_hex(60)}"}


def cut_to_limit(items: list[Item], limit: int | None) -> list[Item]:
    """Cut an answer to `max_output_tokens`.

    Only its messages count here, so that a small limit shortens an answer instead of removing it.
    """
    left, fitting = limit, []
    for item in items:
        if left is None or not isinstance(item, Say):
            fitting.append(item)
        elif item.tokens <= left:
            fitting.append(item)
            left -= item.tokens
        else:
            text = item.text[: 4 * left]
            return (
                [*fitting, dataclasses.replace(item, text=text, deltas=None)] if text else fitting
            )
    return fitting


def response_object(
    body: dict[str, Any], model: str, session: str | None, now: int
) -> dict[str, Any]:
    """Build the response object of the first events; `output` stays empty to the end."""
    reasoning = dict(body.get("reasoning") or {})
    for item in body.get("input", []):
        if item.get("type") == "configuration_update":
            reasoning |= item.get("reasoning") or {}
    text = body.get("text") or {}
    no_tokens = {"image_tokens": 0, "text_tokens": 0}
    return {
        "id": f"resp_{secrets.token_hex(24)}",
        "object": "response",
        "created_at": now,
        "status": "in_progress",
        "background": False,
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "model": model,
        "output": [],
        "max_output_tokens": body.get("max_output_tokens"),
        "max_tool_calls": None,
        "presence_penalty": None,
        "frequency_penalty": None,
        "parallel_tool_calls": body.get("parallel_tool_calls", True),
        "previous_response_id": None,
        "prompt_cache_key": session or str(uuid.uuid4()),
        "reasoning": {
            "context": "all_turns",
            "effort": reasoning.get("effort", "medium"),
            "summary": reasoning.get("summary"),
        },
        "safety_identifier": "user-simulated-identifier",
        "service_tier": "default",
        "store": False,
        "temperature": 1.0,
        "text": {
            "format": text.get("format") or {"type": "text"},
            "verbosity": text.get("verbosity", "medium"),
        },
        "tool_choice": "auto",
        "tools": body.get("tools") or [],
        "tool_usage": {
            "image_gen": {
                "input_tokens": 0,
                "input_tokens_details": no_tokens,
                "output_tokens": 0,
                "output_tokens_details": no_tokens,
                "total_tokens": 0,
            },
            "web_search": {"num_requests": 0},
        },
        "top_logprobs": 0,
        "top_p": 0.98,
        "truncation": "disabled",
        "usage": None,
        "user": None,
        "metadata": {},
    }


def default_answer(body: dict[str, Any], uses_tools: bool) -> list[Item]:
    """Make up an answer that uses tools, fits a schema, or repeats the prompt.

    With `uses_tools`, every tool that the prompt offers is used once; otherwise only the first one
    that the prompt names (web search by the word "search", image generation by "draw").
    """
    thought = Think(["**Reading the prompt**\n\nIt is short.", "**Answering**"])
    last = body["input"][-1] if body["input"] else {}
    forced = forced_call(body)
    if forced is not None:
        return [thought, forced]
    text, attached = text_and_attachments(last)
    if last.get("role") == "user":
        used = uses_of_tools(declared_tools(body), text, uses_tools)
        if used:
            return [thought, *used]
    form = (body.get("text") or {}).get("format") or {}
    if form.get("type") == "json_schema":
        return [thought, Say(json.dumps(example(form["schema"], form["schema"])))]
    if last.get("type") in ("function_call_output", "custom_tool_call_output"):
        return [thought, Say(f"The tool returned: {tool_output(last['output'])}")]
    if last.get("role") == "assistant":
        return [thought, Say("That is all.")]
    turn = sum(1 for item in body["input"] if item.get("role") == "user")
    seen = f" (with {attached})" if attached else ""
    return [thought, Say(f"This is answer {turn}. You said{seen}: {text}")]


def uses_of_tools(
    offered: list[tuple[dict[str, Any], str | None]], text: str, all_of_them: bool
) -> list[Item]:
    """Use each tool, or only the first one that the text names.

    A function is called with the arguments {...} in the text, or with made-up ones. If no function
    is called, no further request follows, so a sentence ends the answer.
    """
    words = {"web_search": "search", "image_generation": "draw"}
    uses: list[Item] = []
    for tool, namespace in offered:
        kind = tool["type"]
        name = tool["name"] if kind == "function" else words.get(kind)
        if name is None or not (all_of_them or name in text):
            continue
        if kind == "web_search":
            uses.append(Search(text, ["https://example.com/"]))
        elif kind == "image_generation":
            uses.append(Draw(text))
        else:
            given = re.search(r"\{.*\}", text)
            arguments = given[0] if given else example(tool["parameters"], tool["parameters"])
            uses.append(Call(name, arguments, namespace=namespace))
        if not all_of_them:
            break
    if uses and not any(isinstance(use, Call) for use in uses):
        uses.append(Say("Here it is." if isinstance(uses[-1], Draw) else "Found it."))
    return uses


def forced_call(body: dict[str, Any]) -> Call | None:
    """Return the call that `tool_choice` demands, or None."""
    choice = body.get("tool_choice")
    name = choice.get("name") if isinstance(choice, dict) else None
    for tool, namespace in declared_tools(body) if name or choice == "required" else []:
        if tool["type"] == "function" and name in (None, tool["name"]):
            arguments = example(tool["parameters"], tool["parameters"])
            return Call(tool["name"], arguments, namespace=namespace)
    return None


def declared_tools(body: dict[str, Any]) -> list[tuple[dict[str, Any], str | None]]:
    """The tools of a request, in its `tools` or its input, each with its namespace."""
    tools = list(body.get("tools") or [])
    for item in body["input"]:
        if item.get("type") == "additional_tools":
            tools += item.get("tools") or []
    return [
        (inner, tool["name"] if tool["type"] == "namespace" else None)
        for tool in tools
        for inner in (tool["tools"] if tool["type"] == "namespace" else [tool])
    ]


def tool_output(output: str | list[dict[str, Any]]) -> str:
    """Return a tool's output as text, with "a picture" for each image or file."""
    if isinstance(output, str):
        return output
    return " ".join(part.get("text", "a picture") for part in output)


def pieces(text: str, size: int = 12) -> list[str]:
    return [text[i : i + size] for i in range(0, len(text), size)]


def text_and_attachments(item: dict[str, Any]) -> tuple[str, str]:
    """Return a message's text, and its attachments in words, such as "2 pictures"."""
    content = item.get("content")
    if isinstance(content, str):
        return content, ""
    parts = content or []
    counts = []
    for kind, name in (("input_image", "picture"), ("input_file", "file")):
        if count := sum(1 for part in parts if part["type"] == kind):
            counts.append(f"{count} {name}{'s' * (count > 1)}")
    return " ".join(part["text"] for part in parts if "text" in part), " and ".join(counts)


def example(schema: dict[str, Any], root: dict[str, Any], inside: tuple[str, ...] = ()) -> Any:
    """Make up a value that fits a JSON schema of the kinds that llm builds.

    `inside` are the references being resolved: a recursive schema ends where one of them would be
    resolved again.
    """
    if "$ref" in schema:
        if schema["$ref"] in inside:
            return None
        target = root
        for name in schema["$ref"].split("/")[1:]:
            target = target[name]
        return example(target, root, (*inside, schema["$ref"]))
    if "enum" in schema:
        return schema["enum"][0]
    if "anyOf" in schema:
        ends = [choice for choice in schema["anyOf"] if choice.get("$ref") not in inside]
        return example((ends or schema["anyOf"])[0], root, inside)
    kind = schema.get("type")
    if kind == "object":
        needed = schema.get("required", [])
        return {
            name: example(value, root, inside)
            for name, value in schema.get("properties", {}).items()
            if name in needed or value.get("$ref") not in inside
        }
    if kind == "array":
        again = schema.get("items", {}).get("$ref") in inside
        return [] if again else [example(schema.get("items", {}), root, inside)]
    return {"integer": 7, "number": 1.5, "boolean": True, "null": None}.get(kind, "Pelican")
