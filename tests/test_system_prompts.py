"""System prompts and their places among the messages."""

from __future__ import annotations

import llm
import pytest

from inputs import ADD, MODEL, add, assert_same_beginnings, items, kinds, system_prompts, texts
from simulator import PNG, Call, Think


@pytest.mark.parametrize("system", ["Tell a joke.", None])
def test_an_empty_prompt_is_sent_as_an_empty_user_message(simulator, signed_in, ask, system):
    conversation = ask.model().conversation()
    ask.finish(lambda: conversation.prompt("", system=system))
    assert texts(items(simulator)[-1]) == [""]
    first = ["developer"] if system else []
    assert kinds(simulator) == [*first, "user"]
    ask.finish(lambda: conversation.prompt("another"))
    assert kinds(simulator) == [*first, "user", "reasoning", "assistant", "user"]
    assert_same_beginnings(simulator)


def test_a_template_with_only_a_system_prompt_can_be_continued(simulator, signed_in, run_llm):
    run_llm("-m", MODEL, "-s", "Tell a joke.", "--save", "joke")
    assert run_llm("-t", "joke").exit_code == 0
    assert run_llm("-c", "another").exit_code == 0
    assert_same_beginnings(simulator)


def test_a_history_may_begin_with_an_answer(simulator, signed_in, ask):
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


def test_a_later_system_prompt_does_not_change_the_instructions(simulator, signed_in, run_llm):
    run_llm("-m", "chatgpt-gpt-5.2-codex", "one", "-s", "Be brief.")
    run_llm("-c", "two", "-s", "Speak French.")
    run_llm("-c", "three")
    assert {body["instructions"] for body in simulator.prompts} == {"Be brief."}
    assert system_prompts(simulator) == ["Speak French."]
    assert_same_beginnings(simulator)


def test_a_later_system_prompt_stays_in_its_place_in_a_conversation(simulator, signed_in, ask):
    conversation = ask.model().conversation()
    ask.finish(lambda: conversation.prompt("one"))
    simulator.answer(Call("add", {"a": 1, "b": 2}))
    ask.chain(conversation, "two", system="Speak French.", tools=[add])
    # A system prompt without a user message.
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


def test_a_system_prompt_comes_before_a_history_from_elsewhere(simulator, signed_in, ask):
    history = [llm.user("one"), llm.assistant("One."), llm.user("two")]
    ask(messages=history, system="Speak French.")
    ask(messages=[*history, llm.assistant("Two."), llm.user("three")], system="Speak French.")
    assert kinds(simulator) == ["developer", *("user", "assistant") * 2, "user"]
    assert_same_beginnings(simulator)


def test_an_image_from_a_tool_does_not_repeat_the_system_prompt(simulator, signed_in, ask):
    def take_photo() -> llm.ToolOutput:
        "Take a photo"
        return llm.ToolOutput("done", attachments=[llm.Attachment("image/png", content=PNG)])

    conversation = ask.model().conversation()
    ask.finish(lambda: conversation.prompt("one"))
    simulator.answer(Call("take_photo", {}))
    simulator.answer(Call("take_photo", {}))
    ask.chain(conversation, "two", system="Speak French.", tools=[take_photo])
    assert kinds(simulator).count("developer") == 1
    assert kinds(simulator)[3:5] == ["developer", "user"]
    assert_same_beginnings(simulator)
