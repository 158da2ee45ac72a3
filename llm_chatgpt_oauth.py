"""Use OpenAI's models from llm with a ChatGPT subscription, without an API key.

llm loads this file: the models' options, the sync and the async model, and llm's two hooks.
Everything else is in the package `llm_chatgpt`:

    values, errors, config, text, waiting, threads, files    used throughout the package
    http, clients, certificates    HTTP requests
    base, image_models    the models' base classes, and the models that create images
    login/      tokens, the login file, signing in, renewing access tokens
    backend/    prompts: requests, answers as llm's events, errors, limits, models
    commands/   llm chatgpt ...
    live/       the checks of llm chatgpt doctor --live

A prompt runs from `execute` below through login/credentials.py, backend/prompt_run.py and http.py
to backend/translate.py. docs/development.md says which file to open for which change.

Other programs can import the Python API (docs/reference.md) from here. llm loads this file for
every command, so modules that only prompts or other programs need are imported on first use.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any, ClassVar, Literal

import click
import llm
from llm.parts import StreamEvent
from pydantic import Field, field_validator
from pydantic.json_schema import SkipJsonSchema

from llm_chatgpt import commands, config
from llm_chatgpt.backend.catalogue import ModelInfo, models_to_register
from llm_chatgpt.base import AccountModel, AttachmentTypes, BaseOptions
from llm_chatgpt.errors import ChatGPTError
from llm_chatgpt.image_models import AsyncChatGPTImage, ChatGPTImage
from llm_chatgpt.threads import in_thread


def __getattr__(name: str) -> Any:
    """Return a name of the Python API, which is imported on first use."""
    from llm_chatgpt import api

    return getattr(api, name)


class Options(BaseOptions):
    """Options of a prompt. Only those with a description affect the request."""

    reasoning_effort: str | None = Field(
        None,
        description="How much the model thinks before it answers: none, low, medium, high, xhigh, "
        "max or ultra, depending on the model (see 'llm chatgpt models').",
    )
    reasoning_summary: Literal["auto", "concise", "detailed", "none"] | None = Field(
        None, description="The summary of the model's reasoning; auto by default."
    )
    verbosity: Literal["low", "medium", "high"] | None = Field(
        None, description="How long the answer is: low, medium or high."
    )
    service_tier: Literal["fast", "priority", "ultrafast", "default"] | None = Field(
        None,
        description="The processing tier: fast and priority (the same), ultrafast or default. "
        "priority did not speed up answers when it was tested, and may use more of your limits.",
    )
    image_detail: Literal["auto", "low", "high", "original"] | None = Field(
        None, description="How closely the model looks at images: auto, low, high or original."
    )
    max_output_tokens: int | None = Field(
        None,
        ge=1,
        description="The largest number of tokens in an answer, reasoning included. If the service "
        "does not accept it, the prompt is sent without it, and a note says so.",
    )
    max_tokens: int | None = Field(None, ge=1, description="Another name for max_output_tokens.")
    web_search: bool | None = Field(
        None, description="Let the model search the web, as -T WebSearch does."
    )
    json_object: bool | None = Field(
        None, description="Output a valid JSON object {...}. Prompt must mention JSON."
    )
    parallel_tool_calls: bool | None = Field(
        None, description="Whether the model may call several tools at once."
    )
    prompt_cache_key: str | None = Field(
        None,
        description="A name for the prompt cache, shared by all prompts that use it and begin "
        "alike. By default each conversation has its own.",
    )

    # The service refuses these options (P96). They are accepted because some plugins always pass
    # them, but neither sent nor listed.
    temperature: SkipJsonSchema[Any] = None
    top_p: SkipJsonSchema[Any] = None
    seed: SkipJsonSchema[Any] = None
    stop: SkipJsonSchema[Any] = None
    presence_penalty: SkipJsonSchema[Any] = None
    frequency_penalty: SkipJsonSchema[Any] = None
    logit_bias: SkipJsonSchema[Any] = None
    top_logprobs: SkipJsonSchema[Any] = None

    @property
    def ignored(self) -> list[str]:
        """The names of the given options that will not be sent."""
        fields = type(self).model_fields
        hidden = [name for name, field in fields.items() if field.description is None]
        return [name for name in hidden if getattr(self, name) is not None]

    @field_validator("reasoning_effort")
    @classmethod
    def _clean_effort(cls, value: str | None) -> str | None:
        effort = value and value.strip().lower()
        if effort is not None and not re.fullmatch(r"[a-z0-9_-]{1,20}", effort):
            raise ChatGPTError(
                "The option reasoning_effort must be one word such as low, medium or high."
            )
        return effort


class _ChatGPTModel(AccountModel):
    """Base class of the sync and the async model."""

    can_stream = True
    supports_schema = True
    supports_tools = True
    Options = Options

    # Values that recur in the raw JSON of answers. llm logs the name in place of the value. Never
    # change or remove an entry, because existing logs refer to it.
    json_replacements: ClassVar[dict[str, Any]] = {
        "chatgpt_envelope_0": {
            "object": "response",
            "background": False,
            "parallel_tool_calls": True,
            "service_tier": "default",
            "status": "completed",
            "store": False,
            "temperature": 1.0,
            "tool_choice": "auto",
            "top_logprobs": 0,
            "top_p": 0.98,
            "truncation": "disabled",
        },
        "chatgpt_tool_usage_0": {
            "image_gen": {
                "input_tokens": 0,
                "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
                "output_tokens": 0,
                "output_tokens_details": {"image_tokens": 0, "text_tokens": 0},
                "total_tokens": 0,
            },
            "web_search": {"num_requests": 0},
        },
        "chatgpt_text_0": {"format": {"type": "text"}, "verbosity": "medium"},
        "chatgpt_text_1": {"format": {"type": "text"}, "verbosity": "low"},
    }

    def __init__(self, info: ModelInfo):
        super().__init__(info)
        self.slug = info.slug
        images = config.IMAGE_TYPES if info.takes_images else frozenset()
        files = config.FILE_TYPES.keys() | config.TEXT_TYPES.keys()
        self.attachment_types = AttachmentTypes(images | files)

    @property
    def supported_server_side_tools(self) -> tuple[type, ...]:
        from llm.default_plugins.openai_models import WebSearch

        from llm_chatgpt.backend.tools import ImageGeneration

        return (WebSearch, ImageGeneration, llm.ServerSideTool)


class ChatGPT(_ChatGPTModel, llm.KeyModel):  # type: ignore[misc]
    """A model that answers through a ChatGPT login."""

    def execute(
        self,
        prompt: llm.Prompt,
        stream: bool,
        response: llm.Response,
        conversation: llm.Conversation | None = None,
        key: str | None = None,
    ) -> Iterator[StreamEvent]:
        from llm_chatgpt import http
        from llm_chatgpt.backend.prompt_run import PromptRun
        from llm_chatgpt.login.credentials import get_tokens

        run = PromptRun(self, prompt, response, conversation, key, stream)
        with run.display:
            while not run.complete:
                try:
                    for seconds in run.pauses():
                        time.sleep(seconds)
                    tokens = get_tokens(run.credential, rejected=run.rejected)
                    with http.SyncStream(run.request(tokens)) as reply:
                        if reply.status != 200:
                            raise run.refusal(reply.status, reply.headers, reply.read())
                        run.opened(reply.headers)
                        for chunk in reply.chunks:
                            yield from run.display.pass_on(run.translator.feed(chunk))
                            if run.translator.ended:
                                break
                    yield from run.end_round()
                except ChatGPTError as error:
                    run.failed(error)
            yield from run.finish()


class AsyncChatGPT(_ChatGPTModel, llm.AsyncKeyModel):  # type: ignore[misc]
    """`ChatGPT` for event loops, which it never blocks."""

    async def execute(
        self,
        prompt: llm.Prompt,
        stream: bool,
        response: llm.AsyncResponse,
        conversation: llm.AsyncConversation | None = None,
        key: str | None = None,
    ) -> AsyncGenerator[str | StreamEvent, None]:
        from llm_chatgpt import http
        from llm_chatgpt.backend.prompt_run import PromptRun
        from llm_chatgpt.login.credentials import get_tokens_async

        run = PromptRun(self, prompt, response, conversation, key, stream)
        with run.display:
            while not run.complete:
                try:
                    for seconds in run.pauses():
                        await asyncio.sleep(seconds)
                    tokens = await get_tokens_async(run.credential, rejected=run.rejected)
                    request = await asyncio.to_thread(run.request, tokens)
                    async with http.AsyncStream(request) as reply:
                        if reply.status != 200:
                            content = await reply.read()
                            raise run.refusal(reply.status, reply.headers, content)
                        run.opened(reply.headers)
                        async for chunk in reply.chunks:
                            feed = run.translator.feed
                            is_slow = run.translator.takes_long(chunk)
                            events = await in_thread(feed, chunk) if is_slow else feed(chunk)
                            for event in run.display.pass_on(events):
                                yield event
                            if run.translator.ended:
                                break
                    for event in run.end_round():
                        yield event
                except ChatGPTError as error:
                    await in_thread(run.failed, error)
            for event in run.finish():
                yield event


@llm.hookimpl
def register_models(register: Callable[..., None]) -> None:
    # `llm models` lists every registered model, so hidden ones are not registered for it.
    skip_hidden = _lists_all_models()
    for info in models_to_register().values():
        if info.hidden and skip_hidden:
            continue
        if info.makes_images:
            register(ChatGPTImage(info), AsyncChatGPTImage(info))
        else:
            register(ChatGPT(info), AsyncChatGPT(info))


def _lists_all_models() -> bool:
    """Check whether this is `llm models` without a search, which prints every model."""
    context = click.get_current_context(silent=True)
    if context is None or not context.command_path.endswith(" models list"):
        return False
    return not (context.params.get("query") or context.params.get("model_ids"))


@llm.hookimpl
def register_commands(cli: click.Group) -> None:
    cli.add_command(commands.chatgpt)
