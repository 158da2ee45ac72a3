"""llm's tools -> the request's; ImageGeneration."""

from __future__ import annotations

import datetime
import pathlib
import secrets
from collections.abc import Iterable
from typing import Any

import llm

from llm_chatgpt.errors import ChatGPTError
from llm_chatgpt.files import os_reason, user_dir
from llm_chatgpt.text import notice


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
            raise ValueError("output_format must be one of: png, jpeg or webp")
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


def add_tools(body: dict[str, Any], model: Any, tools: Iterable[Any]) -> None:
    """Write llm's tools into the request's body. Raises ChatGPTError."""
    specs = [
        _server_side(tool, model) if isinstance(tool, llm.ServerSideTool) else _function(tool)
        for tool in tools
    ]
    if not specs:
        return
    body["tools"] = specs
    for tool in tools:
        if isinstance(tool, llm.ServerSideTool):
            tool.prepare_request(model, body)
    searches = any(spec.get("type") == "web_search" for spec in specs)
    if searches and _SOURCES not in body["include"]:
        body["include"].append(_SOURCES)


def _function(tool: llm.Tool) -> dict[str, Any]:
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description or "",
        "strict": False,
        "parameters": {"type": "object", "properties": {}, **(tool.input_schema or {})},
    }


def _server_side(tool: llm.ServerSideTool, model: Any) -> dict[str, Any]:
    spec: dict[str, Any] = tool.tool_spec(model)
    # A raw specification is the user's own affair.
    if spec.get("type") == "web_search" and type(tool) is not llm.ServerSideTool:
        refused = sorted(set(spec) - _WEB_SEARCH_FIELDS)
        refused += ["blocked_domains"] * ("blocked_domains" in spec.get("filters", {}))
        refused += ["include_results"] * bool(getattr(tool, "include_results", False))
        if refused:
            names = ", ".join(refused)
            raise ChatGPTError(f"Web search with a ChatGPT login does not take {names}. Omit it.")
    return spec


def save_image(prompt: llm.Prompt, picture: bytes, suffix: str) -> str:
    """Write a drawn picture to a new file and return its path, or why there is none."""
    tool = next((tool for tool in prompt.tools if isinstance(tool, ImageGeneration)), None)
    chosen = pathlib.Path(tool.folder).expanduser() if tool and tool.folder else None
    folder = chosen or user_dir() / "chatgpt-images"
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    path = folder / f"{stamp}-{secrets.token_hex(4)}.{suffix}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture)
    except OSError as error:
        message = f"Could not write the picture to {path} ({os_reason(error)})."
        notice(f"Warning: {message}", mid_line=True)
        return message
    notice(f"Picture: {path}", mid_line=True)
    return str(path)
