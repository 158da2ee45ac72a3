"""Everything llm can ask of a model: tools, schemas, images, searches, reasoning, options."""

from __future__ import annotations

import json
import pathlib
import re
import time
import uuid

import llm
import pytest
from llm.default_plugins.openai_models import WebSearch
from llm.parts import ReasoningPart, TextPart, ToolCallPart, ToolResultPart

import llm_chatgpt_oauth as plugin
from conftest import models_updated
from llm_chatgpt.backend.catalogue import known_models, models_path, remembered_models
from llm_chatgpt.backend.fetch import fetch_models
from simulator import PNG, Answer, Call, Draw, Refuse, Say, Search, Stream, Think, error_answer


def kinds(items):
    return [item.get("role", item["type"]) for item in items]


def last_body(simulator):
    return simulator.prompts[-1]


def multiply(a: int, b: int) -> int:
    "Multiply two numbers"
    return a * b


def broken() -> str:
    "Always fails"
    raise RuntimeError("out of order")


# Tools -------------------------------------------------------------------------------


def test_a_tool_chain(simulator, signed_in, ask):
    simulator.answer(Think(["Multiply."]), Call("multiply", {"a": 6, "b": 7}, "call_1"))
    simulator.answer(Say("It is 42."))
    responses = ask.chain(ask.model(), "What is 6 times 7?", tools=[multiply])
    assert responses[-1].text_or_raise() == "It is 42."
    first, second = simulator.prompts
    assert first["tools"] == [
        {
            "type": "function",
            "name": "multiply",
            "description": "Multiply two numbers",
            "strict": False,
            "parameters": {
                "type": "object",
                "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
                "required": ["a", "b"],
            },
        }
    ]
    # The reasoning comes back before the call that it led to.
    assert kinds(second["input"]) == ["user", "reasoning", "function_call", "function_call_output"]
    call, output = second["input"][2:]
    assert (call["call_id"], json.loads(call["arguments"])) == ("call_1", {"a": 6, "b": 7})
    assert output == {"type": "function_call_output", "call_id": "call_1", "output": "42"}


def test_parallel_calls_and_errors(simulator, signed_in, ask):
    simulator.answer(Call("multiply", {"a": 2, "b": 3}, "c1"), Call("broken", {}, "c2"))
    ask.chain(ask.model(), "Go", tools=[multiply, broken])
    items = last_body(simulator)["input"]
    outputs = {i["call_id"]: i["output"] for i in items if i["type"] == "function_call_output"}
    assert outputs == {"c1": "6", "c2": "Error: out of order"}


def test_a_tool_that_does_not_exist(simulator, signed_in, ask):
    simulator.answer(Call("nothing", {}, "c1"))
    ask.chain(ask.model(), "Go", tools=[multiply])
    assert "does not exist" in last_body(simulator)["input"][-1]["output"]


def test_a_tool_name_that_the_service_refuses(simulator, signed_in, ask):
    tool = llm.Tool(name="math.times two", implementation=lambda: "42")
    simulator.answer(Call("math_times_two", {}, "c1"))
    simulator.answer(Say("It is 42."))
    responses = ask.chain(ask.model(), "Go", tools=[tool])
    assert responses[-1].text_or_raise() == "It is 42."
    assert [call.name for call in responses[0]._tool_calls] == ["math.times two"]
    first, second = simulator.prompts
    assert first["tools"][0]["name"] == "math_times_two"
    assert second["input"][1]["name"] == "math_times_two"
    assert second["input"][2]["output"] == "42"


def test_tools_whose_names_the_service_cannot_tell_apart(simulator, signed_in, ask):
    tools = [llm.Tool(name=name, implementation=lambda: "") for name in ("a.b", "a_b")]
    with pytest.raises(llm.ModelError, match=r"a\.b and a_b .* Rename one of them\."):
        ask("Go", tools=tools)


class Memory(llm.Toolbox):
    "Remembers"

    def __init__(self):
        self.kept = []

    def keep(self, text: str) -> str:
        "Keep a text"
        self.kept.append(text)
        return f"kept {len(self.kept)}"


def test_a_toolbox(simulator, signed_in, ask):
    memory = Memory()
    simulator.answer(Call("Memory_keep", {"text": "a"}), Call("Memory_keep", {"text": "b"}))
    ask.chain(ask.model(), "Go", tools=[memory])
    assert memory.kept == ["a", "b"]
    outputs = [i["output"] for i in last_body(simulator)["input"] if "output" in i]
    assert outputs == ["kept 1", "kept 2"]


def test_a_tool_without_arguments(simulator, signed_in, ask):
    ask("hi", tools=[llm.Tool(name="now", implementation=lambda: "12:00")])
    tool = last_body(simulator)["tools"][0]
    assert tool["parameters"] == {"type": "object", "properties": {}}


def test_tool_names_and_arguments_stream(simulator, signed_in, ask):
    simulator.answer(Call("multiply", {"a": 123456, "b": 654321}, "c1"))
    answered = ask("Go", tools=[multiply])
    types = [event.type for event in answered.events]
    assert types[0] == "tool_call_name"
    assert types.count("tool_call_args") > 1
    part = next(part for part in answered.parts if isinstance(part, ToolCallPart))
    assert (part.name, part.arguments, part.tool_call_id) == (
        "multiply",
        {"a": 123456, "b": 654321},
        "c1",
    )
    calls = answered.response._tool_calls
    assert [(c.name, c.arguments) for c in calls] == [("multiply", {"a": 123456, "b": 654321})]


