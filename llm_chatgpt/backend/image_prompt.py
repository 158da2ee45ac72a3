"""Turn a prompt for an image model into a request, and record the answer in llm."""

from __future__ import annotations

from typing import Any

from llm.parts import AttachmentPart, TextPart

from llm_chatgpt import http
from llm_chatgpt.backend import images
from llm_chatgpt.backend.history import new_messages
from llm_chatgpt.errors import ChatGPTError
from llm_chatgpt.text import printable
from llm_chatgpt.values import as_mapping, as_number


def build_body(prompt: Any, model: str) -> dict[str, Any]:
    """Build the request's body: the system prompt, the prompt, and the attached images.

    Reads files and fetches addresses. Raises ChatGPTError, also if the output file cannot be
    written.
    """
    options = dict(prompt.options)
    images.check_output(options["output"])
    # Image models have no conversations, but versions of llm that do not check
    # `supports_conversation` may continue one: leave out all earlier messages but system prompts.
    new = new_messages(prompt.messages)
    earlier = prompt.messages[: len(prompt.messages) - len(new)]
    messages = [*(message for message in earlier if message.role == "system"), *new]
    parts = [part for message in messages for part in message.parts]
    text = "\n\n".join(part.text for part in parts if isinstance(part, TextPart))
    if not text.strip():
        raise ChatGPTError("The prompt is empty.", "Say what to create or change.")
    data_urls = [_data_url(part.attachment) for part in parts if isinstance(part, AttachmentPart)]
    return images.build_body(text, model, options, data_urls)


def _data_url(attachment: Any) -> str:
    name = attachment.path or attachment.url or "the attachment"
    try:
        data = attachment.content_bytes()
    except http.fetch_errors() as error:
        raise ChatGPTError(
            f"Could not send {printable(name, 100)}: it cannot be read.",
            "Check it or leave it out.",
        ) from error
    return images.data_url(data or b"", name)


def finish(answer: images.ImageAnswer, body: dict[str, Any], prompt: Any, response: Any) -> str:
    """Save the image and record the answer. Returns the path of the file."""
    saved = images.save_answer(answer, body, prompt.options.output)
    fields = {k: v for k, v in answer.fields.items() if isinstance(v, (str, int))}
    response.response_json = {"model": body["model"], **fields, **saved._asdict()}
    if usage := as_mapping(answer.fields.get("usage")):
        response.set_usage(
            input=int(as_number(usage.get("input_tokens")) or 0),
            output=int(as_number(usage.get("output_tokens")) or 0),
        )
    return saved.path
