"""401 from the backend: other stored tokens, then a refresh, then a new login."""

from __future__ import annotations

import llm
import pytest

import llm_chatgpt_oauth as plugin
from conftest import new_login, sign_in
from simulator import Answer, error_answer


def sent_tokens(simulator):
    bearers = [r.headers["authorization"] for r in simulator.seen("/codex/responses")]
    return [bearer.removeprefix("Bearer ") for bearer in bearers]


@pytest.fixture
def replaced(simulator, signed_in):
    """Another program that stores new tokens while a prompt is under way; the list of them."""
    stored = []

    def unauthorized(request):
        stored.append(new_login(simulator))
        plugin.store_tokens(stored[-1])
        return error_answer(401, "token_expired")

    simulator.script("responses", unauthorized)
    return stored


def test_what_another_program_has_stored_is_tried_first(simulator, replaced, signed_in, ask):
    assert ask("hi").text
    [newer] = replaced
    assert sent_tokens(simulator) == [signed_in.access_token, newer.access_token]
    assert simulator.refreshes == []


def test_then_a_refresh(simulator, replaced, signed_in, ask):
    simulator.script("responses", error_answer(401, "token_invalidated"))
    assert ask("hi").text
    [newer] = replaced
    old, second, third = sent_tokens(simulator)
    assert (old, second) == (signed_in.access_token, newer.access_token)
    assert third == plugin.load_tokens().access_token
    assert len(simulator.refreshes) == 1


def test_then_a_login(simulator, replaced, ask):
    simulator.script("responses", *[error_answer(401, "token_invalidated", "Gone.")] * 5)
    with pytest.raises(llm.ModelError) as caught:
        ask("hi")
    assert str(caught.value).startswith(
        "OpenAI no longer accepts this login: Gone. Run 'llm chatgpt login' to sign in again."
    )
    assert len(sent_tokens(simulator)) == 3
    assert len(simulator.refreshes) == 1


def test_a_refresh_is_tried_once(simulator, signed_in, ask):
    simulator.script("responses", *[error_answer(401, "token_invalidated")] * 5)
    with pytest.raises(llm.ModelError, match="Run 'llm chatgpt login'"):
        ask("hi")
    assert len(sent_tokens(simulator)) == 2
    assert len(simulator.refreshes) == 1


def test_a_named_account_is_signed_in_again_under_its_name(simulator, ask):
    sign_in(simulator, "home")
    sign_in(simulator, "work")
    simulator.script("responses", *[error_answer(401, "token_invalidated")] * 5)
    with pytest.raises(llm.ModelError, match=r"Run 'llm chatgpt login --account work' to sign"):
        ask("hi", key="work")


def test_programs_that_store_new_tokens_for_ever(simulator, replaced, ask, signed_in):
    def unauthorized(request):
        plugin.store_tokens(new_login(simulator))
        return error_answer(401, "token_expired")

    simulator.script("responses", *[unauthorized] * 9)
    with pytest.raises(llm.ModelError):
        ask("hi")
    assert len(sent_tokens(simulator)) == 3


def test_a_fault_between_does_not_cost_a_refresh(simulator, signed_in, ask, short_pauses):
    simulator.expire_access_tokens()
    simulator.script("responses", None, Answer(500), Answer(drop=True))
    assert ask("hi").text
    assert len(sent_tokens(simulator)) == 4
    assert len(simulator.refreshes) == 1


def test_a_region_is_not_a_matter_of_tokens(simulator, signed_in, ask):
    words = "Workspace is not authorized in this region."
    simulator.script("responses", error_answer(401, None, words))
    with pytest.raises(llm.ModelError, match=r"region\. Set LLM_CHATGPT_RESIDENCY"):
        ask("hi")
    assert len(sent_tokens(simulator)) == 1
    assert simulator.refreshes == []
