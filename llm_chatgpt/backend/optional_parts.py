"""Find out which part of a request the service has refused.

A request is sent once more without that part (docs/protocol.md, "What is refused"). `SCOPES` says
how long each part is left out. The parts of the input have no scope: the answer stores their names
(history.py), and later requests of the conversation leave them out, too. `RequestBuilder` and
`InputBuilder` leave out the parts that `Attempt.without` names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from llm_chatgpt.backend import refusals
from llm_chatgpt.errors import ChatGPTError
from llm_chatgpt.login.tokens import Tokens, residencies
from llm_chatgpt.values import as_list, as_mapping, as_text

# Summaries of reasoning (P100).
SUMMARY = "reasoning.summary"
# The guarantee of strict mode that the answer fits the schema (P109).
STRICT = "text.format.strict"
# The limit of the answer (P95).
OUTPUT_LIMIT = "max_output_tokens"
# The system prompt as a message, without `instructions` (P84).
SYSTEM_MESSAGE = "system message"
# The first region that the login names; there may be a second one (P78).
FIRST_RESIDENCY = "first residency"
# The header that names the conversation (P79).
SESSION_HEADER = "session-id"
# The compression of the body (P83).
COMPRESSION = "compression"

# A part is left out for the rest of the "turn", or of all requests that this process sends to the
# same "model", for the same "account", or to the same "service".
SCOPES = {
    SUMMARY: "model",
    STRICT: "turn",
    OUTPUT_LIMIT: "service",
    SYSTEM_MESSAGE: "model",
    FIRST_RESIDENCY: "account",
    SESSION_HEADER: "account",
    COMPRESSION: "service",
}
# The part that a 400 is about, by the parameter that it names.
_BY_PARAM = {SUMMARY: SUMMARY, OUTPUT_LIMIT: OUTPUT_LIMIT, SESSION_HEADER: SESSION_HEADER}
_BY_PARAM["instructions"] = SYSTEM_MESSAGE

# Parts of the input. Encrypted reasoning of earlier answers (P103).
REASONING = "reasoning"
# Web searches of earlier answers: those without their ids, then all (P105).
SEARCHES_WITHOUT_ID = "web_search_call without id"
SEARCHES = "web_search_call"
# Items that change the effort within a conversation (P214).
EFFORT_UPDATES = "configuration_update"
# Each other name is the address of an image that the service cannot download (P106).


def parts_of_input(without: Iterable[str]) -> frozenset[str]:
    """Return those names in an `Attempt.without` that are parts of the input."""
    return frozenset(without) - SCOPES.keys()


def refused_parts(
    error: ChatGPTError,
    items: Sequence[Mapping[str, Any]],
    tokens: Tokens,
    *,
    is_compressed: bool = False,
) -> frozenset[str]:
    """Return the names of the parts that an error is about; empty if it is about something else.

    `items` are the input and `tokens` the tokens that were sent.
    """
    if error.code == "invalid_encrypted_content":
        return frozenset({REASONING})
    if error.code == refusals.SCHEMA:
        return frozenset({STRICT})
    if error.code == refusals.WRONG_REGION and len(residencies(tokens)) > 1:
        return frozenset({FIRST_RESIDENCY})
    if error.status in (400, 415) and error.param in _BY_PARAM:
        return frozenset({_BY_PARAM[error.param]})
    # It is not known how the service refuses compressed requests, if it does (P83).
    if is_compressed and error.status in (400, 415) and not error.param:
        is_explained = error.code in refusals.POLICY_CODES | {"context_length_exceeded"}
        return frozenset() if is_explained else frozenset({COMPRESSION})
    # 404 is for an id that the service does not know (P102).
    return _refused_items(error, items) if error.status in (400, 404) else frozenset()


def _refused_items(error: ChatGPTError, items: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    """Return the part of the input that `param` names: by an item's place, type or id, or by an
    address."""
    param = error.param or ""
    place = re.match(r"input\[(\d{1,9})\]", param)
    named_items = items[int(place[1]) :][:1] if place else ()
    if error.code == refusals.IMAGE_DOWNLOAD:
        addresses = _image_addresses(named_items) or _image_addresses(items)
        return addresses & {param} or addresses
    sent_types = {item.get("type") for item in items}
    named_types = {param, *(item.get("type") for item in named_items)}
    ids = {item["id"] for item in items if "id" in item}
    if SEARCHES in named_types & sent_types or param in ids:
        return frozenset({SEARCHES if ids else SEARCHES_WITHOUT_ID})
    return frozenset({EFFORT_UPDATES} & named_types & sent_types)


def _image_addresses(items: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    urls = (as_text(part.get("image_url")) for part in content_parts(items))
    return frozenset(url for url in urls if url and url.startswith("https://"))


def content_parts(items: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Yield the parts of all messages and tool outputs among the items of an input."""
    for item in items:
        yield from map(as_mapping, [*as_list(item.get("content")), *as_list(item.get("output"))])
