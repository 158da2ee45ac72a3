"""Histories that another model or another program began."""

from __future__ import annotations

import json

import llm
from llm.default_plugins.openai_models import WebSearch
from llm.parts import AttachmentPart, ReasoningPart, TextPart, ToolCallPart, ToolResultPart

from conftest import kinds, multiply
from simulator import PNG, Call, Say, Search, Think


def test_every_call_has_an_output_and_every_output_a_call(simulator, signed_in, ask):
    ask(
        messages=[
            llm.user("one"),
            llm.assistant(ToolCallPart("f.g h", {"x": 1}, "a" * 80)),
            llm.tool_message(ToolResultPart("f.g h", "1", "a" * 80)),
            # Calls that were never carried out, with another model's id or without one.
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
    items = simulator.prompts[-1]["input"]
    calls = [item for item in items if item["type"] == "function_call"]
    outputs = [item for item in items if item["type"] == "function_call_output"]
    assert sorted(c["call_id"] for c in calls) == sorted(o["call_id"] for o in outputs)
    assert len({c["call_id"] for c in calls}) == len(calls) == 6
    assert calls[0]["name"] == "f_g_h"
    assert calls[-1]["arguments"] == "{broken"


def test_a_claude_conversation_can_be_continued(simulator, signed_in, ask):
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
    items = simulator.prompts[-1]["input"]
    assert kinds(items) == [
        "developer",
        "user",
        "assistant",
        "assistant",
        "function_call",
        "function_call_output",
        "assistant",
        "user",
    ]


def test_reasoning_of_llms_own_openai_models_is_left_out(simulator, signed_in, ask):
    metadata = {"openai": {"id": "rs_1", "encrypted_content": "theirs", "summary": []}}
    ask(messages=[llm.user("one"), llm.assistant(ReasoningPart("", False, metadata), "two")])
    assert "theirs" not in json.dumps(simulator.prompts[-1])


def test_other_models_can_continue_a_history_of_the_plugin(simulator, signed_in, ask):
    simulator.answer(
        Think(["Hm."]), Search("x"), Say("Answer."), Call("multiply", {"a": 1, "b": 2})
    )
    answered = ask("Go", tools=[multiply, WebSearch()])
    for message in answered.messages:
        assert message.role == "assistant"
        for part in message.parts:
            assert set(part.provider_metadata or {}) <= {"chatgpt"}
            assert not getattr(part, "redacted", False)


def test_assistant_images_and_unknown_roles_become_user_messages(simulator, signed_in, ask):
    image = llm.Attachment(type="image/png", content=PNG)
    ask(
        messages=[
            llm.system(""),
            llm.assistant(TextPart(""), "Look:", AttachmentPart(image)),
            llm.user(AttachmentPart(None)),
            llm.Message(role="narrator", parts=[TextPart("Meanwhile")]),
        ]
    )
    items = simulator.prompts[-1]["input"]
    assert [item["role"] for item in items] == ["assistant", "user", "user", "user"]
    assert items[2]["content"][0]["text"] == "[an attachment that was not kept]"


def test_a_history_without_a_user_message_is_sent(simulator, signed_in, ask):
    assert ask(messages=[llm.assistant("I begin.")]).text


def test_calls_with_one_id_get_their_own_outputs(simulator, signed_in, ask):
    ask(
        messages=[
            llm.user("Go"),
            llm.assistant(ToolCallPart("f", {}, "same"), ToolCallPart("g", {}, "same")),
            llm.tool_message(ToolResultPart("f", "1", "same"), ToolResultPart("g", "2", "same")),
        ]
    )
    items = simulator.prompts[-1]["input"][1:]
    pairs = {i["call_id"]: i["output"] for i in items if i["type"] == "function_call_output"}
    names = {i["call_id"]: i["name"] for i in items if i["type"] == "function_call"}
    assert {names[call_id]: output for call_id, output in pairs.items()} == {"f": "1", "g": "2"}
