"""Build the requests of a prompt: body, headers and notes. http.py sends them."""

from __future__ import annotations

import contextlib
import importlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from llm_chatgpt import clients, config
from llm_chatgpt.backend import optional_parts
from llm_chatgpt.backend.answer import Answer
from llm_chatgpt.backend.body import (
    build_body,
    check_effort,
    schema_of_chain,
    session_id,
    takes_system_message,
)
from llm_chatgpt.backend.catalogue import ModelInfo, ModelList, model_to_use, stored_models
from llm_chatgpt.backend.input import InputBuilder, system_message
from llm_chatgpt.backend.memory import Memory, Turn
from llm_chatgpt.backend.schemas import check_json, is_strict
from llm_chatgpt.backend.tools import add_tools
from llm_chatgpt.login.tokens import Tokens, backend_headers
from llm_chatgpt.values import as_list


class Request(NamedTuple):
    """A request: the `arguments` of the HTTP library's `build_request`, and details about it.

    `info` is the requested model, `models` the account's list (empty if it is unknown). `body` is
    the JSON, and `without` names the parts that were left out. The answer stores `state` as
    metadata (history.py). `tool_names` maps the tools' names in the request to llm's names. `notes`
    are for the user.
    """

    info: ModelInfo
    models: ModelList = ModelList()
    arguments: Mapping[str, Any] = {}
    body: Mapping[str, Any] = {}
    without: frozenset[str] = frozenset()
    state: Mapping[str, Any] = {}
    tool_names: Mapping[str, str] = {}
    notes: Sequence[str] = ()

    @property
    def items(self) -> list[Mapping[str, Any]]:
        """The input."""
        return as_list(self.body.get("input"))

    @property
    def has_files(self) -> bool:
        parts = optional_parts.content_parts(self.items)
        return any(part.get("type") == "input_file" for part in parts)

    @property
    def is_compressed(self) -> bool:
        return "Content-Encoding" in self.arguments.get("headers", {})


class RequestBuilder:
    """Builds the requests of one prompt to `model`, which belong to `turn`."""

    def __init__(self, model: Any, prompt: Any, conversation: Any, turn: Turn, memory: Memory):
        self._model = model
        self._prompt = prompt
        self._conversation = conversation
        self._turn = turn
        self._memory = memory

    def build(self, tokens: Tokens, without: frozenset[str], answer: Answer) -> Request:
        """Build the request for the next round of `answer`. May read files and fetch addresses.

        Raises ChatGPTError for an effort, a schema, a tool or an attachment that cannot be sent.
        """
        prompt, models = self._prompt, stored_models(tokens)
        info = model_to_use(self._model.info, models)
        # Another account's list may name other efforts, so only this account's list counts.
        if info in models.models:
            check_effort(prompt.options.reasoning_effort, info)
        without |= tokens.route.omitted_parts | self._memory.refused(scopes(info, tokens))
        schema = schema_of_chain(prompt, self._conversation)
        check_json(schema, "The schema")
        if not is_strict(schema):
            without |= {optional_parts.STRICT}
        builder = InputBuilder(info, tokens, dict(prompt.options), without)
        builder.build(prompt.messages, prompt.system, answer.messages)
        instructions, items = builder.instructions, builder.items
        body = build_body(prompt, info, builder.body_effort, schema, without)
        body["prompt_cache_key"] = session_id(
            self._conversation, instructions, items, prompt.options.prompt_cache_key
        )
        if optional_parts.SYSTEM_MESSAGE in without or not takes_system_message(info.slug):
            body["instructions"] = instructions or config.DEFAULT_INSTRUCTIONS
        elif instructions:
            items.insert(0, system_message(instructions))
        tool_names = add_tools(body, items, prompt, self._model, tokens.route)
        # `input` comes last, after the fields that stay the same throughout a conversation.
        body["input"] = items
        return Request(
            info=info,
            models=models,
            arguments=self._arguments(tokens, without, body),
            body=body,
            without=without,
            state=builder.state,
            tool_names=tool_names,
            notes=[*_ignored_options(prompt, without), *builder.notes],
        )

    def _arguments(
        self, tokens: Tokens, without: frozenset[str], body: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the arguments of the HTTP library's `build_request` for this body."""
        second_residency = optional_parts.FIRST_RESIDENCY in without
        headers = backend_headers(tokens, second_residency=second_residency)
        headers |= {"Accept": "text/event-stream", "Content-Type": "application/json"}
        if optional_parts.SESSION_HEADER not in without:
            headers["session-id"] = body["prompt_cache_key"]
        turn_state = self._turn.states.get(tokens.account_key)
        if tokens.route.names_account and turn_state:
            headers["x-codex-turn-state"] = turn_state
        text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
        content = text.encode("utf-8", "replace")
        if optional_parts.COMPRESSION not in without and not config.is_off("COMPRESS"):
            content, encoding = _compress(content)
            headers |= encoding
        return {
            "method": "POST",
            "url": _address(tokens),
            "content": content,
            "headers": headers,
            "timeout": clients.timeout(config.idle_timeout()),
        }


def _address(tokens: Tokens) -> str:
    return tokens.route.base_url(tokens.origin) + tokens.route.responses_path


def scopes(info: ModelInfo, tokens: Tokens) -> dict[str, str]:
    """Map each optional part that the process remembers to the value of its scope.

    The value is the address of the service, followed by the model's slug or the account's key if
    the scope is narrower (optional_parts.py).
    """
    service = _address(tokens)
    values = {
        "model": f"{service} {info.slug}",
        "account": f"{service} {tokens.account_key}",
        "service": service,
    }
    parts = optional_parts.SCOPES.items()
    return {name: values[scope] for name, scope in parts if scope in values}


def _ignored_options(prompt: Any, without: frozenset[str]) -> list[str]:
    """Return a note that names the options that are not sent; empty if all are sent."""
    limits = ("max_output_tokens", "max_tokens") if optional_parts.OUTPUT_LIMIT in without else ()
    names = [name for name in limits if getattr(prompt.options, name)] + prompt.options.ignored
    pronoun = "it" if len(names) == 1 else "them"
    note = f"Note: ignoring {', '.join(names)}; a ChatGPT login does not accept {pronoun}."
    return [note] if names else []


def _compress(content: bytes) -> tuple[bytes, dict[str, str]]:
    """Compress a long body. Returns the content to send, and the header that names the encoding.

    Codex CLI sends zstd (P83); Python has it from 3.14 on, or with the package zstandard.
    """
    if len(content) <= config.COMPRESS_ABOVE_BYTES:
        return content, {}
    for module in ("compression.zstd", "zstandard"):
        with contextlib.suppress(ImportError):
            return importlib.import_module(module).compress(content), {"Content-Encoding": "zstd"}
    if len(content) > config.GZIP_UP_TO_BYTES:
        return content, {}
    import gzip

    return gzip.compress(content), {"Content-Encoding": "gzip"}
