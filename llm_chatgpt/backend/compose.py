"""The requests of one prompt, each from everything that it depends on. Sends nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from llm.parts import Message

from llm_chatgpt import config, http
from llm_chatgpt.backend import resend
from llm_chatgpt.backend.answer import Answer
from llm_chatgpt.backend.catalogue import ModelInfo, ModelList, model_to_use, remembered_models
from llm_chatgpt.backend.compression import compress
from llm_chatgpt.backend.input import InputBuilder
from llm_chatgpt.backend.memory import Memory, Turn
from llm_chatgpt.backend.request import (
    build_body,
    check_options,
    output_limit,
    schema_of_chain,
    sent_effort,
    session_id,
    takes_system_message,
)
from llm_chatgpt.backend.schemas import is_strict
from llm_chatgpt.backend.tools import add_tools, chosen_tools, place_tools
from llm_chatgpt.login.tokens import Tokens, backend_headers


class Composed(NamedTuple):
    """A request: the `arguments` of `http.SyncStream`, and what Exchange needs to know about it.

    `info` is the requested model, `models` the account's list of models (None if it is unknown).
    `without` names what was left out, `items` is the input. `beside_messages` goes into the
    answer's metadata (history.py), `tool_names` are llm's names of the tools by the service's.
    `notes` are for the user.
    """

    info: ModelInfo
    models: ModelList | None = None
    arguments: Mapping[str, Any] = {}
    without: frozenset[str] = frozenset()
    items: Sequence[Mapping[str, Any]] = ()
    beside_messages: Mapping[str, Any] = {}
    tool_names: Mapping[str, str] = {}
    has_files: bool = False
    notes: Sequence[str] = ()

    @property
    def is_compressed(self) -> bool:
        return "Content-Encoding" in self.arguments.get("headers", {})


class Composer:
    """Composes the requests of one prompt to `model`, which are parts of `turn`."""

    def __init__(self, model: Any, prompt: Any, conversation: Any, turn: Turn, memory: Memory):
        self._model = model
        self._prompt = prompt
        self._options: dict[str, Any] = dict(prompt.options)
        self._conversation = conversation
        self._turn = turn
        self._memory = memory
        self._schema = schema_of_chain(prompt, conversation)

    def compose(self, tokens: Tokens, without: frozenset[str], answer: Answer) -> Composed:
        """The request for the next round of `answer`. Reads files and may fetch attachments.

        Raises ChatGPTError for an option, a tool or an attachment that cannot be sent.
        """
        models = remembered_models(tokens)
        info = model_to_use(self._model.info, models)
        without |= tokens.route.without | self._memory.refused(scopes(info, tokens))
        if not is_strict(self._schema):
            without |= {resend.STRICT}
        # Only the login's own list counts; the built-in one may be out of date.
        check_options(info, self._options, listed=models is not None and info in models.models)
        builder = self._input(info, tokens, without, answer.messages)
        session = session_id(
            self._conversation,
            builder.instructions,
            builder.items,
            self._options.get("prompt_cache_key"),
        )
        body, tool_names = self._body(info, tokens, without, builder, session)
        content = builder.attachments.encode(body)
        headers = self._headers(tokens, without, session)
        if resend.COMPRESSION not in without:
            content, compressed = compress(content)
            headers |= compressed
        arguments = {
            "method": "POST",
            "url": tokens.route.base_url(tokens.origin) + tokens.route.responses_path,
            "content": content,
            "headers": headers,
            "timeout": http.library().Timeout(
                config.idle_timeout(), connect=config.CONNECT_TIMEOUT_SECONDS, pool=None
            ),
        }
        return Composed(
            info=info,
            models=models,
            arguments=arguments,
            without=without,
            items=builder.items,
            beside_messages=builder.request,
            tool_names=tool_names,
            has_files=builder.attachments.has_files,
            notes=[*self._ignored(without), *builder.notes],
        )

    def _input(
        self, info: ModelInfo, tokens: Tokens, without: frozenset[str], said: Sequence[Message]
    ) -> InputBuilder:
        builder = InputBuilder(
            account_key=tokens.account_key,
            slug=info.slug,
            image_detail=self._options.get("image_detail"),
            takes_images=info.takes_images,
            effort=sent_effort(self._options),
            default_effort=info.default_effort,
            effort_updates=info.effort_updates and tokens.route.effort_updates,
            without=without,
        )
        builder.attachments.encoded = self._turn.encoded
        builder.build(self._prompt.messages, self._prompt.system, said)
        return builder

    def _body(
        self,
        info: ModelInfo,
        tokens: Tokens,
        without: frozenset[str],
        builder: InputBuilder,
        session: str,
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """The request's JSON, and llm's names of the tools by the service's."""
        instructions: str | None = builder.instructions or config.DEFAULT_INSTRUCTIONS
        if resend.SYSTEM_MESSAGE not in without and takes_system_message(info.slug):
            builder.begin_with_system_message()
            instructions = None
        limit = output_limit(self._options)
        body = build_body(
            info,
            self._options,
            instructions=instructions,
            session=session,
            schema=self._schema,
            strict=resend.STRICT not in without,
            effort=builder.effort,
            summarize=not self._prompt.hide_reasoning and resend.SUMMARY not in without,
            limit=limit[1] if limit and resend.OUTPUT_LIMIT not in without else None,
        )
        tool_names = add_tools(body, self._model, chosen_tools(self._prompt, self._model))
        place_tools(body, builder.items, tokens.route)
        # Last, so that what stays the same comes first.
        body["input"] = builder.items
        return body, tool_names

    def _headers(self, tokens: Tokens, without: frozenset[str], session: str) -> dict[str, str]:
        second_residency = resend.FIRST_RESIDENCY in without
        headers = backend_headers(tokens, second_residency=second_residency) | {
            "Accept": "text/event-stream",
            "Content-Type": "application/json",
        }
        if resend.SESSION_HEADER not in without:
            headers["session-id"] = session
        state = self._turn.states.get(tokens.account_key)
        if tokens.route.names_account and state:
            headers["x-codex-turn-state"] = state
        return headers

    def _ignored(self, without: frozenset[str]) -> list[str]:
        """A note that names the options that are not sent; none if all are."""
        limit = output_limit(self._options)
        names: list[str] = self._prompt.options.ignored
        if limit and resend.OUTPUT_LIMIT in without:
            names = [limit[0], *names]
        them = "it" if len(names) == 1 else "them"
        note = f"Note: ignoring {', '.join(names)}; a ChatGPT login does not accept {them}."
        return [note] if names else []


def scopes(info: ModelInfo, tokens: Tokens) -> dict[str, str]:
    """The values of the scopes of a refusal (`resend.OptionalPart`)."""
    return {
        "model": info.slug,
        "account": tokens.account_key,
        "service": tokens.route.responses_path,
    }
