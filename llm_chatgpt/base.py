"""What all models share: an account in place of a key; options whose errors are one sentence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import llm
from pydantic import ValidationError, model_validator

from llm_chatgpt.backend.catalogue import ModelInfo
from llm_chatgpt.errors import ChatGPTError
from llm_chatgpt.text import printable


class AccountModel:
    """A model for which `--key` names an account, so that llm must not look for an API key."""

    needs_key = None
    key: str | None = None

    def __init__(self, info: ModelInfo):
        self.info = info
        self.model_id = info.model_id

    def get_key(self, explicit_key: str | None = None) -> str | None:
        return explicit_key or self.key

    def __str__(self) -> str:
        return f"ChatGPT: {self.model_id}"


class BaseOptions(llm.Options):
    """Raises ChatGPTError for an option that does not exist or has a wrong value."""

    @model_validator(mode="wrap")
    @classmethod
    def _in_one_sentence(cls, values: Any, handler: Callable[[Any], BaseOptions]) -> BaseOptions:
        try:
            return handler(values)
        except ValidationError as error:
            # llm would show pydantic's words in a frame of several lines.
            name = str(error.errors()[0]["loc"][0])
            options = cls.model_json_schema()["properties"]
            if name in options:
                sentence = f"The option {name} must be {_expected(options[name])}."
            else:
                sentence = (
                    f"No option named '{printable(name, 60)}'. Options: {', '.join(options)}."
                )
            raise ChatGPTError(sentence) from error


def _expected(schema: Mapping[str, Any]) -> str:
    """The values that an option takes, in words. `schema` is that of a value or null."""
    value = schema["anyOf"][0]
    if "enum" in value:
        return f"{', '.join(value['enum'][:-1])} or {value['enum'][-1]}"
    words = {"boolean": "true or false", "integer": "a whole number above 0", "string": "text"}
    return words[value["type"]]
