"""Translate llm's tools into the request's `tools`, and define the tool ImageGeneration.

docs/protocol.md describes tools in P127 to P130 and P256 to P260.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llm

from llm_chatgpt.backend.images import image_file_name, write_image
from llm_chatgpt.backend.input import tool_name
from llm_chatgpt.backend.schemas import tool_parameters
from llm_chatgpt.errors import ChatGPTError
from llm_chatgpt.login.routes import Route
from llm_chatgpt.text import printable


class ImageGeneration(llm.ServerSideTool):
    """Let the model create images. Each is written to a file, whose path is the result.

    Settings: folder for the files (default: chatgpt-images in llm's folder) and output_format
    (png, jpeg or webp). The service may ignore size ("1024x1536"), quality (low, medium, high) and
    background (opaque, transparent).
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
        return {"type": self.name, **options}


# Value of `include` that requests the pages found by a search (P88).
_SOURCES = "web_search_call.action.sources"


def add_tools(
    body: dict[str, Any], items: list[dict[str, Any]], prompt: Any, model: Any, route: Route
) -> dict[str, str]:
    """Add the prompt's tools to the body; on the official route, its functions to `items`.

    Returns llm's names of the functions, by their names in the request. Raises ChatGPTError for a
    tool that the route refuses, and for an input schema that is not JSON.
    """
    hosted = [tool for tool in prompt.tools if isinstance(tool, llm.ServerSideTool)]
    # Of several functions with the same name, llm runs the last.
    functions = {tool.name: tool for tool in prompt.tools if tool not in hosted}
    specs: list[dict[str, Any]] = []
    for tool in prompt.tools:
        spec = tool.tool_spec(model) if tool in hosted else _function(functions[tool.name])
        # The service refuses two tools with the same name (P144).
        if spec not in specs:
            specs.append(spec)
    kinds = [str(spec.get("type")) for spec in specs]
    if prompt.options.web_search and "web_search" not in kinds:
        kinds.append("web_search")
        specs.append({"type": "web_search"})
    for tool in hosted:
        tool.prepare_request(model, body)
    if "web_search" in kinds and _SOURCES not in body["include"]:
        body["include"].append(_SOURCES)
    if refused := next(filter(route.refuses_tool, kinds), None):
        raise ChatGPTError(
            f"OpenAI's official sign-in does not support {printable(refused, 60)}.",
            "Leave the tool out, or use the Codex login ('llm chatgpt login').",
        )
    if route.tools_in_input and functions:
        function_specs = [spec for spec in specs if spec["type"] == "function"]
        specs = [spec for spec in specs if spec not in function_specs]
        items.insert(0, {"type": "additional_tools", "role": "developer", "tools": function_specs})
    if specs:
        body["tools"] = specs
    return {tool_name(name): name for name in functions}


def _function(tool: llm.Tool) -> dict[str, Any]:
    return {
        "type": "function",
        "name": tool_name(tool.name),
        "description": tool.description or "",
        "strict": False,
        "parameters": tool_parameters(tool.input_schema, printable(tool.name, 100)),
    }


def save_image(prompt: Any, note: Callable[[str], None], image: bytes, image_format: str) -> str:
    """Write a generated image to a new file.

    Returns its path, or the reason why it could not be saved, and passes either to `note`.
    """
    tools = [tool for tool in prompt.tools if isinstance(tool, ImageGeneration)]
    folder = next((tool.folder for tool in tools if tool.folder), None)
    chosen = f"{folder}/{image_file_name(image_format)}" if folder else None
    try:
        path = write_image(image, image_format, chosen)
    except ChatGPTError as error:
        note(f"Warning: {error.message}")
        return error.message
    note(f"Picture: {path}")
    return path
