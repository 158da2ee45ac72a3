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
from llm_chatgpt.backend.request import Request
from llm_chatgpt.backend.usage import reset_words, windows_of_headers
from llm_chatgpt.text import printable
from llm_chatgpt.values import as_list, as_mapping, as_number, as_text
from llm_chatgpt.waiting import stderr_is_terminal

# Fields of a response that are not logged as they are: they repeat the request, identify the user
# or belong to one round (P275).
_NOT_LOGGED = ("instructions", "tools", "safety_identifier", "user", "output", "usage")
_MAX_SOURCES = 10


def record(answer: Answer, headers: Mapping[str, str], response: Any) -> list[StreamEvent]:
    """Set the tool calls, the usage, the model and the raw JSON of llm's response.

    The JSON comes from the last round, but has the items and the usage of all rounds. If the usage
    counts reasoning but no item has any, returns an empty redacted event, as llm's own models do.
    """
    for call in answer.tool_calls:
        response.add_tool_call(call)
    fields = answer.last_round.response
    logged = {k: v for k, v in fields.items() if v is not None and k not in _NOT_LOGGED}
    logged["output"] = answer.output
    usage = functools.reduce(_add, (r.response.get("usage") for r in answer.rounds))
    if isinstance(usage, dict):
        logged["usage"] = {k: v for k, v in usage.items() if k != "attribution"}
        names = ("input_tokens_details", "output_tokens_details")
        details = {name: usage[name] for name in names if as_mapping(usage.get(name))}
        response.set_usage(
            input=int(as_number(usage.get("input_tokens")) or 0),
            output=int(as_number(usage.get("output_tokens")) or 0),
            details=details or None,
        )
    response.response_json = logged
    if model := _served_model(answer, headers):
        response.set_resolved_model(model)
    reasoned = as_mapping(as_mapping(usage).get("output_tokens_details")).get("reasoning_tokens")
    if reasoned and not any(item.kind == "reasoning" for item in answer.items):
        return [StreamEvent(type="reasoning", chunk="", redacted=True)]
    return []


def notes(answer: Answer, headers: Mapping[str, str], sent: Request) -> dict[str, str]:
    """Return the notes after the answer to a request, by subject.

    A tool chain prints only the first note on each subject.
    """
    lines, slug = {}, sent.info.slug
    response = answer.last_round.response
    if answer.last_round.ended == "incomplete":
        reason = as_mapping(response.get("incomplete_details")).get("reason")
        lines["incomplete"] = f"The answer was cut short ({_reason(reason)})."
    elif any(item.kind == "custom_tool_call" for item in answer.items):
        lines["custom"] = "Note: the model called a custom tool, which llm cannot run."
    elif not answer.has_content:
        lines["empty"] = "The model returned an empty answer."
    # The service's reasons for leaving out earlier reasoning (P169).
    removed = {
        _reason(entry.get("reason"))
        for entry in map(as_mapping, as_list(response.get("input_transformations")))
        if entry.get("reason") != "turn_boundary"
    }
    if removed:
        why = ", ".join(sorted(removed))
        lines["removed"] = f"Note: OpenAI left out earlier reasoning ({why})."
    model = _served_model(answer, headers)
    # A dated snapshot counts as the same model. For Luna Reserve any model may answer.
    same_model = re.escape(slug) + r"(-\d{4}-\d{2}-\d{2})?"
    if model and slug != RESERVE.slug and not re.fullmatch(same_model, model):
        # The name gets the prefix chatgpt- only if `-m` accepts it.
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
    """Return a note that lists the `pages` of an answer; empty if stderr is not a terminal."""
    if not stderr_is_terminal() or config.is_off("SOURCES"):
        return ""
    lines = [f"{number}. {line}" for number, line in enumerate(pages(answer.output), 1)]
    if len(lines) > _MAX_SOURCES:
        lines[_MAX_SOURCES:] = [f"and {len(lines) - _MAX_SOURCES} more"]
    return "\n".join(["\nSources:", *lines]) if lines else ""


def pages(output: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each page that an answer cites.

    Without citations, return one for each page that its searches found.
    """
    annotations: list[Any] = []
    results: list[Any] = []
    for item in output:
        for part in map(as_mapping, as_list(item.get("content"))):
            annotations += as_list(part.get("annotations"))
        results += as_list(as_mapping(item.get("action")).get("sources"))
    citations = [p for p in map(as_mapping, annotations) if p.get("type") == "url_citation"]
    titles: dict[str, str] = {}
    for page in citations or map(as_mapping, results):
        if url := as_text(page.get("url")):
            titles.setdefault(url, as_text(page.get("title")) or "")
    return [
        f"{printable(title, 70)}: {printable(url)}" if title else printable(url)
        for url, title in titles.items()
    ]


def _add(first: Any, second: Any) -> Any:
    """Add the usage of two rounds (P173): numbers, and objects field by field."""
    if isinstance(first, dict) and isinstance(second, dict):
        return {name: _add(first.get(name), second.get(name)) for name in {**first, **second}}
    if as_number(first) is not None and as_number(second) is not None:
        return first + second
    return second if first is None else first
