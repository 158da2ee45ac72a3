"""Record a complete answer for llm, and write the notes after it."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from llm.parts import StreamEvent

from llm_chatgpt import config
from llm_chatgpt.backend.answer import Answer
from llm_chatgpt.backend.catalogue import RESERVE, models_to_register
from llm_chatgpt.backend.usage import reset_words, windows_of_headers
from llm_chatgpt.text import printable
from llm_chatgpt.values import as_list, as_mapping, as_number, as_text
from llm_chatgpt.waiting import stderr_is_terminal

# Fields of a response that are not logged as they are: they repeat the request, identify the user
# or belong to one round (P275).
_NOT_LOGGED = ("instructions", "tools", "safety_identifier", "user", "output", "usage")
_SOURCES_SHOWN = 10


def record(answer: Answer, headers: Mapping[str, str], response: Any) -> list[StreamEvent]:
    """Give llm's response its tool calls, usage, model and raw JSON.

    The JSON is the last round's, with the items and the usage of all rounds. Returns the event
    with which llm's own models mark reasoning that is counted, but came in no item.
    """
    is_hidden = False
    for call in answer.tool_calls:
        response.add_tool_call(call)
    fields = answer.last_round.response
    logged = {k: v for k, v in fields.items() if v is not None and k not in _NOT_LOGGED}
    logged["output"] = answer.output
    usage = functools.reduce(_add, (one.response.get("usage") for one in answer.rounds))
    if isinstance(usage, dict):
        logged["usage"] = {k: v for k, v in usage.items() if k != "attribution"}
        names = ("input_tokens_details", "output_tokens_details")
        details = {name: usage[name] for name in names if as_mapping(usage.get(name))}
        response.set_usage(
            input=int(as_number(usage.get("input_tokens")) or 0),
            output=int(as_number(usage.get("output_tokens")) or 0),
            details=details or None,
        )
        thought = details.get("output_tokens_details", {}).get("reasoning_tokens")
        is_hidden = bool(thought) and not any(item.kind == "reasoning" for item in answer.items)
    response.response_json = logged
    if model := _served_model(answer, headers):
        response.set_resolved_model(model)
    return [StreamEvent(type="reasoning", chunk="", redacted=True)] if is_hidden else []


def notes(answer: Answer, headers: Mapping[str, str], slug: str) -> dict[str, str]:
    """Return the notes after an answer of the model `slug`, by their subjects.

    A chain of tools prints each subject once.
    """
    lines = {}
    response = answer.last_round.response
    if answer.last_round.ended == "incomplete":
        reason = as_mapping(response.get("incomplete_details")).get("reason")
        lines["incomplete"] = f"The answer was cut short ({_reason(reason)})."
    elif any(item.kind == "custom_tool_call" for item in answer.items):
        lines["custom"] = "Note: the model called a custom tool, which llm cannot carry out."
    elif not answer.has_content:
        lines["empty"] = "The model returned an empty answer."
    # Reasons for which the service has left out earlier reasoning (P169).
    removed = {
        _reason(entry.get("reason"))
        for entry in map(as_mapping, as_list(response.get("input_transformations")))
        if entry.get("reason") != "turn_boundary"
    }
    if removed:
        why = ", ".join(sorted(removed))
        lines["removed"] = f"Note: OpenAI left out earlier reasoning ({why})."
    model = _served_model(answer, headers)
    # A dated snapshot counts as the model. Luna Reserve may be answered by any model.
    same = re.escape(slug) + r"(-\d{4}-\d{2}-\d{2})?"
    if model and slug != RESERVE.slug and not re.fullmatch(same, model):
        # With the prefix only if `-m` takes it.
        registered = models_to_register().get(model)
        name = registered.model_id if registered else model
        lines["model"] = f"Note: {name} answered instead of chatgpt-{slug}."
    for window in () if config.is_off("USAGE_NOTE") else windows_of_headers(headers):
        if window.left_percent < config.LOW_ALLOWANCE_PERCENT:
            left = f"{window.left_percent:.0f}% of your {window.name} limit left"
            lines[f"{window.name} limit"] = f"Note: {left}{reset_words(window.resets_at)}."
    return lines


def _reason(reason: object) -> str:
    return printable(reason or "no reason given", 100)


def _served_model(answer: Answer, headers: Mapping[str, str]) -> str | None:
    """Return the name of the model that has answered (P157)."""
    model = headers.get("openai-model") or as_text(answer.last_round.response.get("model"))
    return printable(model, 100) if model else None


def sources(answer: Answer) -> str:
    """Return a note of several lines with the `pages` of an answer; empty without a terminal."""
    if not stderr_is_terminal() or config.is_off("SOURCES"):
        return ""
    lines = [f"{number}. {line}" for number, line in enumerate(pages(answer.output), 1)]
    if len(lines) > _SOURCES_SHOWN:
        lines[_SOURCES_SHOWN:] = [f"and {len(lines) - _SOURCES_SHOWN} more"]
    return "\n".join(["\nSources:", *lines]) if lines else ""


def pages(output: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each page that an answer cites.

    Without citations, return one for each page that its searches found.
    """
    cited: list[Any] = []
    found: list[Any] = []
    for item in output:
        for part in map(as_mapping, as_list(item.get("content"))):
            cited += as_list(part.get("annotations"))
        found += as_list(as_mapping(item.get("action")).get("sources"))
    citations = [page for page in map(as_mapping, cited) if page.get("type") == "url_citation"]
    titles: dict[str, str] = {}
    for page in citations or map(as_mapping, found):
        if url := as_text(page.get("url")):
            titles.setdefault(url, as_text(page.get("title")) or "")
    return [
        f"{printable(title, 70)}: {printable(url)}" if title else printable(url)
        for url, title in titles.items()
    ]


def _add(one: Any, other: Any) -> Any:
    """Add the usage of two rounds (P173): numbers, and objects field by field."""
    if isinstance(one, dict) and isinstance(other, dict):
        return {name: _add(one.get(name), other.get(name)) for name in {**one, **other}}
    if as_number(one) is not None and as_number(other) is not None:
        return one + other
    return other if one is None else one