def test_tools_on_the_command_line_and_in_chat(simulator, signed_in, run_llm):
    result = run_llm(
        *("-m", "chatgpt-gpt-6-luna", 'double {"n": 21}', "-R", "--td"),
        *("--functions", "def double(n: int) -> int:\n    return n * 2"),
    )
    assert "The tool returned: 42" in result.stdout
    assert "Tool call: double({'n': 21})" in result.stderr
    result = run_llm("chat", "-m", "chatgpt-gpt-6-luna", "-T", "llm_version", input="llm_version\n")
    assert "The tool returned: " in result.stdout


def test_a_paused_chain_is_resumed(simulator, signed_in):
    asked = []

    def approve() -> str:
        "Needs a person"
        if not asked:
            asked.append(True)
            raise llm.PauseChain("later")
        return "approved"

    model = llm.get_model("chatgpt-gpt-6-luna")
    simulator.answer(Think(["Ask."]), Call("approve", {}, "c1"))
    chain = model.chain("Go", tools=[approve])
    with pytest.raises(llm.PauseChain):
        chain.text()
    first = chain._responses[0]
    history = [*first.prompt.messages, *first.messages()]
    simulator.answer(Say("Thank you."))
    assert model.chain(messages=history, tools=[approve]).text() == "Thank you."
    items = last_body(simulator)["input"]
    assert kinds(items) == ["user", "reasoning", "function_call", "function_call_output"]
    assert items[-1]["output"] == "approved"


# Histories of any kind ----------------------------------------------------------------


def test_calls_and_outputs_are_paired_whatever_comes(simulator, signed_in, ask):
    ask(
        messages=[
            llm.user("one"),
            llm.assistant(ToolCallPart("f.g h", {"x": 1}, "a" * 80)),
            llm.tool_message(ToolResultPart("f.g h", "1", "a" * 80)),
            # A call that was never carried out, another model's ids, or none at all.
            llm.assistant(ToolCallPart("lost", {}, "toolu_01"), ToolCallPart("none", {}, None)),
            llm.user("two"),
            llm.tool_message(ToolResultPart("orphan", "2", "c9")),
            llm.assistant(ToolCallPart("again", {}, "toolu_01")),
            llm.tool_message(ToolResultPart("again", "3", "toolu_01")),
            llm.assistant(ToolCallPart("raw", {"_raw": "{broken"}, "c10")),
            llm.tool_message(ToolResultPart("raw", "", "c10")),
            llm.user("three"),
        ]
    )
    items = last_body(simulator)["input"]
    calls = [item for item in items if item["type"] == "function_call"]
    outputs = [item for item in items if item["type"] == "function_call_output"]
    assert sorted(c["call_id"] for c in calls) == sorted(o["call_id"] for o in outputs)
    assert len({c["call_id"] for c in calls}) == len(calls) == 6
    assert calls[0]["name"] == "f_g_h"
    assert calls[-1]["arguments"] == "{broken"


def test_a_claude_conversation_goes_on_here(simulator, signed_in, ask):
    signature = {"anthropic": {"signature": "s", "type": "thinking"}}
    ask(
        messages=[
            llm.system("Be kind."),
            llm.user("one"),
            llm.assistant(
                ReasoningPart("thinking", provider_metadata=signature),
                TextPart("Let me look."),
                ToolCallPart("web_search", {"query": "x"}, "srvtoolu_1", server_executed=True),
                ToolResultPart("web_search", "found", "srvtoolu_1", server_executed=True),
                TextPart("Done."),
                ToolCallPart("multiply", {"a": 1, "b": 2}, "toolu_2"),
            ),
            llm.tool_message(ToolResultPart("multiply", "2", "toolu_2")),
            llm.assistant("It is two."),
            llm.user("two"),
        ]
    )
    items = last_body(simulator)["input"]
    assert kinds(items) == [
        *("developer", "user", "assistant", "assistant", "function_call", "function_call_output"),
        *("assistant", "user"),
    ]


def test_core_openai_reasoning_is_left_alone(simulator, signed_in, ask):
    metadata = {"openai": {"id": "rs_1", "encrypted_content": "theirs", "summary": []}}
    ask(messages=[llm.user("one"), llm.assistant(ReasoningPart("", False, metadata), "two")])
    assert "theirs" not in json.dumps(last_body(simulator))


def test_our_history_makes_sense_elsewhere(simulator, signed_in, ask):
    simulator.answer(
        Think(["Hm."]), Search("x"), Say("Answer."), Call("multiply", {"a": 1, "b": 2}, "c1")
    )
    answered = ask("Go", tools=[multiply, WebSearch()])
    for message in answered.messages:
        assert message.role == "assistant"
        for part in message.parts:
            assert set(part.provider_metadata or {}) <= {"chatgpt"}
            assert not getattr(part, "redacted", False)


# Server-side tools ------------------------------------------------------------------------


def test_web_search_with_llms_own_class(simulator, signed_in, ask):
    citation = {
        "type": "url_citation",
        "url": "https://a.example",
        "title": "A",
        "start_index": 0,
        "end_index": 5,
    }
    simulator.answer(
        Think(["Search."]),
        Search("pelicans", ["https://a.example"]),
        Say("Found.", annotations=[citation]),
    )
    conversation = ask.model().conversation()
    tool = WebSearch(
        allowed_domains=["example.com"],
        user_location={"country": "DE"},
        search_context_size="low",
        external_web_access=True,
        search_content_types=["text"],
    )
    answered = ask.finish(lambda: conversation.prompt("search pelicans", tools=[tool]))
    body = last_body(simulator)
    assert body["tools"] == [
        {
            "type": "web_search",
            "filters": {"allowed_domains": ["example.com"]},
            "user_location": {"country": "DE", "type": "approximate"},
            "search_context_size": "low",
            "external_web_access": True,
            "search_content_types": ["text"],
        }
    ]
    assert "web_search_call.action.sources" in body["include"]
    call = next(part for part in answered.parts if isinstance(part, ToolCallPart))
    assert call.server_executed
    assert call.name == "web_search"
    assert call.arguments["query"] == "pelicans"
    assert call.arguments["sources"] == [{"type": "url", "url": "https://a.example"}]
    result = next(part for part in answered.parts if isinstance(part, ToolResultPart))
    assert result.server_executed
    assert "https://a.example" in result.output
    text = next(part for part in answered.parts if isinstance(part, TextPart))
    assert text.provider_metadata == {
        "chatgpt": {"phase": "final_answer", "annotations": [citation]}
    }
    assert answered.response._tool_calls == []

    ask.finish(lambda: conversation.prompt("again", tools=[tool]))
    items = last_body(simulator)["input"]
    assert kinds(items) == ["user", "reasoning", "web_search_call", "assistant", "user"]
    assert items[2] == {
        "type": "web_search_call",
        "status": "completed",
        "action": {"type": "search", "query": "pelicans", "queries": ["pelicans"]},
    }


