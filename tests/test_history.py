"""What goes back to the service: earlier messages, as they came and as they were sent."""

from __future__ import annotations

import itertools
import json
import pathlib
import re
import time

import llm
import pytest
from llm.parts import ToolCallPart, ToolResultPart

from llm_chatgpt.backend.catalogue import ModelInfo
from llm_chatgpt.backend.endpoints import fetch_models
from llm_chatgpt.backend.input import InputBuilder
from llm_chatgpt.login.tokens import Tokens
from simulator import PNG, Call, Draw, Say, Search, Think, error_answer

MODEL = "chatgpt-gpt-6-luna"
ADD = "def add(a: float, b: float) -> float:\n    return a + b"


def add(a: float, b: float) -> float:
    "Add two numbers"
    return a + b


def items(simulator, number=-1):
    return simulator.prompts[number]["input"]


def kinds(simulator, number=-1):
    return [item.get("role", item["type"]) for item in items(simulator, number)]


def of_kind(simulator, kind, number=-1):
    return [item for item in items(simulator, number) if item["type"] == kind]


def texts(item):
    return [part["text"] for part in item["content"] if "text" in part]


def system_prompts(simulator):
    return ["".join(texts(i)) for i in items(simulator) if i.get("role") == "developer"]


def assert_same_beginnings(simulator, first=0):
    """The input of each request begins with the bytes of the one before."""
    requests = [request.raw for request in simulator.seen("/codex/responses")[first:]]
    inputs = [raw.partition(b',"input":')[2] for raw in requests]
    for earlier, later in itertools.pairwise(inputs):
        assert earlier
        assert later.startswith(earlier[: -len(b"]}")])


# Reasoning -------------------------------------------------------------------------------


def test_reasoning_goes_back_only_to_the_model_that_it_came_from(simulator, signed_in, ask):
    history = []
    for slug in ("gpt-6-luna", "gpt-6-sol", "gpt-6-luna", "gpt-6-sol"):
        simulator.answer(Think(), Say(f"{slug} says."))
        history.append(llm.user("on"))
        history += ask(messages=history, slug=slug).messages
    # Nothing was refused and sent again.
    assert len(simulator.prompts) == 4
    assert kinds(simulator, 1) == ["user", "assistant", "user"]
    assert kinds(simulator, 2) == ["user", "reasoning", *("assistant", "user") * 2]
    assert kinds(simulator, 3) == [
        *("user", "assistant", "user", "reasoning", "assistant", "user", "assistant", "user")
    ]


def test_a_tool_chain_after_a_change_of_model(simulator, signed_in, ask):
    history = [llm.user("one"), *ask("one").messages, llm.user("two")]
    simulator.answer(Think(), Call("add", {"a": 1, "b": 2}))
    simulator.answer(Think(), Call("add", {"a": 3, "b": 4}))
    ask.chain(ask.model("gpt-6-sol"), messages=history, tools=[add])
    assert len(simulator.prompts) == 4
    rounds = ["reasoning", "function_call", "function_call_output"]
    assert kinds(simulator) == ["user", "assistant", "user", *rounds * 2]
    # The first prompt went to another model.
    assert_same_beginnings(simulator, first=1)


def test_refused_reasoning_stays_out_of_the_whole_conversation(simulator, signed_in, run_llm):
    simulator.answer(Think(), Say("One."))
    run_llm("-m", MODEL, "one")
    simulator.reasoning.origins.clear()
    simulator.answer(Think(), Call("add", {"a": 1, "b": 2}))
    simulator.answer(Think(), Say("Three."))
    run_llm("-c", "two", "--functions", ADD)
    run_llm("-c", "three")
    assert len(simulator.prompts) == 5
    assert kinds(simulator) == [
        *("user", "assistant", "user", "reasoning", "function_call", "function_call_output"),
        *("reasoning", "assistant", "user"),
    ]
    assert_same_beginnings(simulator, first=2)


