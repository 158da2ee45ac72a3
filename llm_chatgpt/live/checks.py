"""The checks of `llm chatgpt doctor --live`, in the order of its report.

Most checks send prompts through llm, like any program. A check returns the text of its line,
records differences with `live.add_difference`, and raises an error if it fails. Checks read the
service's answers from the recording, because the plugin hides most differences.
"""

from __future__ import annotations

import base64
import itertools
import json
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import llm

from llm_chatgpt.backend.endpoints import fetch_models, fetch_usage
from llm_chatgpt.backend.usage import windows_of_headers, windows_of_usage
from llm_chatgpt.errors import ChatGPTError
from llm_chatgpt.live.session import Check, LiveRun
from llm_chatgpt.login.credentials import Rejection, choose_credential, get_tokens, with_login
from llm_chatgpt.login.login_file import read_store
from llm_chatgpt.login.routes import CODEX
from llm_chatgpt.login.tokens import Tokens
from llm_chatgpt.text import printable
from llm_chatgpt.values import as_list, as_mapping

CHECKS: list[Check] = []


def _check(name: str, codex_facts: str, official_facts: str, **settings: Any) -> Callable[..., Any]:
    """Add the decorated function to CHECKS."""

    def add(run: Callable[[LiveRun], str]) -> Callable[[LiveRun], str]:
        CHECKS.append(Check(name, run, codex_facts, official_facts, **settings))
        return run

    return add


def chosen_checks(tokens: Tokens, with_optional: bool) -> list[Check]:
    """Return the checks to run for a login, in order. `_refresh` needs a refresh token."""
    chosen = [c for c in CHECKS if c.facts_on(tokens) and (with_optional or not c.optional)]
    return [check for check in chosen if check.run is not _refresh or tokens.refresh_token]


@_check("model list", "P11 P197 P198", "P218 P262")
def _model_list(live: LiveRun) -> str:
    live.choose_model(with_login(live.key, fetch_models).listed)
    return f"{len(live.listed)} listed; the checks use {live.info.model_id}"


# 1,900 tokens for the cache, which "second turn" measures. Caching was seen only with 9,000 (P213),
# which would use more of the plan's limits.
_NUMBERS = " ".join(map(str, range(900)))


@_check(
    "one-word answer",
    "P10 P73 P75 P77 P81 P82 P86 P87 P273 P274 P275",
    "P245 P246 P247 P273 P274 P275",
)
def _one_word(live: LiveRun) -> str:
    live.ask(f"Reply with one word: hello. Ignore these numbers: {_NUMBERS}", live.short_chat)
    return f"answered by {live.last.headers.get('openai-model') or live.last.response.get('model')}"


@_check("system prompt", "P84", "P248")
def _system_prompt(live: LiveRun) -> str:
    live.ask("Greet me in one line.", system="Answer in capital letters.")
    form = "as instructions" if "instructions" in live.last.request_body else "as the first message"
    return f"accepted {form}"


@_check("tool turn", "P80 P91 P94 P117 P118 P127 P277", "P256 P277", requests=2)
def _tool_turn(live: LiveRun) -> str:
    def multiply(a: int, b: int) -> str:
        "Multiply two numbers"
        return str(a * b)

    def add(a: int, b: int) -> str:
        "Add two numbers"
        return str(a + b)

    chain = llm.Conversation(live.model).chain(
        "Call both tools at once: multiply 6 by 7, and add 6 to 7. Then say both results.",
        tools=[multiply, add],
        key=live.key,
        options={"parallel_tool_calls": True},
    )
    # Only two responses, because a model may go on calling tools.
    counts = [len(response.tool_calls()) for response in itertools.islice(chain.responses(), 2)]
    if "x-codex-turn-state" not in live.last.request_headers:
        live.unsettled.add("P80")
    if counts[0] < 2:
        live.add_difference("P277", f"{counts[0]} calls in one answer instead of 2")
    return f"{counts[0]} calls in one answer, their results accepted"


_LOOSE_SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}
# Strict mode also requires `additionalProperties` (P133).
_STRICT_SCHEMA = {**_LOOSE_SCHEMA, "additionalProperties": False}


@_check("strict schema", "P90 P133", "P252")
def _strict_schema(live: LiveRun) -> str:
    return _ask_for_dog(live, _STRICT_SCHEMA, "P133")


@_check("loose schema", "P90", "P252")
def _loose_schema(live: LiveRun) -> str:
    return _ask_for_dog(live, _LOOSE_SCHEMA, "P90")