@pytest.mark.parametrize(
    ("tool", "name"),
    [
        (WebSearch(blocked_domains=["x.example"]), "blocked_domains"),
        (WebSearch(return_token_budget="default"), "return_token_budget"),
        (WebSearch(image_settings={"max_results": 1}), "image_settings"),
        (WebSearch(include_results=True), "include_results"),
    ],
)
def test_what_the_backends_search_does_not_know(simulator, signed_in, ask, tool, name):
    with pytest.raises(llm.ModelError, match=f"does not take {name}"):
        ask("search", tools=[tool])
    assert simulator.prompts == []


def test_server_side_tools_in_the_shell(simulator, signed_in, run_llm):
    result = run_llm("-m", "chatgpt-gpt-6-luna", "search pelicans", "-T", "WebSearch", "-R")
    assert result.stdout == "Found it.\n"
    spec = 'ServerSideTool({"spec": {"type": "web_search"}})'
    result = run_llm("-m", "chatgpt-gpt-6-luna", "search pelicans", "-T", spec, "-R")
    assert result.stdout == "Found it.\n"
    assert last_body(simulator)["tools"] == [{"type": "web_search"}]
    listed = run_llm("tools", "list", "-m", "chatgpt-gpt-6-luna").stdout
    assert "WebSearch(" in listed
    assert "ImageGeneration(" in listed


def test_searches_are_replayed_from_the_logs(simulator, signed_in, run_llm):
    run_llm("-m", "chatgpt-gpt-6-luna", "search pelicans", "-T", "WebSearch")
    run_llm("-c", "more")
    assert kinds(last_body(simulator)["input"]) == [
        *("user", "reasoning", "web_search_call", "assistant", "user")
    ]


def test_a_drawn_picture_is_a_file(simulator, signed_in, run_llm, tmp_path):
    simulator.answer(Draw("A pelican on a bicycle"), Say("Here."))
    result = run_llm("-m", "chatgpt-gpt-6-luna", "draw", "-T", "ImageGeneration")
    assert result.stdout == "Here.\n"
    path = pathlib.Path(re.search(r"^Picture: (.+)$", result.stderr, re.MULTILINE)[1])
    assert path.read_bytes() == PNG
    assert path.parent == llm.user_dir() / "chatgpt-images"
    assert last_body(simulator)["tools"] == [{"type": "image_generation"}]
    run_llm("-c", "again")
    history = json.dumps(last_body(simulator)["input"][:-1])
    assert str(path) not in history
    assert str(tmp_path) not in history
    assert "A pelican on a bicycle" in history


def test_the_note_of_a_picture_begins_a_line(simulator, signed_in, run_llm):
    result = run_llm("-m", "chatgpt-gpt-6-sol", "draw", "-T", "ImageGeneration")
    assert "**Answering**" in result.stderr
    assert re.search(r"^Picture: ", result.stderr, re.MULTILINE)


def test_wishes_for_a_picture_are_sent(simulator, signed_in, ask):
    wishes = {
        "output_format": "webp",
        "size": "1024x1536",
        "quality": "low",
        "background": "transparent",
    }
    simulator.answer(Say("Here."))
    ask("draw", tools=[plugin.ImageGeneration(**wishes)])
    assert last_body(simulator)["tools"] == [{"type": "image_generation", **wishes}]


def test_wishes_for_a_picture_on_the_command_line(simulator, signed_in, run_llm):
    tool = 'ImageGeneration({"quality": "low", "folder": "art"})'
    run_llm("-m", "chatgpt-gpt-6-luna", "hi", "-T", tool)
    assert last_body(simulator)["tools"] == [{"type": "image_generation", "quality": "low"}]


def test_a_drawn_picture_in_a_folder_of_ones_own(simulator, signed_in, ask, tmp_path):
    simulator.answer(Draw("A pelican", output_format="webp"))
    tool = plugin.ImageGeneration(folder=str(tmp_path / "art"), output_format="webp")
    answered = ask("draw", tools=[tool])
    result = next(part for part in answered.parts if isinstance(part, ToolResultPart))
    path = pathlib.Path(result.output)
    assert path.parent == tmp_path / "art"
    assert path.suffix == ".webp"
    assert path.read_bytes() == PNG
    assert last_body(simulator)["tools"][0]["output_format"] == "webp"


