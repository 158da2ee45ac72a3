"""`llm chatgpt status`, and the logout of the only account."""

from __future__ import annotations

import json
import time

import pytest

import llm_chatgpt_oauth as plugin
from conftest import assert_no_secrets, sign_in
from llm_chatgpt.login.login_file import store_path


def test_status_sends_nothing_and_changes_nothing(simulator, run_llm):
    sign_in(simulator)
    before = store_path().read_bytes()
    names = sorted(p.name for p in store_path().parent.iterdir())
    text, data = run_llm("chatgpt", "status"), run_llm("chatgpt", "status", "--json")
    assert text.exit_code == data.exit_code == 0
    assert simulator.requests == []
    assert store_path().read_bytes() == before
    assert sorted(p.name for p in store_path().parent.iterdir()) == names
    account = simulator.account
    for wanted in (account.email, "Plus", "in 10 days", store_path()):
        assert str(wanted) in text.stdout
    report = json.loads(data.stdout)
    assert report["signed_in"] is True
    assert report["email"] == account.email
    assert report["plan"] == "plus"
    assert report["account_id"] == account.account_id
    assert report["expires_at"] == pytest.approx(time.time() + 864000, abs=60)
    assert report["expired"] is False
    assert report["path"] == str(store_path())
    assert_no_secrets(simulator, text.output + data.output)


def test_status_without_a_login(run_llm):
    text, data = run_llm("chatgpt", "status"), run_llm("chatgpt", "status", "--json")
    assert text.exit_code == data.exit_code == 1
    assert "llm chatgpt login" in text.stdout
    report = json.loads(data.stdout)
    assert report["signed_in"] is False
    assert report["problem"] == text.stdout.strip()


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_status_of_an_unknown_account_is_an_error(simulator, run_llm, monkeypatch, more):
    sign_in(simulator)
    words = "Error: No account named 'nope'. Accounts: default.\n"
    result = run_llm("chatgpt", "status", "--account", "nope", *more)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", words)
    monkeypatch.setenv("LLM_CHATGPT_ACCOUNT", "nope")
    result = run_llm("chatgpt", "status", *more)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", words)


def test_status_of_an_expired_token_says_that_the_next_prompt_renews_it(simulator, run_llm):
    sign_in(simulator, expires_at=time.time() - 100)
    assert "the next prompt renews it" in run_llm("chatgpt", "status").stdout
    assert json.loads(run_llm("chatgpt", "status", "--json").stdout)["expired"] is True


def test_logout_deletes_the_tokens_and_sends_nothing(simulator, run_llm):
    sign_in(simulator)
    result = run_llm("chatgpt", "logout")
    assert result.exit_code == 0
    assert "Signed out" in result.stdout
    assert plugin.load_tokens() is None
    assert simulator.requests == []
    assert "rt_" not in store_path().read_text()
    again = run_llm("chatgpt", "logout")
    assert again.exit_code == 0
    assert "Not signed in" in again.stdout
