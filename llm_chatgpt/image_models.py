"""The models that create or edit an image and answer with the path of the file."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import click
import llm
from llm.parts import AttachmentPart, Message, TextPart
from pydantic import Field

from llm_chatgpt import http
from llm_chatgpt.backend import pictures
from llm_chatgpt.backend.catalogue import ModelInfo
from llm_chatgpt.errors import ChatGPTError
from llm_chatgpt.login.current import get_tokens, get_tokens_async
from llm_chatgpt.options import BaseOptions
from llm_chatgpt.text import in_thread, printable
from llm_chatgpt.values import as_mapping, as_number


class ImageOptions(BaseOptions):
    """The options of the models that create images."""

    size: str | None = Field(
        None, description="Width and height in pixels, such as 1536x1024; auto by default."
    )
    quality: str | None = Field(
        None, description="The image's quality: low, medium, high or auto (the default)."
    )
    background: str | None = Field(
        None, description="The background: opaque (the default) or transparent."
    )
    output: str | None = Field(
        None,
        description="The new file to write; by default one in chatgpt-images in llm's folder.",
    )


class _ImageModel:
    """What the sync and the async image model have in common."""

    attachment_types = frozenset({"image/png", "image/jpeg", "image/webp"})
    # Each image is a request of its own.
    supports_conversation = False
    needs_key = None
    key: str | None = None
    Options = ImageOptions

    def __init__(self, info: ModelInfo):
        self.info = info
        self.model_id = info.model_id

    def get_key(self, explicit_key: str | None = None) -> str | None:
        return explicit_key or self.key

    def __str__(self) -> str:
        return f"ChatGPT: {self.model_id}"


class ChatGPTImage(_ImageModel, llm.KeyModel):  # type: ignore[misc]
    """A model that creates or edits an image and answers with the path of the file."""

    def execute(
        self,
        prompt: llm.Prompt,
        stream: bool,
        response: llm.Response,
        conversation: llm.Conversation | None = None,
        key: str | None = None,
    ) -> Iterator[str]:
        body = _build_body(prompt, self.info.slug)
        tokens = get_tokens(key)
        _announce()
        try:
            answer = pictures.request_picture(tokens, body)
        except ChatGPTError as error:
            if not error.tokens_refused:
                raise
            answer = pictures.request_picture(get_tokens(key, rejected=tokens.access_token), body)
        yield _finish(answer, body, prompt, response)


class AsyncChatGPTImage(_ImageModel, llm.AsyncKeyModel):  # type: ignore[misc]
    """The same for an event loop, which it never blocks."""

    async def execute(
        self,
        prompt: llm.Prompt,
        stream: bool,
        response: llm.AsyncResponse,
        conversation: llm.AsyncConversation | None = None,
        key: str | None = None,
    ) -> AsyncGenerator[str, None]:
        body = await in_thread(_build_body, prompt, self.info.slug)
        tokens = await get_tokens_async(key)
        _announce()
        try:
            answer = await pictures.request_picture_async(tokens, body)
        except ChatGPTError as error:
            if not error.tokens_refused:
                raise
            tokens = await get_tokens_async(key, rejected=tokens.access_token)
            answer = await pictures.request_picture_async(tokens, body)
        yield await in_thread(_finish, answer, body, prompt, response)


def _build_body(prompt: Any, model: str) -> dict[str, Any]:
    """The request's body: the prompt after the system prompt, and the attached images.

    Reads files and fetches addresses. Raises ChatGPTError, also if the image could not be saved.
    """
    options = dict(prompt.options)
    pictures.check_place(options["output"])
    parts = [part for message in _new_messages(prompt.messages) for part in message.parts]
    text = "\n\n".join(part.text for part in parts if isinstance(part, TextPart))
    if not text.strip():
        raise ChatGPTError("The prompt is empty.", "Say what to create or change.")
    images = [_data_url(part.attachment) for part in parts if isinstance(part, AttachmentPart)]
    return pictures.build_body(text, model, options, images)


def _new_messages(messages: list[Message]) -> Iterator[Message]:
    """The system prompt and what the user has said since the last answer.

    An image model has no conversation, but a version of llm that does not know this may
    continue one.
    """
    answers = [n for n, message in enumerate(messages) if message.role == "assistant"]
    start = answers[-1] + 1 if answers else 0
    for number, message in enumerate(messages):
        if message.role == "system" or (number >= start and message.role == "user"):
            yield message


def _data_url(attachment: Any) -> str:
    name = attachment.path or attachment.url or "the attachment"
    try:
        data = attachment.content_bytes()
    except http.fetch_errors() as error:
        raise ChatGPTError(
            f"Could not send {printable(name, 100)}: it cannot be read.",
            "Check it or leave it out.",
        ) from error
    return pictures.data_url(data or b"", name)


def _announce() -> None:
    """Say on a terminal that the answer takes a while."""
    if click.get_current_context(silent=True) and sys.stderr.isatty():
        click.echo("Creating the image (takes a minute or two)...", err=True)


def _finish(answer: pictures.Answer, body: dict[str, Any], prompt: Any, response: Any) -> str:
    """Save the image and record the answer; the path of the file."""
    saved = pictures.save_answer(answer, body, prompt.options.output)
    known = {k: v for k, v in answer.fields.items() if isinstance(v, (str, int))}
    response.response_json = {"model": body["model"], **known, **saved._asdict()}
    usage = as_mapping(answer.fields.get("usage"))
    if usage:
        response.set_usage(
            input=int(as_number(usage.get("input_tokens")) or 0),
            output=int(as_number(usage.get("output_tokens")) or 0),
        )
    return saved.path
