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


SOURCES = "web_search_call.action.sources"
# responses.md 5: what web_search takes; llm's own class knows more than the backend.
_WEB_SEARCH_FIELDS = frozenset(
    {
        "type",
        "external_web_access",
        "indexed_web_access",
        "filters",
        "user_location",
        "search_context_size",
        "search_content_types",
    }
)


def build_tools(model: Any, tools: Iterable[Any]) -> list[dict[str, Any]]:
    """llm's tools as the request's (responses.md 5)."""
    specs = []
    for tool in tools:
        if isinstance(tool, llm.ServerSideTool):
            spec = tool.tool_spec(model)
            if spec.get("type") == "web_search" and type(tool) is not llm.ServerSideTool:
                refused = sorted(set(spec) - _WEB_SEARCH_FIELDS)
                refused += ["blocked_domains"] * ("blocked_domains" in spec.get("filters", {}))
                refused += ["include_results"] * bool(getattr(tool, "include_results", False))
                if refused:
                    raise ChatGPTError(
                        "Web search with a ChatGPT login does not take "
                        f"{', '.join(refused)}. Leave it out."
                    )
            specs.append(spec)
            continue
        schema = tool.input_schema or {}
        specs.append(
            {
                "type": "function",
                "name": tool.name,
                "description": tool.description or "",
                "strict": False,
                "parameters": {"type": "object", "properties": {}, **schema},
            }
        )
    return specs


def save_image(prompt: llm.Prompt, picture: bytes, suffix: str) -> str:
    """Write a drawn picture to a new file and return its path."""
    tool = next((tool for tool in prompt.tools if isinstance(tool, ImageGeneration)), None)
    chosen = pathlib.Path(tool.folder).expanduser() if tool and tool.folder else None
    folder = chosen or user_dir() / "chatgpt-images"
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    path = folder / f"{stamp}-{secrets.token_hex(4)}.{suffix}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture)
    except OSError as error:
        message = f"The picture could not be written to {path} ({os_reason(error)})."
        notice(f"Warning: {message}", mid_line=True)
        return message
    notice(f"Picture: {path}", mid_line=True)
    return str(path)
