"""Find out which part of a request the service has refused.

A request is sent once more without that part (docs/protocol.md, "What is refused"). `SCOPES` says
how long each part stays out. The parts of the input have no scope: the answer stores their names
(history.py), and later requests of the conversation leave them out, too. `Composer` and
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

SUMMARY = "reasoning.summary"
# The guarantee of strict mode that the answer fits the schema.
STRICT = "text.format.strict"
OUTPUT_LIMIT = "max_output_tokens"
# The system prompt as a message, without `instructions`.
SYSTEM_MESSAGE = "system message"
# The first region that the login names; there may be a second one.
FIRST_RESIDENCY = "first residency"
SESSION_HEADER = "session-id"
COMPRESSION = "compression"

# The part stays out for the rest of the "turn", or of every request that this process sends to
# the same "model", for the same "account", or to the same "service".
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
_BY_PARAM = {name: name for name in (SUMMARY, OUTPUT_LIMIT, SESSION_HEADER, COMPRESSION)}
_BY_PARAM["instructions"] = SYSTEM_MESSAGE

# Parts of the input. Encrypted reasoning of earlier answers.
REASONING = "reasoning"
# Web searches of earlier answers: those without an id, then all.
SEARCHES_WITHOUT_ID = "web_search_call without id"
SEARCHES = "web_search_call"
# Items that change the effort within a conversation.
EFFORT_UPDATES = "configuration_update"
# Each other name is the address of an image that the service cannot download.
_ADDRESS = "https://"


def parts_of_input(without: Iterable[str]) -> frozenset[str]:
    """Return those names in an `Attempt.without` that are parts of the input."""
    return frozenset(without) - SCOPES.keys()


def refused_parts(
    error: ChatGPTError, items: Sequence[Mapping[str, Any]], tokens: Tokens
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
    # 404 is for an item whose id the service does not know.
    return _refused_items(error, items) if error.status in (400, 404) else frozenset()


def _refused_items(error: ChatGPTError, items: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    """Return the part of the input that an error is about, which it may name in its text only."""
    words = f"{error.param} {error.message}"
    places = {int(number) for number in re.findall(r"input\[(\d{1,9})\]", words)}
    named_items = [items[place] for place in places if place < len(items)]
    named_types = {item.get("type") for item in named_items}
    if "download" in words.lower():
        sent = list(_image_addresses(items))
        named = [url for url in sent if url in words] or list(_image_addresses(named_items))
        return frozenset(named or sent)
    if EFFORT_UPDATES in named_types or EFFORT_UPDATES in words:
        return frozenset({EFFORT_UPDATES})
    searches = [item for item in items if item.get("type") == SEARCHES]
    ids = [item["id"] for item in searches if "id" in item]
    if searches and (SEARCHES in named_types or any(word in words for word in (SEARCHES, *ids))):
        return frozenset({SEARCHES if ids else SEARCHES_WITHOUT_ID})
    return frozenset()


def _image_addresses(items: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for part in content_parts(items):
        url = as_text(part.get("image_url"))
        if url and url.startswith(_ADDRESS):
            yield url


def content_parts(items: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Yield the parts of all messages and tool outputs among the items of an input."""
    for item in items:
        yield from map(as_mapping, [*as_list(item.get("content")), *as_list(item.get("output"))])
