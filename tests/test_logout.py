"""Logout deletes the local login first, whatever goes wrong at OpenAI afterwards."""

from __future__ import annotations

import threading
import time

import pytest

import llm_chatgpt_oauth as plugin
from conftest import assert_no_secrets, sign_in, sign_in_officially, start_llm
from llm_chatgpt import config
from llm_chatgpt.login.login_file import locked_store, read_store
from simulator import Answer, error_answer


def test_logout_is_local(two_logins, simulator, run_llm):
    result = run_llm("chatgpt", "logout")
    assert result.exit_code == 0
    assert "Signed out of account default" in result.stdout
    assert not simulator.requests
    assert list(read_store().accounts) == ["work"]


def test_logout_deletes_the_named_account_or_all(two_logins, simulator, run_llm, monkeypatch):
    assert "Signed out of account work" in run_llm("chatgpt", "logout", "--account", "work").stdout
    assert list(read_store().accounts) == ["default"]
    plugin.store_tokens(two_logins[1], "work")
    monkeypatch.setenv("LLM_CHATGPT_ACCOUNT", "work")
    assert "Signed out of account work" in run_llm("chatgpt", "logout").stdout
    monkeypatch.delenv("LLM_CHATGPT_ACCOUNT")
    plugin.store_tokens(two_logins[1], "work")
    assert run_llm("chatgpt", "logout", "--all").stdout.count("Signed out") == 2
    assert not read_store().accounts
    assert "Not signed in" in run_llm("chatgpt", "logout", "--all").stdout
    assert run_llm("chatgpt", "logout", "--all", "--account", "x").exit_code == 2


def test_an_access_token_is_not_signed_out(
    two_logins, simulator, personal_token, run_llm, monkeypatch
):
    monkeypatch.setenv("LLM_CHATGPT_ACCOUNT", personal_token)
    result = run_llm("chatgpt", "logout")
    assert result.exit_code == 1
    assert "cannot be signed out" in result.stderr
    assert set(read_store().accounts) == {"default", "work"}


def test_revoke_ends_the_session_at_openai(two_logins, simulator, run_llm):
    result = run_llm("chatgpt", "logout", "--revoke")
    assert result.exit_code == 0
    assert "other programs" in result.stderr
    request = simulator.seen("/oauth/revoke")[0]
    assert request.body == {
        "token": two_logins[0].refresh_token,
        "token_type_hint": "refresh_token",
        "client_id": config.CLIENT_ID,
    }
    assert list(read_store().accounts) == ["work"]
    with pytest.raises(plugin.RefreshFailed):
        plugin.refresh_tokens(two_logins[0])
    assert_no_secrets(simulator, result.output)


def test_revoke_sends_the_access_token_if_there_is_no_refresh_token(simulator, run_llm):
    tokens = sign_in(simulator, refresh_token=None)
    run_llm("chatgpt", "logout", "--revoke")
    body = simulator.seen("/oauth/revoke")[0].body
    assert body == {"token": tokens.access_token, "token_type_hint": "access_token"}


@pytest.mark.parametrize("answer", [Answer(500), Answer(drop=True), error_answer(400, "x")])
def test_logout_succeeds_if_the_revocation_fails(signed_in, simulator, run_llm, answer):
    simulator.script("revoke", answer)
    result = run_llm("chatgpt", "logout", "--revoke")
    assert result.exit_code == 0
    assert "Warning: Could not end the session at OpenAI (" in result.stderr
    assert not read_store().accounts


def test_a_revocation_that_hangs_is_given_up(signed_in, simulator, run_llm, monkeypatch):
    monkeypatch.setattr("llm_chatgpt.config.REVOKE_TIMEOUT_SECONDS", 0.05)
    simulator.script("revoke", Answer(delay=0.5))
    result = run_llm("chatgpt", "logout", "--revoke")
    assert "did not answer" in result.stderr
    assert not read_store().accounts


def test_an_interrupted_revocation_leaves_no_login(signed_in, run_llm, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("llm_chatgpt.commands.accounts.revoke_all", interrupt)
    assert run_llm("chatgpt", "logout", "--revoke").exit_code == 1
    assert not read_store().accounts


@pytest.mark.parametrize("hang", [["revoke"], ["revoke", "official_revoke"]])
def test_a_logout_of_all_has_one_time_limit_and_holds_no_lock(
    simulator, run_llm, monkeypatch, hang
):
    monkeypatch.setattr("llm_chatgpt.config.REVOKE_TIMEOUT_SECONDS", 1.0)
    for name in ("default", "home", "work"):
        sign_in(simulator, name)
    sign_in_officially(simulator, "official")
    waiting, release = threading.Semaphore(0), threading.Event()

    def wait_for_release(request):
        waiting.release()
        release.wait(20)

    for endpoint in hang:
        simulator.always[endpoint] = wait_for_release
    start = time.monotonic()
    process = start_llm("chatgpt", "logout", "--all", "--revoke")
    for _ in range(3):
        assert waiting.acquire(timeout=20)
    # Three requests wait at the same time, and the lock is free.
    with locked_store(2):
        assert not read_store().accounts
    release.set()
    stdout, _ = process.communicate(timeout=60)
    assert time.monotonic() - start < 20
    assert stdout.count("Signed out of account") == 4
