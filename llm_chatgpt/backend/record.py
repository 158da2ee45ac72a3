"""Record a complete answer for llm, and write the notes after it."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

from llm.parts import StreamEvent

from llm_chatgpt import config
from llm_chatgpt.backend.answer import Answer
from llm_chatgpt.backend.catalogue import RESERVE, models_to_register
from llm_chatgpt.backend.usage import reset_words, windows_of_headers
from llm_chatgpt.text import printable
from llm_chatgpt.values import as_list, as_mapping, as_number, as_text
from llm_chatgpt.waiting import stderr_is_terminal

# Not logged: the fields that repeat the request or identify the user.
_NOT_LOGGED = ("instructions", "tools", "safety_identifier", "user", "output", "usage")
_SOURCES_SHOWN = 10


def record(answer: Answer, headers: Mapping[str, str], response: Any) -> list[StreamEvent]:
    """Give llm's response its tool calls, usage, model and raw JSON.

    The JSON is the last round's, with the items and the usage of all rounds. Returns the events
    that llm still needs: one for reasoning that stayed hidden.
    """
    for call in answer.tool_calls:
        response.add_tool_call(call)
    fields = {k: v for k, v in answer.response.items() if k not in _NOT_LOGGED}
    total = functools.reduce(_added, _without_nulls(answer.usages), None)
    logged = _without_nulls({**fields, "output": answer.output, "usage": total})
    usage = dict(as_mapping(logged.get("usage")))
    usage.pop("attribution", None)
    details = {
        name: usage[name]
        for name in ("input_tokens_details", "output_tokens_details")
        if as_mapping(usage.get(name))
    }
    if usage:
        logged["usage"] = usage
        response.set_usage(
            input=int(as_number(usage.get("input_tokens")) or 0),
            output=int(as_number(usage.get("output_tokens")) or 0),
            details=details or None,
        )
    response.response_json = logged
    model = _served_model(answer, headers)
    if model:
        response.set_resolved_model(model)
    thought = details.get("output_tokens_details", {}).get("reasoning_tokens")
    if thought and not answer.had_reasoning:
        return [StreamEvent(type="reasoning", chunk="", redacted=True)]
    return []


def notes(answer: Answer, headers: Mapping[str, str], slug: str) -> list[tuple[str, str]]:
    """Return the notes after an answer of the model `slug`: pairs of a subject and a line.

    A chain of tools prints each subject once.
    """
    lines = []
    if answer.ended == "incomplete":
        details = as_mapping(answer.response.get("incomplete_details"))
        reason = printable(details.get("reason") or "no reason given", 100)
        lines.append(("incomplete", f"The answer was cut short ({reason})."))
    elif any(item.kind == "custom_tool_call" for item in answer.items):
        text = "Note: the model called a custom tool, which llm cannot carry out."
        lines.append(("custom", text))
    elif not answer.has_content:
        lines.append(("empty", "The model returned an empty answer."))
    removed = {
        printable(entry.get("reason") or "no reason given", 60)
        for entry in map(as_mapping, as_list(answer.response.get("input_transformations")))
        if entry.get("reason") != "turn_boundary"
    }
    if removed:
        why = ", ".join(sorted(removed))
        lines.append(("removed", f"Note: OpenAI left out earlier reasoning ({why})."))
    model = _served_model(answer, headers)
    # A dated snapshot counts as the model. Luna Reserve may be answered by any model.
    same = re.escape(slug) + r"(-\d{4}-\d{2}-\d{2})?"
    if model and slug != RESERVE.slug and not re.fullmatch(same, model):
        # With the prefix only if `-m` takes it.
        registered = models_to_register().get(model)
        name = registered.model_id if registered else model
        lines.append(("model", f"Note: {name} answered instead of chatgpt-{slug}."))
    if not config.is_off("USAGE_NOTE"):
        lines += [
            (
                f"{window.name} limit",
                f"Note: {window.left_percent:.0f}% of your {window.name} limit left"
                f"{reset_words(window.resets_at)}.",
            )
            for window in windows_of_headers(headers)
            if window.left_percent < config.LOW_ALLOWANCE_PERCENT
        ]
    return lines


def _served_model(answer: Answer, headers: Mapping[str, str]) -> str | None:
    model = headers.get("openai-model") or as_text(answer.response.get("model"))
    return printable(model, 100) if model else None


def sources(answer: Answer) -> list[tuple[str, str]]:
    """The pages that an answer rests on, as a note of several lines; none without a terminal."""
    if not stderr_is_terminal() or config.is_off("SOURCES"):
        return []
    lines = dict.fromkeys(
        f"{printable(title, 70)}: {printable(url)}" if title else printable(url)
        for title, url in answer.sources
    )
    shown = [f"{number}. {line}" for number, line in enumerate(lines, 1)]
    more = [f"and {len(shown) - _SOURCES_SHOWN} more"] if len(shown) > _SOURCES_SHOWN else []
    note = "\n".join(["\nSources:", *shown[:_SOURCES_SHOWN], *more])
    return [(note, note)] if shown else []


def _added(one: Any, other: Any) -> Any:
    """Add the usage of two rounds: numbers, and objects field by field."""
    if isinstance(one, dict) and isinstance(other, dict):
        return {name: _added(one.get(name), other.get(name)) for name in {**one, **other}}
    if as_number(one) is not None and as_number(other) is not None:
        return one + other
    return other if one is None else one


def _without_nulls(value: Any) -> Any:
    """Remove the fields that are null before the JSON is logged."""
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value
