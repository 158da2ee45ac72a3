"""Options, schema and input -> the request's body. Nothing here imports llm."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Mapping
from typing import Any

from llm_chatgpt import config
from llm_chatgpt.backend.catalogue import ModelInfo
from llm_chatgpt.backend.schemas import check_json
from llm_chatgpt.errors import ChatGPTError
from llm_chatgpt.text import printable


def check_options(info: ModelInfo, options: Mapping[str, Any], *, listed: bool) -> None:
    """Raise ChatGPTError for options that the model does not have.

    `listed` says that the service lists the model for this login: only then are its efforts
    known.
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
            f"Choose one of: {', '.join(map(printable, efforts))}.",
        )


def takes_system_message(slug: str) -> bool:
    """Whether a model caches a system prompt only as a message, not as `instructions`.

    So do the models after gpt-5.5; the older ones refuse a request without `instructions`
    (docs/protocol.md).
    """
    version = re.match(r"gpt-(\d+)(?:\.(\d+))?", slug)
    return version is None or (int(version[1]), int(version[2] or 0)) > (5, 5)


def output_limit(options: Mapping[str, Any]) -> tuple[str, int] | None:
    """The option that limits the answer, by the name that the user gave it; None without."""
    given = ((name, options.get(name)) for name in ("max_output_tokens", "max_tokens"))
    return next(((name, value) for name, value in given if value is not None), None)


def session_id(
    conversation: Any, instructions: str, items: list[dict[str, Any]], key: str | None
) -> str:
    """The UUID that routes a conversation's requests to one cache (docs/protocol.md).

    It is the same in every process. It comes from the user's `key` if there is one, else
    from the conversation, else from how the input begins.
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
    """The schema for the answer to an llm prompt; None if there is none.

    llm gives only the first prompt of a chain of tools the schema that the chain's last
    answer must fit.
    """
    earlier = list(conversation.responses) if conversation is not None else []
    while prompt.tool_results and not prompt.schema and earlier:
        prompt = earlier.pop().prompt
    return prompt.schema


def sent_effort(options: Mapping[str, Any]) -> str | None:
    """The effort in the service's words; the official client sends its highest step as "max"."""
    effort: str | None = options.get("reasoning_effort")
    return "max" if effort == "ultra" else effort


def build_body(
    info: ModelInfo,
    options: Mapping[str, Any],
    *,
    instructions: str | None,
    session: str,
    schema: Any,
    strict: bool,
    effort: str | None,
    summarize: bool,
    limit: int | None,
) -> dict[str, Any]:
    """The request's JSON without `tools` and `input`.

    The caller adds `input` last, so that what stays the same comes first.
    """
    tier = options.get("service_tier")
    body: dict[str, Any] = {
        "model": info.slug,
        "instructions": instructions,
        "store": False,
        "stream": True,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": session,
        "max_output_tokens": limit,
        "reasoning": _reasoning(info, options, effort, summarize),
        "text": _text(options, schema, strict),
        # fast is the official client's name for priority.
        "service_tier": "priority" if tier == "fast" else tier,
        "parallel_tool_calls": options.get("parallel_tool_calls"),
    }
    return {name: value for name, value in body.items() if value not in (None, {})}


def _reasoning(
    info: ModelInfo, options: Mapping[str, Any], effort: str | None, summarize: bool
) -> dict[str, Any]:
    reasoning = {"effort": effort} if effort else {}
    summary = options.get("reasoning_summary") or "auto"
    if summary != "none" and info.summaries and summarize:
        reasoning["summary"] = summary
    return reasoning


def _text(options: Mapping[str, Any], schema: Any, strict: bool) -> dict[str, Any]:
    text: dict[str, Any] = {}
    if options.get("verbosity"):
        text["verbosity"] = options["verbosity"]
    if schema:
        check_json(schema, "The schema")
        described = {"name": "output", "schema": schema, "strict": strict}
        text["format"] = {"type": "json_schema", **described}
    elif options.get("json_object"):
        text["format"] = {"type": "json_object"}
    return text