@pytest.mark.parametrize("folder", ["{file}", "{file}/art", "~nobody-at-all/art", "a\0b"])
def test_a_folder_that_cannot_be_written(simulator, signed_in, ask, tmp_path, caplog, folder):
    (tmp_path / "file").write_text("")
    tool = plugin.ImageGeneration(folder=folder.format(file=tmp_path / "file"))
    simulator.answer(Draw("A pelican"), Say("Here."))
    answered = ask("draw", tools=[tool])
    assert answered.text == "Here."
    result = next(part for part in answered.parts if isinstance(part, ToolResultPart))
    path = pathlib.Path(result.output)
    assert path.parent == llm.user_dir() / "chatgpt-images"
    assert path.read_bytes() == PNG
    warning, picture = caplog.messages
    assert warning.startswith("Warning: could not save the image in ")
    assert warning.endswith("; using the default folder.")
    assert picture == f"Picture: {path}"


def test_a_picture_that_cannot_be_written_at_all(simulator, signed_in, ask, caplog):
    (llm.user_dir() / "chatgpt-images").write_text("")
    simulator.answer(Draw("A pelican"), Say("Here."))
    answered = ask("draw", tools=[plugin.ImageGeneration()])
    assert answered.text == "Here."
    result = next(part for part in answered.parts if isinstance(part, ToolResultPart))
    assert result.output.startswith("Could not save the image in chatgpt-images in llm's folder (")
    assert caplog.messages == [f"Warning: {result.output}"]


def test_other_formats_are_refused(simulator, signed_in, run_llm):
    sentence = "output_format must be png, jpeg or webp."
    with pytest.raises(llm.ModelError, match=sentence):
        plugin.ImageGeneration(output_format="bmp")
    tool = 'ImageGeneration({"output_format": "bmp"})'
    result = run_llm("-m", "chatgpt-gpt-6-luna", "draw", "-T", tool)
    assert result.exit_code == 1
    assert result.stderr == f"Error: {sentence}\n"


# Reasoning --------------------------------------------------------------------------------


def test_summaries_stream_to_stderr_apart(simulator, signed_in, run_llm):
    simulator.answer(Think(["one", "two"]), Think(["three"]), Say("Answer."))
    result = run_llm("-m", "chatgpt-gpt-6-luna", "hi")
    assert result.stdout == "Answer.\n"
    assert result.stderr == "one\n\ntwo\n\nthree\n"
    assert last_body(simulator)["reasoning"] == {"summary": "auto"}


def test_each_reasoning_item_is_a_part_with_its_metadata(simulator, signed_in, ask):
    simulator.answer(Think(["one"]), Think(["two"]), Say("Answer."))
    parts = [p for p in ask("hi").parts if isinstance(p, ReasoningPart)]
    assert [part.text.strip() for part in parts] == ["one", "two"]
    contents = {p.provider_metadata["chatgpt"]["encrypted_content"] for p in parts}
    assert len(contents) == 2
    assert {p.provider_metadata["chatgpt"]["account"] for p in parts} == {signed_in.account_key}


def test_hidden_reasoning_is_not_asked_for_but_kept(simulator, signed_in, run_llm, ask):
    simulator.answer(Think(["one"]), Say("Answer."))
    result = run_llm("-m", "chatgpt-gpt-6-luna", "hi", "-R")
    assert result.stderr == ""
    assert "reasoning" not in last_body(simulator)
    run_llm("-c", "more")
    assert "reasoning" in kinds(last_body(simulator)["input"])
    ask("hi", reasoning_summary="none")
    assert "reasoning" not in last_body(simulator)


@pytest.mark.parametrize("summary", ["auto", "concise", "detailed"])
def test_summaries_of_other_kinds(simulator, signed_in, ask, summary):
    ask("hi", reasoning_summary=summary)
    assert last_body(simulator)["reasoning"] == {"summary": summary}


def test_a_model_that_gives_no_summaries_is_not_asked(simulator, signed_in, ask):
    luna = next(model for model in simulator.models if model["slug"] == "gpt-6-luna")
    simulator.models = [{**luna, "supports_reasoning_summary_parameter": False}]
    fetch_models(signed_in)
    ask("hi")
    assert "reasoning" not in last_body(simulator)


def test_a_refused_summary_is_left_out_the_second_time(simulator, signed_in, ask):
    simulator.refuses_summary = {"gpt-6-luna"}
    assert ask("hi", reasoning_effort="low").text
    first, second = simulator.prompts
    assert first["reasoning"] == {"effort": "low", "summary": "auto"}
    assert second["reasoning"] == {"effort": "low"}


@pytest.mark.parametrize(
    ("effort", "sent"),
    [("low", "low"), ("max", "max"), ("ultra", "max"), ("none", "none"), ("medium", "medium")],
)
def test_efforts(simulator, signed_in, ask, effort, sent):
    fetch_models(signed_in)
    ask("hi", slug="gpt-6-sol", reasoning_effort=effort)
    assert last_body(simulator)["reasoning"]["effort"] == sent


def test_an_effort_that_the_fetched_list_does_not_have(simulator, signed_in, ask):
    fetch_models(signed_in)
    with pytest.raises(llm.ModelError) as caught:
        ask("hi", reasoning_effort="huge")
    assert "Choose one of: low, medium, high, xhigh, max." in str(caught.value)
    assert simulator.prompts == []


def test_without_a_fetched_list_the_server_says_what_is_right(simulator, signed_in, ask):
    with pytest.raises(llm.ModelError) as caught:
        ask("hi", reasoning_effort="minimal")
    assert "Supported values are: 'low', 'medium'" in str(caught.value)
    assert len(simulator.prompts) == 1


def test_a_model_with_an_effort_of_its_own(simulator, signed_in, ask):
    level = {"effort": "low", "description": ""}
    simulator.models = [
        {
            **simulator.models[0],
            "slug": "gpt-9",
            "supported_reasoning_levels": [level, {"effort": "xhigh"}],
        }
    ]
    fetch_models(signed_in)
    ask("hi", slug="gpt-9", reasoning_effort="xhigh")
    assert last_body(simulator)["reasoning"]["effort"] == "xhigh"
    with pytest.raises(llm.ModelError, match=r"Choose one of: low, xhigh\."):
        ask("hi", slug="gpt-9", reasoning_effort="medium")


