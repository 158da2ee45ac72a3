"""Files as attachments: which are sent and how, which are refused, and what the service refuses."""

from __future__ import annotations

import base64
import io
import zipfile

import llm
import pytest
from llm.parts import ToolCallPart, ToolResultPart

from conftest import add_blind_model
from llm_chatgpt import config
from llm_chatgpt.backend.attachments import attachment_part
from simulator import PNG, Answer, Call, Say, error_answer
from test_attachments import GIF, JPEG, PDF, WEBP, images_of, last_body, parts_of

MIB = 2**20


def files_of(body):
    """Return the name, type and content of each file."""
    found = []
    for part in parts_of(body, "input_file"):
        assert set(part) == {"type", "filename", "file_data"}
        kind, data = part["file_data"].removeprefix("data:").split(";base64,")
        found.append((part["filename"], kind, base64.b64decode(data, validate=True)))
    return found


OFFICE = "application/vnd.openxmlformats-officedocument."


KINDS = {
    "word": "wordprocessingml.document",
    "ppt": "presentationml.presentation",
    "xl": "spreadsheetml.sheet",
}


def office(folder):
    """Build the parts of an Office document that llm reads to find its type."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        kind = f"{OFFICE}{KINDS[folder]}.main+xml"
        override = f'<Override PartName="/{folder}/document.xml" ContentType="{kind}"/>'
        archive.writestr("[Content_Types].xml", f"<Types>{override}</Types>")
        archive.writestr(f"{folder}/document.xml", "<document/>")
    return file.getvalue()


FILES = [
    ("a.pdf", PDF, "application/pdf"),
    ("a.docx", office("word"), OFFICE + KINDS["word"]),
    ("a.pptx", office("ppt"), OFFICE + KINDS["ppt"]),
    ("a.xlsx", office("xl"), OFFICE + KINDS["xl"]),
]


@pytest.mark.parametrize(("name", "data", "kind"), FILES, ids=[name for name, _, _ in FILES])
def test_a_file_that_llm_recognizes_is_sent_as_a_file(
    simulator, signed_in, run_llm, tmp_path, name, data, kind
):
    (tmp_path / name).write_bytes(data)
    result = run_llm("-m", "chatgpt-gpt-6-luna", "Read", "-a", str(tmp_path / name))
    assert "(with 1 file)" in result.stdout
    assert files_of(last_body(simulator)) == [(name, kind, data)]


TEXTS = [
    ("notes.txt", "Buy fish.\n"),
    ("notes.md", "# F\xecsh\n"),
    ("a.html", "<!DOCTYPE html><html></html>"),
    ("a.json", '{"fish": 2}'),
    ("a.xml", '<?xml version="1.0"?><a/>'),
    ("a.py", "import os\nprint(1)\n"),
    ("a.c", "int main() {}\n"),
    ("a.toml", "[a]\nb = 1\n"),
    ("a.yaml", "a: 1\n"),
    ("a.log", "2026-11-26 hi\n"),
    ("a.svg", '<svg xmlns="http://www.w3.org/2000/svg"></svg>'),
]


def text_of(simulator):
    """Return the last part of the last message. It must be text."""
    part = last_body(simulator)["input"][-1]["content"][-1]
    assert part["type"] == "input_text"
    return part["text"]


@pytest.mark.parametrize(("name", "text"), TEXTS, ids=[name for name, _ in TEXTS])
def test_text_of_any_type_is_sent_as_text(simulator, signed_in, run_llm, tmp_path, name, text):
    (tmp_path / name).write_bytes(text.encode())
    result = run_llm("-m", "chatgpt-gpt-6-luna", "Read", "-a", str(tmp_path / name))
    assert result.exit_code == 0, result.stderr
    assert text_of(simulator) == f"{name}:\n\n{text}"
    first = simulator.prompts[0]["input"]
    run_llm("-c", "And?")
    assert last_body(simulator)["input"][: len(first)] == first


def test_a_text_file_unknown_to_llm_is_sent_with_at(simulator, signed_in, run_llm, tmp_path):
    (tmp_path / "fish.csv").write_bytes(b"fish,2\n")
    table = str(tmp_path / "fish.csv")
    result = run_llm("-m", "chatgpt-gpt-6-luna", "Read", "-a", table)
    assert "Could not determine mimetype" in result.stderr
    run_llm("-m", "chatgpt-gpt-6-luna", "Read", "--at", table, "text/csv")
    assert text_of(simulator) == "fish.csv:\n\nfish,2\n"


@pytest.mark.parametrize(
    ("kind", "content", "problem"),
    [
        ("application/zip", b"PK\x03\x04\x00\xff", "is application/zip. Convert it to PNG, JPEG, "),
        (
            "application/x-it",
            b"\0\1",
            "is application/x-it. Convert it to PNG, JPEG, WebP, GIF, PDF ",
        ),
        ("text/csv", b"f\xeate", "is not UTF-8 text. Convert it or leave it out."),
    ],
)
@pytest.mark.parametrize("options", [[], ["--async"]])
def test_a_file_of_an_unknown_type_is_refused_in_one_sentence(
    simulator, signed_in, run_llm, tmp_path, kind, content, problem, options
):
    path = tmp_path / "file"
    path.write_bytes(content)
    result = run_llm("-m", "chatgpt-gpt-6-luna", "Read", "--at", str(path), kind, *options)
    assert f"Error: Could not send the attachment file: it {problem}" in result.stderr
    assert len(result.stderr) < 160
    assert simulator.prompts == []


def test_attachment_types_are_sorted_and_contain_no_sound_or_video(simulator, signed_in):
    types = llm.get_model("chatgpt-gpt-6-luna").attachment_types
    assert list(types) == sorted(types)
    assert all(
        kind in types for kind in ("text/x-python", "application/toml", "image/svg+xml", None)
    )
    assert not any(kind in types for kind in ("audio/wav", "video/mp4", "image/heic"))


@pytest.mark.parametrize("options", [[], ["--async"]])
def test_a_file_from_stdin_is_sent_again_unchanged(simulator, signed_in, run_llm, options):
    model = ["-m", "chatgpt-gpt-6-luna", *options]
    run_llm(*model, "Read", "-a", "-", input=PDF)
    assert files_of(last_body(simulator)) == [("attachment.pdf", "application/pdf", PDF)]
    run_llm("-c", "And?", *options)
    first, second = (request.raw for request in simulator.seen("/codex/responses"))
    assert second.startswith(first.removesuffix(b"]}"))
    run_llm(*model, "Read", "--at", "-", "text/markdown", input=b"# Fish")
    assert text_of(simulator) == "# Fish"


def test_a_conversation_goes_on_with_the_same_bytes(simulator, signed_in, ask, tmp_path):
    (tmp_path / "a.pdf").write_bytes(PDF)
    pdf = llm.Attachment(path=str(tmp_path / "a.pdf"))
    mislabelled = llm.Attachment(type="text/plain", content=PDF)
    conversation = ask.model().conversation()
    ask.finish(lambda: conversation.prompt("Read", attachments=[pdf, mislabelled]))
    ask.finish(lambda: conversation.prompt("And this?", attachments=[pdf]))
    first, second = (request.raw for request in simulator.seen("/codex/responses"))
    assert second.startswith(first.removesuffix(b"]}"))
    assert files_of(last_body(simulator)) == [
        ("a.pdf", "application/pdf", PDF),
        ("attachment.pdf", "application/pdf", PDF),
        ("a.pdf", "application/pdf", PDF),
    ]


def test_a_file_by_address_is_sent_as_data(simulator, signed_in, ask):
    # The authorize endpoint stands in for a web server with a PDF.
    simulator.always["authorize"] = lambda _: Answer(200, PDF, {"Content-Type": "application/pdf"})
    url = f"{simulator.issuer}/oauth/authorize"
    pdf = llm.Attachment(type="application/pdf; qs=0.001", url=url)
    ask(messages=[llm.user("Read", pdf), llm.assistant("Read."), llm.user("And?")])
    assert files_of(last_body(simulator)) == [("authorize.pdf", "application/pdf", PDF)]


@pytest.mark.parametrize(
    ("where", "kind", "name"),
    [
        ({"path": "/nowhere/report.PDF"}, "application/pdf", "report.PDF"),
        ({"path": "/nowhere/2301.12345v2"}, "application/pdf", "2301.12345v2.pdf"),
        ({"url": "https://a.example/a%20b/c%2Fd%20e.pdf?f=/g.txt"}, "application/pdf", "d e.pdf"),
        ({"url": "https://a.example/c.pdf"}, None, "c.pdf"),
        ({"url": "https://a.example"}, "application/pdf", "attachment.pdf"),
        # The suffix contradicts the type.
        ({"path": "/nowhere/report.docx"}, "application/pdf", "report.docx.pdf"),
    ],
)
def test_a_file_always_has_a_name(where, kind, name):
    attachment = llm.Attachment(type=kind, content=PDF, **where)
    assert attachment_part(attachment)["filename"] == name


CHANGED = [
    ("image/png", JPEG, "data:image/jpeg;"),
    ("image/jpeg", PNG, "data:image/png;"),
    ("image/png", GIF, "data:image/gif;"),
    ("image/gif", WEBP, "data:image/webp;"),
    ("image/png", PDF, "data:application/pdf;"),
    ("application/pdf", PNG, "data:image/png;"),
    ("image/png", b"text", None),
    # Text may begin with any bytes.
    ("text/plain", b"GIF89a is a format", "file:\n\nGIF89a"),
    ("text/plain", PNG, "data:image/png;"),
]


@pytest.mark.parametrize(("kind", "data", "sent"), CHANGED)
def test_an_earlier_file_is_sent_as_what_it_contains_now(
    simulator, signed_in, run_llm, tmp_path, kind, data, sent
):
    path = tmp_path / "file"
    path.write_bytes(PDF if kind == "application/pdf" else PNG)
    run_llm("-m", "chatgpt-gpt-6-luna", "What?", "--at", str(path), kind)
    path.write_bytes(data)
    assert run_llm("-c", "And?").exit_code == 0
    part = last_body(simulator)["input"][0]["content"][1]
    if sent:
        found = part.get("image_url") or part.get("file_data") or part["text"]
        assert found.startswith(sent)
    else:
        words = "it is not a PNG, JPEG, WebP or GIF image"
        assert part["text"] == f"[attachment left out: {words}]"


DATA_URLS = [
    (f"data:image/png;base64,{base64.b64encode(PNG).decode()}", None, "image/png", PNG),
    (f"DATA:;BASE64,{base64.b64encode(PNG).decode()}", "image/png", "image/png", PNG),
    ("data:text/plain;charset=utf-8,Buy%20fish", None, None, b"Buy fish"),
    ("data:,Buy fish", "text/markdown", None, b"Buy fish"),
]


@pytest.mark.parametrize(("url", "kind", "sent", "data"), DATA_URLS)
def test_a_data_address_is_decoded(simulator, signed_in, ask, url, kind, sent, data):
    # Not in `attachments`, where llm itself fetches an address that has no type.
    ask(messages=[llm.user("Look", llm.Attachment(url=url, type=kind))])
    part = last_body(simulator)["input"][0]["content"][1]
    encoded = base64.b64encode(data).decode()
    if sent is None:
        assert part == {"type": "input_text", "text": data.decode()}
    else:
        assert part["image_url"] == f"data:{sent};base64,{encoded}"


@pytest.mark.parametrize("url", ["data:image/png;base64,A", "data:image/png;base64,", "data:"])
def test_an_invalid_data_address_is_refused(simulator, signed_in, ask, url):
    with pytest.raises(llm.ModelError, match=r"^Could not send the attachment without a name: it"):
        ask(messages=[llm.user("Look", llm.Attachment(url=url))])


def test_a_data_address_is_sent_again_unchanged(simulator, signed_in, ask):
    conversation = ask.model().conversation()
    image = llm.Attachment(url=DATA_URLS[0][0], type="image/png")
    ask.finish(lambda: conversation.prompt("Look", attachments=[image]))
    ask.finish(lambda: conversation.prompt("And?"))
    first, second = (request.raw for request in simulator.seen("/codex/responses"))
    assert second.startswith(first.removesuffix(b"]}"))


def test_an_address_without_a_type_or_suffix_is_an_image(simulator, signed_in, ask):
    url = "https://a.example/photo"
    ask(messages=[llm.user("Look", llm.Attachment(url=url))])
    assert images_of(last_body(simulator)) == [{"type": "input_image", "image_url": url}]


def test_a_file_above_the_limit_is_refused_unread(simulator, signed_in, ask, tmp_path, monkeypatch):
    assert config.MAX_FILE_MIB == 20
    monkeypatch.setattr(config, "MAX_FILE_MIB", 1)
    path = tmp_path / "large.pdf"
    path.write_bytes(PDF.ljust(MIB))
    by_path = llm.Attachment(type="application/pdf", path=str(path))
    simulator.answer(Say("Read."))
    ask("Read", attachments=[by_path, llm.Attachment(type="text/plain", content=b"x" * MIB)])
    assert [len(data) for _, _, data in files_of(last_body(simulator))] == [MIB]
    assert text_of(simulator) == "x" * MIB
    path.write_bytes(PDF.ljust(MIB + 1))
    by_content = llm.Attachment(type="text/plain", content=b"x" * (MIB + 1))
    for attachment, name in ((by_path, "large.pdf"), (by_content, "without a name")):
        sentence = (
            f"Could not send the attachment {name}: it is larger than 1 MiB. "
            "Shorten or split it, or leave it out."
        )
        with pytest.raises(llm.ModelError) as caught:
            ask("Read", attachments=[attachment])
        assert str(caught.value) == sentence
    # A file that is too large is not even read.
    monkeypatch.setattr(llm.Attachment, "content_bytes", None)
    with pytest.raises(llm.ModelError, match="larger than 1 MiB"):
        ask("Read", attachments=[by_path])
    assert len(simulator.prompts) == 1


FILE_REFUSALS = [
    # None: the simulator's own refusal.
    (None, "Invalid value: 'input_file'."),
    (
        error_answer(400, "invalid_value", "Invalid file data: 'input[0].content[0].file_data'."),
        "Invalid file data: 'input[0].content[0].file_data'.",
    ),
    (
        error_answer(400, None, "Missing required parameter: 'input[0].content[0]'."),
        "Missing required parameter: 'input[0].content[0]'.",
    ),
    (error_answer(400, None, "Not allowed.", param="input[0].content[0].type"), "Not allowed."),
    (Answer(400, {"detail": "PDF files are not supported"}), "PDF files are not supported."),
    (
        Answer(400, {"detail": [{"loc": ["body", "input", 0, "content", 1], "msg": "Bad part"}]}),
        "body.input.0.content.1: Bad part.",
    ),
    (
        Answer(400, {"detail": {"code": "unsupported_file", "message": "Not allowed"}}),
        "Not allowed.",
    ),
]


@pytest.mark.parametrize(("answer", "words"), FILE_REFUSALS)
def test_a_refused_file_is_an_error_with_advice(simulator, signed_in, ask, answer, words):
    simulator.accepts_files = False
    simulator.script("responses", answer)
    pdf = llm.Attachment(type="application/pdf", content=PDF)
    with pytest.raises(llm.ModelError) as caught:
        ask("Read", attachments=[pdf])
    sentence = str(caught.value).split(" [request ")[0]
    assert sentence == (
        f"OpenAI refused the attached file: {words} Files may not work with a ChatGPT login. Send "
        "the text with -f instead; for a PDF, run 'llm install llm-fragments-pdf' and use -f "
        "pdf:FILE."
    )
    # A refusal is final.
    assert len(simulator.prompts) == 1


def test_other_refusals_are_not_about_the_file(simulator, signed_in, ask):
    pdf = llm.Attachment(type="application/pdf", content=PDF)
    about_image = "Invalid image data: 'input[0].content[1].image_url'."
    listed = {"loc": ["body", "input", 0, "content", 12, "image_url"], "msg": "Bad"}
    for attachments, answer in (
        ([], error_answer(400, None, "Bad input[0].content[0].")),
        ([pdf], error_answer(400, None, about_image)),
        ([pdf], Answer(400, {"detail": [listed]})),
        ([pdf], Answer(400, {"detail": "Unsupported profile"})),
    ):
        simulator.script("responses", answer)
        with pytest.raises(llm.ModelError, match=r"^OpenAI refused the request: "):
            ask("Read", attachments=attachments)
    simulator.script("responses", error_answer(400, "context_length_exceeded", "input_file"))
    with pytest.raises(llm.ModelError, match="longer than the model's context"):
        ask("Read", attachments=[pdf])


def test_an_empty_file_is_refused(simulator, signed_in, ask, tmp_path):
    path = tmp_path / "empty.txt"
    path.touch()
    empty = llm.Attachment(type="text/plain", path=str(path))
    with pytest.raises(llm.ModelError, match=r"empty\.txt: it is empty\. Check it or leave it"):
        ask("Read", attachments=[empty])


def report() -> llm.ToolOutput:
    "Fetch the report"
    return llm.ToolOutput("done", attachments=[llm.Attachment(type="application/pdf", content=PDF)])


def test_a_file_from_a_tool_is_sent(simulator, signed_in, ask):
    simulator.answer(Call("report", {}))
    simulator.answer(Say("Read."))
    conversation = ask.model().conversation(tools=[report])
    ask.chain(conversation, "Go", tools=[report])
    # llm itself puts it into a message of the user.
    assert last_body(simulator)["input"][-1]["role"] == "user"
    assert files_of(last_body(simulator)) == [("attachment.pdf", "application/pdf", PDF)]


def test_a_tool_result_with_a_file_is_sent_as_an_output_with_a_file(simulator, signed_in, ask):
    pdf = llm.Attachment(type="application/pdf", content=PDF)
    result = ToolResultPart("report", "done", "c1", attachments=[pdf])
    call = llm.assistant(ToolCallPart("report", {}, "c1"))
    ask(messages=[llm.user("Go"), call, llm.tool_message(result)])
    output = last_body(simulator)["input"][-1]["output"]
    assert [part["type"] for part in output] == ["input_text", "input_file"]
    assert files_of(last_body(simulator)) == [("attachment.pdf", "application/pdf", PDF)]


def test_every_model_takes_files(simulator, signed_in):
    add_blind_model(simulator, signed_in)
    for get in (llm.get_model, llm.get_async_model):
        assert "application/pdf" in get("chatgpt-gpt-6-luna").attachment_types
        assert "image/png" in get("chatgpt-gpt-6-luna").attachment_types
        assert get("chatgpt-gpt-blind").attachment_types == {*config.FILE_TYPES, *config.TEXT_TYPES}


def test_a_missing_attachment_is_reported_once_even_if_the_prompt_is_sent_twice(
    simulator, signed_in, ask, tmp_path, caplog
):
    simulator.expire_access_tokens()
    gone = llm.Attachment(type="image/png", path=str(tmp_path / "gone.png"))
    ask(messages=[llm.user("Look", gone), llm.assistant("Seen."), llm.user("And?")])
    assert len(simulator.prompts) == 2
    assert caplog.text.count("gone.png no longer exists") == 1
