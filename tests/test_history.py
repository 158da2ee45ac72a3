"""How reasoning, calls and searches of earlier answers are sent back."""

from __future__ import annotations

import json
import time

import llm
import pytest

from inputs import ADD, MODEL, add, assert_same_beginnings, kinds, of_kind
from llm_chatgpt.backend.catalogue import ModelInfo
from llm_chatgpt.backend.input import InputBuilder
from llm_chatgpt.login.tokens import Tokens
from simulator import Call, Say, Search, Think, error_answer

# Reasoning


def test_reasoning_is_sent_back_only_to_the_model_that_it_came_from(simulator, signed_in, ask):
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
        "user",
        "assistant",
        "user",
        "reasoning",
        "assistant",
        "user",
        "assistant",
        "user",
    ]


def test_after_a_model_change_a_tool_chain_sends_only_its_own_reasoning(simulator, signed_in, ask):
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
    # From now on, the service rejects the reasoning that it has sent so far.
    simulator.reasoning.origins.clear()
    simulator.answer(Think(), Call("add", {"a": 1, "b": 2}))
    simulator.answer(Think(), Say("Three."))
    run_llm("-c", "two", "--functions", ADD)
    run_llm("-c", "three")
    assert len(simulator.prompts) == 5
    assert kinds(simulator) == [
        "user",
        "assistant",
        "user",
        "reasoning",
        "function_call",
        "function_call_output",
        "reasoning",
        "assistant",
        "user",
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


# The arguments of calls


WRITTEN = [
    '{"a":6,"b":7}',
    '{ "b": 1e2,\n "a": 0.10 }',
    '{"a": 1, "a": 2, "b": 3}',
    '{"a": "é", "b": "\\u00e9\\/"}',
    '["6","7"]',
    "{broken",
]


@pytest.mark.parametrize("arguments", WRITTEN)
def test_arguments_are_sent_back_as_the_model_wrote_them(simulator, signed_in, run_llm, arguments):
    simulator.answer(Call("add", arguments))
    run_llm("-m", MODEL, "go", "--functions", ADD)
    run_llm("-c", "on")
    assert len(simulator.prompts) == 3
    for number in (1, 2):
        assert of_kind(simulator, "function_call", number)[0]["arguments"] == arguments
    assert_same_beginnings(simulator)


def test_arguments_from_a_dict_are_sent_as_those_in_memory(simulator, signed_in, ask):
    simulator.answer(Call("add", '{"a":6,"b":7}'))
    first, last = ask.chain(ask.model(), "go", tools=[add])
    history = [*first.prompt.messages, *first._messages_now(), *last.prompt.messages[-1:]]
    loaded = [llm.Message.from_dict(json.loads(json.dumps(m.to_dict()))) for m in history]
    ask(messages=loaded, tools=[add])
    assert of_kind(simulator, "function_call")[0]["arguments"] == '{"a":6,"b":7}'
    assert simulator.prompts[1]["input"] == simulator.prompts[2]["input"]


def test_arguments_that_a_program_has_changed_are_sent_changed(simulator, signed_in, ask):
    simulator.answer(Call("add", '{"a":6,"b":7}'))
    messages = ask("go", tools=[add]).messages
    for changed in ({"a": 6, "b": 8}, {"a": 6.0, "b": 7}, {"a": 6, "b": True}):
        messages[0].parts[0].arguments = changed
        ask(messages=[llm.user("go"), *messages, llm.user("on")])
        assert of_kind(simulator, "function_call")[0]["arguments"] == json.dumps(changed)


# Web searches


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
def test_only_searches_known_to_the_service_are_sent_back(simulator, signed_in, ask, action, sent):
    conversation = ask.model().conversation()
    simulator.answer(Search("x", action=action), Say("Found."))
    ask.finish(lambda: conversation.prompt("search"))
    ask.finish(lambda: conversation.prompt("on"))
    searches = of_kind(simulator, "web_search_call")
    expected = {"type": "web_search_call", "status": "completed", "action": sent}
    assert searches == ([expected] if sent else [])
    assert_same_beginnings(simulator)


@pytest.mark.parametrize("options", [[], ["--async"]])
def test_search_ids_are_sent_if_the_service_requires_them(simulator, signed_in, run_llm, options):
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


def test_searches_are_left_out_if_the_service_refuses_them(simulator, signed_in, ask):
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


def test_searches_are_left_out_if_the_service_does_not_know_their_ids(simulator, signed_in, ask):
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
def test_after_a_refusal_that_names_a_search_its_id_is_sent(simulator, signed_in, ask, refusal):
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


# Long conversations


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