# Options ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"verbosity": "low"}, {"text": {"verbosity": "low"}}),
        ({"service_tier": "fast"}, {"service_tier": "priority"}),
        ({"service_tier": "priority"}, {"service_tier": "priority"}),
        ({"service_tier": "ultrafast"}, {"service_tier": "ultrafast"}),
        ({"service_tier": "default"}, {"service_tier": "default"}),
        ({"parallel_tool_calls": False}, {"parallel_tool_calls": False}),
    ],
)
def test_options_in_the_request(simulator, signed_in, ask, options, expected):
    ask("hi", **options)
    body = last_body(simulator)
    assert {name: body[name] for name in expected} == expected


def test_nothing_is_sent_that_was_not_asked_for(simulator, signed_in, ask):
    ask("hi")
    for name in ("text", "service_tier", "parallel_tool_calls", "tools", "tool_choice"):
        assert name not in last_body(simulator)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        (("verbostiy", "low"), "No option named 'verbostiy'. Options: reasoning_effort, "),
        (
            ("service_tier", "flex"),
            "The option service_tier must be 'fast', 'priority', 'ultrafast' or 'default'.",
        ),
        (("verbosity", "loud"), "The option verbosity must be 'low', 'medium' or 'high'."),
        (
            ("reasoning_effort", "very high"),
            "The option reasoning_effort must be one word such as low, medium or high.",
        ),
        (
            ("image_detail", "best"),
            "The option image_detail must be 'auto', 'low', 'high' or 'original'.",
        ),
        (
            ("parallel_tool_calls", "perhaps"),
            "The option parallel_tool_calls must be a valid boolean, unable to interpret input.",
        ),
    ],
)
def test_wrong_options_are_a_sentence(simulator, signed_in, run_llm, ask, option, sentence):
    commands = (
        ("-m", "chatgpt-gpt-6-luna", "hi", "-o", *option),
        ("chat", "-m", "chatgpt-gpt-6-luna", "-o", *option),
        ("models", "options", "set", "chatgpt-gpt-6-luna", *option),
    )
    for command in commands:
        result = run_llm(*command)
        assert result.exit_code == 1
        assert result.stderr.startswith(f"Error: {sentence}")
        assert result.stderr.count("\n") == 1
    with pytest.raises(llm.ModelError) as caught:
        ask("hi", **dict([option]))
    assert str(caught.value).startswith(sentence)
    assert simulator.prompts == []


REFUSED_BY_THE_SERVICE = {
    "temperature": 0.3,
    "top_p": 1,
    "seed": 7,
    "stop": "END",
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "logit_bias": {"1712": -100},
    "top_logprobs": 5,
}


def test_options_that_other_plugins_always_pass_are_ignored(simulator, signed_in, ask, caplog):
    assert ask("hi", **REFUSED_BY_THE_SERVICE).text
    assert not set(REFUSED_BY_THE_SERVICE) & set(last_body(simulator))
    assert caplog.messages == [
        "Note: ignoring temperature, top_p, seed, stop, presence_penalty, frequency_penalty, "
        "logit_bias, top_logprobs; a ChatGPT login does not accept them."
    ]


def test_an_ignored_option_is_told_once_a_prompt(simulator, signed_in, run_llm):
    note = "Note: ignoring temperature; a ChatGPT login does not accept it.\n"
    simulator.expire_access_tokens()
    option = ("-m", "chatgpt-gpt-6-luna", "-R", "-o", "temperature", "0.5")
    result = run_llm(*option, "hi")
    assert (result.stdout, result.stderr) == ("This is answer 1. You said: hi\n", note)
    functions = "def double(n: int) -> int:\n    return n * 2"
    result = run_llm(*option, 'double {"n": 21}', "--functions", functions)
    assert len(simulator.prompts) == 4
    assert result.stderr == note
    # A conversation whose options llm reads from its log again.
    assert run_llm("-c", "more", "-R").stderr in ("", note)


def test_options_are_listed_set_and_kept_in_templates(simulator, signed_in, run_llm):
    listed = run_llm("models", "list", "--options", "-m", "chatgpt-gpt-6-luna").stdout
    assert "streaming" in listed
    names = re.findall(r"^    (\w+): ", listed, re.MULTILINE)
    for name in REFUSED_BY_THE_SERVICE:
        assert name not in listed
    values = {
        "reasoning_effort": "high",
        "reasoning_summary": "concise",
        "verbosity": "low",
        "service_tier": "fast",
        "image_detail": "high",
        "max_output_tokens": "1000",
        "max_tokens": "1000",
        "web_search": "false",
        "json_object": "true",
        "parallel_tool_calls": "false",
        "prompt_cache_key": "k",
    }
    assert list(values) == names
    for name, value in values.items():
        set_ = run_llm("models", "options", "set", "chatgpt-gpt-6-luna", name, value)
        assert set_.exit_code == 0, set_.output
    run_llm("-m", "chatgpt-gpt-6-luna", "hi")
    body = last_body(simulator)
    assert body["reasoning"] == {"effort": "high", "summary": "concise"}
    assert body["service_tier"] == "priority"
    assert body["parallel_tool_calls"] is False
    assert uuid.UUID(body["prompt_cache_key"])
    assert body["text"] == {"verbosity": "low", "format": {"type": "json_object"}}
    options = [word for name, value in values.items() for word in ("-o", name, value)]
    saved = run_llm("-m", "chatgpt-gpt-6-sol", "say $input", *options, "--save", "t")
    assert saved.exit_code == 0, saved.output
    run_llm("-t", "t", input="this")
    assert last_body(simulator) == {
        **body,
        "model": "gpt-6-sol",
        "input": last_body(simulator)["input"],
    }