def test_refused_reasoning_stays_out_while_the_model_goes_on(simulator, signed_in, ask):
    conversation = ask.model().conversation()
    simulator.answer(Think(), Say("One."))
    ask.finish(lambda: conversation.prompt("one"))
    simulator.reasoning.origins.clear()
    simulator.answer(Think(), Say("Two."), end_turn=False)
    simulator.answer(Think(), Say("Three."))
    ask.finish(lambda: conversation.prompt("two"))
    ask.finish(lambda: conversation.prompt("three"))
    assert len(simulator.prompts) == 5
    assert_same_beginnings(simulator, first=2)


# The arguments of calls ---------------------------------------------------------------------


WRITTEN = [
    '{"a":6,"b":7}',
    '{ "b": 1e2,\n "a": 0.10 }',
    '{"a": 1, "a": 2, "b": 3}',
    '{"a": "é", "b": "\\u00e9\\/"}',
    '["6","7"]',
    "{broken",
]


@pytest.mark.parametrize("arguments", WRITTEN)
def test_arguments_go_back_as_the_model_wrote_them(simulator, signed_in, run_llm, arguments):
    simulator.answer(Call("add", arguments, "c1"))
    run_llm("-m", MODEL, "go", "--functions", ADD)
    run_llm("-c", "on")
    assert len(simulator.prompts) == 3
    for number in (1, 2):
        assert of_kind(simulator, "function_call", number)[0]["arguments"] == arguments
    assert_same_beginnings(simulator)


def test_arguments_in_memory_and_from_a_dict(simulator, signed_in, ask):
    simulator.answer(Call("add", '{"a":6,"b":7}', "c1"))
    first, last = ask.chain(ask.model(), "go", tools=[add])
    history = [*first.prompt.messages, *first._messages_now(), *last.prompt.messages[-1:]]
    loaded = [llm.Message.from_dict(json.loads(json.dumps(m.to_dict()))) for m in history]
    ask(messages=loaded, tools=[add])
    assert of_kind(simulator, "function_call")[0]["arguments"] == '{"a":6,"b":7}'
    assert simulator.prompts[1]["input"] == simulator.prompts[2]["input"]


def test_arguments_that_were_changed_later_are_sent_as_they_are(simulator, signed_in, ask):
    simulator.answer(Call("add", '{"a":6,"b":7}', "c1"))
    messages = ask("go", tools=[add]).messages
    for changed in ({"a": 6, "b": 8}, {"a": 6.0, "b": 7}, {"a": 6, "b": True}):
        messages[0].parts[0].arguments = changed
        ask(messages=[llm.user("go"), *messages, llm.user("on")])
        assert of_kind(simulator, "function_call")[0]["arguments"] == json.dumps(changed)


# Web searches -------------------------------------------------------------------------------


PAGE = {"type": "open_page", "url": "https://a.example"}
FOUND = {"type": "find_in_page", "url": "https://a.example", "pattern": "x"}


@pytest.mark.parametrize(
    ("action", "sent"),
    [
        (PAGE, PAGE),
        (FOUND, FOUND),
        ({**PAGE, "url": None, "new": [1]}, {**PAGE, "url": None, "new": [1]}),
        (None, None),
        ({}, None),
        ({"type": "other"}, None),
        ({"type": None, "query": "x"}, None),
        ("search", None),
    ],
)
def test_only_searches_that_the_service_knows_go_back(simulator, signed_in, ask, action, sent):
    conversation = ask.model().conversation()
    simulator.answer(Search("x", action=action), Say("Found."))
    ask.finish(lambda: conversation.prompt("search"))
    ask.finish(lambda: conversation.prompt("on"))
    searches = of_kind(simulator, "web_search_call")
    expected = {"type": "web_search_call", "status": "completed", "action": sent}
    assert searches == ([expected] if sent else [])
    assert_same_beginnings(simulator)


