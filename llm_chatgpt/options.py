"""Model options whose errors are one sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llm
from pydantic import ValidationError, model_validator

from llm_chatgpt.errors import ChatGPTError
from llm_chatgpt.text import printable


class BaseOptions(llm.Options):
    """Raises ChatGPTError for an option that does not exist or has a wrong value."""

    @model_validator(mode="wrap")
    @classmethod
    def _in_one_sentence(cls, values: Any, handler: Callable[[Any], BaseOptions]) -> BaseOptions:
        try:
            return handler(values)
        except ValidationError as error:
            # llm would show pydantic's words in a frame of several lines.
            first = error.errors()[0]
            name = printable(".".join(map(str, first["loc"])), 60)
            names = ", ".join(cls.model_json_schema()["properties"])
            words = first["msg"].removeprefix("Value error, ").replace("Input should", "must")
            raise ChatGPTError(
                f"No option named '{name}'. Options: {names}."
                if first["type"] == "extra_forbidden"
                else f"The option {name} {words}."
            ) from error