# The prompt cache ---------------------------------------------------------------------------


def test_ten_turns_with_tools_reuse_everything(simulator, signed_in, ask):
    model = ask.model()
    conversation = model.conversation(tools=[multiply])
    for turn in range(10):
        simulator.answer(
            Think([f"Turn {turn}."]), Say("Let me see."), Call("multiply", {"a": turn, "b": 2})
        )
        simulator.answer(Think(["Done."]), Say(f"It is {turn * 2}."))
        ask.chain(conversation, f"Question {turn}", system="Be brief.", tools=[multiply])
    assert len(simulator.prompts) == 20
    for earlier, later in zip(simulator.prompts, simulator.prompts[1:], strict=False):
        before, after = (json.dumps(body["input"])[:-1] for body in (earlier, later))
        assert after.startswith(before)
        assert earlier["input"][0]["content"] == [{"type": "input_text", "text": "Be brief."}]
        assert earlier["tools"] == later["tools"]
    requests = simulator.seen("/codex/responses")
    sessions = {request.headers["session-id"] for request in requests}
    assert len(sessions) == 1
    assert {body["prompt_cache_key"] for body in simulator.prompts} == sessions
    assert uuid.UUID(sessions.pop())


def test_the_raw_bytes_begin_alike(simulator, signed_in, ask):
    conversation = ask.model().conversation()
    for text in ("one", "two"):
        ask.finish(lambda text=text: conversation.prompt(text))
    first, second = (request.raw for request in simulator.seen("/codex/responses"))
    assert second.startswith(first[: -len(b"]}")])


def test_cached_tokens_are_shown_and_logged(simulator, signed_in, run_llm):
    run_llm("-m", "chatgpt-gpt-6-luna", "a long prompt " * 50)
    result = run_llm("-c", "more", "-u")
    cached = int(re.search(r'"cached_tokens": (\d+)', result.stderr)[1])
    assert cached > 100
    row = json.loads(run_llm("logs", "-n", "1", "--json").stdout)[0]
    details = row["token_details"]
    details = json.loads(details) if isinstance(details, str) else details
    assert details["input_tokens_details"]["cached_tokens"] == cached


def test_without_a_conversation_the_beginning_names_the_session(simulator, signed_in, ask):
    for prompt, system in (("one", None), ("one", None), ("two", None), ("one", "Be brief.")):
        ask(prompt, system=system)
    sessions = [request.headers["session-id"] for request in simulator.seen("/codex/responses")]
    assert sessions[0] == sessions[1]
    assert len(set(sessions)) == 3


def test_a_cache_key_is_shared_by_conversations(simulator, signed_in, ask):
    for name in ("mine", "mine", "x" * 100):
        conversation = ask.model().conversation()
        ask.finish(
            lambda conversation=conversation, name=name: conversation.prompt(
                "hi", system="A long beginning. " * 50, prompt_cache_key=name
            )
        )
    requests = simulator.seen("/codex/responses")
    sessions = [request.headers["session-id"] for request in requests]
    assert sessions == [body["prompt_cache_key"] for body in simulator.prompts]
    assert sessions[0] == sessions[1] == str(uuid.UUID(sessions[0]))
    assert sessions[2] != sessions[0]


def test_the_cache_of_a_key_is_hit(simulator, signed_in, ask):
    def cached():
        conversation = ask.model().conversation()
        prompt = "A long beginning. " * 50
        answered = ask.finish(lambda: conversation.prompt(prompt, prompt_cache_key="mine"))
        details = answered.response.token_details or {}
        return details["input_tokens_details"]["cached_tokens"]

    assert cached() == 0
    assert cached() > 100


def test_the_turn_state_goes_back_within_a_turn_only(simulator, signed_in, ask):
    conversation = ask.model().conversation()
    for _ in range(2):
        simulator.answer(Call("multiply", {"a": 1, "b": 2}))
        simulator.answer(Call("multiply", {"a": 3, "b": 4}))
        simulator.answer(Say("Done."))
        ask.chain(conversation, "Go", tools=[multiply])
    states = [r.headers.get("x-codex-turn-state") for r in simulator.seen("/codex/responses")]
    assert [state is not None for state in states] == [False, True, True] * 2
    assert states[1] != states[2]


# Models ---------------------------------------------------------------------------------------


def test_the_models_command(simulator, signed_in, run_llm):
    result = run_llm("chatgpt", "models")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].startswith("MODEL")
    assert lines[1].split()[:2] == ["chatgpt-gpt-6.2-sol", "500,000"]
    assert "low medium high xhigh max ultra" in lines[1]
    assert lines[1].endswith("priority")
    assert lines[2] == "  GPT-6.2-Sol, as far as it goes"
    assert "codex-auto-review" not in result.stdout
    shown = run_llm("chatgpt", "models", "--all").stdout
    assert re.search(r"\nchatgpt-codex-auto-review .*\n  \(hidden\) Codex Auto Review", shown)
    data = json.loads(run_llm("chatgpt", "models", "--json").stdout)
    assert isinstance(data, list)
    assert data[0]["slug"] == "gpt-6.2-sol"
    assert data[0]["description"] == "GPT-6.2-Sol, as far as it goes"
    assert data[0]["reasoning_efforts"][0] == "low"
    # Fetched once, because none was there.
    assert len(simulator.seen("/codex/models")) == 1


def registered():
    return [model.model_id for model in llm.get_models() if model.model_id.startswith("chatgpt-")]


