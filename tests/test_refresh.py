"""When a login is renewed, and what happens if that fails or another program was faster."""

from __future__ import annotations

import json
import threading
import time

import llm
import pytest

import llm_chatgpt_oauth as plugin
from conftest import expire, new_login, sign_in
from llm_chatgpt import config
from llm_chatgpt.login.login_file import locked_store, read_store, store_path
from simulator import Answer, error_answer, web_page


def test_a_valid_token_needs_neither_a_refresh_nor_the_lock(simulator, signed_in, ask, monkeypatch):
    monkeypatch.setattr("llm_chatgpt.config.LOCK_TIMEOUT_SECONDS", 0.1)
    with locked_store():
        assert ask("hi").text
    assert simulator.refreshes == []


@pytest.mark.parametrize("seconds", [-1000, -1, 1, 299])
def test_a_token_that_expires_within_five_minutes_is_renewed(simulator, signed_in, ask, seconds):
    old = expire(seconds)
    assert ask("hi").text
    assert len(simulator.refreshes) == 1
    request = simulator.refreshes[0]
    assert request.body == {
        "client_id": config.CLIENT_ID,
        "grant_type": "refresh_token",
        "refresh_token": old.refresh_token,
    }
    assert "json" in request.headers["content-type"]
    new = plugin.load_tokens()
    assert new.refresh_token != old.refresh_token
    assert new.expires_at > time.time() + 86400
    used = simulator.seen("/codex/responses")[0].headers["authorization"]
    assert used == f"Bearer {new.access_token}"


def test_a_token_that_expires_later_is_not_renewed(simulator, signed_in, ask):
    expire(330)
    assert ask("hi").text
    assert simulator.refreshes == []


def test_missing_fields_keep_their_values(simulator, signed_in):
    old = expire()
    access_token = simulator.sign_in()["access_token"]
    simulator.script("token", Answer(200, {"access_token": access_token}))
    new = plugin.get_tokens()
    assert new.access_token == access_token
    assert (new.refresh_token, new.id_token) == (old.refresh_token, old.id_token)
    assert plugin.load_tokens() == new


PERMANENT = [
    (error_answer(401, "refresh_token_expired"), "has expired"),
    (error_answer(401, "refresh_token_reused"), "renewed elsewhere, probably by a copy"),
    (error_answer(401, "refresh_token_invalidated"), "was ended by OpenAI"),
    (error_answer(400, "REFRESH_TOKEN_EXPIRED"), "has expired"),
    (Answer(401, {"error": "refresh_token_expired"}), "has expired"),
    (Answer(401, {"code": "refresh_token_reused"}), "renewed elsewhere, probably by a copy"),
    (error_answer(401, "token_expired"), "has expired"),
    (error_answer(401, "something_new"), "no longer accepted"),
    (Answer(400, {"error": "invalid_grant"}), "no longer accepted"),
]
TEMPORARY = [
    error_answer(400, "invalid_request"),
    Answer(500),
    Answer(503, "busy"),
    Answer(429),
    web_page(),
    # Answers of a proxy, which knows nothing about the login.
    Answer(401),
    Answer(401, "<html>Sign in to the proxy</html>", {"Content-Type": "text/html"}),
    Answer(401, {"message": "Unauthorized"}),
    Answer(200, "junk"),
    Answer(200, [1]),
    Answer(drop=True),
]


@pytest.mark.parametrize(("answer", "words"), PERMANENT)
def test_permanent_refusals_ask_for_a_new_login(simulator, signed_in, ask, answer, words):
    old = expire()
    simulator.script("token", answer)
    with pytest.raises(llm.ModelError, match=words) as caught:
        ask("hi")
    assert caught.value.permanent
    assert "Run 'llm chatgpt login'" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert simulator.prompts == []
    # The login is the same, except for the refusal.
    assert plugin.load_tokens()._replace(refusal=None) == old


@pytest.mark.parametrize("answer", TEMPORARY)
def test_temporary_failures_keep_the_login(simulator, signed_in, ask, answer):
    old = expire()
    simulator.script("token", answer)
    with pytest.raises(llm.ModelError) as caught:
        ask("hi")
    assert not caught.value.permanent
    assert "rt_" not in str(caught.value)
    assert plugin.load_tokens() == old
    # The next refresh succeeds.
    assert ask("hi").text


@pytest.mark.parametrize("answer", [TEMPORARY[1], PERMANENT[0][0], TEMPORARY[-1]])
def test_a_failed_refresh_does_not_stop_a_token_that_works(simulator, signed_in, answer, run_llm):
    expire(200)
    simulator.script("token", answer)
    result = run_llm("-m", "chatgpt-gpt-6-luna", "hi", "--no-log")
    assert result.exit_code == 0
    assert result.stdout == "This is answer 1. You said: hi\n"
    assert "Warning" in result.stderr
    assert len(simulator.refreshes) == 1


def test_newer_stored_tokens_are_used(simulator, signed_in, change_during_the_wait):
    """Another process renewed the login after this one had read it."""
    expire()
    newer = new_login(simulator)
    used = change_during_the_wait(plugin.get_tokens, lambda store: store.put("default", newer))
    assert used == newer
    assert simulator.refreshes == []


