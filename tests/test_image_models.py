"""The image models: prompts, options, logs and attachments."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time

import llm
import pytest

from simulator import Answer, png, usage_limit
from terminal import Terminal, needs_pty
from test_image import DEFAULT_BODY, requested_images, saved_images


def test_an_image_model_prints_the_path_and_is_logged(simulator, signed_in, run_llm, tmp_path):
    photo, path = tmp_path / "photo.png", tmp_path / "night.png"
    photo.write_bytes(png(16, 16))
    model = ["-m", "chatgpt-gpt-image-2", "Make it night"]
    options = ["-o", "size", "1536x1024", "-o", "output", str(path)]
    result = run_llm(*model, "-a", str(photo), *options)
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{path}\n", "")
    assert path.read_bytes() == png(1536, 1024)
    (request,) = simulator.seen("/images/edits")
    assert request.body["images"] == [
        {"image_url": f"data:image/png;base64,{base64.b64encode(png(16, 16)).decode()}"}
    ]
    assert request.body["size"] == "1536x1024"
    row = json.loads(run_llm("logs", "-n", "1", "--json").stdout)[0]
    assert (row["model"], row["response"]) == ("chatgpt-gpt-image-2", str(path))
    logged = row["response_json"]
    logged = json.loads(logged) if isinstance(logged, str) else logged
    assert (logged["width"], logged["height"]) == (1536, 1024)
    assert "data" not in logged


def test_an_image_model_returns_the_path_and_records_the_usage(simulator, signed_in, ask):
    usage = {"input_tokens": 12, "output_tokens": 4000, "total_tokens": 4012}
    data = {"b64_json": base64.b64encode(png(32, 32)).decode()}
    answer = {"data": [data], "created": 7, "usage": usage, "odd": [[]]}
    simulator.script("draw", Answer(200, answer))
    answered = ask("A pelican", slug="gpt-image-2.5-flare", system="In watercolours.")
    (path,) = saved_images()
    assert answered.text == str(path)
    assert path.read_bytes() == png(32, 32)
    assert requested_images(simulator) == [
        {**DEFAULT_BODY, "prompt": "In watercolours.\n\nA pelican", "model": "gpt-image-2.5-flare"}
    ]
    assert (answered.response.input_tokens, answered.response.output_tokens) == (12, 4000)
    assert answered.json["created"] == 7
    assert "odd" not in answered.json


def test_an_image_model_works_in_a_template(simulator, signed_in, run_llm):
    options = ["-o", "background", "transparent", "--save", "draw"]
    assert run_llm("-m", "chatgpt-gpt-image-2", "A $input", *options).exit_code == 0
    assert run_llm("-t", "draw", "pelican").exit_code == 0
    assert requested_images(simulator) == [{**DEFAULT_BODY, "background": "transparent"}]


def test_an_image_model_has_no_conversation(simulator, signed_in, ask, run_llm):
    if not hasattr(llm.Model, "supports_conversation"):
        pytest.skip("an older llm")
    assert run_llm("chat", "-m", "chatgpt-gpt-image-2").exit_code == 1
    assert ask.model("gpt-image-2").supports_conversation is False


def test_only_the_newest_message_is_sent(simulator, signed_in):
    # A version of llm that does not know `supports_conversation` passes all messages.
    history = [llm.user("A pelican"), llm.assistant("a.png"), llm.user("A walrus")]
    model = llm.get_model("chatgpt-gpt-image-2")
    model.supports_conversation = True
    model.prompt(messages=history).text()
    assert requested_images(simulator)[0]["prompt"] == "A walrus"


def test_a_refused_token_is_renewed_once_for_an_image_model(simulator, signed_in, ask):
    simulator.access_tokens.clear()
    assert ask("A pelican", slug="gpt-image-2").text
    assert len(simulator.refreshes) == 1
    simulator.always["draw"] = lambda _: Answer(401, {"detail": "No"})
    with pytest.raises(llm.ModelError, match="no longer accepts this login: No"):
        ask("A pelican", slug="gpt-image-2")
    assert len(requested_images(simulator)) == 4


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ({"prompt": " "}, "The prompt is empty. Say what to create or change."),
        ({"prompt": "x", "size": 7}, "The option size must be text."),
        ({"prompt": "x", "shape": "round"}, "No option named 'shape'. Options: size, quality, "),
        (
            {"prompt": "x", "attachments": [llm.Attachment(type="image/png", content=b"GIF89a")]},
            "Could not send the attachment: it is not a PNG, JPEG or WebP image. Convert it",
        ),
        (
            {"prompt": "x", "attachments": [llm.Attachment(type="image/png", path="gone.png")]},
            "Could not send gone.png: it cannot be read. Check it or leave it out.",
        ),
        (
            {"prompt": "x", "output": f"{__file__}/a.png"},
            f"Could not save the image as {__file__}/a",
        ),
        (
            {"prompt": "x", "output": __file__},
            f"{__file__} already exists. Choose another name.",
        ),
    ],
)
def test_invalid_input_for_an_image_model_is_not_sent(simulator, signed_in, ask, prompt, words):
    with pytest.raises(llm.ModelError, match=re.escape(words)):
        ask(slug="gpt-image-2", **prompt)
    assert simulator.requests == []


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(drop=True), "broke off. Check the network and try again."),
        (Answer(200, {"data": []}), "The service sent no image."),
        (usage_limit(), "The usage limit of your ChatGPT Plus plan is reached."),
    ],
)
def test_a_failed_image_is_not_requested_again(simulator, signed_in, ask, answer, words):
    simulator.script("draw", answer)
    with pytest.raises(llm.ModelError, match=re.escape(words)):
        ask("A pelican", slug="gpt-image-2")
    assert len(requested_images(simulator)) == 1


def test_an_async_image_can_be_cancelled(simulator, signed_in):
    simulator.script("draw", Answer(delay=60.0))

    async def run():
        await llm.get_async_model("chatgpt-gpt-image-2").prompt("A pelican").text()

    async def cancel():
        task = asyncio.create_task(run())
        while not simulator.requests:
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    start = time.monotonic()
    asyncio.run(cancel())
    assert time.monotonic() - start < 30


@needs_pty
@pytest.mark.parametrize("options", [[], ["--async"]])
def test_the_waiting_line_says_that_an_image_takes_a_while(simulator, signed_in, options):
    simulator.script("draw", lambda request: time.sleep(1.5))
    terminal = Terminal("-m", "chatgpt-gpt-image-2", "A pelican", *options, columns=80)
    terminal.wait_for(r"\rCreating the image, 0:01 \(takes a minute or two\)")
    assert terminal.end() == 0
    assert terminal.rows == [str(saved_images()[0]), ""]
