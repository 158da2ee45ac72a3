"""The checks of `llm chatgpt doctor --live`: what each sends, and what it concludes.

They use the plugin as any program does, through llm. What the service said is read from the
recording, because the plugin itself copes with most differences.
"""

from __future__ import annotations

import itertools
import json
import pathlib
import struct
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import llm

from llm_chatgpt.backend import optional_parts
from llm_chatgpt.backend.endpoints import fetch_models, fetch_usage
from llm_chatgpt.backend.images import png_size
from llm_chatgpt.backend.usage import windows_of_headers, windows_of_usage
from llm_chatgpt.errors import ChatGPTError
from llm_chatgpt.live import facts
from llm_chatgpt.live.recording import Recorded
from llm_chatgpt.live.session import Live, cheapest
from llm_chatgpt.login.credentials import Rejection, choose_credential, get_tokens, with_login
from llm_chatgpt.login.login_file import read_store
from llm_chatgpt.login.routes import CODEX
from llm_chatgpt.login.tokens import Tokens
from llm_chatgpt.text import in_words, printable
from llm_chatgpt.values import as_list, as_mapping

# A service caches only prompts of some length (P213).
_NUMBERS = " ".join(map(str, range(900)))
_HIDDEN_WORD = "pelican"
# How far two reports of the same limit may lie apart, in percent: other programs use it, too.
_USAGE_TOLERANCE = 3


# The checks --------------------------------------------------------------------------
#
# Each returns what its line says if all is well, notes what differs, and raises if it failed.


def _model_list(live: Live) -> str:
    live.models = models = with_login(live.key, fetch_models)
    live.use(cheapest(models.listed))
    return f"{len(models.listed)} listed; the checks use {live.info.model_id}"


def _one_word(live: Live) -> str:
    live.ask(f"Reply with one word: hello. Ignore these numbers: {_NUMBERS}", live.short)
    live.short_at = time.monotonic()
    return f"answered by {live.last.headers.get('openai-model') or live.last.response.get('model')}"


def _system_prompt(live: Live) -> str:
    live.ask("Greet me in one line.", system="Answer in capital letters.")
    sent = "as instructions" if "instructions" in live.last.body else "as the first message"
    return f"accepted {sent}"


def _tools(live: Live) -> str:
    def multiply(a: int, b: int) -> str:
        "Multiply two numbers"
        return str(a * b)

    def add(a: int, b: int) -> str:
        "Add two numbers"
        return str(a + b)

    chain = live.conversation().chain(
        "Call both tools at once: multiply 6 by 7, and add 6 to 7. Then say both results.",
        tools=[multiply, add],
        key=live.key,
        options={"parallel_tool_calls": True},
    )
    # Not the whole chain: a model may go on calling tools.
    calls = [len(response.tool_calls()) for response in itertools.islice(chain.responses(), 2)]
    if "x-codex-turn-state" not in live.last.request_headers:
        live.unsettled.add("P80")
    if calls[0] < 2:
        live.differs("P277", f"{calls[0]} calls in one answer instead of 2")
    return f"{calls[0]} calls in one answer, their results accepted"


_DOG: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def _schema(schema: Mapping[str, Any], fact: str) -> Callable[[Live], str]:
    def check(live: Live) -> str:
        text = live.ask("Invent a dog.", schema=schema)
        try:
            missing = set(schema["required"]) - json.loads(text).keys()
        except (ValueError, AttributeError):
            live.differs(fact, "the answer is no JSON object")
            return "accepted"
        if missing:
            live.differs(fact, f"the answer lacks {', '.join(sorted(missing))}")
        return "the answer fits it"

    return check


def _efforts(live: Live) -> tuple[str, str]:
    """Two of the model's efforts: one that makes it think, and another one."""
    efforts = [e for e in live.info.efforts if e not in ("none", "minimal")]
    low, high = (efforts or ["low"])[0], (efforts[1:] or ["medium"])[0]
    return high, low


def _reasoning(live: Live) -> str:
    effort, _ = _efforts(live)
    options = {"conversation": live.thoughtful, "reasoning_effort": effort}
    live.ask("Which is larger: 17 * 23 or 19 * 21? Answer with one number.", **options)
    thought, came = live.count("reasoning_tokens"), _reasoning_items(live.last)
    live.ask("What is the difference of the two? Answer with one number.", **options)
    if thought and not came:
        live.differs("P88", "the model thought, but no encrypted reasoning came")
    removed = [
        as_mapping(entry).get("reason")
        for entry in as_list(live.last.response.get("input_transformations"))
    ]
    for reason in removed:
        if reason != "turn_boundary":
            live.differs("P124", f"reasoning was left out: {printable(reason, 60)}")
    sent = sum(item.get("type") == "reasoning" for item in as_list(live.last.body.get("input")))
    if not sent:
        live.unsettled |= {"P116", "P124", "P125", "P155"}
        return "nothing was sent back" if thought else "the model did not think"
    return f"{sent} item{'s' * (sent > 1)} sent back and accepted"


