"""Refreshes that failed for good, and refusals that leave a working token in use."""

from __future__ import annotations

import gc
import time
import weakref

import llm
import pytest

import llm_chatgpt_oauth as plugin
from conftest import edit_login, expire, sign_in, start_llm
from llm_chatgpt.login.credentials import must_renew
from llm_chatgpt.login.login_file import read_store
from simulator import Answer, error_answer
from test_refresh import PERMANENT


def failing(simulator, *keys):
    """What `get_tokens` fails with for each of these keys."""
    found = []
    for key in keys:
        with pytest.raises(plugin.RefreshFailed) as caught:
            plugin.get_tokens(key)
        found.append(str(caught.value))
    return found


@pytest.mark.parametrize("answer", [PERMANENT[0][0], PERMANENT[-1][0]])
def test_a_permanent_failure_is_remembered_by_all_programs(simulator, signed_in, run_llm, answer):
    expire()
    simulator.script("token", answer)
    first, second = failing(simulator, None, None)
    result = run_llm("-m", "chatgpt-gpt-6-luna", "hi", "--no-log")
    assert first == second == result.stderr.removeprefix("Error: ").rstrip()
    process = start_llm("-m", "chatgpt-gpt-6-luna", "hi", "--no-log")
    assert first in process.communicate(timeout=30)[1]
    assert len(simulator.refreshes) == 1
    store = read_store()
    with pytest.raises(plugin.RefreshFailed, match="sign in again"):
        must_renew("default", store.get())
    # A new login ends it.
    simulator.approve_after_polls = 0
    assert run_llm("chatgpt", "login").exit_code == 0
    assert plugin.get_tokens()
    assert plugin.load_tokens().refusal is None


def test_a_refused_refresh_after_a_401_is_remembered_too(simulator, signed_in, ask):
    """Although the access token has ten days left by its own words."""
    simulator.expire_access_tokens()
    simulator.script("token", error_answer(401, "refresh_token_invalidated"))
    for _ in range(2):
        with pytest.raises(llm.ModelError, match="was ended by OpenAI"):
            ask("hi")
    assert len(simulator.seen("/codex/responses")) == 1
    assert len(simulator.refreshes) == 1


def test_a_remembered_failure_lets_a_token_work_until_its_end(simulator, signed_in, ask):
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
def test_junk_in_the_memory_of_failures_is_harmless(simulator, signed_in, junk):
    edit_login(refusal=junk, expires_at=1.0)
    assert plugin.get_tokens().access_token != signed_in.access_token


def test_the_advice_names_the_account(simulator, signed_in):
    work = sign_in(simulator, "work", expires_at=1.0)
    assert work
    simulator.script("token", PERMANENT[0][0])
    (message,) = failing(simulator, "work")
    assert "Run 'llm chatgpt login --account work' to sign in again" in message
    sign_in(simulator, "work", expires_at=1.0, refresh_token=None)
    (message,) = failing(simulator, "work")
    assert "'llm chatgpt login --account work'" in message


def test_a_failure_keeps_nothing_alive(simulator, signed_in):
    """Neither the response nor the prompt, whose attachments may be large."""
    model = llm.get_model("chatgpt-gpt-6-luna")
    expire()
    simulator.script("token", Answer(500))
    response = model.prompt("hi")
    with pytest.raises(llm.ModelError):
        response.text()
    alive = weakref.ref(response), weakref.ref(response.prompt)
    del response
    gc.collect()
    assert [reference() for reference in alive] == [None, None]


# A refusal that is no reason to give up a token that works ----------------------------


PROXY_PAGE = Answer(401, "<html>Sign in to the proxy</html>", {"Content-Type": "text/html"})


@pytest.mark.parametrize("answer", [PROXY_PAGE, Answer(401), Answer(401, {"message": "No."})])
def test_a_proxy_that_answers_one_prompt_and_its_refresh(simulator, signed_in, ask, answer):
    simulator.script("responses", answer)
    simulator.script("token", answer)
    with pytest.raises(plugin.RefreshFailed) as caught:
        ask("one")
    assert not caught.value.permanent
    assert ask("two").text
    assert len(simulator.refreshes) == 1
    assert plugin.load_tokens() == signed_in


def test_a_proxy_page_is_not_the_end_of_a_login_that_cannot_be_renewed(simulator, signed_in, ask):
    simulator.script("responses", PROXY_PAGE)
    simulator.script("token", PERMANENT[0][0])
    with pytest.raises(plugin.RefreshFailed, match="has expired"):
        ask("one")
    assert ask("two").text
    assert len(simulator.refreshes) == 1


SIDE_REQUESTS = {"usage": ["usage"], "models": ["refresh"], "draw": ["image", "a pelican"]}


@pytest.mark.parametrize("endpoint", SIDE_REQUESTS)
def test_a_side_request_signs_nobody_out(simulator, signed_in, ask, run_llm, caplog, endpoint):
    refusal = error_answer(401, "token_expired")
    simulator.script(endpoint, refusal)
    simulator.script("token", PERMANENT[2][0])
    result = run_llm("chatgpt", *SIDE_REQUESTS[endpoint])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "was ended by OpenAI" in result.stderr
    # Prompts go on, and one warning says until when, and what to do.
    assert ask("one").text
    assert ask("two").text
    assert len(simulator.refreshes) == 1
    (warning,) = [r.getMessage() for r in caplog.records if "Warning" in r.getMessage()]
    assert "Run 'llm chatgpt login' to sign in again." in warning
    day = time.strftime("%Y-%m-%d", time.localtime(signed_in.expires_at))
    assert f"The old token works until {day}" in warning
    status = run_llm("chatgpt", "status")
    assert status.exit_code == 0, status.stdout
    # Until a prompt gets a 401, too.
    simulator.script("responses", refusal)
    with pytest.raises(plugin.RefreshFailed, match="was ended by OpenAI"):
        ask("three")
    sent = len(simulator.requests)
    with pytest.raises(plugin.RefreshFailed, match="was ended by OpenAI"):
        ask("four")
    assert len(simulator.requests) == sent
    assert len(simulator.refreshes) == 1
