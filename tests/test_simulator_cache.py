"""The simulator's prompt cache, and reasoning that it refuses or leaves out."""

from __future__ import annotations

import json

import pytest

from plain_requests import BODY, events_of, post
from simulator import Account, Say, Think


def cached(simulator, headers, texts="abc", session="s", **changes):
    """Send a conversation, and return how many of its tokens were cached."""
    items = [{"role": "user", "content": text * 100} for text in texts]
    answer = post(simulator, {**headers, "session-id": session}, input=items, **changes).text
    usage = json.loads(answer.split("data: ")[-1])["response"]["usage"]
    return usage["input_tokens_details"]["cached_tokens"]


def test_cached_tokens_need_the_same_session_and_beginning(simulator, headers):
    assert cached(simulator, headers, "a") == 0
    first = cached(simulator, headers, "ab")
    assert first > 0
    assert cached(simulator, headers, "abc") > first
    assert cached(simulator, headers, "xbc") < first
    assert cached(simulator, headers, "abc", "other") == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"reasoning": {"effort": "high"}},
        {"instructions": "Be long."},
        {"instructions": None},
        {"model": "gpt-6-sol"},
        {"tools": [{"type": "web_search"}]},
    ],
)
def test_another_beginning_misses_the_cache(simulator, headers, changes):
    cached(simulator, headers)
    assert cached(simulator, headers) > 0
    assert cached(simulator, headers, **changes) == 0
    assert cached(simulator, headers, **changes) > 0


def test_an_update_of_the_effort_keeps_the_cache(simulator, headers):
    update = {"type": "configuration_update", "reasoning": {"effort": "high"}}
    items = [*BODY["input"], {"role": "assistant", "content": "hello" * 50}]
    changes = {"model": "gpt-6.1-sol", "reasoning": {"effort": "low"}}
    counts = []
    for more in ([], [update], [update, *BODY["input"]]):
        answer = events_of(post(simulator, headers, input=[*items, *more], **changes))
        usage = answer[-1]["response"]["usage"]
        counts.append(usage["input_tokens_details"]["cached_tokens"])
    assert 0 == counts[0] < counts[1] < counts[2]


@pytest.mark.parametrize(("slug", "kept"), [("gpt-6.1-sol", False), ("gpt-5.2-codex", True)])
def test_newer_models_cache_a_system_prompt_only_as_a_message(simulator, headers, slug, kept):
    system = "Be brief. " * 100
    for _ in range(2):
        cached_tokens = cached(simulator, headers, model=slug, instructions=system)
    assert (cached_tokens > 200) == kept
    items = [{"role": "developer", "content": system}, *BODY["input"]]
    for _ in range(2):
        answer = post(simulator, headers, model=slug, instructions=None, input=items)
    usage = events_of(answer)[-1]["response"]["usage"]
    assert usage["input_tokens_details"]["cached_tokens"] > 200


def given_reasoning(simulator, headers, **changes):
    """Return the reasoning items of an answer's `added` and `done` events."""
    simulator.answer(Think(), Say("Text"))
    items = [e["item"] for e in events_of(post(simulator, headers, **changes)) if "item" in e]
    return [item for item in items if item["type"] == "reasoning"]


def test_only_reasoning_of_the_done_event_and_the_same_account_is_accepted(simulator, headers):
    added, done = given_reasoning(simulator, headers)
    assert added["encrypted_content"] != done["encrypted_content"]
    for item, status in ((added, 400), (done, 200)):
        assert post(simulator, headers, input=[item, *BODY["input"]]).status_code == status
    bob = Account(user_id="user-bob", account_id="acc-bob")
    headers["Authorization"] = f"Bearer {simulator.sign_in(bob)['access_token']}"
    headers["ChatGPT-Account-ID"] = "acc-bob"
    assert post(simulator, headers, input=[done, *BODY["input"]]).status_code == 400


QUESTION = {"role": "user", "content": "And now?"}


@pytest.mark.parametrize(
    ("before", "changes", "reasons"),
    [
        (BODY["input"], {}, []),
        (BODY["input"], {"model": "gpt-6-sol"}, []),
        (BODY["input"], {"model": "gpt-5.2-codex"}, ["model_mismatch"]),
        ([QUESTION], {}, ["prefix_mismatch"]),
        ([], {}, ["prefix_mismatch"]),
        (None, {}, ["end_user_mismatch"]),
    ],
)
def test_foreign_reasoning_is_left_out_with_a_reason(simulator, headers, before, changes, reasons):
    simulator.removes_reasoning = True
    thought = given_reasoning(simulator, headers)[1]
    if before is None:
        before, thought["encrypted_content"] = [], "gAAAAunknown"
    items = [*before, thought, {"role": "assistant", "content": "Text"}, QUESTION]
    final = events_of(post(simulator, headers, input=items, **changes))[-1]["response"]
    assert final["status"] == "completed"
    removed = [{"type": "reasoning", "action": "removed", "reason": r} for r in reasons]
    assert final["input_transformations"] == removed
    simulator.removes_reasoning = False
    final = events_of(post(simulator, headers))[-1]["response"]
    assert "input_transformations" not in final
