"""Options, schema and input -> the request's body. Nothing here knows llm."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Mapping
from typing import Any

from llm_chatgpt import config
from llm_chatgpt.backend.catalogue import ModelInfo
from llm_chatgpt.errors import ChatGPTError
from llm_chatgpt.text import printable
from llm_chatgpt.values import as_list

# Keywords that strict schemas are known to allow.
_STRICT_KEYWORDS = frozenset(
    (
        *("type", "properties", "required", "additionalProperties", "items", "enum", "const"),
        *("anyOf", "$ref", "$defs", "title", "description"),
    )
)


def schema_is_strict(schema: object, *, root: bool = True) -> bool:
    """Whether a JSON schema meets the service's strict rules (docs/protocol.md).

    Every object is closed and requires all its properties, and no keyword is used that
    strict may not allow.
    """
    if not isinstance(schema, dict) or not _STRICT_KEYWORDS.issuperset(schema):
        return False
    shapes = {"properties": dict, "$defs": dict, "anyOf": list, "required": list}
    if not all(isinstance(schema.get(name, shape()), shape) for name, shape in shapes.items()):
        return False
    kinds, properties = schema.get("type"), schema.get("properties", {})
    if root and kinds != "object":
        return False
    if "properties" in schema or kinds == "object" or "object" in as_list(kinds):
        required = sorted(map(str, schema.get("required", [])))
        if schema.get("additionalProperties") is not False or required != sorted(properties):
            return False
    inner = [*properties.values(), *schema.get("$defs", {}).values(), *schema.get("anyOf", [])]
    inner += [schema["items"]] if "items" in schema else []
    return all(schema_is_strict(part, root=False) for part in inner)


def check_options(info: ModelInfo, options: Mapping[str, Any], *, listed: bool) -> None:
    """Raise ChatGPTError for options that the model does not have.

    `listed` says that the service itself lists the model for this login: only then its
    efforts are known.
    """
    model_id, effort = f"chatgpt-{info.slug}", options.get("reasoning_effort")
    if options.get("image_detail") == "original" and not info.original_detail:
        raise ChatGPTError(f"{model_id} has no image_detail original. Choose auto, low or high.")
    efforts = info.efforts if listed else ()
    # "ultra" is sent as "max".
    sent = "max" if effort == "ultra" and "ultra" not in efforts else effort
    if efforts and sent not in (None, "none", *efforts):
        raise ChatGPTError(
            f"{model_id} has no reasoning effort '{effort}'. Choose one of: "
            f"{', '.join(map(printable, efforts))}."
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


def build_body(
    info: ModelInfo,
    options: Mapping[str, Any],
    *,
    instructions: str | None,
    session: str,
    schema: Any,
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
        "reasoning": _reasoning(info, options, summarize),
        "text": _text(options, schema),
        # fast is the official client's name for priority.
        "service_tier": "priority" if tier == "fast" else tier,
        "parallel_tool_calls": options.get("parallel_tool_calls"),
    }
    return {name: value for name, value in body.items() if value not in (None, {})}


def _reasoning(info: ModelInfo, options: Mapping[str, Any], summarize: bool) -> dict[str, Any]:
    reasoning = {}
    effort = options.get("reasoning_effort")
    if effort:
        # The official client sends its highest step under the older name.
        reasoning["effort"] = "max" if effort == "ultra" else effort
    summary = options.get("reasoning_summary") or "auto"
    if summary != "none" and info.summaries and summarize:
        reasoning["summary"] = summary
    return reasoning


def _text(options: Mapping[str, Any], schema: Any) -> dict[str, Any]:
    text: dict[str, Any] = {}
    if options.get("verbosity"):
        text["verbosity"] = options["verbosity"]
    if schema:
        described = {"name": "output", "schema": schema, "strict": schema_is_strict(schema)}
        text["format"] = {"type": "json_schema", **described}
    elif options.get("json_object"):
        text["format"] = {"type": "json_object"}
    return text
