"""Permanent failures of a refresh, and refusals that leave a working token in use."""

from __future__ import annotations

import time

import llm
import pytest

import llm_chatgpt_oauth as plugin
from conftest import edit_login, expire, sign_in, start_llm
from llm_chatgpt.login.credentials import must_renew
from llm_chatgpt.login.login_file import read_store
from simulator import Answer, error_answer
from test_refresh import PERMANENT


def refresh_error(key=None):
    """Return the message of the error of `get_tokens`."""
    with pytest.raises(plugin.RefreshFailed) as caught:
        plugin.get_tokens(key)
    return str(caught.value)


@pytest.mark.parametrize("answer", [PERMANENT[0][0], PERMANENT[-1][0]])
def test_a_permanent_failure_is_remembered_by_all_programs(simulator, signed_in, run_llm, answer):
    expire()
    simulator.script("token", answer)
    first, second = refresh_error(), refresh_error()
    result = run_llm("-m", "chatgpt-gpt-6-luna", "hi", "--no-log")
    assert first == second == result.stderr.removeprefix("Error: ").rstrip()
    process = start_llm("-m", "chatgpt-gpt-6-luna", "hi", "--no-log")
    assert first in process.communicate(timeout=30)[1]
    assert len(simulator.refreshes) == 1
    store = read_store()
    with pytest.raises(plugin.RefreshFailed, match="sign in again"):
        must_renew("default", store.get())
    # A new login removes the refusal.
    simulator.approve_after_polls = 0
    assert run_llm("chatgpt", "login").exit_code == 0
    assert plugin.get_tokens()
    assert plugin.load_tokens().refusal is None


def test_a_refused_refresh_after_a_401_is_remembered_too(simulator, signed_in, ask):
    """Although the access token itself says that it expires in ten days."""
    simulator.expire_access_tokens()
    simulator.script("token", error_answer(401, "refresh_token_invalidated"))
    for _ in range(2):
        with pytest.raises(llm.ModelError, match="was ended by OpenAI"):
            ask("hi")
    assert len(simulator.seen("/codex/responses")) == 1
    assert len(simulator.refreshes) == 1


def test_after_a_refused_refresh_the_token_is_used_until_it_expires(simulator, signed_in, ask):
    expire(200)
    simulator.script("token", PERMANENT[0][0])
    assert ask("one").text
    assert ask("two").text
    assert len(simulator.refreshes) == 1
    edit_login(expires_at=time.time() - 1)
    with pytest.raises(llm.ModelError, match="has expired"):
        ask("three")
    assert len(simulator.refreshes) == 1


@pytest.mark.parametrize("junk", [None, [], {"message": 7}, ""])
def test_a_damaged_refusal_in_the_login_file_is_ignored(simulator, signed_in, junk):
    edit_login(refusal=junk, expires_at=1.0)
    assert plugin.get_tokens().access_token != signed_in.access_token


def test_the_advice_names_the_account(simulator, signed_in):
    sign_in(simulator, "work", expires_at=1.0)
    simulator.script("token", PERMANENT[0][0])
    advice = "Run 'llm chatgpt login --account work' to sign in again"
    assert advice in refresh_error("work")
    sign_in(simulator, "work", expires_at=1.0, refresh_token=None)
    assert "'llm chatgpt login --account work'" in refresh_error("work")


# Refusals after which a working token stays in use ------------------------------------


PROXY_PAGE = Answer(401, "<html>Sign in to the proxy</html>", {"Content-Type": "text/html"})


@pytest.mark.parametrize("answer", [PROXY_PAGE, Answer(401), Answer(401, {"message": "No."})])
def test_a_401_of_a_proxy_does_not_end_the_login(simulator, signed_in, ask, answer):
    simulator.script("responses", answer)
    simulator.script("token", answer)
    with pytest.raises(plugin.RefreshFailed) as caught:
        ask("one")
    assert not caught.value.permanent
    assert ask("two").text
    assert len(simulator.refreshes) == 1
    assert plugin.load_tokens() == signed_in


def test_a_401_of_a_proxy_does_not_end_a_login_that_cannot_be_renewed(simulator, signed_in, ask):
    simulator.script("responses", PROXY_PAGE)
    simulator.script("token", PERMANENT[0][0])
    with pytest.raises(plugin.RefreshFailed, match="has expired"):
        ask("one")
    assert ask("two").text
    assert len(simulator.refreshes) == 1


OTHER_REQUESTS = {"usage": ["usage"], "models": ["refresh"], "draw": ["image", "a pelican"]}


@pytest.mark.parametrize("endpoint", OTHER_REQUESTS)
def test_only_a_401_to_a_prompt_ends_a_login(simulator, signed_in, ask, run_llm, caplog, endpoint):
    refusal = error_answer(401, "token_expired")
    simulator.script(endpoint, refusal)
    simulator.script("token", PERMANENT[2][0])
    result = run_llm("chatgpt", *OTHER_REQUESTS[endpoint])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "was ended by OpenAI" in result.stderr
    # Prompts go on, with one warning that says how long, and what to do.
    assert ask("one").text
    assert ask("two").text
    assert len(simulator.refreshes) == 1
    (warning,) = [r.getMessage() for r in caplog.records if "Warning" in r.getMessage()]
    assert "Run 'llm chatgpt login' to sign in again." in warning
    day = time.strftime("%Y-%m-%d", time.localtime(signed_in.expires_at))
    assert f"The old token works until {day}" in warning
    status = run_llm("chatgpt", "status")
    assert status.exit_code == 0, status.stdout
    # A 401 to a prompt ends the login.
    simulator.script("responses", refusal)
    with pytest.raises(plugin.RefreshFailed, match="was ended by OpenAI"):
        ask("three")
    sent = len(simulator.requests)
    with pytest.raises(plugin.RefreshFailed, match="was ended by OpenAI"):
        ask("four")
    assert len(simulator.requests) == sent
    assert len(simulator.refreshes) == 1