@pytest.mark.parametrize("options", [[], ["--async"]])
def test_a_service_that_insists_on_the_ids_of_searches(simulator, signed_in, run_llm, options):
    simulator.demands_search_ids = True
    simulator.answer(Think(), Search("x"), Say("Found."))
    simulator.answer(Search("y"), Say("Found more."))
    run_llm("-m", MODEL, "search", *options)
    for prompt in ("two", "three", "four"):
        assert run_llm("-c", prompt, *options).exit_code == 0
    # Only the second prompt was sent twice.
    assert len(simulator.prompts) == 5
    searches = of_kind(simulator, "web_search_call")
    assert [search["id"][:3] for search in searches] == ["ws_", "ws_"]
    assert kinds(simulator)[:4] == ["user", "reasoning", "web_search_call", "assistant"]
    assert_same_beginnings(simulator, first=2)


def test_a_service_that_takes_no_searches(simulator, signed_in, ask):
    conversation = ask.model().conversation()
    simulator.answer(Think(), Search("x"), Say("Found."))
    ask.finish(lambda: conversation.prompt("search"))
    simulator.accepts_searches = False
    simulator.answer(Call("add", {"a": 1, "b": 2}))
    simulator.answer(Search("y"), Say("Three."))
    ask.chain(conversation, "add", tools=[add])
    ask.finish(lambda: conversation.prompt("on"))
    # Once without ids, once with them, then without searches.
    assert len(simulator.prompts) == 6
    assert kinds(simulator, 3) == ["user", "reasoning", "assistant", "user"]
    assert_same_beginnings(simulator, first=3)


def test_an_id_of_a_search_that_the_service_does_not_know(simulator, signed_in, ask):
    simulator.demands_search_ids = True
    simulator.answer(Search("x"), Say("Found."))
    history = [llm.user("search"), *ask("search").messages, llm.user("on")]

    def forget(request):
        (search,) = [item for item in request.body["input"] if "id" in item]
        return error_answer(404, None, f"Item with id '{search['id']}' not found.")

    simulator.script("responses", None, forget)
    ask(messages=history)
    assert len(simulator.prompts) == 4
    assert kinds(simulator) == ["user", "assistant", "user"]


REFUSED_SEARCHES = [
    error_answer(400, None, "Something about input[1]."),
    error_answer(400, None, "Bad input.", param="input[1].action.queries"),
    error_answer(400, None, "Unknown type: web_search_call."),
]


@pytest.mark.parametrize("refusal", REFUSED_SEARCHES)
def test_how_a_refusal_names_a_search(simulator, signed_in, ask, refusal):
    simulator.answer(Search("x"), Say("Found."))
    history = [llm.user("search"), *ask("search").messages, llm.user("on")]
    simulator.script("responses", refusal)
    ask(messages=history)
    assert len(simulator.prompts) == 3
    assert of_kind(simulator, "web_search_call")[0]["id"].startswith("ws_")


def test_a_refusal_of_something_else_is_final(simulator, signed_in, ask):
    simulator.answer(Search("x"), Say("Found."))
    history = [llm.user("search"), *ask("search").messages, llm.user("on")]
    for param in ("input[2].content", "input[7]", "tools[1]", None):
        simulator.script("responses", error_answer(400, None, "Bad.", param=param))
        with pytest.raises(llm.ModelError, match=r"Bad\."):
            ask(messages=history)
    assert len(simulator.prompts) == 5


# Images by address ---------------------------------------------------------------------------


DEAD = "https://a.example/dead.png"
LIVE = "https://a.example/live.png"


@pytest.fixture
def reachable(monkeypatch):
    """What can be fetched from here, by address."""
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
    """What stands in the messages of the user, in short."""
    parts = [p for i in items(simulator, number) if i.get("role") == "user" for p in i["content"]]
    return [part.get("image_url", part.get("text")).partition(";")[0] for part in parts]


def test_an_image_that_only_this_machine_can_fetch(simulator, signed_in, ask, reachable):
    simulator.dead_addresses = {DEAD}
    reachable[DEAD] = PNG
    conversation = ask.model().conversation()
    simulator.answer(Call("add", {"a": 1, "b": 2}))
    ask.chain(conversation, "look", attachments=[image(LIVE), image(DEAD)], tools=[add])
    ask.finish(lambda: conversation.prompt("on"))
    assert len(simulator.prompts) == 4
    assert content(simulator, 1) == ["look", LIVE, "data:image/png"]
    assert_same_beginnings(simulator, first=1)


