"""What the service refuses about the body of a prompt, whoever sends it.

Every function returns nothing or raises Refusal, with the service's own words where
docs/protocol.md has them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from .replies import Refusal, error_answer, invalid, refuse

PARAMETERS = {
    *("model", "instructions", "input", "store", "stream", "include", "tools", "tool_choice"),
    *("parallel_tool_calls", "reasoning", "text", "prompt_cache_key", "service_tier"),
    *("client_metadata", "stream_options", "context_management"),
}
NEED_INSTRUCTIONS = ("gpt-5.2-codex", "gpt-5.4", "gpt-5.5")
# The kinds of call, with the field that holds what the tool is given.
CALLS = {"function_call": "arguments", "custom_tool_call": "input"}
OUTPUT_FIELDS = {
    *("type", "call_id", "output", "id", "status", "internal_chat_message_metadata_passthrough"),
}
WEB_SEARCH_FIELDS = {
    *("type", "external_web_access", "indexed_web_access", "filters", "user_location"),
    *("search_context_size", "search_content_types"),
}


def check_parameters(body: dict[str, Any]) -> None:
    if body.get("store") is not False:
        raise refuse(400, "Store must be set to false")
    if body.get("stream") is not True:
        raise refuse(400, "Stream must be set to true")
    for name in body:
        if name not in PARAMETERS:
            raise refuse(400, f"Unsupported parameter: {name}")
    tier = body.get("service_tier")
    if tier not in (None, "priority", "default", "ultrafast"):
        raise refuse(400, f"Unsupported service_tier: {tier}")
    items = body.get("input")
    if not isinstance(items, list):
        raise refuse(400, "Input must be a list")
    # Codex CLI sends its instructions as the first developer message instead.
    begins = items[0].get("role") if items else None
    needed = body.get("model") in NEED_INSTRUCTIONS and begins != "developer"
    if needed and not body.get("instructions"):
        raise refuse(400, "Instructions are required")
    if any(item.get("role") == "system" for item in items):
        raise refuse(400, "System messages are not allowed")


def check_format(body: dict[str, Any]) -> None:
    for name in body.get("include") or []:
        if name not in ("reasoning.encrypted_content", "web_search_call.action.sources"):
            raise invalid("invalid_value", f"Invalid include: {name}")
    text = body.get("text") or {}
    if text.get("verbosity") not in (None, "low", "medium", "high"):
        raise invalid("invalid_value", "Invalid verbosity")
    form = text.get("format") or {}
    if form.get("type") == "json_schema":
        if not form.get("name") or not isinstance(form.get("schema"), dict):
            raise invalid("invalid_json_schema", "Schema is missing")
        if form.get("strict") and not is_strict(form["schema"]):
            raise invalid(
                "invalid_json_schema",
                "Invalid schema for response_format 'output': In context=(), "
                "'additionalProperties' is required to be supplied and to be false.",
                param="text.format.schema",
            )


def is_strict(schema: Any) -> bool:
    """Whether the schema may have `strict`: objects closed, every property required."""
    if not isinstance(schema, dict):
        return True
    if schema.get("type") == "object" or "properties" in schema:
        properties = schema.get("properties", {})
        if schema.get("additionalProperties") is not False:
            return False
        if set(schema.get("required", [])) != set(properties):
            return False
    values = [*schema.get("properties", {}).values(), *schema.get("$defs", {}).values()]
    values += [schema.get("items"), *schema.get("anyOf", [])]
    return all(is_strict(value) for value in values)


def check_tools(tools: list[dict[str, Any]]) -> None:
    for tool in tools:
        kind = tool.get("type")
        if kind == "function":
            if not re.fullmatch(r"[a-zA-Z0-9_-]+", tool.get("name") or ""):
                raise invalid("invalid_value", "Invalid 'tools[0].name'")
            if not isinstance(tool.get("parameters"), dict) or "strict" not in tool:
                raise invalid("missing_required_parameter", "parameters")
        elif kind == "web_search":
            extra = sorted(set(tool) - WEB_SEARCH_FIELDS)
            extra += sorted(set(tool.get("filters") or {}) - {"allowed_domains"})
            if extra:
                raise invalid("unknown_parameter", f"Unknown: {extra[0]}")
        elif kind == "namespace":
            if not tool.get("name") or not isinstance(tool.get("tools"), list):
                raise invalid("missing_required_parameter", "tools")
            check_tools(tool["tools"])
        elif kind not in ("image_generation", "custom", "tool_search"):
            raise invalid("invalid_value", f"Invalid tool type {kind}")


def check_items(items: list[dict[str, Any]], readable: Callable[[Any], bool]) -> None:
    """`readable` tells which encrypted reasoning this account may send back."""
    # Calls that have no output yet, by their id and kind.
    calls: list[tuple[str, str]] = []
    for number, item in enumerate(items):
        kind = item.get("type", "message")
        if kind == "message":
            check_message(item, number)
        elif kind in CALLS:
            check_call(item, number)
            calls.append((item["call_id"], kind))
        elif kind.removesuffix("_output") in CALLS:
            check_output(item, number, calls)
            calls.remove((item["call_id"], kind.removesuffix("_output")))
        elif kind == "reasoning":
            check_reasoning(item, readable)
        elif kind == "web_search_call":
            action = item.get("action") or {}
            if action.get("type") not in ("search", "open_page", "find_in_page"):
                raise invalid("invalid_value", f"input[{number}].action")
            if "sources" in action:
                raise invalid("unknown_parameter", "action.sources")
        elif kind == "additional_tools" and number == 0 and item.get("role") == "developer":
            check_tools(item.get("tools") or [])
        elif kind not in ("image_generation_call", "configuration_update"):
            raise invalid("invalid_value", f"Invalid input[{number}].type")
    if calls:
        call_id, kind = calls[0]
        message = f"No tool output found for {kind.replace('_', ' ')} {call_id}."
        raise invalid(None, message, param="input")


def check_call(item: dict[str, Any], number: int) -> None:
    if not isinstance(item.get(CALLS[item["type"]]), str) or not item.get("name"):
        raise invalid("invalid_value", f"Invalid input[{number}]")
    if not item.get("call_id") or len(item["call_id"]) > 64:
        raise invalid("string_above_max_length", f"input[{number}].call_id")


def check_output(item: dict[str, Any], number: int, calls: list[tuple[str, str]]) -> None:
    call_id, kind = item.get("call_id"), item["type"].removesuffix("_output")
    output = item.get("output")
    if not isinstance(output, (str, list)) or set(item) - OUTPUT_FIELDS:
        raise invalid("invalid_value", f"Invalid input[{number}]")
    if (call_id, kind) not in calls:
        name = kind.replace("_", " ")
        message = f"No tool call found for {name} output with call_id {call_id}."
        raise invalid(None, message, param="input")
    if isinstance(output, list):
        check_message({"role": "user", "content": output}, number)


def check_message(item: dict[str, Any], number: int) -> None:
    role, content = item.get("role"), item.get("content")
    if role not in ("user", "assistant", "developer"):
        raise invalid("invalid_value", f"Invalid input[{number}].role")
    if isinstance(content, str):
        return
    if not isinstance(content, list) or not content:
        raise invalid(None, f"Missing required parameter: 'input[{number}].content'")
    for part in content:
        if not is_part(part, role):
            kind = part.get("type")
            raise invalid("invalid_value", f"Invalid value: '{kind}' in input[{number}].content")


def is_part(part: dict[str, Any], role: str) -> bool:
    """Whether a message of this role may contain the part."""
    kind = part.get("type")
    if kind == "input_image" and role != "assistant":
        url = part.get("image_url") or ""
        picture = r"data:image/(png|jpeg|webp|gif);base64,[A-Za-z0-9+/]|https://"
        fine = part.get("detail") in (None, "auto", "low", "high", "original")
        return fine and bool(re.match(picture, url))
    kinds = ("output_text", "refusal") if role == "assistant" else ("input_text",)
    return kind in kinds and isinstance(part.get("text"), str)


def check_reasoning(item: dict[str, Any], readable: Callable[[Any], bool]) -> None:
    content = item.get("encrypted_content")
    if not content and item.get("id"):
        raise Refusal(
            error_answer(
                404,
                None,
                f"Item with id '{item['id']}' not found. Items are not persisted when 'store' is "
                "set to false. Try again with `store` set to true, or remove this item from your "
                "input.",
                param="input",
            )
        )
    if not readable(content):
        raise invalid(
            "invalid_encrypted_content",
            "The encrypted content could not be verified. Reason: Encrypted content could "
            "not be decrypted or parsed.",
        )
    if not isinstance(item.get("summary"), list):
        raise invalid(None, "Missing required parameter: 'summary'")
