"""Translate llm's tools to the request's `tools`; the tool ImageGeneration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import llm

from llm_chatgpt.backend.images import image_file_name, write_image
from llm_chatgpt.backend.input import tool_name
from llm_chatgpt.backend.schemas import tool_parameters
from llm_chatgpt.errors import ChatGPTError
from llm_chatgpt.login.routes import Route
from llm_chatgpt.text import printable
from llm_chatgpt.values import as_mapping


class ImageGeneration(llm.ServerSideTool):
    """Let the model create images. Each is written to a file, whose path is the result.

    Settings: folder for the files (default: chatgpt-images in llm's user directory) and
    output_format (png, jpeg or webp). The service may ignore size ("1024x1536"), quality (low,
    medium, high) and background (opaque, transparent).
    """

    name = "image_generation"
    plugin = "llm-chatgpt-oauth"

    def __init__(
        self,
        folder: str | None = None,
        output_format: str | None = None,
        size: str | None = None,
        quality: str | None = None,
        background: str | None = None,
    ):
        super().__init__()
        if output_format not in (None, "png", "jpeg", "webp"):
            raise ChatGPTError("output_format must be png, jpeg or webp.")
        self.folder = folder
        self.options = {
            "output_format": output_format,
            "size": size,
            "quality": quality,
            "background": background,
        }

    def tool_spec(self, model: Any) -> dict[str, Any]:
        options = {name: value for name, value in self.options.items() if value is not None}
        return {"type": "image_generation", **options}


_SOURCES = "web_search_call.action.sources"
# The settings of the service's web_search (docs/protocol.md, "Tools"); llm's class has more.
_WEB_SEARCH_FIELDS = {"type", "external_web_access", "indexed_web_access", "filters"}
_WEB_SEARCH_FIELDS |= {"user_location", "search_context_size", "search_content_types"}


def add_tools(body: dict[str, Any], model: Any, tools: Sequence[Any]) -> dict[str, str]:
    """Write llm's tools into the request's body. Raises ChatGPTError.

    Returns llm's names of the tools, by their names in the request.
    """
    specs: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    # Of several tools with one name, llm runs the last.
    functions = {tool.name: tool for tool in tools if not isinstance(tool, llm.ServerSideTool)}
    for tool in tools:
        if isinstance(tool, llm.ServerSideTool):
            spec = _server_side(tool, model)
        else:
            spec = _function(functions[tool.name])
            other = names.setdefault(spec["name"], tool.name)
            if other != tool.name:
                raise ChatGPTError(
                    f"The service cannot tell the tools {printable(other, 100)} and "
                    f"{printable(tool.name, 100)} apart; it takes letters, digits, _ and - only.",
                    "Rename one of them.",
                )
        if spec not in specs:
            specs.append(spec)
    if specs:
        body["tools"] = specs
    for tool in tools:
        if isinstance(tool, llm.ServerSideTool):
            tool.prepare_request(model, body)
    searches = any(spec.get("type") == "web_search" for spec in specs)
    if searches and _SOURCES not in body["include"]:
        body["include"].append(_SOURCES)
    return names


def chosen_tools(prompt: llm.Prompt, model: Any) -> list[Any]:
    """Return the prompt's tools, with web search if the option asks for it."""
    from llm.default_plugins.openai_models import WebSearch

    hosted = (tool for tool in prompt.tools if isinstance(tool, llm.ServerSideTool))
    searches = any(tool.tool_spec(model).get("type") == "web_search" for tool in hosted)
    missing = dict(prompt.options).get("web_search") and not searches
    return [*prompt.tools, *([WebSearch()] if missing else [])]


def place_tools(body: dict[str, Any], items: list[dict[str, Any]], route: Route) -> None:
    """Move functions to the front of the input where the route wants them there.

    Raises ChatGPTError for a tool that the route refuses.
    """
    tools = body.pop("tools", [])
    for kind in (str(tool.get("type")) for tool in tools):
        if route.refuses_tool(kind):
            raise ChatGPTError(
                f"OpenAI's official sign-in does not support {printable(kind, 60)}.",
                "Leave the tool out, or use the Codex login ('llm chatgpt login').",
            )
    if route.tools_in_input:
        functions = [tool for tool in tools if tool["type"] == "function"]
        tools = [tool for tool in tools if tool["type"] != "function"]
        if functions:
            moved = {"type": "additional_tools", "role": "developer", "tools": functions}
            items.insert(0, moved)
    if tools:
        body["tools"] = tools


def _function(tool: llm.Tool) -> dict[str, Any]:
    return {
        "type": "function",
        "name": tool_name(tool.name),
        "description": tool.description or "",
        "strict": False,
        "parameters": tool_parameters(tool.input_schema, printable(tool.name, 100)),
    }


def _server_side(tool: llm.ServerSideTool, model: Any) -> dict[str, Any]:
    spec: dict[str, Any] = tool.tool_spec(model)
    # A raw specification is sent unchecked.
    if spec.get("type") == "web_search" and type(tool) is not llm.ServerSideTool:
        refused = sorted(set(spec) - _WEB_SEARCH_FIELDS)
        refused += ["blocked_domains"] * ("blocked_domains" in as_mapping(spec.get("filters")))
        refused += ["include_results"] * bool(getattr(tool, "include_results", False))
        if refused:
            names = ", ".join(refused)
            it = "it" if len(refused) == 1 else "them"
            raise ChatGPTError(
                f"Web search with a ChatGPT login does not take {names}.", f"Leave {it} out."
            )
    return spec


def save_image(prompt: llm.Prompt, note: Callable[[str], None], picture: bytes, suffix: str) -> str:
    """Write a generated picture to a new file. Returns its path, or why there is none.

    Tells the user as well, through `note`.
    """
    tools = [tool for tool in prompt.tools if isinstance(tool, ImageGeneration)]
    folder = next((tool.folder for tool in tools if tool.folder), None)
    chosen = f"{folder}/{image_file_name(suffix)}" if folder else None
    try:
        path = write_image(picture, suffix, chosen)
    except ChatGPTError as error:
        note(f"Warning: {error.message}")
        return error.message
    note(f"Picture: {path}")
    return path
