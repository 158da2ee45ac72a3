"""Checks prompts and image requests as the service does for every account.

Every function returns nothing or raises Refusal, with the service's own words where
docs/protocol.md has them.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable
from typing import Any

from .replies import Refusal, error_answer, invalid, refuse
from .schemas import parameters_fault, strict_fault

PARAMETERS = {
    "model",
    "instructions",
    "input",
    "store",
    "stream",
    "include",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "reasoning",
    "text",
    "prompt_cache_key",
    "service_tier",
    "client_metadata",
    "stream_options",
    "context_management",
    "max_output_tokens",
}
# The kinds of call, each with the field that holds its arguments.
CALLS = {"function_call": "arguments", "custom_tool_call": "input"}
OTHER_ITEMS = {"image_generation_call", "configuration_update", "compaction", "compaction_trigger"}
OUTPUT_FIELDS = {
    "type",
    "call_id",
    "output",
    "id",
    "status",
    "internal_chat_message_metadata_passthrough",
}
WEB_SEARCH_FIELDS = {
    "type",
    "external_web_access",
    "indexed_web_access",
    "filters",
    "user_location",
    "search_context_size",
    "search_content_types",
}

IMAGE_MODELS = ("gpt-image-2", "gpt-image-2.5-flare", "gpt-image-2.5-sunburst")
IMAGE_OPTIONS = {"size", "quality", "background"}
FILE_FIELDS = {"type", "filename", "file_data", "file_url", "detail"}
# PDF, text, and Office documents.
FILE_KINDS = re.compile(
    r"data:(text/[\w.+-]+|application/("
    r"pdf|json|xml|rtf|msword|vnd\.ms-(excel|powerpoint)"
    r"|vnd\.openxmlformats-officedocument\.[\w.]+|vnd\.oasis\.opendocument\.\w+))"
)


def check_parameters(body: dict[str, Any], refused: set[str]) -> None:
    """`refused` are parameters that this account may not send, although others may."""
    if body.get("store") is not False:
        raise refuse(400, "Store must be set to false")
    if body.get("stream") is not True:
        raise refuse(400, "Stream must be set to true")
    for name in body:
        if name == "access_programs":
            message = "The access_programs parameter is not enabled for this organization."
            raise refuse(400, message)
        if name not in PARAMETERS - refused:
            raise refuse(400, f"Unsupported parameter: {name}")
    tier = body.get("service_tier")
    if tier not in (None, "priority", "default", "ultrafast"):
        raise refuse(400, f"Unsupported service_tier: {tier}")
    items = body.get("input")
    if not isinstance(items, list):
        raise refuse(400, "Input must be a list")
    check_not_empty(items)
    limit = body.get("max_output_tokens", 1)
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise invalid("invalid_value", f"Invalid 'max_output_tokens': {limit!r}.")
    if any(item.get("role") == "system" for item in items):
        raise refuse(400, "System messages are not allowed")


def check_not_empty(items: list[dict[str, Any]]) -> None:
    if not items:
        message = "Missing required parameter: 'input'."
        raise invalid("missing_required_parameter", message, param="input")


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
        fault = strict_fault(form["schema"]) if form.get("strict") else None
        if fault:
            raise invalid(
                "invalid_json_schema",
                f"Invalid schema for response_format '{form['name']}': {fault}",
                param="text.format.schema",
            )


def check_tools(tools: list[dict[str, Any]]) -> None:
    names = [tool["name"] for tool in tools if tool.get("name")]
    if len(set(names)) < len(names):
        raise invalid("tool_collision", "Tool names must be unique.", param="tools")
    for number, tool in enumerate(tools):
        kind = tool.get("type")
        if kind == "function":
            if not re.fullmatch(r"[a-zA-Z0-9_-]+", tool.get("name") or ""):
                raise invalid("invalid_value", "Invalid 'tools[0].name'")
            if not isinstance(tool.get("parameters"), dict):
                raise invalid("missing_required_parameter", "parameters")
            fault = parameters_fault(tool["parameters"])
            if fault:
                raise invalid(
                    "invalid_function_parameters",
                    f"Invalid schema for function '{tool['name']}': {fault}",
                    param=f"tools[{number}].parameters",
                )
        elif kind == "web_search":
            extra = sorted(set(tool) - WEB_SEARCH_FIELDS)
            extra += sorted(set(tool.get("filters") or {}) - {"allowed_domains"})
            if extra:
                raise invalid("unknown_parameter", f"Unknown: {extra[0]}")
        elif kind == "namespace":
            if not tool.get("name") or not isinstance(tool.get("tools"), list):
                raise invalid("missing_required_parameter", "tools")
            check_tools(tool["tools"])
        elif kind == "image_generation":
            check_image_options(tool, {"type", "model", "output_format", *IMAGE_OPTIONS})
        elif kind not in ("custom", "tool_search"):
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
            check_search(item, f"input[{number}]")
        elif kind == "additional_tools" and item.get("role") == "developer":
            check_tools(item.get("tools") or [])
        elif kind == "compaction" and not isinstance(item.get("encrypted_content"), str):
            raise invalid(None, f"Missing required parameter: 'input[{number}].encrypted_content'")
        elif kind == "compaction_trigger" and number < len(items) - 1:
            # A guess: clients send it as the last item.
            raise invalid("invalid_value", f"input[{number}] must be the last item.")
        elif kind not in OTHER_ITEMS:
            raise invalid("invalid_value", f"Invalid input[{number}].type")
    if calls:
        call_id, kind = calls[0]
        message = f"No tool output found for {kind.replace('_', ' ')} {call_id}."
        raise invalid(None, message, param="input")


def check_search(item: dict[str, Any], path: str) -> None:
    action = item.get("action")
    if not isinstance(action, dict):
        message = f"Missing required parameter: '{path}.action'."
        raise invalid("missing_required_parameter", message, param=f"{path}.action")
    kinds = ("search", "open_page", "find_in_page")
    if action.get("type") not in kinds:
        raise invalid_choice(f"{path}.action.type", action.get("type"), kinds)
    if "sources" in action:
        message = f"Unknown parameter: '{path}.action.sources'."
        raise invalid("unknown_parameter", message, param=f"{path}.action.sources")


def check_search_ids(items: list[dict[str, Any]]) -> None:
    """Refuse web searches without ids."""
    for number, item in enumerate(items):
        if item.get("type") == "web_search_call" and not item.get("id"):
            path = f"input[{number}].id"
            message = f"Missing required parameter: '{path}'."
            raise invalid("missing_required_parameter", message, param=path)


def refuse_searches(items: list[dict[str, Any]]) -> None:
    """Refuse all web searches of earlier answers."""
    for number, item in enumerate(items):
        if item.get("type") == "web_search_call":
            raise invalid_choice(f"input[{number}]", "web_search_call", ("message", "reasoning"))


def check_image_options(options: dict[str, Any], fields: set[str]) -> None:
    """Check the options of an image tool or request; `fields` lists those that are allowed."""
    for name in options:
        if name not in fields:
            raise invalid("unknown_parameter", f"Unknown parameter: '{name}'.", param=name)
    model = options.get("model", IMAGE_MODELS[0])
    newer = ("xhigh", "max") if model in IMAGE_MODELS[1:] else ()
    allowed = {
        "model": IMAGE_MODELS,
        "quality": ("low", "medium", "high", "auto", *newer),
        "background": ("opaque", "transparent"),
        "output_format": ("png", "jpeg", "webp"),
    }
    for name, values in allowed.items():
        if name in options and options[name] not in values:
            raise invalid_choice(name, options[name], values)
    if "size" in options and options["size"] != "auto" and not is_size(options["size"]):
        raise invalid("invalid_value", f"Invalid size '{options['size']}'.", param="size")


def is_size(size: Any) -> bool:
    """Whether an image may have this size, such as "1024x1536"."""
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", str(size)):
        return False
    small, large = sorted(map(int, size.split("x")))
    return small % 16 == large % 16 == 0 and large <= min(3840, 3 * small)


def invalid_choice(param: str, value: Any, values: Iterable[str]) -> Refusal:
    listed = ", ".join(f"'{value}'" for value in values)
    message = f"Invalid value: '{value}'. Supported values are: {listed}."
    return invalid("invalid_value", message, param=param)


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
    if not isinstance(item.get("phase", ""), str):
        raise invalid("invalid_type", f"Invalid type for 'input[{number}].phase'")
    if isinstance(content, str):
        return
    if not isinstance(content, list) or not content:
        raise invalid(None, f"Missing required parameter: 'input[{number}].content'")
    for place, part in enumerate(content):
        if part.get("type") == "input_file" and role == "user":
            check_file(part, f"input[{number}].content[{place}]")
        elif not is_part(part, role):
            kind = part.get("type")
            raise invalid("invalid_value", f"Invalid value: '{kind}' in input[{number}].content")


def check_phases(items: list[dict[str, Any]], sent: list[tuple[str, str | None]]) -> None:
    """Check that the messages `sent` in this session come back with their text and phase.

    Other messages must have no phase.
    """
    texts = [text for text, _ in sent]
    messages = [(message_text(i), i.get("phase")) for i in items if i.get("role") == "assistant"]
    sent_back = [pair for pair in messages if pair[0] in texts or pair[1] is not None]
    if sent_back != sent:
        raise invalid(
            "invalid_value", f"Sent back with their phases: {sent_back}, not with: {sent}"
        )


def message_text(item: dict[str, Any]) -> str:
    content = item["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def is_part(part: dict[str, Any], role: str) -> bool:
    """Check whether a message of this role may contain the part."""
    kind = part.get("type")
    if kind == "input_image" and role != "assistant":
        url = part.get("image_url") or ""
        address = r"data:image/(png|jpeg|webp|gif);base64,[A-Za-z0-9+/]|https://"
        fine = part.get("detail") in (None, "auto", "low", "high", "original")
        return fine and bool(re.match(address, url))
    kinds = ("output_text", "refusal") if role == "assistant" else ("input_text",)
    return kind in kinds and isinstance(part.get("text"), str)


def check_addresses(items: list[dict[str, Any]], dead: set[str]) -> None:
    """Check whether every image can be downloaded from its address."""
    for item in items:
        parts = item.get("content") or item.get("output")
        for part in parts if isinstance(parts, list) else []:
            if part.get("image_url") in dead:
                message = f"Error while downloading {part['image_url']}."
                raise invalid("invalid_value", message, param="url")


def refuse_files(items: list[dict[str, Any]]) -> None:
    """Refuse the first file in messages and tool outputs."""
    for number, item in enumerate(items):
        parts = item.get("content") or item.get("output")
        for place, part in enumerate(parts if isinstance(parts, list) else []):
            if part.get("type") == "input_file":
                path = f"input[{number}].content[{place}].type"
                raise invalid_choice(path, "input_file", ("input_text", "input_image"))


def check_file(part: dict[str, Any], path: str) -> None:
    for name in part:
        if name not in FILE_FIELDS:
            raise invalid("unknown_parameter", f"Unknown parameter: '{path}.{name}'.")
    if part.get("detail") not in (None, "auto", "low", "high"):
        raise invalid_choice(f"{path}.detail", part["detail"], ("auto", "low", "high"))
    if "file_url" in part:
        if "filename" in part or "file_data" in part:
            raise invalid(
                "mutually_exclusive_parameters",
                f"Mutually exclusive parameters: '{path}'. Ensure you are only providing one "
                "of: 'file_url' or 'filename'.",
                param=path,
            )
        if not str(part["file_url"]).startswith("https://"):
            raise invalid("invalid_value", f"Invalid value: '{path}.file_url'")
        return
    # This refusal was seen for tool outputs only; clients always send a name.
    if not part.get("filename") or not isinstance(part["filename"], str):
        raise invalid("missing_required_parameter", f"Missing required parameter: '{path}'")
    if not is_file_data(str(part.get("file_data"))):
        raise invalid(
            "invalid_value",
            f"Invalid file data: '{path}.file_data'. Expected a base64-encoded data URL.",
            param=f"{path}.file_data",
        )


def is_file_data(url: str) -> bool:
    """Check whether a data URL has a file of a type that models can read."""
    kind, _, data = url.partition(";base64,")
    try:
        return bool(FILE_KINDS.fullmatch(kind) and base64.b64decode(data, validate=True))
    except ValueError:
        return False


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
