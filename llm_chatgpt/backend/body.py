"""Build the request's body from the options and the schema. Nothing here imports llm."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Mapping
from typing import Any

from llm_chatgpt import config
from llm_chatgpt.backend import optional_parts
from llm_chatgpt.backend.catalogue import ModelInfo
from llm_chatgpt.errors import ChatGPTError
from llm_chatgpt.text import printable


def check_options(info: ModelInfo, options: Mapping[str, Any], *, listed: bool) -> None:
    """Raise ChatGPTError for options that the model does not have.

    `listed` says that the service lists the model for this login. Otherwise its efforts are
    unknown.
    """
    model_id, effort = f"chatgpt-{info.slug}", options.get("reasoning_effort")
    if options.get("image_detail") == "original" and not info.original_detail:
        raise ChatGPTError(f"{model_id} has no image_detail original.", "Choose auto, low or high.")
    efforts = info.efforts if listed else ()
    # "ultra" is sent as "max".
    sent = "max" if effort == "ultra" and "ultra" not in efforts else effort
    if efforts and sent not in (None, "none", *efforts):
        raise ChatGPTError(
            f"{model_id} has no reasoning effort '{effort}'.",
            f"Choose one of: {', '.join(map(printable, dict.fromkeys(['none', *efforts])))}.",
        )


def takes_system_message(slug: str) -> bool:
    """Check whether a model caches a system prompt only as a message, not as `instructions`.

    That holds for the models after gpt-5.5; the older ones refuse a request without
    `instructions` (docs/protocol.md, "Request body").
    """
    version = re.match(r"gpt-(\d+)(?:\.(\d+))?", slug)
    return version is None or (int(version[1]), int(version[2] or 0)) > (5, 5)


def output_limit(options: Mapping[str, Any]) -> tuple[str, int] | None:
    """Return the name and the value of the option that limits the answer; None without one."""
    given = ((name, options.get(name)) for name in ("max_output_tokens", "max_tokens"))
    return next(((name, value) for name, value in given if value is not None), None)


def session_id(
    conversation: Any, instructions: str, items: list[dict[str, Any]], key: str | None
) -> str:
    """Derive the UUID that routes a conversation's requests to one cache (docs/protocol.md).

    It is the same in every process. Its source is the user's `key`, otherwise the conversation,
    otherwise the beginning of the input.
    """
    if key:
        name = f"prompt_cache_key {key}"
    elif conversation is not None:
        name = conversation.id
    else:
        beginning = json.dumps([instructions, items[:1]])
        name = hashlib.sha256(beginning.encode()).hexdigest()
    return str(uuid.uuid5(config.SESSION_NAMESPACE, name))


def schema_of_chain(prompt: Any, conversation: Any) -> Any:
    """Return the schema for the answer to an llm prompt; None if there is none.

    The last answer of a chain of tools must fit the schema, but llm gives it to the first prompt
    of the chain only.
    """
    earlier = list(conversation.responses) if conversation is not None else []
    while prompt.tool_results and not prompt.schema and earlier:
        prompt = earlier.pop().prompt
    return prompt.schema


def build_body(
    info: ModelInfo,
    options: Mapping[str, Any],
    *,
    instructions: str | None,
    effort: str | None,
    session: str,
    schema: Any,
    hide_reasoning: bool,
    without: frozenset[str],
) -> dict[str, Any]:
    """Build the request's JSON without `tools` and `input`.

    The caller adds `input` last, so that the unchanged fields come first. `without` names the
    parts to leave out (optional_parts.py).
    """
    summary = options.get("reasoning_summary") or "auto"
    has_summary = info.summaries and not hide_reasoning and optional_parts.SUMMARY not in without
    limit = output_limit(options)
    tier = options.get("service_tier")
    body: dict[str, Any] = {
        "model": info.slug,
        "instructions": instructions,
        "store": False,
        "stream": True,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": session,
        "max_output_tokens": limit[1]
        if limit and optional_parts.OUTPUT_LIMIT not in without
        else None,
        "reasoning": _given(
            effort=effort, summary=summary if has_summary and summary != "none" else None
        ),
        "text": _given(
            verbosity=options.get("verbosity"),
            format=_text_format(options, schema, optional_parts.STRICT not in without),
        ),
        # fast is the official client's name for priority.
        "service_tier": "priority" if tier == "fast" else tier,
        "parallel_tool_calls": options.get("parallel_tool_calls"),
    }
    return {name: value for name, value in body.items() if value not in (None, {})}


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value}


def _text_format(options: Mapping[str, Any], schema: Any, strict: bool) -> dict[str, Any] | None:
    if schema:
        return {"type": "json_schema", "name": "output", "schema": schema, "strict": strict}
    return {"type": "json_object"} if options.get("json_object") else None
