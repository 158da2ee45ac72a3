"""Models that create or edit an image and answer with the path of its file.

The work is done in backend/images.py and image_prompt.py, which are imported when a prompt runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import llm
from pydantic import Field

from llm_chatgpt.base import AccountModel, BaseOptions
from llm_chatgpt.threads import start_in_thread


class ImageOptions(BaseOptions):
    """Options of the models that create images."""

    size: str | None = Field(
        None, description="Width and height in pixels, such as 1536x1024; auto by default."
    )
    quality: str | None = Field(
        None,
        description="The image's quality: low, medium, high, xhigh or max, depending on the model; "
        "auto by default.",
    )
    background: str | None = Field(
        None, description="The background: opaque (the default) or transparent."
    )
    output: str | None = Field(
        None,
        description="The new file to write; by default one in chatgpt-images in llm's folder.",
    )


class _ImageModel(AccountModel):
    """Base class of the sync and the async image model."""

    attachment_types = frozenset({"image/png", "image/jpeg", "image/webp"})
    # The image endpoint takes no earlier messages.
    supports_conversation = False
    Options = ImageOptions

    def _create(self, prompt: Any, response: Any, key: str | None) -> str:
        """Create the image, and return the path of its file."""
        from llm_chatgpt.backend import image_prompt, images

        body = image_prompt.build_body(prompt, self.info.slug)
        answer = images.create_image(key, body)
        return image_prompt.finish(answer, body, prompt, response)


class ChatGPTImage(_ImageModel, llm.KeyModel):  # type: ignore[misc]
    """A model that creates or edits an image and answers with the path of its file."""

    def execute(
        self,
        prompt: llm.Prompt,
        stream: bool,
        response: llm.Response,
        conversation: llm.Conversation | None = None,
        key: str | None = None,
    ) -> Iterator[str]:
        yield self._create(prompt, response, key)


class AsyncChatGPTImage(_ImageModel, llm.AsyncKeyModel):  # type: ignore[misc]
    """`ChatGPTImage` for event loops, which it never blocks."""

    async def execute(
        self,
        prompt: llm.Prompt,
        stream: bool,
        response: llm.AsyncResponse,
        conversation: llm.AsyncConversation | None = None,
        key: str | None = None,
    ) -> AsyncGenerator[str, None]:
        # In a daemon thread: a cancelled prompt must not keep the program from ending.
        future = start_in_thread(lambda: self._create(prompt, response, key))
        yield await asyncio.wrap_future(future)