def test_a_new_image_that_nobody_can_fetch(simulator, signed_in, ask, reachable):
    simulator.dead_addresses = {DEAD}
    with pytest.raises(llm.ModelError) as caught:
        ask("look", attachments=[image(DEAD)])
    assert str(caught.value) == (
        f"Could not send the attachment {DEAD}: it cannot be read. Check it or leave it out."
    )
    assert len(simulator.prompts) == 1


def test_an_image_in_the_history_whose_address_has_died(
    simulator, signed_in, ask, reachable, caplog
):
    conversation = ask.model().conversation()
    ask.finish(lambda: conversation.prompt("look", attachments=[image(DEAD), image(LIVE)]))
    simulator.dead_addresses = {DEAD}
    for prompt in ("two", "three"):
        ask.finish(lambda prompt=prompt: conversation.prompt(prompt))
    assert len(simulator.prompts) == 4
    note = "[attachment left out: it cannot be read]"
    assert content(simulator) == ["look", note, LIVE, "two", "three"]
    assert f"Warning: attachment {DEAD} cannot be read; sent a note" in caplog.text
    assert_same_beginnings(simulator, first=2)


@pytest.mark.parametrize(
    "words",
    [
        "Timeout while downloading the image.",
        "Failed to download image from https://a.example/dead.png.",
        "Could not download input[0].content[1].image_url.",
    ],
)
def test_how_a_refusal_speaks_of_a_download(simulator, signed_in, ask, reachable, words):
    reachable[DEAD] = PNG
    simulator.script("responses", error_answer(400, None, words))
    ask("look", attachments=[image(DEAD)])
    assert content(simulator) == ["look", "data:image/png"]


def test_an_address_that_brings_a_web_page(simulator, signed_in, ask, reachable):
    simulator.dead_addresses = {DEAD}
    reachable[DEAD] = b"<!DOCTYPE html>"
    with pytest.raises(llm.ModelError, match="it is not a PNG, JPEG, WebP or GIF image"):
        ask("look", attachments=[image(DEAD)])


# Attachments of tools ------------------------------------------------------------------------


def bad(kind):
    files = {
        "bmp": llm.Attachment(type="image/bmp", content=b"BM"),
        "wav": llm.Attachment(type="audio/wav", content=b"RIFF"),
        "empty": llm.Attachment(type="image/png", content=b""),
        "gone": llm.Attachment(type="image/png", path="/nowhere/a.png"),
        "text": llm.Attachment(type="image/png", content=b"no picture"),
    }
    return files[kind]


@pytest.mark.parametrize("kind", ["bmp", "wav", "empty", "gone", "text"])
def test_a_tool_whose_attachment_cannot_be_sent(simulator, signed_in, ask, caplog, kind):
    def draw() -> llm.ToolOutput:
        "Draw"
        return llm.ToolOutput("done", attachments=[bad(kind), llm.Attachment(content=PNG)])

    simulator.answer(Call("draw", {}, "c1"))
    simulator.answer(Say("Never mind."))
    responses = ask.chain(ask.model(), "go", tools=[draw])
    assert responses[-1].text_or_raise() == "Never mind."
    note, picture = items(simulator)[-1]["content"]
    assert note["text"].startswith("[attachment left out: it ")
    assert picture["type"] == "input_image"
    assert "sent a note in its place" in caplog.text


def test_an_attachment_of_the_user_after_a_tool_turn_is_an_error(simulator, signed_in, ask):
    result = llm.tool_message(ToolResultPart("add", "3", "c1"))
    turn = [llm.user("go"), llm.assistant(ToolCallPart("add", {}, "c1")), result]
    new = llm.user("Look", bad("bmp"))
    with pytest.raises(llm.ModelError, match="Could not send the attachment"):
        ask(messages=[*turn, llm.assistant("3"), new])


# System prompts --------------------------------------------------------------------------------


