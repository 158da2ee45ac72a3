"""Build the request's body from the options and the schema."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from typing import Any

from llm_chatgpt import config
from llm_chatgpt.backend import optional_parts
from llm_chatgpt.backend.catalogue import ModelInfo, sent_effort
from llm_chatgpt.errors import ChatGPTError
from llm_chatgpt.text import printable


def takes_system_message(slug: str) -> bool:
    """Check whether to send a system prompt as a message instead of as `instructions` (P84).

    Models after gpt-5.5 cache it only as a message; gpt-5.5 and older models refuse a request
    without `instructions`.
    """
    version = re.match(r"gpt-(\d+)(?:\.(\d+))?", slug)
    return version is None or (int(version[1]), int(version[2] or 0)) > (5, 5)


def check_effort(effort: str | None, info: ModelInfo) -> None:
    """Raise ChatGPTError if this model from the account's list does not have the effort."""
    # The lists do not name the effort `none`, which models before gpt-6.2 accept (P198, P201).
    unlisted = () if info.slug.startswith("gpt-6.2") else ("none",)
    efforts = dict.fromkeys((*unlisted, *info.efforts))
    if effort and info.efforts and not efforts.keys() & {effort, sent_effort(effort)}:
        raise ChatGPTError(
            f"{info.model_id} has no reasoning effort '{effort}'.",
            f"Choose one of: {', '.join(map(printable, efforts))}.",
        )


def session_id(
    conversation: Any, instructions: str, items: list[dict[str, Any]], cache_key: str | None
) -> str:
    """Derive the UUID that routes a conversation's requests to one cache (P213).

    It is the same in every process. It is derived from `cache_key`, the user's option, otherwise
    from the conversation, otherwise from the beginning of the input.
    """
    if cache_key:
        name = f"prompt_cache_key {cache_key}"
    elif conversation is not None:
        name = conversation.id
    else:
        beginning = json.dumps([instructions, items[:1]])
        name = hashlib.sha256(beginning.encode()).hexdigest()
    return str(uuid.uuid5(config.SESSION_NAMESPACE, name))


def schema_of_chain(prompt: Any, conversation: Any) -> Any:
    """Return the schema that the answer to a prompt must fit; None if there is none.

    llm gives the schema only to the first prompt of a tool chain, but the chain's last answer must
    fit it, too.
    """
    earlier = list(conversation.responses) if conversation is not None else []
    while prompt.tool_results and not prompt.schema and earlier:
        prompt = earlier.pop().prompt
    return prompt.schema


def build_body(
    prompt: Any, info: ModelInfo, effort: str | None, schema: Any, without: frozenset[str]
) -> dict[str, Any]:
    """Build the request's JSON without the fields that RequestBuilder adds.

    `without` names the parts to leave out (optional_parts.py). P84 to P93 describe the fields.
    """
    options = prompt.options
    summary = options.reasoning_summary or "auto"
    if prompt.hide_reasoning or not info.summaries or optional_parts.SUMMARY in without:
        summary = "none"
    limit = options.max_output_tokens or options.max_tokens
    text_format: dict[str, Any] | None = None
    if schema:
        strict = optional_parts.STRICT not in without
        text_format = {"type": "json_schema", "name": "output", "schema": schema, "strict": strict}
    elif options.json_object:
        text_format = {"type": "json_object"}
    # `fast` is Codex CLI's name for `priority` (P92).
    tier = "priority" if options.service_tier == "fast" else options.service_tier
    body = {
        "model": info.slug,
        "store": False,
        "stream": True,
        "include": ["reasoning.encrypted_content"],
        "max_output_tokens": None if optional_parts.OUTPUT_LIMIT in without else limit,
        "reasoning": _non_empty(effort=effort, summary=None if summary == "none" else summary),
        "text": _non_empty(verbosity=options.verbosity, format=text_format),
        "service_tier": tier,
        "parallel_tool_calls": options.parallel_tool_calls,
    }
    return {name: value for name, value in body.items() if value not in (None, {})}


def _non_empty(**fields: Any) -> dict[str, Any]:
    """Return the fields that have a value."""
    return {name: value for name, value in fields.items() if value}