@pytest.mark.parametrize("description", [None, 7, "a\nb\x1b[2J" + "c" * 999])
def test_a_description_is_one_printable_line(simulator, signed_in, run_llm, description):
    simulator.models = [{**simulator.models[0], "description": description}]
    lines = run_llm("chatgpt", "models").stdout.splitlines()
    assert len(lines) == (3 if isinstance(description, str) else 2)
    assert all(len(line) <= 502 and line.isprintable() for line in lines)


def test_what_was_once_registered_stays(simulator, signed_in, run_llm):
    shown = {**simulator.models[0], "slug": "gpt-7-nova"}
    simulator.models = [shown, simulator.models[1]]
    run_llm("chatgpt", "refresh")
    run_llm("-m", "chatgpt-gpt-7-nova", "hi")
    hidden = [{**model, "visibility": "hide"} for model in simulator.models]
    for models in (hidden, hidden[1:]):
        simulator.models = models
        run_llm("chatgpt", "refresh")
        assert "chatgpt-gpt-7-nova" in registered()
        # A built-in one, which was there before any list.
        assert f"chatgpt-{hidden[1]['slug']}" in registered()
    simulator.models = [shown]
    assert run_llm("-c", "more").exit_code == 0


def test_the_models_command_needs_a_login(simulator, run_llm):
    for command in ("models", "refresh", "usage"):
        result = run_llm("chatgpt", command)
        assert result.exit_code == 1
        assert "llm chatgpt login" in result.stderr
    assert simulator.requests == []


def test_refresh_says_what_came_and_went(simulator, signed_in, run_llm):
    first = run_llm("chatgpt", "refresh").stdout
    assert "New:  chatgpt-gpt-6-luna" in first
    again = run_llm("chatgpt", "refresh").stdout
    assert again == "10 models, no changes.\n"
    simulator.models = [{**simulator.models[0], "slug": "gpt-7"}, *simulator.models[1:]]
    changed = run_llm("chatgpt", "refresh").stdout
    assert changed.splitlines() == [
        "New:  chatgpt-gpt-7",
        "Gone: chatgpt-gpt-6.2-sol",
        "10 models.",
    ]


def test_a_401_on_the_side_is_answered_by_a_refresh(simulator, signed_in, run_llm):
    for command in ("refresh", "usage"):
        simulator.expire_access_tokens()
        assert run_llm("chatgpt", command).exit_code == 0
    assert len(simulator.refreshes) == 2


def old_list(hours=2.0):
    data = json.loads(models_path().read_text())
    for record in data["accounts"].values():
        record["tried_at"] = time.time() - hours * 3600
    models_path().write_text(json.dumps(data))


def test_a_changed_list_is_fetched_beside_an_answer(simulator, signed_in, ask):
    def asked(*args, **kwargs):
        text = ask(*args, **kwargs).text
        models_updated()
        return text

    fetch_models(signed_in)
    simulator.models = [{**simulator.models[0], "slug": "gpt-7"}, *simulator.models]
    asked("too soon")
    assert len(simulator.seen("/codex/models")) == 1
    old_list()
    asked("hi")
    assert len(simulator.seen("/codex/models")) == 2
    assert asked("hi", slug="gpt-7")
    # As long as it stays the same, nothing is sent.
    old_list()
    asked("hi")
    assert len(simulator.seen("/codex/models")) == 2


def test_a_failed_update_is_silent_and_not_repeated(simulator, signed_in, ask, caplog):
    fetch_models(signed_in)
    before = known_models()
    simulator.models = simulator.models[2:]
    old_list()
    simulator.script("models", Answer(500))
    for _ in range(2):
        ask("hi")
        models_updated()
    assert len(simulator.seen("/codex/models")) == 2
    assert known_models() == before
    assert caplog.text == ""


def test_a_login_without_a_list_gets_one(simulator, signed_in, ask):
    ask("hi")
    models_updated()
    assert len(simulator.seen("/codex/models")) == 1
    assert remembered_models(signed_in).find("gpt-6-luna")


# Usage -------------------------------------------------------------------------------------


def test_usage(simulator, signed_in, run_llm):
    result = run_llm("chatgpt", "usage")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "Plan: Plus"
    assert re.fullmatch(
        r"5-hour +\[#{7}\.{3}\]  70% left, resets in 2 hours 30 minutes "
        r"\((\d{4}-\d\d-\d\d )?\d\d:\d\d\)",
        lines[1],
    )
    assert lines[2].startswith("weekly   [#########.]  88% left, resets ")
    assert max(map(len, lines)) <= 80
    data = json.loads(run_llm("chatgpt", "usage", "--json").stdout)
    assert data["rate_limit"]["primary_window"]["used_percent"] == 30.0
    assert not {"email", "account_id", "user_id"} & set(data)


def test_usage_of_other_plans(simulator, signed_in, run_llm):
    now = int(time.time())
    monthly = {
        "used_percent": 99.6,
        "limit_window_seconds": 2592000,
        "reset_after_seconds": 86400 * 3 + 60,
        "reset_at": now + 86400 * 3 + 60,
    }
    report = {
        "plan_type": "team\x1b[2J",
        "rate_limit": {"primary_window": monthly, "secondary_window": None},
        "additional_rate_limits": [
            {"limit_name": "gpt-6-astra", "rate_limit": {"primary_window": monthly}}
        ],
        "credits": {"has_credits": True, "unlimited": False, "balance": "12.5"},
        "spend_control": {
            "reached": False,
            "individual_limit": {"limit": "50", "used": "20", "reset_at": now + 7260},
        },
    }
    simulator.script("usage", Answer(200, report))
    text = run_llm("chatgpt", "usage").stdout
    assert "\x1b" not in text
    assert "30-day   [..........]   0% left" in text
    assert "in 3 days" in text
    assert "gpt-6-astra, 30-day [" in text
    assert "Credits: 12.5" in text
    assert "Spending: 20 of 50, resets " in text
    for odd in ({}, {"rate_limit": None, "credits": None}, {"credits": {"unlimited": True}}, [1]):
        simulator.script("usage", Answer(200, odd))
        assert run_llm("chatgpt", "usage").exit_code == 0


