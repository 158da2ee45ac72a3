"""Options, tools and schema -> the request body."""

from __future__ import annotations

import hashlib
import json
import uuid
from typing import Any

import llm

from llm_chatgpt import config
from llm_chatgpt.backend.catalogue import ModelInfo
from llm_chatgpt.backend.input import InputBuilder
from llm_chatgpt.backend.tools import SOURCES, build_tools

# Keywords that strict schemas surely allow.
_STRICT_KEYWORDS = frozenset(
    {
        "type",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "enum",
        "const",
        "anyOf",
        "$ref",
        "$defs",
        "title",
        "description",
    }
)


def schema_is_strict(schema: object, *, root: bool = True) -> bool:
    """Whether a JSON schema meets the strict rules (responses.md 3): every object is closed
    and requires all its properties, and no keyword is used that strict may not allow."""
    if not isinstance(schema, dict) or not _STRICT_KEYWORDS.issuperset(schema):
        return False
    if root and schema.get("type") != "object":
        return False
    properties = schema.get("properties", {})
    kinds = schema.get("type")
    if "properties" in schema or kinds == "object" or isinstance(kinds, list):
        if isinstance(kinds, list) and "object" not in kinds and not properties:
            pass
        elif (
            schema.get("additionalProperties") is not False
            or not isinstance(properties, dict)
            or set(schema.get("required") or ()) != set(properties)
        ):
            return False
    inner = [*properties.values(), *schema.get("$defs", {}).values(), *schema.get("anyOf", [])]
    if "items" in schema:
        inner.append(schema["items"])
    return all(schema_is_strict(part, root=False) for part in inner)


def session_id(conversation: Any, instructions: str, items: list[dict[str, Any]]) -> str:
    """The UUID that routes a conversation's requests to one cache (responses.md 12).

    The same in every later process; without a conversation, from how the input begins.
    """
    if conversation is not None:
        return str(uuid.uuid5(config.SESSION_NAMESPACE, conversation.id))
    beginning = json.dumps([instructions, items[:1]])
    return str(uuid.uuid5(config.SESSION_NAMESPACE, hashlib.sha256(beginning.encode()).hexdigest()))


def build_body(
    model: Any,
    prompt: llm.Prompt,
    builder: InputBuilder,
    info: ModelInfo,
    cache_key: str,
) -> dict[str, Any]:
    """The request's JSON, `input` last so that what stays the same comes first."""
    options: Any = prompt.options
    body: dict[str, Any] = {
        "model": model.slug,
        "instructions": builder.instructions,
        "store": False,
        "stream": True,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": options.prompt_cache_key or cache_key,
    }
    reasoning: dict[str, Any] = {}
    if options.reasoning_effort:
        # The official client sends its highest step under the older name.
        effort = options.reasoning_effort
        reasoning["effort"] = "max" if effort == "ultra" else effort
    summary = options.reasoning_summary or "auto"
    if summary != "none" and info.summaries and not prompt.hide_reasoning:
        reasoning["summary"] = summary
    if reasoning:
        body["reasoning"] = reasoning
    text: dict[str, Any] = {}
    if options.verbosity:
        text["verbosity"] = options.verbosity
    if prompt.schema:
        text["format"] = {
            "type": "json_schema",
            "name": "output",
            "schema": prompt.schema,
            "strict": schema_is_strict(prompt.schema),
        }
    elif options.json_object:
        text["format"] = {"type": "json_object"}
    if text:
        body["text"] = text
    if options.service_tier:
        tier = options.service_tier
        body["service_tier"] = "priority" if tier == "fast" else tier
    if options.parallel_tool_calls is not None:
        body["parallel_tool_calls"] = options.parallel_tool_calls
    if prompt.tools:
        body["tools"] = build_tools(model, prompt.tools)
        for tool in prompt.tools:
            if isinstance(tool, llm.ServerSideTool):
                tool.prepare_request(model, body)
        searches = any(spec.get("type") == "web_search" for spec in body["tools"])
        if searches and SOURCES not in body["include"]:
            body["include"].append(SOURCES)
    body["input"] = builder.items
    return body
