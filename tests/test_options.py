"""Model options: how each is sent, and which are refused or ignored."""

from __future__ import annotations

import re
import uuid

import llm
import pytest


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
def test_options_are_sent(simulator, signed_in, ask, options, expected):
    ask("hi", **options)
    body = simulator.prompts[-1]
    assert {name: body[name] for name in expected} == expected


@pytest.mark.parametrize("effort", ["High", " HIGH ", "high"])
def test_the_effort_may_have_capitals(simulator, signed_in, run_llm, ask, effort):
    ask("hi", reasoning_effort=effort)
    run_llm("-m", "chatgpt-gpt-6-luna", "hi", "-o", "reasoning_effort", effort)
    assert [body["reasoning"]["effort"] for body in simulator.prompts] == ["high", "high"]


def test_options_that_are_not_set_are_not_sent(simulator, signed_in, ask):
    ask("hi")
    for name in ("text", "service_tier", "parallel_tool_calls", "tools", "tool_choice"):
        assert name not in simulator.prompts[-1]


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        (("verbostiy", "low"), "No option named 'verbostiy'. Options: reasoning_effort, "),
        (
            ("service_tier", "flex"),
            "The option service_tier must be fast, priority, ultrafast or default.",
        ),
        (("verbosity", "loud"), "The option verbosity must be low, medium or high."),
        (
            ("reasoning_effort", "very high"),
            "The option reasoning_effort must be one word such as low, medium or high.",
        ),
        (("image_detail", "best"), "The option image_detail must be auto, low, high or original."),
        (
            ("parallel_tool_calls", "perhaps"),
            "The option parallel_tool_calls must be true or false.",
        ),
    ],
)
def test_a_wrong_option_is_an_error(simulator, signed_in, run_llm, ask, option, sentence):
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
    assert not set(REFUSED_BY_THE_SERVICE) & set(simulator.prompts[-1])
    assert caplog.messages == [
        "Note: ignoring temperature, top_p, seed, stop, presence_penalty, frequency_penalty, "
        "logit_bias, top_logprobs; a ChatGPT login does not accept them."
    ]


def test_an_ignored_option_is_noted_once_per_prompt(simulator, signed_in, run_llm):
    note = "Note: ignoring temperature; a ChatGPT login does not accept it.\n"
    simulator.expire_access_tokens()
    option = ("-m", "chatgpt-gpt-6-luna", "-R", "-o", "temperature", "0.5")
    result = run_llm(*option, "hi")
    assert (result.stdout, result.stderr) == ("This is answer 1. You said: hi\n", note)
    functions = "def double(n: int) -> int:\n    return n * 2"
    result = run_llm(*option, 'double {"n": 21}', "--functions", functions)
    assert len(simulator.prompts) == 4
    assert result.stderr == note
    # llm may read the conversation's options from its log.
    assert run_llm("-c", "more", "-R").stderr in ("", note)


def test_options_are_listed_set_and_saved_in_templates(simulator, signed_in, run_llm):
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
    body = simulator.prompts[-1]
    assert body["reasoning"] == {"effort": "high", "summary": "concise"}
    assert body["service_tier"] == "priority"
    assert body["parallel_tool_calls"] is False
    assert uuid.UUID(body["prompt_cache_key"])
    assert body["text"] == {"verbosity": "low", "format": {"type": "json_object"}}
    options = [word for name, value in values.items() for word in ("-o", name, value)]
    saved = run_llm("-m", "chatgpt-gpt-6-sol", "say $input", *options, "--save", "t")
    assert saved.exit_code == 0, saved.output
    run_llm("-t", "t", input="this")
    assert simulator.prompts[-1] == {
        **body,
        "model": "gpt-6-sol",
        "input": simulator.prompts[-1]["input"],
    }
