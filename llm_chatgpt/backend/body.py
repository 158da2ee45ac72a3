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


def takes_system_message(slug: str) -> bool:
    """Check whether a model caches a system prompt only as a message, not as `instructions`.

    That holds for the models after gpt-5.5; the older ones refuse a request without
    `instructions` (P84).
    """
    version = re.match(r"gpt-(\d+)(?:\.(\d+))?", slug)
    return version is None or (int(version[1]), int(version[2] or 0)) > (5, 5)


def session_id(
    conversation: Any, instructions: str, items: list[dict[str, Any]], key: str | None
) -> str:
    """Derive the UUID that routes a conversation's requests to one cache (P213).

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
    instructions: str,
    effort: str | None,
    session: str,
    schema: Any,
    hide_reasoning: bool,
    without: frozenset[str],
) -> dict[str, Any]:
    """Build the request's JSON without `tools` and `input` (P84 to P93).

    `without` names the parts to leave out (optional_parts.py).
    """
    summary = options["reasoning_summary"] or "auto"
    has_summary = info.summaries and not hide_reasoning and optional_parts.SUMMARY not in without
    limit = options["max_output_tokens"] or options["max_tokens"]
    text_format: dict[str, Any] | None = None
    if schema:
        strict = optional_parts.STRICT not in without
        text_format = {"type": "json_schema", "name": "output", "schema": schema, "strict": strict}
    elif options["json_object"]:
        text_format = {"type": "json_object"}
    tier = options["service_tier"]
    body: dict[str, Any] = {
        "model": info.slug,
        "instructions": instructions,
        "store": False,
        "stream": True,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": session,
        "max_output_tokens": None if optional_parts.OUTPUT_LIMIT in without else limit,
        "reasoning": _given(
            effort=effort, summary=summary if has_summary and summary != "none" else None
        ),
        "text": _given(verbosity=options["verbosity"], format=text_format),
        # fast is the official client's name for priority (P92).
        "service_tier": "priority" if tier == "fast" else tier,
        "parallel_tool_calls": options["parallel_tool_calls"],
    }
    return {name: value for name, value in body.items() if value not in (None, "", {})}


def _given(**fields: Any) -> dict[str, Any]:
    """Return the fields that have a value."""
    return {name: value for name, value in fields.items() if value}
