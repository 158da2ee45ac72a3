"""Base classes of the models and their options, and the attachment types of the text models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import llm
from pydantic import ValidationError, model_validator

from llm_chatgpt import config
from llm_chatgpt.backend.catalogue import ModelInfo
from llm_chatgpt.errors import ChatGPTError
from llm_chatgpt.text import printable


class AccountModel:
    """Base class of all models. `--key` chooses a login, so llm does not ask for an API key."""

    needs_key = None
    key: str | None = None

    def __init__(self, info: ModelInfo):
        self.info = info
        self.model_id = info.model_id

    def get_key(self, explicit_key: str | None = None) -> str | None:
        return explicit_key or self.key

    def __str__(self) -> str:
        return f"ChatGPT: {self.model_id}"


class AttachmentTypes(frozenset[str]):
    """The types of attachments that a model takes: those listed, and all that may be text.

    llm checks a type with `in`, and lists the types in its messages.
    """

    def __contains__(self, kind: object) -> bool:
        return super().__contains__(kind) or config.may_be_text(kind)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(super().__iter__()))


class BaseOptions(llm.Options):
    """Options of a model. Raises ChatGPTError for an unknown option or a wrong value."""

    @model_validator(mode="wrap")
    @classmethod
    def _explain_errors(cls, values: Any, handler: Callable[[Any], BaseOptions]) -> BaseOptions:
        try:
            return handler(values)
        except ValidationError as error:
            # llm would show pydantic's message on several lines.
            name = str(error.errors()[0]["loc"][0])
            options = cls.model_json_schema()["properties"]
            if name not in options:
                names = ", ".join(options)
                reason = f"No option named '{printable(name, 60)}'. Options: {names}."
            else:
                # `anyOf` lists the schema of the value, then null.
                value = options[name]["anyOf"][0]
                reason = f"The option {name} must be {_allowed_values(value)}."
            raise ChatGPTError(reason) from error


def _allowed_values(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return f"{', '.join(schema['enum'][:-1])} or {schema['enum'][-1]}"
    types = {"boolean": "true or false", "integer": "a whole number above 0", "string": "text"}
    return types[schema["type"]]
