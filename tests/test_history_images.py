"""How images and other attachments of earlier messages are sent back."""

from __future__ import annotations

import pathlib
import re

import llm
import pytest
from llm.parts import ToolCallPart, ToolResultPart

from conftest import add_blind_model
from inputs import ADD, MODEL, add, assert_same_beginnings, items, of_kind
from simulator import PNG, Call, Draw, Say, error_answer

# Images by address


DEAD_URL = "https://a.example/dead.png"
LIVE_URL = "https://a.example/live.png"


@pytest.fixture
def reachable(monkeypatch):
    """The contents that this machine can download, by address."""
    contents = {}

    def fetch(self):
        if self.url and self.url not in contents:
            raise OSError("no such host")
        return contents[self.url] if self.url else self.content

    monkeypatch.setattr(llm.Attachment, "content_bytes", fetch)
    return contents


def image(url):
    return llm.Attachment(type="image/png", url=url)


def content(simulator, number=-1):
    """Return the parts of the user's messages, shortened."""
    parts = [p for i in items(simulator, number) if i.get("role") == "user" for p in i["content"]]
    return [part.get("image_url", part.get("text")).partition(";")[0] for part in parts]


def test_an_image_from_a_private_address_is_sent_as_data(simulator, signed_in, ask, reachable):
    # The service cannot fetch this address, but this machine can.
    simulator.dead_addresses = {DEAD_URL}
    reachable[DEAD_URL] = PNG
    conversation = ask.model().conversation()
    simulator.answer(Call("add", {"a": 1, "b": 2}))
    ask.chain(conversation, "look", attachments=[image(LIVE_URL), image(DEAD_URL)], tools=[add])
    ask.finish(lambda: conversation.prompt("on"))
    assert len(simulator.prompts) == 4
    assert content(simulator, 1) == ["look", LIVE_URL, "data:image/png"]
    assert_same_beginnings(simulator, first=1)


def test_a_new_image_that_nobody_can_fetch_is_an_error(simulator, signed_in, ask, reachable):
    simulator.dead_addresses = {DEAD_URL}
    with pytest.raises(llm.ModelError) as caught:
        ask("look", attachments=[image(DEAD_URL)])
    assert str(caught.value) == (
        f"Could not send the attachment {DEAD_URL}: it cannot be read. Check it or leave it out."
    )
    assert len(simulator.prompts) == 1


def test_an_earlier_image_that_nobody_can_fetch_becomes_a_note(
    simulator, signed_in, ask, reachable, caplog
):
    conversation = ask.model().conversation()
    ask.finish(lambda: conversation.prompt("look", attachments=[image(DEAD_URL), image(LIVE_URL)]))
    simulator.dead_addresses = {DEAD_URL}
    for prompt in ("two", "three"):
        ask.finish(lambda prompt=prompt: conversation.prompt(prompt))
    assert len(simulator.prompts) == 4
    note = "[attachment left out: it cannot be read]"
    assert content(simulator) == ["look", note, LIVE_URL, "two", "three"]
    assert f"Warning: attachment {DEAD_URL} cannot be read; sent a note" in caplog.text
    assert_same_beginnings(simulator, first=2)


@pytest.mark.parametrize(
    "words",
    [
        "Timeout while downloading the image.",
        "Failed to download image from https://a.example/dead.png.",
        "Could not download input[0].content[1].image_url.",
    ],
)
def test_each_wording_of_a_failed_download_is_known(simulator, signed_in, ask, reachable, words):
    reachable[DEAD_URL] = PNG
    simulator.script("responses", error_answer(400, None, words))
    ask("look", attachments=[image(DEAD_URL)])
    assert content(simulator) == ["look", "data:image/png"]


def test_a_web_page_in_place_of_an_image_is_refused(simulator, signed_in, ask, reachable):
    simulator.dead_addresses = {DEAD_URL}
    reachable[DEAD_URL] = b"<!DOCTYPE html>"
    with pytest.raises(llm.ModelError, match="it is not a PNG, JPEG, WebP or GIF image"):
        ask("look", attachments=[image(DEAD_URL)])


# Attachments of tools


UNSENDABLE = {
    "bmp": llm.Attachment(type="image/bmp", content=b"BM"),
    "wav": llm.Attachment(type="audio/wav", content=b"RIFF"),
    "empty": llm.Attachment(type="image/png", content=b""),
    "gone": llm.Attachment(type="image/png", path="/nowhere/a.png"),
    "text": llm.Attachment(type="image/png", content=b"no image"),
}


