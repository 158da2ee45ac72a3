"""Attachments: images and files, in prompts, conversations and tools."""

from __future__ import annotations

import llm
import pytest
from llm.parts import ToolCallPart, ToolResultPart

from conftest import add_blind_model
from simulator import PNG, Answer, Call, Say

PDF = b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n1 0 obj\nendobj\n"


def last_body(simulator):
    return simulator.prompts[-1]


def parts_of(body, kind):
    """Return the parts of this type in all messages and tool outputs."""
    return [
        part
        for item in body["input"]
        for part in [*item.get("content", []), *(item.get("output") or [])]
        if isinstance(part, dict) and part["type"] == kind
    ]


def images_of(body):
    return parts_of(body, "input_image")


# Images


JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00\xff\xd9"
GIF = b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff!\xf9\x04\x01\x00\x00\x00\x00,"
WEBP = b"RIFF\x1a\x00\x00\x00WEBPVP8L\x0d\x00\x00\x00/\x00\x00\x00\x10\x07\x10\x11\x11\x88\x88"


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("a.png", PNG, "image/png"),
        ("a.jpg", JPEG, "image/jpeg"),
        ("a.gif", GIF, "image/gif"),
        ("a.webp", WEBP, "image/webp"),
    ],
)
def test_images_are_sent_again_unchanged(simulator, signed_in, run_llm, tmp_path, name, data, kind):
    (tmp_path / name).write_bytes(data)
    result = run_llm("-m", "chatgpt-gpt-6-luna", "What?", "-a", str(tmp_path / name))
    assert result.exit_code == 0, result.output
    (image,) = images_of(last_body(simulator))
    assert image["image_url"].startswith(f"data:{kind};base64,")
    # Without image_detail, the service decides.
    assert "detail" not in image
    first = simulator.prompts[0]["input"]
    run_llm("-c", "And?")
    assert last_body(simulator)["input"][: len(first)] == first


def test_an_image_from_stdin_is_sent(simulator, signed_in, run_llm):
    result = run_llm("-m", "chatgpt-gpt-6-luna", "What?", "-a", "-", input=PNG)
    assert result.exit_code == 0
    assert len(images_of(last_body(simulator))) == 1


def test_an_https_address_of_an_image_is_sent_as_it_is(simulator, signed_in, ask):
    url = "https://example.com/a.png"
    ask("What?", attachments=[llm.Attachment(type="image/png", url=url)])
    assert images_of(last_body(simulator)) == [{"type": "input_image", "image_url": url}]


def test_an_image_with_an_http_address_is_sent_as_data(simulator, signed_in, ask):
    # The backend takes https and data addresses only.
    # The authorize endpoint stands in for a web server with an image.
    with_image = Answer(200, PNG, {"Content-Type": "image/png"})
    simulator.script("authorize", with_image, with_image)
    url = f"{simulator.issuer}/oauth/authorize"
    ask("What?", attachments=[llm.Attachment(type="image/png", url=url)])
    assert images_of(last_body(simulator))[0]["image_url"].startswith("data:image/png;base64,")


@pytest.mark.parametrize("detail", ["auto", "low", "high", "original"])
def test_image_detail_is_sent(simulator, signed_in, ask, detail):
    image = llm.Attachment(type="image/png", content=PNG)
    ask("What?", attachments=[image], image_detail=detail)
    assert images_of(last_body(simulator))[0]["detail"] == detail


def test_an_attachment_that_a_model_cannot_read_is_refused(simulator, signed_in, run_llm, tmp_path):
    add_blind_model(simulator, signed_in)
    (tmp_path / "a.png").write_bytes(PNG)
    result = run_llm("-m", "chatgpt-gpt-blind", "What?", "-a", str(tmp_path / "a.png"))
    assert result.exit_code == 1
    assert "does not support attachments of type 'image/png'" in result.stderr
    (tmp_path / "a.wav").write_bytes(b"RIFF\x24\0\0\0WAVEfmt ")
    result = run_llm("-m", "chatgpt-gpt-6-luna", "What?", "-a", str(tmp_path / "a.wav"))
    assert result.exit_code == 1
    assert "audio/wav" in result.stderr
    assert simulator.prompts == []


def test_earlier_attachments_that_a_model_cannot_read_become_notes(simulator, signed_in, ask):
    add_blind_model(simulator, signed_in)
    sound = llm.Attachment(type="audio/wav", content=b"RIFF")
    image = llm.Attachment(type="image/png", content=PNG)
    pdf = llm.Attachment(type="application/pdf", content=PDF)
    messages = [llm.user("Look", sound, image, pdf), llm.assistant("Seen."), llm.user("And?")]
    ask(messages=messages)
    parts = last_body(simulator)["input"][0]["content"]
    types = [part["type"] for part in parts]
    assert types == ["input_text", "input_text", "input_image", "input_file"]
    assert "audio/wav" in parts[1]["text"]
    ask(messages=messages, slug="gpt-blind")
    parts = last_body(simulator)["input"][0]["content"]
    assert [part["type"] for part in parts] == ["input_text"] * 3 + ["input_file"]