@pytest.mark.parametrize("system", ["Tell a joke.", None])
def test_a_prompt_without_a_message(simulator, signed_in, ask, system):
    conversation = ask.model().conversation()
    ask.finish(lambda: conversation.prompt("", system=system))
    assert texts(items(simulator)[-1]) == [""]
    first = ["developer"] if system else []
    assert kinds(simulator) == [*first, "user"]
    ask.finish(lambda: conversation.prompt("another"))
    assert kinds(simulator) == [*first, "user", "reasoning", "assistant", "user"]
    assert_same_beginnings(simulator)


def test_a_template_that_is_only_a_system_prompt(simulator, signed_in, run_llm):
    run_llm("-m", MODEL, "-s", "Tell a joke.", "--save", "joke")
    assert run_llm("-t", "joke").exit_code == 0
    assert run_llm("-c", "another").exit_code == 0
    assert_same_beginnings(simulator)


def test_a_history_that_begins_with_another_models_answer(simulator, signed_in, ask):
    ask(messages=[llm.system("Be kind."), llm.assistant("Hello!"), llm.user("hi")])
    assert kinds(simulator) == ["developer", "assistant", "user"]


def test_a_later_system_prompt_comes_before_its_message_and_stays(simulator, signed_in, run_llm):
    run_llm("-m", MODEL, "one", "-s", "Be brief.")
    simulator.answer(Think(), Call("add", {"a": 1, "b": 2}))
    simulator.answer(Think(), Call("add", {"a": 3, "b": 4}))
    run_llm("-c", "two", "-s", "Speak French.", "--functions", ADD)
    run_llm("-c", "three")
    run_llm("-c", "four", "-s", "Speak French.")
    run_llm("-c", "five", "-s", "Be brief.")
    assert system_prompts(simulator) == ["Be brief.", "Speak French.", "Be brief."]
    assert kinds(simulator, 1)[1:] == ["user", "reasoning", "assistant", "developer", "user"]
    assert kinds(simulator)[-2:] == ["developer", "user"]
    assert_same_beginnings(simulator)


def test_a_later_system_prompt_beside_instructions(simulator, signed_in, run_llm):
    run_llm("-m", "chatgpt-gpt-5.2-codex", "one", "-s", "Be brief.")
    run_llm("-c", "two", "-s", "Speak French.")
    run_llm("-c", "three")
    assert {body["instructions"] for body in simulator.prompts} == {"Be brief."}
    assert system_prompts(simulator) == ["Speak French."]
    assert_same_beginnings(simulator)


def test_a_later_system_prompt_in_a_conversation(simulator, signed_in, ask):
    conversation = ask.model().conversation()
    ask.finish(lambda: conversation.prompt("one"))
    simulator.answer(Call("add", {"a": 1, "b": 2}))
    ask.chain(conversation, "two", system="Speak French.", tools=[add])
    # Without a message of the user.
    ask.finish(lambda: conversation.prompt(None, system="Sum up."))
    ask.finish(lambda: conversation.prompt("three"))
    roles = [kind for kind in kinds(simulator) if kind in ("user", "developer")]
    assert roles == ["user", "developer", "user", "developer", "user"]
    assert_same_beginnings(simulator)


def test_the_first_system_prompt_beside_messages_stays(simulator, signed_in, ask):
    answered = ask(messages=[llm.user("one")], system="Speak French.")
    ask(messages=[llm.user("one"), *answered.messages, llm.user("two")])
    assert system_prompts(simulator) == ["Speak French."]
    assert_same_beginnings(simulator)


def test_a_system_prompt_beside_a_history_of_other_origin(simulator, signed_in, ask):
    history = [llm.user("one"), llm.assistant("One."), llm.user("two")]
    ask(messages=history, system="Speak French.")
    ask(messages=[*history, llm.assistant("Two."), llm.user("three")], system="Speak French.")
    assert kinds(simulator) == ["developer", *("user", "assistant") * 2, "user"]
    assert_same_beginnings(simulator)


def test_a_system_prompt_with_a_tools_picture(simulator, signed_in, ask):
    def draw() -> llm.ToolOutput:
        "Draw"
        return llm.ToolOutput("done", attachments=[llm.Attachment("image/png", content=PNG)])

    conversation = ask.model().conversation()
    ask.finish(lambda: conversation.prompt("one"))
    simulator.answer(Call("draw", {}))
    simulator.answer(Call("draw", {}))
    ask.chain(conversation, "two", system="Speak French.", tools=[draw])
    assert kinds(simulator).count("developer") == 1
    assert kinds(simulator)[3:5] == ["developer", "user"]
    assert_same_beginnings(simulator)