@pytest.mark.parametrize(
    ("reset", "words"),
    [
        ({}, ""),
        ({"reset_after_seconds": 9000}, ", resets in 2 hours 30 minutes"),
        ({"reset_at": 480, "reset_after_seconds": 9000}, ", resets in 2 hours 30 minutes"),
        # Long past.
        ({"reset_at": 480}, ""),
        ({"reset_after_seconds": -480}, ""),
    ],
)
def test_when_a_limit_resets(simulator, signed_in, run_llm, reset, words):
    window = {"used_percent": 95, "limit_window_seconds": 18000, **reset}
    spending = {"individual_limit": {"limit": "50", "used": "20", **reset}}
    report = {"rate_limit": {"primary_window": window}, "spend_control": spending}
    simulator.script("usage", Answer(200, report))
    lines = run_llm("chatgpt", "usage").stdout.splitlines()
    assert lines[1].split("left", 1)[1].startswith(words)
    assert lines[2].split("of 50", 1)[1].startswith(words)
    headers = {f"x-codex-primary-{k.replace('_', '-')}": str(v) for k, v in reset.items()}
    unsaid = {"x-codex-primary-reset-at": "", "x-codex-primary-reset-after-seconds": ""}
    simulator.response_headers = {**unsaid, **headers, "x-codex-primary-used-percent": "95"}
    note = run_llm("-m", "chatgpt-gpt-6-luna", "hi", "-R").stderr
    assert note.startswith(f"Note: 5% of your 5-hour limit left{words}")
    assert "ago" not in "".join([note, *lines])
    if not words:
        assert "resets" not in "".join([note, *lines])


def test_a_low_allowance_is_told(simulator, signed_in, run_llm, monkeypatch):
    simulator.used_percent = {"primary": 92.0, "secondary": 20.0}
    result = run_llm("-m", "chatgpt-gpt-6-luna", "hi", "-R")
    assert re.fullmatch(
        r"Note: 8% of your 5-hour limit left, resets in 2 hours 30 minutes \(.+\)\.\n",
        result.stderr,
    )
    assert result.stdout == "This is answer 1. You said: hi\n"
    monkeypatch.setenv("LLM_CHATGPT_USAGE_NOTE", "0")
    assert run_llm("-m", "chatgpt-gpt-6-luna", "hi", "-R").stderr == ""


def test_odd_limit_headers_are_passed_over(simulator, signed_in, run_llm):
    simulator.response_headers = {
        "x-codex-primary-used-percent": "a lot",
        "x-codex-secondary-used-percent": "99",
        "x-codex-secondary-window-minutes": "0",
    }
    assert run_llm("-m", "chatgpt-gpt-6-luna", "hi", "-R").stderr == ""


# Refusals in the stream, incomplete answers ----------------------------------------------------


def test_a_refusal_is_an_answer(simulator, signed_in, ask):
    simulator.answer(Refuse("I cannot help with that."))
    assert ask("hi").text == "I cannot help with that."


def test_an_incomplete_answer_is_kept_and_told(simulator, signed_in, run_llm):
    frames = list(
        simulator.frames(
            [Say("Half of it"), Call("multiply", {"a": 1, "b": 2})],
            terminal="incomplete",
            incomplete_details={"reason": "max_output_tokens"},
        )
    )
    cut = [f for f in frames if not (b"output_item.done" in f and b"function_call" in f)]
    simulator.script("responses", Stream(cut))
    result = run_llm(
        *("-m", "chatgpt-gpt-6-luna", "hi", "-R"),
        *("--functions", "def multiply(a: int, b: int) -> int:\n    raise SystemExit('ran')"),
    )
    assert result.exit_code == 0
    assert result.stdout == "Half of it\n"
    assert "The answer was cut short (max_output_tokens)." in result.stderr
    row = json.loads(run_llm("logs", "-n", "1", "--json").stdout)[0]
    assert row["response"] == "Half of it"
    assert "incomplete" in json.dumps(row["response_json"])
    # And the conversation goes on: the unfinished call has its output.
    assert run_llm("-c", "go on").exit_code == 0


# Python --------------------------------------------------------------------------------------


def test_to_dict_and_back(simulator, signed_in):
    simulator.answer(Think(["Hm."]), Call("multiply", {"a": 6, "b": 7}, "c1"))
    model = llm.get_model("chatgpt-gpt-6-luna")
    first = model.prompt("What is 6 times 7?", tools=[multiply])
    data = json.loads(json.dumps(first.to_dict()))
    again = llm.Response.from_dict(data)
    simulator.answer(Say("It is 42."))
    assert again.reply(tools=[multiply]).text() == "It is 42."
    assert kinds(last_body(simulator)["input"]) == [
        *("user", "reasoning", "function_call", "function_call_output")
    ]


def test_an_account_by_key(simulator, signed_in, ask):
    plugin.store_tokens(signed_in, "work")
    assert ask("hi", key="work").text
    with pytest.raises(llm.NeedsKeyException, match=r"named 'home'\. Accounts: default, work\."):
        ask("hi", key="home")


def test_errors_of_the_server_about_the_history(simulator, signed_in, ask):
    refusal = error_answer(400, None, "No tool output found for function call X.", param="input")
    simulator.script("responses", refusal)
    with pytest.raises(llm.ModelError, match="No tool output found for function call X"):
        ask("hi")