def _ask_for_dog(live: LiveRun, schema: dict[str, Any], fact: str) -> str:
    text = live.ask("Invent a dog.", schema=schema)
    try:
        fits = json.loads(text).keys() >= {"name", "age"}
    except (ValueError, AttributeError):
        fits = False
    if not fits:
        live.add_difference(fact, "the answer does not fit the schema")
    return "accepted"


@_check(
    "reasoning sent back",
    "P88 P89 P116 P124 P125 P155",
    "P116 P124 P125 P155 P249",
    requests=2,
)
def _reasoning(live: LiveRun) -> str:
    question = "Which is larger: 17 * 23 or 19 * 21? Answer with one number."
    live.ask(question, live.reasoning_chat, reasoning_effort="medium")
    reasoning_tokens = live.last.token_count("reasoning_tokens")
    if reasoning_tokens and not any(item.get("encrypted_content") for item in live.last.items):
        live.add_difference("P88", "the model thought, but no encrypted reasoning came")
    question = "What is the difference of the two? Answer with one number."
    live.ask(question, live.reasoning_chat, reasoning_effort="medium")
    for removal in map(as_mapping, as_list(live.last.response.get("input_transformations"))):
        if removal.get("reason") != "turn_boundary":
            reason = printable(removal.get("reason"), 60)
            live.add_difference("P124", f"reasoning was left out: {reason}")
    items = map(as_mapping, as_list(live.last.request_body.get("input")))
    sent = sum(item.get("type") == "reasoning" for item in items)
    if not sent:
        live.unsettled |= {"P116", "P124", "P125", "P155"}
        return "nothing was sent back" if reasoning_tokens else "the model did not think"
    return f"reasoning items accepted: {sent}"


@_check("changed effort", "P89", "P249")
def _changed_effort(live: LiveRun) -> str:
    live.ask("And their sum? One number.", live.reasoning_chat, reasoning_effort="low")
    effort = as_mapping(live.last.response.get("reasoning")).get("effort")
    return f"low accepted; the answer names {printable(effort, 20)}"


# A red square of 32 pixels.
_PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAACAAAAAgCAIAAAD8GO2jAAAAJ0lEQVR42u3NsQkAAAjAsP7/tF7hIASyp6lTCQQC"
    "gUAgEAgEgi/BAjLD/C5w/SM9AAAAAElFTkSuQmCC"
)
# A page with the word "pelican". The table at the end lists the byte offsets of its objects.
_PDF = b"""%PDF-1.4
1 0 obj <</Type/Catalog /Pages 2 0 R>> endobj
2 0 obj <</Type/Pages /Kids[3 0 R] /Count 1>> endobj
3 0 obj <</Type/Page /Parent 2 0 R /MediaBox[0 0 200 100] /Contents 4 0 R
/Resources <</Font <</F1 <</Type/Font /Subtype/Type1 /BaseFont/Helvetica>>>>>>>> endobj
4 0 obj <</Length 37>> stream
BT /F1 24 Tf 20 50 Td (pelican) Tj ET
endstream endobj
xref
0 5
0000000000 65535 f\r
0000000009 00000 n\r
0000000055 00000 n\r
0000000108 00000 n\r
0000000270 00000 n\r
trailer <</Size 5 /Root 1 0 R>>
startxref
355
%%EOF
"""
_FILE_QUESTION = "Reply with the one word that this file is about."


@_check("image", "P114", "P253")
def _image(live: LiveRun) -> str:
    question = "Name the colour of this picture in one word."
    return _ask_about(live, question, llm.Attachment(type="image/png", content=_PNG))


@_check("text file", "P113", "P248")
def _text_file(live: LiveRun) -> str:
    content = b"The notes of today.\nThe word is pelican.\n"
    return _ask_about(live, _FILE_QUESTION, llm.Attachment(type="text/plain", content=content))


@_check("PDF", "P115 P126", "P253")
def _pdf(live: LiveRun) -> str:
    return _ask_about(live, _FILE_QUESTION, llm.Attachment(type="application/pdf", content=_PDF))


def _ask_about(live: LiveRun, question: str, attachment: llm.Attachment) -> str:
    return f"answered {printable(live.ask(question, attachments=[attachment]), 40)!r}"