@pytest.mark.parametrize("kind", UNSENDABLE)
def test_an_unsendable_attachment_of_a_tool_becomes_a_note(simulator, signed_in, ask, caplog, kind):
    def create() -> llm.ToolOutput:
        "Create an image"
        return llm.ToolOutput("done", attachments=[UNSENDABLE[kind], llm.Attachment(content=PNG)])

    simulator.answer(Call("create", {}))
    simulator.answer(Say("Never mind."))
    responses = ask.chain(ask.model(), "go", tools=[create])
    assert responses[-1].text_or_raise() == "Never mind."
    note, sent_image = items(simulator)[-1]["content"]
    assert note["text"].startswith("[attachment left out: it ")
    assert sent_image["type"] == "input_image"
    assert "sent a note in its place" in caplog.text


def test_an_unsendable_attachment_after_a_tool_turn_is_an_error(simulator, signed_in, ask):
    result = llm.tool_message(ToolResultPart("add", "3", "c1"))
    turn = [llm.user("go"), llm.assistant(ToolCallPart("add", {}, "c1")), result]
    new = llm.user("Look", UNSENDABLE["bmp"])
    with pytest.raises(llm.ModelError, match="Could not send the attachment"):
        ask(messages=[*turn, llm.assistant("3"), new])


# Created images


def create_image(run_llm, simulator, *options):
    simulator.answer(Draw("A pelican"), Say("Here."))
    result = run_llm("-m", MODEL, "draw", "-T", "ImageGeneration", *options)
    return pathlib.Path(re.search(r"^Picture: (.+)$", result.stderr, re.MULTILINE)[1])


def test_a_created_image_is_sent_with_the_next_message(simulator, signed_in, run_llm):
    create_image(run_llm, simulator)
    run_llm("-c", "make it blue")
    run_llm("-c", "and green")
    assert [[part["type"] for part in i["content"]] for i in of_kind(simulator, "message")] == [
        ["input_text"],
        ["output_text"],
        ["output_text"],
        ["input_image", "input_text"],
        ["output_text"],
        ["input_text"],
    ]
    sent_image = items(simulator)[3]["content"][0]
    assert sent_image["image_url"].startswith("data:image/png;base64,")
    assert_same_beginnings(simulator)


def test_a_created_image_that_is_gone_becomes_a_note(simulator, signed_in, run_llm):
    create_image(run_llm, simulator).unlink()
    result = run_llm("-c", "make it blue")
    note, text = items(simulator)[-1]["content"]
    assert note["text"] == "[attachment left out: it no longer exists]"
    assert text["text"] == "make it blue"
    assert re.search(r"Warning: attachment .+\.png no longer exists; sent a note", result.stderr)


def test_a_created_image_is_found_from_another_folder(
    simulator, signed_in, run_llm, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    simulator.answer(Draw("A pelican", output_format="webp"), Call("add", {"a": 1, "b": 2}))
    tools = ("-T", 'ImageGeneration({"folder": "art"})', "--functions", ADD)
    run_llm("-m", MODEL, "draw", *tools)
    monkeypatch.chdir(tmp_path.parent)
    run_llm("-c", "make it blue")
    sent_image = items(simulator)[-1]["content"][0]
    # The image's real type, not the format that the service named.
    assert sent_image["image_url"].startswith("data:image/png;base64,")
    assert_same_beginnings(simulator)


def test_a_created_image_is_not_sent_to_a_model_that_reads_none(simulator, signed_in, run_llm):
    add_blind_model(simulator, signed_in)
    create_image(run_llm, simulator)
    result = run_llm("-c", "make it blue", "-m", "chatgpt-gpt-blind")
    assert [part["type"] for part in items(simulator)[-1]["content"]] == ["input_text"]
    assert "Warning" not in result.stderr


def test_only_image_files_are_sent_for_a_created_image(simulator, signed_in, ask, tmp_path):
    (tmp_path / "secret.png").write_text("secret")
    metadata = {"chatgpt": {"type": "image_generation_call"}}
    for output in ("no image received", "/etc/passwd", str(tmp_path / "secret.png")):
        call = ToolCallPart("image_generation", {}, "ig_1", True, metadata)
        result = ToolResultPart("image_generation", output, "ig_1", True)
        ask(messages=[llm.user("draw"), llm.assistant(call, result, "Here."), llm.user("blue")])
        assert [p for p in items(simulator)[-1]["content"] if p["type"] != "input_text"] == []