def _reasoning_items(one: Recorded) -> int:
    """How many finished items of an answer have reasoning that can be sent back."""
    done = (e for e in one.events if e.get("type") == "response.output_item.done")
    return sum(bool(as_mapping(event.get("item")).get("encrypted_content")) for event in done)


def _changed_effort(live: Live) -> str:
    old, new = _efforts(live)
    live.ask("And their sum? One number.", live.thoughtful, reasoning_effort=new)
    items = as_list(live.last.body.get("input"))
    item = any(as_mapping(item).get("type") == optional_parts.EFFORT_UPDATES for item in items)
    live.unsettled |= set() if item else {"P122"}
    told = as_mapping(live.last.response.get("reasoning")).get("effort")
    sent = "in an item" if item else "with the request"
    return f"from {old} to {new} {sent}; the answer names {printable(told, 20)}"


def _attachment(kind: str, make: Callable[[], bytes], prompt: str) -> Callable[[Live], str]:
    def check(live: Live) -> str:
        attachment = llm.Attachment(type=kind, content=make())
        text = live.ask(prompt, attachments=[attachment])
        return f"answered {printable(text, 40)!r}"

    return check


def _png() -> bytes:
    """A red square."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    size = 32
    pixels = zlib.compress((b"\0" + b"\xff\0\0" * size) * size)
    header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def _pdf() -> bytes:
    """A page with one word."""
    text = f"BT /F1 24 Tf 20 50 Td ({_HIDDEN_WORD}) Tj ET"
    font = "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 100] /Contents 4 0 R "
        f"/Resources << /Font << /F1 {font} >> >> >>",
        f"<< /Length {len(text)} >>\nstream\n{text}\nendstream",
    ]
    content, places = "%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(f"{len(content):010} 00000 n \n")
        content += f"{number} 0 obj\n{body}\nendobj\n"
    count = len(objects) + 1
    table = f"xref\n0 {count}\n0000000000 65535 f \n{''.join(places)}"
    trailer = f"trailer\n<< /Size {count} /Root 1 0 R >>\nstartxref\n{len(content)}\n%%EOF\n"
    return (content + table + trailer).encode()


def _output_limit(live: Live) -> str:
    limit = 16
    live.ask("Count from one to two hundred, in words, without a comment.", max_output_tokens=limit)
    ended = live.last.response.get("status")
    said = live.count("output_tokens") - live.count("reasoning_tokens")
    if "max_output_tokens" in live.last.body and ended != "incomplete" and said > limit:
        live.differs("P95", f"{said} tokens came, although {limit} were allowed")
    return f"{limit} tokens allowed; {ended}"


def _web_search(live: Live) -> str:
    live.ask("Do a web search: in which year was Python first released?", web_search=True)
    done = (e for e in live.last.events if e.get("type") == "response.output_item.done")
    searches = sum(as_mapping(e.get("item")).get("type") == "web_search_call" for e in done)
    if not searches:
        live.differs("P128", "the model did not search")
    return f"{searches} search{'es' * (searches != 1)}"


def _second_turn(live: Live) -> str:
    if not live.short.responses:
        _one_word(live)
    passed = in_words(round(time.monotonic() - live.short_at))
    live.ask("Reply with one word: bye.", live.short)
    total, cached = live.count("input_tokens"), live.count("cached_tokens")
    if not cached:
        live.differs("P213", f"none of {total} input tokens cached, {passed} after the first turn")
    share = 100 * cached // max(1, total)
    return f"{share}% of {total} input tokens cached, {passed} after the first turn"


def _streaming(live: Live) -> str:
    answered = [one for one in live.prompts if one.status == 200]
    if not answered:
        raise ChatGPTError("There was no answer to judge.")
    deltas = max(sum(e.get("type") == _DELTA for e in one.events) for one in answered)
    if deltas < 2:
        live.differs(facts.PIECES, "no text came in pieces")
    kinds = {one.headers["content-type"] for one in answered if "content-type" in one.headers}
    if live.tokens.route is CODEX:
        if kinds:
            kind = printable(", ".join(sorted(kinds)), 100)
            live.differs(facts.NO_CONTENT_TYPE, f"the stream has the Content-Type {kind}")
        if any(one.response.get("output") for one in answered):
            live.differs(facts.NO_OUTPUT, "the last event repeats the output")
    if not live.first_texts:
        return "no text came"
    first, last = min(live.first_texts), max(live.first_texts)
    return f"first text after {first:.1f} to {last:.1f} seconds, up to {deltas} pieces"


_DELTA = "response.output_text.delta"


def _usage(live: Live) -> str:
    usage = with_login(live.key, fetch_usage)
    told = {w.seconds: w.used_percent for w in windows_of_usage(usage.get("rate_limit"))}
    # The newest answer that tells them.
    lists = (windows_of_headers(one.headers) for one in reversed(live.prompts))
    headers = {w.seconds: w for w in next(filter(None, lists), ())}
    if not headers and any(one.status == 200 for one in live.prompts):
        live.differs("P203", "no answer has headers with the limits")
    for seconds, window in headers.items():
        used = told.get(seconds)
        if used is None:
            live.differs("P203", f"only the headers have a {window.name} limit")
        elif abs(used - window.used_percent) > _USAGE_TOLERANCE:
            text = f"{window.name} limit: {window.used_percent:g}% used by the headers"
            live.differs("P203", f"{text}, {used:g}% by the usage endpoint")
    names = ", ".join(f"{window.name} {window.used_percent:g}%" for window in headers.values())
    return f"used: {names}" if names else "the usage endpoint answered"


def _picture(live: Live) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "picture.png"
        model = llm.get_model("chatgpt-gpt-image-2")
        saved = model.prompt("A red square", key=live.key, quality="low", output=str(path)).text()
        size = png_size(pathlib.Path(saved).read_bytes())
    return f"{size[0]}x{size[1]} png" if size else "created"


def _refresh(live: Live) -> str:
    credential = choose_credential(live.key, read_store())
    old = get_tokens(credential)
    live.tokens = new = get_tokens(credential, rejected=Rejection(old.access_token, final=False))
    if new.access_token == old.access_token:
        raise ChatGPTError("The login was not renewed.")
    rotated = "a new" if new.refresh_token != old.refresh_token else "the same"
    return f"renewed, with {rotated} refresh token"


def _other_model(live: Live) -> str:
    listed = live.models.listed if live.models else []
    other = next((model for model in listed if model.slug != live.info.slug), None)
    if other is None:
        live.unsettled |= {"P200"}
        return "the account has no other model"
    live.short.model = llm.get_model(other.model_id)
    live.ask("Reply with one word: again.", live.short)
    return f"{other.model_id} went on"


class Check(NamedTuple):
    """A line of the report: its name, what it does, and the ids of the facts that it settles on
    the Codex and on the official route; none where the route has no such thing.

    `requests` is how many it sends. `optional` checks belong to --all.
    """

    name: str
    run: Callable[[Live], str]
    codex: str
    official: str
    requests: int = 1
    optional: bool = False

    def facts(self, tokens: Tokens) -> list[str]:
        """The ids of the facts that it settles on a login's route; none where it is left out."""
        return (self.codex if tokens.route is CODEX else self.official).split()


