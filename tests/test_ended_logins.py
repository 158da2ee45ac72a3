"""Ended and damaged logins: what the commands show, and their exit codes."""

from __future__ import annotations

import json
import re
import time

import pytest

from conftest import edit_login, sign_in
from simulator import error_answer


@pytest.fixture
def ended_message(simulator, run_llm):
    """Let OpenAI end the login `work`; `default` is healthy. Returns the error message."""
    sign_in(simulator)
    sign_in(simulator, "work", expires_at=time.time() - 60)
    simulator.script("token", error_answer(401, "refresh_token_expired"))
    result = run_llm("-m", "chatgpt-gpt-6-luna", "--key", "work", "hi")
    assert result.exit_code == 1
    return result.stderr.removeprefix("Error: ").strip()


def test_status_explains_an_ended_login_and_exits_with_1(simulator, ended_message, run_llm):
    result = run_llm("chatgpt", "status", "--account", "work")
    assert result.exit_code == 1
    assert result.stdout.startswith(
        "Your login as ada@example.com (Plus plan) has ended. "
        "Run 'llm chatgpt login --account work'.\n"
    )
    assert "\nAccess token: expired, sign in again\n" in result.stdout
    assert result.stdout.splitlines()[-1] == ended_message
    assert "llm chatgpt login --account work" in ended_message
    result = run_llm("chatgpt", "status", "--account", "work", "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert (report["signed_in"], report["expired"], report["problem"]) == (
        False,
        True,
        ended_message,
    )
    assert report["reason"] == "chosen by name"
    result = run_llm("chatgpt", "status", "--json")
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert (report["signed_in"], report["problem"]) == (True, None)
    assert len(simulator.refreshes) == 1


def test_status_of_an_ended_imported_login_advises_import(simulator, run_llm):
    sign_in(simulator, kind="codex", refresh_token=None, expires_at=time.time() - 60)
    result = run_llm("chatgpt", "status")
    assert result.exit_code == 1
    assert result.stdout.startswith("Your login as ada@example.com (Plus plan) has ended. Run 'llm")
    assert "has ended. Run 'llm chatgpt import'." in result.stdout


def test_login_says_that_it_replaces_the_ended_one(simulator, ended_message, run_llm):
    simulator.approve_after_polls = 0
    result = run_llm("chatgpt", "login", "--account", "work")
    assert result.stderr.startswith(
        "Your login as ada@example.com (Plus plan) has ended.\nA new login replaces it.\n"
    )
    assert "You are signed in" not in result.stderr


def test_accounts_marks_an_ended_login_and_exits_with_1(simulator, ended_message, run_llm):
    result = run_llm("chatgpt", "accounts")
    assert result.exit_code == 1
    healthy, other = result.stdout.splitlines()[1:]
    assert "renews automatically" in healthy
    assert other.endswith("expired, sign in again")
    report = run_llm("chatgpt", "accounts", "--json")
    assert report.exit_code == 1
    assert [entry["expired"] for entry in json.loads(report.stdout)] == [False, True]


def test_a_new_login_replaces_the_ended_one(simulator, ended_message, run_llm):
    simulator.approve_after_polls = 0
    assert run_llm("chatgpt", "login", "--account", "work").exit_code == 0
    assert run_llm("chatgpt", "status", "--account", "work").exit_code == 0
    assert run_llm("chatgpt", "accounts").exit_code == 0


def test_commands_say_that_a_working_login_cannot_be_renewed(simulator, run_llm):
    """A prompt still works with the old token, but no output promises a renewal."""
    sign_in(simulator, expires_at=time.time() + 60)
    simulator.script("token", error_answer(401, "refresh_token_reused"))
    assert run_llm("-m", "chatgpt-gpt-6-luna", "hi").exit_code == 0
    for command in (["status"], ["accounts"], ["doctor"]):
        result = run_llm("chatgpt", *command)
        assert result.exit_code == 0
        assert re.search(r"expires in \d+ seconds.*; cannot be renewed", result.stdout)
    status = run_llm("chatgpt", "status").stdout
    assert status.startswith("Signed in as ada@example.com")
    assert "Run 'llm chatgpt login' to sign in again." in status.splitlines()[-1]
    report = json.loads(run_llm("chatgpt", "status", "--json").stdout)
    assert (report["signed_in"], report["expired"]) == (True, False)
    assert report["problem"] == status.splitlines()[-1]


@pytest.fixture
def damaged(simulator):
    """Damage the entry of `work` in the login file; `default` is healthy."""
    sign_in(simulator)
    sign_in(simulator, "work")
    edit_login("work", access_token=7)


@pytest.mark.parametrize("variable", [False, True])
def test_logout_deletes_a_damaged_account(damaged, run_llm, monkeypatch, variable):
    arguments = [] if variable else ["--account", "work"]
    if variable:
        monkeypatch.setenv("LLM_CHATGPT_ACCOUNT", "work")
    result = run_llm("chatgpt", "logout", *arguments)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("Signed out of account work.")
    monkeypatch.delenv("LLM_CHATGPT_ACCOUNT", raising=False)
    result = run_llm("chatgpt", "accounts")
    assert result.exit_code == 0
    assert "work" not in result.stdout