@_check("output limit", "P95 P165", "")
def _output_limit(live: LiveRun) -> str:
    limit = 16
    live.ask("Count from one to two hundred, in words, without a comment.", max_output_tokens=limit)
    status = live.last.response.get("status")
    tokens = live.last.token_count("output_tokens") - live.last.token_count("reasoning_tokens")
    if "max_output_tokens" in live.last.request_body and status != "incomplete" and tokens > limit:
        live.add_difference("P95", f"{tokens} tokens came, although {limit} were allowed")
    return f"{limit} tokens allowed; {status}"


@_check("web search", "P128", "P259")
def _web_search(live: LiveRun) -> str:
    live.ask("Do a web search: in which year was Python first released?", web_search=True)
    if all(item.get("type") != "web_search_call" for item in live.last.items):
        live.add_difference("P128", "the model did not search")
    return "accepted"


@_check("second turn", "P79 P93 P113 P213", "P250")
def _second_turn(live: LiveRun) -> str:
    if not live.short_chat.responses:
        raise ChatGPTError("There was no first turn.")
    live.ask("Reply with one word: bye.", live.short_chat)
    total, cached = live.last.token_count("input_tokens"), live.last.token_count("cached_tokens")
    if not cached:
        live.add_difference("P213", f"none of {total} input tokens was cached")
    return f"{100 * cached // max(1, total)}% of {total} input tokens cached"


@_check("streaming", "P154 P163 P276", "P261 P276", requests=0)
def _streaming(live: LiveRun) -> str:
    if not live.first_text_seconds:
        raise ChatGPTError("No prompt was answered.")
    most_pieces = 0
    for answer in (exchange for exchange in live.prompts if exchange.status == 200):
        types = [event.get("type") for event in answer.events]
        most_pieces = max(most_pieces, types.count("response.output_text.delta"))
        if live.tokens.route is CODEX and (kind := answer.headers.get("content-type")):
            live.add_difference("P154", f"the stream has Content-Type {printable(kind, 100)}")
        if live.tokens.route is CODEX and answer.response.get("output"):
            live.add_difference("P163", "the last event repeats the output")
    if most_pieces < 2:
        live.add_difference("P276", "no text came in pieces")
    fastest, slowest = min(live.first_text_seconds), max(live.first_text_seconds)
    return f"first text after {fastest:.1f} to {slowest:.1f} seconds, up to {most_pieces} pieces"


# Allowed difference between two reports of one limit, in percentage points. Other programs may use
# the limit between the two.
_USAGE_TOLERANCE = 3


@_check("usage", "P12 P203", "")
def _usage(live: LiveRun) -> str:
    usage = with_login(live.key, fetch_usage)
    by_endpoint = {w.name: w.used_percent for w in windows_of_usage(usage.get("rate_limit"))}
    answers = [exchange for exchange in live.prompts if exchange.status == 200]
    if answers:
        by_headers = {w.name: w.used_percent for w in windows_of_headers(answers[-1].headers)}
        if by_headers.keys() != by_endpoint.keys() or any(
            abs(used - by_endpoint[name]) > _USAGE_TOLERANCE for name, used in by_headers.items()
        ):
            live.add_difference("P203", f"other limits in headers: {_describe_limits(by_headers)}")
    return f"used: {_describe_limits(by_endpoint)}"


def _describe_limits(used: dict[str, float]) -> str:
    return ", ".join(f"{name} {percent:g}%" for name, percent in used.items()) or "none"


@_check("picture", "P145 P146 P151", "", optional=True)
def _created_image(live: LiveRun) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "image.png"
        model = llm.get_model("chatgpt-gpt-image-2")
        model.prompt("A red square", key=live.key, quality="low", output=str(path)).text()
    return "created"


@_check("refresh", "P50 P51", "", optional=True)
def _refresh(live: LiveRun) -> str:
    credential = choose_credential(live.key, read_store())
    old = get_tokens(credential)
    new = get_tokens(credential, rejected=Rejection(old.access_token, ends_login=False))
    if new.access_token == old.access_token:
        raise ChatGPTError("The login was not renewed.")
    which = "a new" if new.refresh_token != old.refresh_token else "the same"
    return f"renewed, with {which} refresh token"


@_check("another model", "P200", "P200", optional=True)
def _another_model(live: LiveRun) -> str:
    other_ids = [model.model_id for model in live.listed if model.slug != live.info.slug]
    if not other_ids:
        live.unsettled.add("P200")
        return "the account has no other model"
    live.short_chat.model = llm.get_model(other_ids[0])
    live.ask("Reply with one word: again.", live.short_chat)
    return f"{other_ids[0]} continued the conversation"