_FILE = f"The notes of today.\nThe word is {_HIDDEN_WORD}.\n".encode()
_READ = "Reply with the one word that this file is about."
_LOOSE: dict[str, Any] = {
    **_DOG,
    "properties": {**_DOG["properties"], "nickname": {"type": "string"}},
}
CHECKS = (
    Check("model list", _model_list, "P11 P197 P198", "P218 P262"),
    Check(
        "one-word prompt",
        _one_word,
        "P10 P73 P75 P77 P81 P82 P86 P87 P273 P274 P275",
        "P245 P246 P247 P273 P274 P275",
    ),
    Check("system prompt", _system_prompt, "P84", "P248"),
    Check(
        "tool turn",
        _tools,
        "P80 P91 P94 P117 P118 P127 P277",
        "P256 P277",
        2,
    ),
    Check("strict schema", _schema(_DOG, "P133"), "P90 P133", "P252"),
    Check("loose schema", _schema(_LOOSE, "P90"), "P90", "P252"),
    Check(
        "reasoning sent back",
        _reasoning,
        "P88 P89 P116 P124 P125 P155",
        "P116 P124 P125 P155 P249",
        2,
    ),
    Check("changed effort", _changed_effort, "P89 P122", "P249"),
    Check(
        "image",
        _attachment("image/png", _png, "Name the colour of this picture in one word."),
        "P114",
        "P253",
    ),
    Check(
        "text file",
        _attachment("text/plain", lambda: _FILE, _READ),
        "P113",
        "P248",
    ),
    Check("PDF", _attachment("application/pdf", _pdf, _READ), "P115 P126", "P253"),
    Check("output limit", _output_limit, "P95 P165", ""),
    Check("web search", _web_search, "P128", "P259"),
    Check("second turn", _second_turn, "P79 P93 P113 P213", "P250"),
    Check(
        "streaming",
        _streaming,
        "P154 P163 P276",
        "P276 P261",
        0,
    ),
    Check("usage", _usage, "P12 P203", ""),
    Check("picture", _picture, "P145 P146 P151", "", 1, True),
    Check("refresh", _refresh, "P50 P51", "", 1, True),
    Check("another model", _other_model, "P200", "P200", 1, True),
)


def chosen_checks(tokens: Tokens, with_optional: bool) -> list[Check]:
    """The checks for a login, in their order."""
    renewable = tokens.kind == "login" and tokens.refresh_token
    chosen = [c for c in CHECKS if c.facts(tokens) and (with_optional or not c.optional)]
    return [check for check in chosen if check.run is not _refresh or renewable]
