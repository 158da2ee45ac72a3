"""The parts of a request's input that the service may refuse, and how its errors name them.

A request is sent once more without the part. Its answer stores the part's name (history.py), and
later requests leave it out, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llm_chatgpt.errors import ChatGPTError
from llm_chatgpt.values import as_list, as_mapping, as_text

# Encrypted reasoning of earlier answers.
REASONING = "reasoning"
# Web searches of earlier answers: those that have no id, then all.
SEARCHES_WITHOUT_ID = "web_search_call without id"
SEARCHES = "web_search_call"
# Items that change the effort within a conversation.
EFFORT_UPDATES = "configuration_update"
# The address of an image that the service cannot download is a name, too.
_ADDRESS = "https://"


def parts_of_input(without: Iterable[str]) -> frozenset[str]:
    """Those names in a `resend.Attempt.without` that are this module's."""
    names = (REASONING, SEARCHES_WITHOUT_ID, SEARCHES, EFFORT_UPDATES)
    return frozenset(name for name in without if name in names or name.startswith(_ADDRESS))


def refused_parts(error: ChatGPTError, items: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    """The names of the parts that an error is about; empty if it is about something else.

    `items` are the input that was refused.
    """
    if error.code == "invalid_encrypted_content":
        return frozenset({REASONING})
    # 404 is for an item whose id the service does not know.
    if error.status not in (400, 404):
        return frozenset()
    words = f"{error.param} {error.message}"
    places = {int(number) for number in re.findall(r"input\[(\d{1,9})\]", words)}
    named = [items[place] for place in places if place < len(items)]
    if "download" in words.lower():
        sent = list(_addresses(items))
        known = [url for url in sent if url in words] or list(_addresses(named))
        return frozenset(known or sent)
    updates = any(item.get("type") == EFFORT_UPDATES for item in named)
    if updates or EFFORT_UPDATES in words:
        return frozenset({EFFORT_UPDATES})
    searches = [item for item in items if item.get("type") == SEARCHES]
    ids = [item["id"] for item in searches if "id" in item]
    by_words = searches and any(word in words for word in (SEARCHES, *ids))
    if by_words or any(item.get("type") == SEARCHES for item in named):
        return frozenset({SEARCHES if ids else SEARCHES_WITHOUT_ID})
    return frozenset()


def _addresses(items: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    """The https addresses of the images in these items."""
    for item in items:
        for part in [*as_list(item.get("content")), *as_list(item.get("output"))]:
            url = as_text(as_mapping(part).get("image_url"))
            if url and url.startswith(_ADDRESS):
                yield url