def test_an_earlier_image_that_is_gone_becomes_a_note(simulator, signed_in, ask, tmp_path, caplog):
    path = tmp_path / "gone\x1b[2J.png"
    path.write_bytes(PNG)
    conversation = ask.model().conversation()
    ask.finish(
        lambda: conversation.prompt(
            "What?", attachments=[llm.Attachment(type="image/png", path=str(path))]
        )
    )
    path.unlink()
    assert ask.finish(lambda: conversation.prompt("And?")).text
    assert last_body(simulator)["input"][0]["content"][1] == {
        "type": "input_text",
        "text": "[attachment left out: it no longer exists]",
    }
    name = "gone\N{REPLACEMENT CHARACTER}[2J.png"
    warning = f"Warning: attachment {name} no longer exists; sent a note in its place."
    assert caplog.messages == [warning]


UNSENDABLE = [
    (llm.Attachment(type="image/heic", content=b"x"), "is image/heic"),
    (llm.Attachment(type="audio/wav", path="/a/b.wav"), "is audio/wav"),
    (llm.Attachment(type="audio/wav", url="https://x.example/b.wav"), "is audio/wav"),
    (llm.Attachment(type="application/pdf", path="/nowhere/a.pdf"), "no longer exists"),
    (llm.Attachment(type="application/pdf", url="http://127.0.0.1:9/a.pdf"), "cannot be read"),
    (llm.Attachment(content=b"\0\1\2"), "is of an unknown type"),
    (llm.Attachment(), "cannot be read"),
    (llm.Attachment(type="image/png"), "cannot be read"),
    (llm.Attachment(type="image/png", path="/nowhere/a.png"), "no longer exists"),
    (llm.Attachment(type="image/png", url="http://127.0.0.1:9/a.png"), "cannot be read"),
    (llm.Attachment(type="image/png", url="http://[x"), "cannot be read"),
    (llm.Attachment(type="image/png", url="file:///etc/passwd"), "cannot be read"),
]


@pytest.mark.parametrize(("attachment", "problem"), UNSENDABLE)
def test_an_unsendable_attachment_is_an_error_but_a_note_in_earlier_messages(
    simulator, signed_in, ask, caplog, attachment, problem
):
    with pytest.raises(llm.ModelError) as caught:
        ask(messages=[llm.user("hi"), llm.assistant("Hello."), llm.user("What?", attachment)])
    assert f": it {problem}. " in str(caught.value)
    assert simulator.prompts == []
    # In earlier messages, a note takes its place.
    result = ToolResultPart("look", "done", "c1", attachments=[attachment])
    ask(
        messages=[
            llm.user("What?", attachment),
            llm.assistant(ToolCallPart("look", {}, "c1")),
            llm.tool_message(result),
        ]
    )
    items = last_body(simulator)["input"]
    for parts in (items[0]["content"], items[2]["output"]):
        assert parts[1]["text"].startswith(f"[attachment left out: it {problem}")
    # The warning is not repeated.
    assert len(caplog.messages) == 1
    assert f" {problem}; sent a note in its place." in caplog.text


def test_a_new_image_for_a_model_that_reads_none_is_refused(simulator, signed_in, ask):
    add_blind_model(simulator, signed_in)
    image = llm.Attachment(type="image/png", content=PNG)
    with pytest.raises(llm.ModelError, match=r"cannot be read by this model\. Use another model"):
        ask(messages=[llm.user("What?", image)], slug="gpt-blind")


def screenshot() -> llm.ToolOutput:
    "Take a screenshot"
    return llm.ToolOutput("done", attachments=[llm.Attachment(type="image/png", content=PNG)])


def test_an_image_from_a_tool_is_sent_again_unchanged(simulator, signed_in, ask):
    simulator.answer(Call("screenshot", {}))
    simulator.answer(Say("I see."))
    conversation = ask.model().conversation(tools=[screenshot])
    ask.chain(conversation, "Look", tools=[screenshot])
    items = last_body(simulator)["input"]
    assert len(images_of(last_body(simulator))) == 1
    ask.chain(conversation, "And now?", tools=[screenshot])
    # Earlier items are sent again unchanged.
    assert last_body(simulator)["input"][: len(items)] == items


def test_a_tool_result_with_an_image_is_sent_as_an_output_with_an_image(simulator, signed_in, ask):
    image = llm.Attachment(type="image/png", content=PNG)
    ask(
        messages=[
            llm.user("Look"),
            llm.assistant(ToolCallPart("screenshot", {}, "c1")),
            llm.tool_message(ToolResultPart("screenshot", "done", "c1", attachments=[image])),
        ]
    )
    output = last_body(simulator)["input"][-1]["output"]
    assert [part["type"] for part in output] == ["input_text", "input_image"]


def test_reply_works_after_a_tool_that_returns_an_image(simulator, signed_in):
    model = llm.get_model("chatgpt-gpt-6-luna")
    simulator.answer(Call("screenshot", {}))
    first = model.prompt("Look", tools=[screenshot])
    simulator.answer(Say("Nice."))
    assert first.reply("What do you see?").text() == "Nice."
    assert images_of(last_body(simulator))


def test_image_detail_applies_to_attachments_in_messages(simulator, signed_in, ask):
    image = llm.Attachment(type="image/png", content=PNG)
    ask(messages=[llm.user("What?", image)], image_detail="low")
    assert images_of(last_body(simulator))[0]["detail"] == "low"
