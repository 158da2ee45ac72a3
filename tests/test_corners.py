"""Corners that the other tests do not come by: odd orders, odd shapes, odd moments."""

from __future__ import annotations

import json
import os

import llm
import pytest
from llm.parts import AttachmentPart, TextPart

from llm_chatgpt import config
from llm_chatgpt.backend import catalogue
from llm_chatgpt.backend.fetch import fetch_models
from llm_chatgpt.backend.translate import EventTranslator
from llm_chatgpt.backend.usage import UsageWindow
from simulator import PNG, Answer, Say, Stream, sse


def translate(*events):
    translator = EventTranslator()
    found = [event for fields in events for event in translator.feed(sse(fields))]
    return translator, found + translator.finish()


def done(item, index=0):
    return {"type": "response.output_item.done", "output_index": index, "item": item}


def test_a_half_character_that_stays_alone_is_not_shown():
    delta = {"type": "response.output_text.delta", "output_index": 0, "delta": "\ud83d"}
    assert translate(delta)[1] == []


def test_a_call_without_a_name_or_unfinished_is_not_carried_out():
    call = {"type": "function_call", "call_id": "c", "arguments": "{}"}
    assert translate(done(call))[0].answer.tool_calls == []
    unfinished = {**call, "name": "f", "status": "incomplete"}
    translator, events = translate(done(unfinished))
    assert translator.answer.tool_calls == []
    assert events[0].type == "tool_call_name"


def test_reasoning_without_anything_leaves_no_part():
    translator, events = translate(done({"type": "reasoning", "summary": []}))
    assert events == []
    assert translator.answer.had_reasoning


def test_raw_reasoning_is_reasoning_too():
    item = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "raw"}]}
    assert [event.chunk for event in translate(done(item))[1]] == ["raw"]


def test_a_picture_that_is_no_base64():
    item = {"type": "image_generation_call", "id": "ig_1", "result": "!!!"}
    assert translate(done(item))[1][-1].chunk == "no picture came"


def test_an_item_of_a_new_kind_is_kept_in_the_output():
    translator, events = translate(done({"type": "something_new", "x": 1}), {**done({}), "item": 7})
    assert events == []
    assert translator.answer.output == [{"type": "something_new", "x": 1}]


def test_items_without_an_index_keep_their_order():
    items = [{"type": "new", "n": n} for n in range(3)]
    events = [{"type": "response.output_item.done", "item": item} for item in items]
    events = [{**e, "item": {**e["item"], "id": f"i{n}"}} for n, e in enumerate(events)]
    assert [item["n"] for item in translate(*events)[0].answer.output] == [0, 1, 2]


def test_the_last_event_without_its_blank_line(simulator, signed_in, ask):
    frames = list(simulator.frames([Say("Answer.")]))
    for cut in (len(frames[-1]) - 2, len(frames[-1]) - 1):
        simulator.script("responses", Stream([*frames[:-1], frames[-1][:cut]]))
        assert ask("hi").text == "Answer."
    # Also when it brings text.
    text = sse({"type": "response.output_text.delta", "output_index": 0, "delta": "x"})[:-2]
    simulator.script("responses", *[Stream([text])])
    with pytest.raises(llm.ModelError, match="cut off"):
        ask("hi")


def test_an_answer_that_says_next_to_nothing(simulator, signed_in, ask):
    # It is tried once more.
    simulator.script("responses", *[Stream([sse({"type": "response.completed"})])] * 2)
    answered = ask("hi")
    assert answered.text == ""
    assert answered.response.input_tokens is None
    assert answered.response.resolved_model is None
    usage = {"output_tokens_details": {"reasoning_tokens": 5}}
    end = sse({"type": "response.completed", "response": {"usage": usage}})
    simulator.script("responses", *[Stream([end])] * 2)
    parts = ask("hi").parts
    assert parts[0].redacted


def test_odd_messages(simulator, signed_in, ask):
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


def test_a_history_without_a_person(simulator, signed_in, ask):
    assert ask(messages=[llm.assistant("I begin.")]).text


def test_a_lost_attachment_is_told_once_though_the_prompt_is_sent_twice(
    simulator, signed_in, ask, tmp_path, caplog
):
    simulator.expire_access_tokens()
    gone = llm.Attachment(type="image/png", path=str(tmp_path / "gone.png"))
    ask(messages=[llm.user("Look", gone), llm.assistant("Seen."), llm.user("And?")])
    assert len(simulator.prompts) == 2
    assert caplog.text.count("gone.png no longer exists") == 1


def test_the_raw_answer_is_logged_without_nulls(simulator, signed_in, ask):
    answer = {"a": None, "b": [{"c": None, "d": 1}]}
    end = sse({"type": "response.completed", "response": answer})
    simulator.script("responses", *[Stream([end])] * 2)
    assert ask("hi").json == {"b": [{"d": 1}], "output": []}


def test_an_unreadable_model_list(simulator, signed_in, run_llm):
    simulator.script("models", Answer(200, {"nothing": 1}))
    result = run_llm("chatgpt", "refresh")
    assert result.exit_code == 1
    assert "Could not read the server's model list" in result.stderr
    simulator.script("models", Answer(drop=True))
    result = run_llm("chatgpt", "refresh")
    assert result.stderr.endswith("broke off. Check the network and try again.\n")


def test_a_list_that_cannot_be_kept_is_used(simulator, signed_in, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert fetch_models(signed_in).listed
    assert "could not save the model list" in caplog.text
    assert not list(catalogue.models_path().parent.glob("*.tmp"))


def test_a_window_without_a_reset():
    assert UsageWindow(3600, 10).reset_words == ""
    assert UsageWindow(3600, 10).name == "1-hour"


def test_a_package_that_is_not_installed(monkeypatch):
    from importlib import metadata

    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    config.user_agent.cache_clear()
    assert config.user_agent().startswith("llm-chatgpt-oauth/unknown (")
    config.user_agent.cache_clear()


def test_a_call_id_that_another_call_has(simulator, signed_in, ask):
    from llm.parts import ToolCallPart, ToolResultPart

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
    assert json.dumps(items)


def test_an_empty_prompt_after_another(simulator, signed_in, ask):
    assert ask("").text
    assert ask("").text
