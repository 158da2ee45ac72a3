"""Find the part of a request that the service has refused, to send the request without it.

docs/protocol.md explains this under "What is refused". `SCOPES` says how long each part is left
out. The parts of the input have no scope: the answer stores their names (history.py), and later
requests of the conversation leave them out, too. `RequestBuilder` and `InputBuilder` leave out the
parts in `Attempt.without`.
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
# The limit on the length of the answer (P95).
OUTPUT_LIMIT = "max_output_tokens"
# The system prompt as a message, without `instructions` (P84).
SYSTEM_MESSAGE = "system message"
# The first region that the login names; there may be a second one (P78).
FIRST_RESIDENCY = "first residency"
# The header that names the conversation (P79).
SESSION_HEADER = "session-id"
# The compression of the body (P83).
COMPRESSION = "compression"

# Which later requests leave a refused part out: those of the same "turn", or all of this process
# to the same "service", for the same "model" or with the same "account".
SCOPES = {
    SUMMARY: "model",
    STRICT: "turn",
    OUTPUT_LIMIT: "service",
    SYSTEM_MESSAGE: "model",
    FIRST_RESIDENCY: "account",
    SESSION_HEADER: "account",
    COMPRESSION: "service",
}
# The refused part, by the parameter that a 400 or 415 names.
_BY_PARAM = {SUMMARY: SUMMARY, OUTPUT_LIMIT: OUTPUT_LIMIT, SESSION_HEADER: SESSION_HEADER}
_BY_PARAM["instructions"] = SYSTEM_MESSAGE

# The parts of the input, which have no scope.
# Encrypted reasoning of earlier answers (P103).
REASONING = "reasoning"
# Web searches of earlier answers (P105): sent without their ids, then with them, then left out.
SEARCHES_WITHOUT_ID = "web_search_call without id"
SEARCHES = "web_search_call"
# Items that change the effort within a conversation (P214).
EFFORT_UPDATES = "configuration_update"
# Any other name is the address of an image that the service cannot download (P106).


def parts_of_input(without: Iterable[str]) -> frozenset[str]:
    """Return the names in an `Attempt.without` that stand for parts of the input."""
    return frozenset(without) - SCOPES.keys()


def refused_parts(
    error: ChatGPTError,
    items: Sequence[Mapping[str, Any]],
    tokens: Tokens,
    *,
    is_compressed: bool = False,
) -> frozenset[str]:
    """Return the names of the parts that an error is about; empty if it is about something else.

    `items` is the input of the refused request, `tokens` are its tokens.
    """
    if error.code == "invalid_encrypted_content":
        return frozenset({REASONING})
    if error.code == refusals.SCHEMA:
        return frozenset({STRICT})
    if error.code == refusals.WRONG_REGION and len(residencies(tokens)) > 1:
        return frozenset({FIRST_RESIDENCY})
    if error.status in (400, 415) and error.param in _BY_PARAM:
        return frozenset({_BY_PARAM[error.param]})
    # It is unknown whether and how the service refuses compressed requests (P83).
    if is_compressed and error.status in (400, 415) and not error.param:
        is_explained = error.code in refusals.POLICY_CODES | {"context_length_exceeded"}
        return frozenset() if is_explained else frozenset({COMPRESSION})
    # A 404 names an id that the service does not know (P102).
    return _refused_items(error, items) if error.status in (400, 404) else frozenset()


def _refused_items(error: ChatGPTError, items: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    """Return the refused parts of the input: `param` may name a place, a type, an id or an address.

    If a download failed and no address is named, returns the addresses of all images, or of those
    in the named item.
    """
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
