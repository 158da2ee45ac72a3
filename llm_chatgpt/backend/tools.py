"""llm's tools -> the request's; ImageGeneration."""

from __future__ import annotations

import datetime
import pathlib
import secrets
from collections.abc import Iterable
from typing import Any

import llm

from llm_chatgpt.backend.input import tool_name
from llm_chatgpt.errors import ChatGPTError
from llm_chatgpt.files import os_reason, user_dir
from llm_chatgpt.login.routes import Route
from llm_chatgpt.text import notice, printable
from llm_chatgpt.values import as_mapping


class ImageGeneration(llm.ServerSideTool):
    """Let the model draw. The picture is written to a file, whose path is the result.

    ``folder`` is where files go (default: ``chatgpt-images`` in llm's user directory),
    ``output_format`` is png, jpeg or webp.
    """

    name = "image_generation"
    plugin = "llm-chatgpt-oauth"

    def __init__(self, folder: str | None = None, output_format: str | None = None):
        super().__init__()
        if output_format not in (None, "png", "jpeg", "webp"):
            raise ChatGPTError("output_format must be png, jpeg or webp.")
        self.folder = folder
        self.output_format = output_format

    def tool_spec(self, model: Any) -> dict[str, Any]:
        spec = {"type": "image_generation"}
        if self.output_format:
            spec["output_format"] = self.output_format
        return spec


_SOURCES = "web_search_call.action.sources"
# What the service's web_search takes (docs/protocol.md); llm's own class has more.
_WEB_SEARCH_FIELDS = frozenset(
    (
        *("type", "external_web_access", "indexed_web_access", "filters", "user_location"),
        *("search_context_size", "search_content_types"),
    )
)


def add_tools(body: dict[str, Any], model: Any, tools: Iterable[Any]) -> dict[str, str]:
    """Write llm's tools into the request's body. Raises ChatGPTError.

    Returns llm's names of its tools, by the names that the service is told.
    """
    specs: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    for tool in tools:
        if isinstance(tool, llm.ServerSideTool):
            specs.append(_server_side(tool, model))
            continue
        specs.append(_function(tool))
        other = names.setdefault(specs[-1]["name"], tool.name)
        if other != tool.name:
            raise ChatGPTError(
                f"The service cannot tell the tools {printable(other, 100)} and "
                f"{printable(tool.name, 100)} apart; it takes letters, digits, _ and - only. "
                "Rename one of them."
            )
    if specs:
        body["tools"] = specs
    for tool in tools:
        if isinstance(tool, llm.ServerSideTool):
            tool.prepare_request(model, body)
    searches = any(spec.get("type") == "web_search" for spec in specs)
    if searches and _SOURCES not in body["include"]:
        body["include"].append(_SOURCES)
    return names


def place_tools(body: dict[str, Any], items: list[dict[str, Any]], route: Route) -> None:
    """Move functions to the front of the input where the route wants them there.

    Raises ChatGPTError for a tool that the route refuses.
    """
    tools = body.pop("tools", [])
    for kind in (str(tool.get("type")) for tool in tools):
        if route.refuses_tool(kind):
            raise ChatGPTError(
                f"OpenAI's official sign-in does not support {printable(kind, 60)}. Leave the "
                "tool out, or use the Codex login ('llm chatgpt login')."
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
        "parameters": {"type": "object", "properties": {}, **(tool.input_schema or {})},
    }


def _server_side(tool: llm.ServerSideTool, model: Any) -> dict[str, Any]:
    spec: dict[str, Any] = tool.tool_spec(model)
    # A raw specification is the user's own affair.
    if spec.get("type") == "web_search" and type(tool) is not llm.ServerSideTool:
        refused = sorted(set(spec) - _WEB_SEARCH_FIELDS)
        refused += ["blocked_domains"] * ("blocked_domains" in as_mapping(spec.get("filters")))
        refused += ["include_results"] * bool(getattr(tool, "include_results", False))
        if refused:
            names = ", ".join(refused)
            raise ChatGPTError(f"Web search with a ChatGPT login does not take {names}. Omit it.")
    return spec


def save_image(prompt: llm.Prompt, picture: bytes, suffix: str) -> str:
    """Write a drawn picture to a new file and return its path, or why there is none.

    The default folder is used when the one that the user chose cannot be written to.
    """
    folders = [tool.folder for tool in prompt.tools if isinstance(tool, ImageGeneration)]
    name = f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(4)}.{suffix}"
    problem = ""
    for folder in dict.fromkeys((*folders, None)):
        try:
            place = pathlib.Path(folder).expanduser() if folder else user_dir() / "chatgpt-images"
            place.mkdir(parents=True, exist_ok=True)
            path = place / name
            path.write_bytes(picture)
        # An unknown ~user is a RuntimeError, a path with a null byte a ValueError.
        except (OSError, RuntimeError, ValueError) as error:
            reason = os_reason(error) if isinstance(error, OSError) else str(error)
            where = printable(folder or "chatgpt-images in llm's folder", 200)
            problem = f"could not save the picture in {where} ({printable(reason, 200)})"
            what_now = "; using the default folder" if folder else ""
            notice(f"Warning: {problem}{what_now}.", mid_line=True)
        else:
            notice(f"Picture: {path}", mid_line=True)
            return str(path)
    return problem