def test_tokens_of_a_program_that_ignores_the_lock_are_used(simulator, signed_in):
    """The refresh token has been used already, but newer tokens are stored."""
    expire()
    newer = new_login(simulator)

    def reused(request):
        store_path().write_bytes(read_store().put("default", newer).to_bytes())
        return error_answer(401, "refresh_token_reused")

    simulator.script("token", reused)
    assert plugin.get_tokens() == newer
    assert plugin.load_tokens() == newer


# 401 from the backend ----------------------------------------------------------------


def test_a_401_is_answered_by_one_refresh_and_one_resend(simulator, signed_in, ask):
    simulator.expire_access_tokens()
    assert ask("hi").text == "This is answer 1. You said: hi"
    assert len(simulator.refreshes) == 1
    first, second = simulator.seen("/codex/responses")
    assert first.headers["authorization"] != second.headers["authorization"]
    assert first.raw == second.raw


def test_after_a_401_newer_stored_tokens_are_used(simulator, signed_in, ask):
    newer = new_login(simulator)

    def unauthorized(request):
        # Another process renews the login meanwhile.
        plugin.store_tokens(newer)
        return error_answer(401, "token_expired")

    simulator.script("responses", unauthorized)
    assert ask("hi").text
    assert simulator.refreshes == []
    assert (
        simulator.seen("/codex/responses")[1].headers["authorization"].endswith(newer.access_token)
    )


def test_a_second_401_is_an_error_with_advice(simulator, signed_in, ask):
    refusal = error_answer(401, "token_invalidated", "Your session has ended.")
    simulator.script("responses", refusal, refusal)
    with pytest.raises(llm.ModelError, match="Run 'llm chatgpt login'") as caught:
        ask("hi")
    assert "Your session has ended" in str(caught.value)
    assert len(simulator.refreshes) == 1
    assert len(simulator.seen("/codex/responses")) == 2


# Other callers ----------------------------------------------------------------------


def test_the_public_functions_work_by_themselves(simulator):
    code = plugin.request_device_code()
    simulator.approve(code.user_code)
    tokens = plugin.poll_for_token(code)
    assert plugin.load_tokens() is None
    plugin.store_tokens(tokens)
    renewed = plugin.refresh_tokens(tokens)
    assert renewed.refresh_token != tokens.refresh_token
    assert plugin.load_tokens() == tokens
    plugin.store_tokens(renewed)
    assert plugin.get_tokens() == renewed
    with pytest.raises(plugin.RefreshFailed, match="renewed elsewhere"):
        plugin.refresh_tokens(tokens)


def test_a_login_without_a_refresh_token_cannot_be_renewed(simulator, signed_in):
    plugin.store_tokens(expire()._replace(refresh_token=None))
    with pytest.raises(plugin.RefreshFailed, match="cannot be renewed"):
        plugin.get_tokens()
    assert simulator.refreshes == []


def test_without_a_login_the_error_names_the_command(simulator, ask, run_llm):
    with pytest.raises(llm.NeedsKeyException, match="llm chatgpt login") as caught:
        ask("hi")
    assert "\n" not in str(caught.value)
    result = run_llm("-m", "chatgpt-gpt-6-luna", "hi")
    assert result.exit_code == 1
    assert result.stderr == "Error: Not signed in to ChatGPT. Run 'llm chatgpt login' first.\n"
    assert simulator.requests == []


def test_an_unknown_account_is_an_error_that_lists_the_known_ones(simulator, signed_in):
    with pytest.raises(llm.NeedsKeyException, match="Accounts: default") as caught:
        plugin.get_tokens("sk-secret-key")
    assert "sk-secret-key" not in str(caught.value)
    assert sign_in(simulator, "work") == plugin.get_tokens("work")


# Slow answers -----------------------------------------------------------------------


def test_a_slow_answer_is_used(simulator, signed_in, monkeypatch):
    """The time limit applies to each piece of an answer."""
    monkeypatch.setattr("llm_chatgpt.config.REFRESH_TIMEOUT_SECONDS", 0.5)
    expire()
    reply = simulator.sign_in()
    simulator.script("token", Answer(200, reply, trickle=2 / len(json.dumps(reply))))
    started = time.monotonic()
    assert plugin.get_tokens().access_token == reply["access_token"]
    assert time.monotonic() - started > 1
    assert plugin.load_tokens().access_token == reply["access_token"]


def test_a_refresh_times_out_before_others_stop_waiting_for_the_lock(
    simulator, signed_in, monkeypatch
):
    monkeypatch.setattr("llm_chatgpt.config.REFRESH_TIMEOUT_SECONDS", 0.3)
    expire()
    release = threading.Event()
    simulator.script("token", lambda request: release.wait(20) and None)
    with pytest.raises(plugin.RefreshFailed, match="did not answer in time"):
        plugin.get_tokens()
    release.set()
    # Outside this test, a refresh waits 120 seconds for an answer.
    assert config.LOCK_TIMEOUT_SECONDS > 120 + config.CONNECT_TIMEOUT_SECONDS
