"""Turn states, notes of a chain, remembered refusals, the list of models, abandoned answers."""

from __future__ import annotations

import asyncio
import gc

import llm
import pytest
from llm.parts import ToolCallPart

import llm_chatgpt_oauth as plugin
from conftest import multiply, new_login, new_simulator, wait_for_models
from llm_chatgpt.backend import catalogue
from simulator import PNG, Answer, Call, Say, Stream, sse


def take_photo() -> llm.ToolOutput:
    """Take a photo."""
    photo = llm.Attachment(type="image/png", content=PNG)
    return llm.ToolOutput(output="A photo.", attachments=[photo])


def states_sent(simulator):
    requests = simulator.seen("/codex/responses")
    return [request.headers.get("x-codex-turn-state") for request in requests]


# Turn states --------------------------------------------------------------------------


def test_a_turn_state_is_sent_back_after_a_tool_that_returns_an_image(simulator, signed_in, ask):
    simulator.answer(Call("take_photo", {}))
    simulator.answer(Say("A pelican."))
    ask.chain(ask.model(), "Look", tools=[take_photo])
    first, second = states_sent(simulator)
    assert (first, second is None) == (None, False)


def test_a_turn_state_is_sent_back_in_a_chain_with_a_system_prompt(simulator, signed_in, ask):
    conversation = ask.model().conversation()
    for number in range(2):
        simulator.answer(Call("multiply", {"a": 1, "b": 2}))
        simulator.answer(Say("2"))
        ask.chain(conversation, "Go", system=f"Be brief {number}.", tools=[multiply])
    assert [state is not None for state in states_sent(simulator)] == [False, True] * 2


def test_equal_prompts_have_their_own_turn_states(simulator, signed_in, ask):
    answers = []
    for state in ("ts_one", "ts_other"):
        simulator.turn_states.add(state)
        simulator.response_headers["x-codex-turn-state"] = state
        simulator.answer(Call("multiply", {"a": 1, "b": 2}))
        answers.append(ask("Go", tools=[multiply]))
    for answered in answers:
        (call,) = (part for part in answered.parts if isinstance(part, ToolCallPart))
        result = llm.ToolResult(name=call.name, output="2", tool_call_id=call.tool_call_id)
        history = [*answered.response.prompt.messages, *answered.messages]
        ask(messages=history, tool_results=[result], tools=[multiply])
    assert states_sent(simulator)[2:] == ["ts_one", "ts_other"]


def test_a_turn_state_is_sent_when_a_prompt_is_sent_again(simulator, signed_in, ask, short_pauses):
    simulator.turn_states.add("ts_one")
    simulator.script("responses", Stream([], headers={"x-codex-turn-state": "ts_one"}))
    assert ask("Go").text
    assert states_sent(simulator) == [None, "ts_one"]


def test_a_turn_state_that_fits_no_header_is_dropped(simulator, signed_in, ask):
    simulator.response_headers["x-codex-turn-state"] = "ä b"
    simulator.answer(Call("multiply", {"a": 1, "b": 2}))
    simulator.answer(Say("2"))
    ask.chain(ask.model(), "Go", tools=[multiply])
    assert states_sent(simulator) == [None, None]


# Notes of a tool chain ----------------------------------------------------------------


def test_each_note_of_a_chain_comes_once(simulator, signed_in, ask, caplog, tmp_path):
    simulator.served_model = "gpt-6-astra"
    simulator.used_percent["primary"] = 93.0
    simulator.answer(Call("multiply", {"a": 1, "b": 2}))
    simulator.answer(Call("multiply", {"a": 3, "b": 4}))
    simulator.answer(Say("Done."))
    missing = llm.Attachment(type="image/png", path=str(tmp_path / "gone.png"))
    conversation = ask.model().conversation()
    history = [llm.user("Look", missing), llm.assistant("Seen.")]
    ask.chain(conversation, "Go", messages=history, tools=[multiply], options={"temperature": 0.5})
    assert len(simulator.prompts) == 3
    for words in ("gone.png", "ignoring temperature", "answered instead of", "5-hour limit left"):
        assert caplog.text.count(words) == 1, words


def test_notes_are_repeated_in_the_next_turn(simulator, signed_in, ask, caplog):
    simulator.served_model = "gpt-6-astra"
    conversation = ask.model().conversation()
    for text in ("one", "two"):
        ask.finish(lambda text=text: conversation.prompt(text))
    assert caplog.text.count("answered instead of") == 2


# Remembered refusals ------------------------------------------------------------------


def test_a_model_without_summaries_is_asked_for_one_once(simulator, signed_in, ask):
    simulator.refuses_summary = {"gpt-6-luna"}
    for _ in range(2):
        ask("hi")
    ask("hi", slug="gpt-6-sol")
    summaries_requested = ["summary" in prompt.get("reasoning", {}) for prompt in simulator.prompts]
    assert summaries_requested == [True, False, False, True]


@pytest.mark.parametrize(
    "refusal",
    [
        pytest.param(
            Answer(400, {"detail": "Unsupported parameter: reasoning.summary"}), id="model"
        ),
        pytest.param(Answer(400, {"detail": "Unexpected header: session-id"}), id="account"),
        pytest.param(Answer(415), id="service"),
    ],
)
def test_a_refusal_counts_only_for_the_service_that_sent_it(
    simulator, signed_in, ask, monkeypatch, refusal
):
    def optional_parts(request):
        headers = request.headers
        encoding = headers.get("content-encoding")
        return "reasoning" in request.body, "session-id" in headers, encoding

    long_prompt = "a line of a long prompt\n" * 1000
    simulator.script("responses", refusal)
    ask(long_prompt)
    ask(long_prompt)
    first, second, third = map(optional_parts, simulator.seen("/codex/responses"))
    assert first != second == third
    with new_simulator() as other:
        monkeypatch.setenv("LLM_CHATGPT_BASE_URL", other.base_url)
        plugin.store_tokens(new_login(other))
        ask(long_prompt)
        assert list(map(optional_parts, other.seen("/codex/responses"))) == [first]


# The list of models -------------------------------------------------------------------


def test_parallel_prompts_fetch_a_changed_list_once(simulator, signed_in):
    async def ask_all():
        model = llm.get_async_model("chatgpt-gpt-6-luna")
        responses = [model.prompt(f"number {n}") for n in range(20)]
        await asyncio.gather(*(response.text() for response in responses))

    asyncio.run(ask_all())
    wait_for_models()
    assert len(simulator.seen("/codex/models")) == 1
    assert catalogue.stored_models(signed_in).etag == simulator.models_etag


# Abandoned answers --------------------------------------------------------------------


@pytest.mark.parametrize("how", ["break", "cancel"])
def test_an_abandoned_async_answer_is_silent(simulator, signed_in, how, capsys):
    text = sse({"type": "response.output_text.delta", "delta": "Hello "})
    simulator.script("responses", Stream([text, 60.0], end="open"))
    problems = []

    async def read(response, seen):
        async for _ in response:
            if how == "break":
                break
            seen.set()

    async def abandon():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: problems.append(str(context)))
        seen = asyncio.Event()
        response = llm.get_async_model("chatgpt-gpt-6-luna").prompt("hi")
        reading = asyncio.create_task(read(response, seen))
        del response
        if how == "cancel":
            await seen.wait()
            reading.cancel()
        await asyncio.wait([reading])
        del reading
        gc.collect()

    asyncio.run(abandon())
    assert "generator didn't stop" not in capsys.readouterr().err
    assert problems == []
