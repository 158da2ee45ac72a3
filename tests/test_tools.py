"""Tools that llm runs: chains, parallel calls, errors, toolboxes and pauses."""

from __future__ import annotations

import json

import llm
import pytest
from llm.parts import ToolCallPart

from conftest import kinds, multiply
from simulator import Call, Say, Think


def broken() -> str:
    "Always fails"
    raise RuntimeError("out of order")


def test_a_tool_chain_sends_reasoning_call_and_output_back(simulator, signed_in, ask):
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
    # The reasoning is sent back before the call that it led to.
    assert kinds(second["input"]) == ["user", "reasoning", "function_call", "function_call_output"]
    call, output = second["input"][2:]
    assert (call["call_id"], json.loads(call["arguments"])) == ("call_1", {"a": 6, "b": 7})
    assert output == {"type": "function_call_output", "call_id": "call_1", "output": "42"}


def test_parallel_calls_get_their_own_outputs_and_errors(simulator, signed_in, ask):
    simulator.answer(Call("multiply", {"a": 2, "b": 3}, "call_1"), Call("broken", {}, "call_2"))
    ask.chain(ask.model(), "Go", tools=[multiply, broken])
    items = simulator.prompts[-1]["input"]
    outputs = {i["call_id"]: i["output"] for i in items if i["type"] == "function_call_output"}
    assert outputs == {"call_1": "6", "call_2": "Error: out of order"}


def test_the_call_of_an_unknown_tool_is_answered_with_an_error(simulator, signed_in, ask):
    simulator.answer(Call("nothing", {}))
    ask.chain(ask.model(), "Go", tools=[multiply])
    assert "does not exist" in simulator.prompts[-1]["input"][-1]["output"]


def test_a_tool_name_is_changed_for_the_service_only(simulator, signed_in, ask):
    tool = llm.Tool(name="math.times two", implementation=lambda: "42")
    simulator.answer(Call("math_times_two", {}))
    simulator.answer(Say("It is 42."))
    responses = ask.chain(ask.model(), "Go", tools=[tool])
    assert responses[-1].text_or_raise() == "It is 42."
    assert [call.name for call in responses[0]._tool_calls] == ["math.times two"]
    first, second = simulator.prompts
    assert first["tools"][0]["name"] == "math_times_two"
    assert second["input"][1]["name"] == "math_times_two"
    assert second["input"][2]["output"] == "42"


def test_tools_whose_names_the_service_cannot_tell_apart_are_refused(simulator, signed_in, ask):
    tools = [llm.Tool(name, description=name, implementation=str) for name in ("a.b", "a_b")]
    with pytest.raises(llm.ModelError, match=r"cannot tell two tools apart: .* or rename it\."):
        ask("Go", tools=tools)


class Memory(llm.Toolbox):
    "Remembers"

    def __init__(self):
        self.kept = []

    def keep(self, text: str) -> str:
        "Keep a text"
        self.kept.append(text)
        return f"kept {len(self.kept)}"


def test_a_toolbox_keeps_its_state(simulator, signed_in, ask):
    memory = Memory()
    simulator.answer(Call("Memory_keep", {"text": "a"}), Call("Memory_keep", {"text": "b"}))
    ask.chain(ask.model(), "Go", tools=[memory])
    assert memory.kept == ["a", "b"]
    outputs = [i["output"] for i in simulator.prompts[-1]["input"] if "output" in i]
    assert outputs == ["kept 1", "kept 2"]


def test_a_tool_without_arguments_has_an_empty_schema(simulator, signed_in, ask):
    ask("hi", tools=[llm.Tool(name="now", implementation=lambda: "12:00")])
    tool = simulator.prompts[-1]["tools"][0]
    assert tool["parameters"] == {"type": "object", "properties": {}}


def test_tool_names_and_arguments_stream(simulator, signed_in, ask):
    simulator.answer(Call("multiply", {"a": 123456, "b": 654321}, "call_1"))
    answered = ask("Go", tools=[multiply])
    types = [event.type for event in answered.events]
    assert types[0] == "tool_call_name"
    assert types.count("tool_call_args") > 1
    part = next(part for part in answered.parts if isinstance(part, ToolCallPart))
    assert (part.name, part.arguments, part.tool_call_id) == (
        "multiply",
        {"a": 123456, "b": 654321},
        "call_1",
    )
    calls = answered.response._tool_calls
    assert [(c.name, c.arguments) for c in calls] == [("multiply", {"a": 123456, "b": 654321})]


def test_tools_work_on_the_command_line_and_in_chat(simulator, signed_in, run_llm):
    function = "def double(n: int) -> int:\n    return n * 2"
    options = ("-m", "chatgpt-gpt-6-luna", "-R", "--td", "--functions", function)
    result = run_llm('double {"n": 21}', *options)
    assert "The tool returned: 42" in result.stdout
    assert "Tool call: double({'n': 21})" in result.stderr
    result = run_llm("chat", "-m", "chatgpt-gpt-6-luna", "-T", "llm_version", input="llm_version\n")
    assert "The tool returned: " in result.stdout


def test_a_paused_chain_is_resumed(simulator, signed_in):
    paused = []

    def approve() -> str:
        "Ask for approval"
        if not paused:
            paused.append(True)
            raise llm.PauseChain("later")
        return "approved"

    model = llm.get_model("chatgpt-gpt-6-luna")
    simulator.answer(Think(["Ask."]), Call("approve", {}))
    chain = model.chain("Go", tools=[approve])
    with pytest.raises(llm.PauseChain):
        chain.text()
    first = chain._responses[0]
    history = [*first.prompt.messages, *first.messages()]
    simulator.answer(Say("Thank you."))
    assert model.chain(messages=history, tools=[approve]).text() == "Thank you."
    items = simulator.prompts[-1]["input"]
    assert kinds(items) == ["user", "reasoning", "function_call", "function_call_output"]
    assert items[-1]["output"] == "approved"
