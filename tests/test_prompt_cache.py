"""Requests that begin alike, so that the service can use its prompt cache."""

from __future__ import annotations

import json
import re
import uuid

from conftest import logged, multiply
from simulator import Call, Say, Think


def test_in_ten_turns_with_tools_each_request_extends_the_one_before(simulator, signed_in, ask):
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
    row = logged(run_llm)[0]
    details = row["token_details"]
    details = json.loads(details) if isinstance(details, str) else details
    assert details["input_tokens_details"]["cached_tokens"] == cached


def test_without_a_conversation_equal_first_messages_share_a_session(simulator, signed_in, ask):
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


def test_conversations_with_one_cache_key_share_the_cache(simulator, signed_in, ask):
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
