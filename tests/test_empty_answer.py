"""Answers without content, and prompts that are sent again because of one."""

from __future__ import annotations

import llm
import pytest

import llm_chatgpt_oauth as plugin
from simulator import Answer, Call, Draw, Refuse, Say, Search, Stream, Think, sse
from test_reading import MODEL, done, frames_of, logged, sent_back

EMPTY = {
    "no item": [],
    "reasoning": [Think([])],
    "a summary": [Think(["Hm."])],
    "an empty message": [Think([]), Say("")],
    "a search": [Search("x")],
}
USAGE = {"input_tokens": 10, "output_tokens": 2, "total_tokens": 12}


@pytest.mark.parametrize("options", [[], ["--async"]])
@pytest.mark.parametrize("case", EMPTY)
def test_an_empty_answer_is_tried_once_more(simulator, signed_in, run_llm, case, options):
    simulator.answer(*EMPTY[case], usage=USAGE)
    simulator.answer(Think([]), Say("The answer."), usage=USAGE)
    result = run_llm("-m", MODEL, "hi", *options)
    assert (result.exit_code, result.stdout) == (0, "The answer.\n")
    assert "empty" not in result.stderr
    first, second = simulator.seen("/codex/responses")
    assert first.raw == second.raw
    (row,) = logged(run_llm)
    assert (row["response"], row["input_tokens"], row["output_tokens"]) == ("The answer.", 20, 4)
    # Only the second answer's reasoning is sent back.
    assert run_llm("-c", "on", *options).exit_code == 0
    sent = [item["type"] for item in simulator.prompts[-1]["input"]]
    others = [kind for kind in sent if kind != "web_search_call"]
    assert others == ["message", "reasoning", "message", "message"]


@pytest.mark.parametrize("options", [[], ["--async"]])
@pytest.mark.parametrize("case", EMPTY)
def test_a_second_empty_answer_is_reported(simulator, signed_in, run_llm, case, options):
    for _ in range(2):
        simulator.answer(*EMPTY[case], usage=USAGE)
    result = run_llm("-m", MODEL, "hi", "-R", *options)
    assert (result.exit_code, result.stdout.strip()) == (0, "")
    assert result.stderr == "The model returned an empty answer.\n"
    assert len(simulator.prompts) == 2
    (row,) = logged(run_llm)
    assert (row["response"], row["input_tokens"]) == ("", 20)
    # The conversation goes on.
    assert run_llm("-c", "on", *options).exit_code == 0
    assert "reasoning" not in [item["type"] for item in simulator.prompts[-1]["input"]]


def test_an_empty_answer_after_tool_results_is_tried_once_more(simulator, signed_in, ask):
    def add(a: int) -> int:
        return a + 1

    simulator.answer(Call("add", {"a": 1}))
    simulator.answer(Think([]))
    simulator.answer(Say("Two."))
    first, last = ask.chain(ask.model(), "1 + 1?", tools=[add])
    assert (first.text_or_raise(), last.text_or_raise()) == ("", "Two.")
    assert simulator.prompts[1]["input"] == simulator.prompts[2]["input"]
    # The second try belongs to the same turn, so it also carries the turn state.
    states = [r.headers.get("x-codex-turn-state") for r in simulator.seen("/codex/responses")]
    assert [state is not None for state in states] == [False, True, True]


@pytest.mark.parametrize(
    "item", [Call("f", {}), Say("I will look.", phase="commentary"), Refuse("No."), Draw("x")]
)
def test_calls_commentary_refusals_and_images_are_not_empty(simulator, signed_in, ask, item):
    simulator.answer(Think([]), item)
    ask("hi")
    assert len(simulator.prompts) == 1


def test_an_empty_answer_after_an_action_of_a_hosted_tool_is_not_tried_again(
    simulator, signed_in, run_llm
):
    call = {"type": "code_interpreter_call", "id": "ci_1", "status": "completed"}
    end = frames_of(simulator)[-1]
    simulator.script("responses", Stream([done(call), end]))
    assert run_llm("-m", MODEL, "hi").stderr == "The model returned an empty answer.\n"
    assert len(simulator.prompts) == 1


def test_an_empty_answer_that_was_cut_short_is_not_tried_again(simulator, signed_in, run_llm):
    simulator.answer(Think([]), terminal="incomplete")
    result = run_llm("-m", MODEL, "hi")
    assert result.stderr == "The answer was cut short (no reason given).\n"
    assert len(simulator.prompts) == 1


def test_a_second_try_that_fails_is_an_error(simulator, signed_in, ask):
    simulator.answer(Think([]))
    simulator.script("responses", None, Answer(400, {"detail": "No."}))
    with pytest.raises(plugin.RequestRefused, match="OpenAI refused the request: No"):
        ask("hi")


# Read again -------------------------------------------------------------------------------------

BROKEN = {
    "reasoning": [Think(["Hm."])],
    "text": [Think(["Hm."]), Say("Half")],
    "call": [Call("add", {"a": 12345678})],
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_response_that_broke_off_can_be_read_again(simulator, signed_in, case):
    """llm's sync response sends the prompt once more, and keeps the parts from before."""
    frames = [f for f in frames_of(simulator, *BROKEN[case])[:-1] if b"item.done" not in f]
    simulator.script("responses", Stream(frames))
    conversation = llm.get_model(MODEL).conversation()
    response = conversation.prompt("hi")
    with pytest.raises(llm.ModelError, match="cut off"):
        response.text()
    simulator.answer(Say("The answer."))
    assert response.text().endswith("The answer.")
    parts = [part for message in response.messages() for part in message.parts]
    assert parts[-1].text == "The answer."
    assert conversation.prompt("on").text()
    assert sent_back(simulator)[-1] == "The answer."


# Refusals and last events ---------------------------------------------------------------------


def test_a_refusal_is_an_answer(simulator, signed_in, ask):
    simulator.answer(Refuse("I cannot help with that."))
    assert ask("hi").text == "I cannot help with that."


def test_the_last_event_needs_no_blank_line(simulator, signed_in, ask):
    frames = list(simulator.frames([Say("Answer.")]))
    for cut in (len(frames[-1]) - 2, len(frames[-1]) - 1):
        simulator.script("responses", Stream([*frames[:-1], frames[-1][:cut]]))
        assert ask("hi").text == "Answer."
    # A text delta without its blank line does not complete the answer.
    text = sse({"type": "response.output_text.delta", "output_index": 0, "delta": "x"})[:-2]
    simulator.script("responses", Stream([text]))
    with pytest.raises(llm.ModelError, match="cut off"):
        ask("hi")


def test_a_completed_event_without_fields_is_an_empty_answer(simulator, signed_in, ask):
    # An empty answer is tried once more.
    simulator.script("responses", *[Stream([sse({"type": "response.completed"})])] * 2)
    answered = ask("hi")
    assert answered.text == ""
    assert answered.response.input_tokens is None
    assert answered.response.resolved_model is None
    # Reasoning that is counted but not sent is recorded as redacted, as by llm's own models.
    usage = {"output_tokens_details": {"reasoning_tokens": 5}}
    end = sse({"type": "response.completed", "response": {"usage": usage}})
    simulator.script("responses", *[Stream([end])] * 2)
    assert [part.redacted for part in ask("hi").parts] == [True]
