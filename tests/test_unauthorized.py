"""401 from the backend: other stored tokens, then a refresh, then a new login."""

from __future__ import annotations

import llm
import pytest

import llm_chatgpt_oauth as plugin
from conftest import bearers, new_login, sign_in
from simulator import Answer, error_answer


@pytest.fixture
def replaced(simulator, signed_in):
    """Let another program store new tokens during a prompt. Returns a list that receives them."""
    stored = []

    def unauthorized(request):
        stored.append(new_login(simulator))
        plugin.store_tokens(stored[-1])
        return error_answer(401, "token_expired")

    simulator.script("responses", unauthorized)
    return stored


def test_tokens_that_another_program_stored_are_tried_first(simulator, replaced, signed_in, ask):
    assert ask("hi").text
    [newer] = replaced
    assert bearers(simulator) == [signed_in.access_token, newer.access_token]
    assert simulator.refreshes == []


def test_if_stored_tokens_are_refused_the_login_is_renewed(simulator, replaced, signed_in, ask):
    simulator.script("responses", error_answer(401, "token_invalidated"))
    assert ask("hi").text
    [newer] = replaced
    old, second, third = bearers(simulator)
    assert (old, second) == (signed_in.access_token, newer.access_token)
    assert third == plugin.load_tokens().access_token
    assert len(simulator.refreshes) == 1


def test_if_renewed_tokens_are_refused_a_new_login_is_advised(simulator, replaced, ask):
    simulator.script("responses", *[error_answer(401, "token_invalidated", "Gone.")] * 5)
    with pytest.raises(llm.ModelError) as caught:
        ask("hi")
    assert str(caught.value).startswith(
        "OpenAI no longer accepts this login: Gone. Run 'llm chatgpt login' to sign in again."
    )
    assert len(bearers(simulator)) == 3
    assert len(simulator.refreshes) == 1


def test_a_refresh_is_tried_once(simulator, signed_in, ask):
    simulator.script("responses", *[error_answer(401, "token_invalidated")] * 5)
    with pytest.raises(llm.ModelError, match="Run 'llm chatgpt login'"):
        ask("hi")
    assert len(bearers(simulator)) == 2
    assert len(simulator.refreshes) == 1


def test_the_advice_names_the_account_of_the_refused_tokens(simulator, ask):
    sign_in(simulator, "home")
    sign_in(simulator, "work")
    simulator.script("responses", *[error_answer(401, "token_invalidated")] * 5)
    with pytest.raises(llm.ModelError, match=r"Run 'llm chatgpt login --account work' to sign"):
        ask("hi", key="work")


def test_ever_newer_stored_tokens_cause_at_most_three_prompts(simulator, replaced, ask, signed_in):
    def unauthorized(request):
        plugin.store_tokens(new_login(simulator))
        return error_answer(401, "token_expired")

    simulator.script("responses", *[unauthorized] * 9)
    with pytest.raises(llm.ModelError):
        ask("hi")
    assert len(bearers(simulator)) == 3


def test_faults_after_a_refresh_cause_no_second_refresh(simulator, signed_in, ask, short_pauses):
    simulator.expire_access_tokens()
    simulator.script("responses", None, Answer(500), Answer(drop=True))
    assert ask("hi").text
    assert len(bearers(simulator)) == 4
    assert len(simulator.refreshes) == 1


def test_a_refused_region_causes_no_refresh(simulator, signed_in, ask):
    words = "Workspace is not authorized in this region."
    simulator.script("responses", error_answer(401, None, words))
    with pytest.raises(llm.ModelError, match=r"region\. Set LLM_CHATGPT_RESIDENCY"):
        ask("hi")
    assert len(bearers(simulator)) == 1
    assert simulator.refreshes == []
