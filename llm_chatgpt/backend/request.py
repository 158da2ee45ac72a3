"""Build the requests of a prompt: body, headers and notes. Sends nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from llm_chatgpt import clients, config
from llm_chatgpt.backend import optional_parts
from llm_chatgpt.backend.answer import Answer
from llm_chatgpt.backend.body import (
    build_body,
    check_options,
    output_limit,
    schema_of_chain,
    session_id,
    takes_system_message,
)
from llm_chatgpt.backend.catalogue import ModelInfo, ModelList, model_to_use, remembered_models
from llm_chatgpt.backend.compression import compress
from llm_chatgpt.backend.input import InputBuilder
from llm_chatgpt.backend.memory import Memory, Turn
from llm_chatgpt.backend.schemas import check_json, is_strict
from llm_chatgpt.backend.tools import add_tools
from llm_chatgpt.login.tokens import Tokens, backend_headers


class Request(NamedTuple):
    """A request: the `arguments` of `http.SyncStream`, and facts about it.

    `info` is the requested model, `models` the account's list of models (None if it is unknown).
    `without` names the parts that were left out, `items` is the input. `beside_messages` goes into
    the answer's metadata (history.py). `tool_names` maps the service's names of the tools to
    llm's. `notes` are for the user.
    """

    info: ModelInfo
    models: ModelList = ModelList()
    arguments: Mapping[str, Any] = {}
    without: frozenset[str] = frozenset()
    items: Sequence[Mapping[str, Any]] = ()
    beside_messages: Mapping[str, Any] = {}
    tool_names: Mapping[str, str] = {}
    notes: Sequence[str] = ()

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
        self._options: dict[str, Any] = dict(prompt.options)
        self._conversation = conversation
        self._turn = turn
        self._memory = memory
        self._schema = schema_of_chain(prompt, conversation)

    def build(self, tokens: Tokens, without: frozenset[str], answer: Answer) -> Request:
        """Build the request for the next round of `answer`. May read files and fetch addresses.

        Raises ChatGPTError for an option, a tool or an attachment that cannot be sent.
        """
        models = remembered_models(tokens)
        info = model_to_use(self._model.info, models)
        without |= tokens.route.without | self._memory.refused(scopes(info, tokens))
        if self._schema:
            check_json(self._schema, "The schema")
        if not is_strict(self._schema):
            without |= {optional_parts.STRICT}
        # Only the login's own list counts; the built-in one may be out of date.
        check_options(info, self._options, listed=info in models.models)
        builder = InputBuilder(info, tokens, self._options, without)
        builder.build(self._prompt.messages, self._prompt.system, answer.messages)
        session = session_id(
            self._conversation,
            builder.instructions,
            builder.items,
            self._options.get("prompt_cache_key"),
        )
        instructions: str | None = builder.instructions or config.DEFAULT_INSTRUCTIONS
        if optional_parts.SYSTEM_MESSAGE not in without and takes_system_message(info.slug):
            builder.begin_with_system_message()
            instructions = None
        body = build_body(
            info,
            self._options,
            instructions=instructions,
            effort=builder.effort,
            session=session,
            schema=self._schema,
            hide_reasoning=self._prompt.hide_reasoning,
            without=without,
        )
        tool_names = add_tools(body, builder.items, self._prompt, self._model, tokens.route)
        # Last, so that the unchanged fields come first.
        body["input"] = builder.items
        return Request(
            info=info,
            models=models,
            arguments=self._arguments(tokens, without, session, body),
            without=without,
            items=builder.items,
            beside_messages=builder.request,
            tool_names=tool_names,
            notes=[*self._ignored(without), *builder.notes],
        )

    def _arguments(
        self, tokens: Tokens, without: frozenset[str], session: str, body: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the arguments of `http.SyncStream` for a request with this body."""
        text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
        content = text.encode("utf-8", "replace")
        headers = self._headers(tokens, without, session)
        if optional_parts.COMPRESSION not in without:
            content, compressed = compress(content)
            headers |= compressed
        return {
            "method": "POST",
            "url": tokens.route.base_url(tokens.origin) + tokens.route.responses_path,
            "content": content,
            "headers": headers,
            "timeout": clients.timeout(config.idle_timeout()),
        }

    def _headers(self, tokens: Tokens, without: frozenset[str], session: str) -> dict[str, str]:
        second_residency = optional_parts.FIRST_RESIDENCY in without
        headers = backend_headers(tokens, second_residency=second_residency) | {
            "Accept": "text/event-stream",
            "Content-Type": "application/json",
        }
        if optional_parts.SESSION_HEADER not in without:
            headers["session-id"] = session
        state = self._turn.states.get(tokens.account_key)
        if tokens.route.names_account and state:
            headers["x-codex-turn-state"] = state
        return headers

    def _ignored(self, without: frozenset[str]) -> list[str]:
        """Return the note that names the options that are not sent, if there are any."""
        limit = output_limit(self._options)
        names: list[str] = self._prompt.options.ignored
        if limit and optional_parts.OUTPUT_LIMIT in without:
            names = [limit[0], *names]
        them = "it" if len(names) == 1 else "them"
        note = f"Note: ignoring {', '.join(names)}; a ChatGPT login does not accept {them}."
        return [note] if names else []


def scopes(info: ModelInfo, tokens: Tokens) -> dict[str, str]:
    """Return the value of each scope in which a part can be refused (`optional_parts.SCOPES`)."""
    return {
        "model": info.slug,
        "account": tokens.account_key,
        "service": tokens.route.responses_path,
    }