# Drawn pictures ----------------------------------------------------------------------------------


def drawn(run_llm, simulator, *options):
    simulator.answer(Draw("A pelican"), Say("Here."))
    result = run_llm("-m", MODEL, "draw", "-T", "ImageGeneration", *options)
    return pathlib.Path(re.search(r"^Picture: (.+)$", result.stderr, re.MULTILINE)[1])


def test_a_drawn_picture_can_be_changed(simulator, signed_in, run_llm):
    drawn(run_llm, simulator)
    run_llm("-c", "make it blue")
    run_llm("-c", "and green")
    assert [[part["type"] for part in i["content"]] for i in of_kind(simulator, "message")] == [
        *(["input_text"], ["output_text"], ["output_text"], ["input_image", "input_text"]),
        *(["output_text"], ["input_text"]),
    ]
    picture = items(simulator)[3]["content"][0]
    assert picture["image_url"].startswith("data:image/png;base64,")
    assert_same_beginnings(simulator)


def test_a_drawn_picture_that_is_gone(simulator, signed_in, run_llm):
    drawn(run_llm, simulator).unlink()
    result = run_llm("-c", "make it blue")
    note, text = items(simulator)[-1]["content"]
    assert note["text"] == "[attachment left out: it no longer exists]"
    assert text["text"] == "make it blue"
    assert re.search(r"Warning: attachment .+\.png no longer exists; sent a note", result.stderr)


def test_a_drawn_picture_after_a_tool_call_and_another_folder(
    simulator, signed_in, run_llm, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    simulator.answer(Draw("A pelican", output_format="webp"), Call("add", {"a": 1, "b": 2}))
    tools = ("-T", 'ImageGeneration({"folder": "art"})', "--functions", ADD)
    run_llm("-m", MODEL, "draw", *tools)
    monkeypatch.chdir(tmp_path.parent)
    run_llm("-c", "make it blue")
    image = items(simulator)[-1]["content"][0]
    # Its own type, whatever the service has called it.
    assert image["image_url"].startswith("data:image/png;base64,")
    assert_same_beginnings(simulator)


def test_a_drawn_picture_for_a_model_that_sees_none(simulator, signed_in, run_llm):
    blind = {**simulator.models[4], "slug": "gpt-blind", "input_modalities": ["text"]}
    simulator.models = [*simulator.models, blind]
    fetch_models(signed_in)
    drawn(run_llm, simulator)
    result = run_llm("-c", "make it blue", "-m", "chatgpt-gpt-blind")
    assert [part["type"] for part in items(simulator)[-1]["content"]] == ["input_text"]
    assert "Warning" not in result.stderr


def test_no_picture_and_no_file_are_not_sent(simulator, signed_in, ask, tmp_path):
    (tmp_path / "secret.png").write_text("secret")
    metadata = {"chatgpt": {"type": "image_generation_call"}}
    for output in ("no image received", "/etc/passwd", str(tmp_path / "secret.png")):
        call = ToolCallPart("image_generation", {}, "ig_1", True, metadata)
        result = ToolResultPart("image_generation", output, "ig_1", True)
        ask(messages=[llm.user("draw"), llm.assistant(call, result, "Here."), llm.user("blue")])
        assert [p for p in items(simulator)[-1]["content"] if p["type"] != "input_text"] == []


# Long conversations -----------------------------------------------------------------------------


def test_a_long_conversation_takes_linear_time():
    def seconds(turns):
        messages = [llm.user("question"), llm.assistant("answer")] * turns
        builder = InputBuilder(ModelInfo("m"), Tokens(""), {})
        start = time.process_time()
        builder.build(messages, "")
        assert len(builder.items) == len(messages)
        return time.process_time() - start

    small = min(seconds(1000) for _ in range(3))
    assert seconds(16_000) < 60 * small + 0.2
