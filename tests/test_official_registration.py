"""A registration that OpenAI forgets or the user replaces, and most uses of an official login."""

from __future__ import annotations

import logging
import time

import pytest

import llm_chatgpt_oauth as plugin
from conftest import assert_no_secrets, authorize_queries, fetch, redirect_of, sign_in
from llm_chatgpt import config
from llm_chatgpt.login.login_file import read_store
from simulator import PNG, Account, Answer, plan_error


def forget_registrations(simulator):
    """As if the user had removed the app in ChatGPT's settings."""
    simulator.clients.clear()


def revoked(simulator):
    return [r.body["token"] for r in simulator.seen("/api/accounts/oauth/revoke")]


@pytest.mark.parametrize("arguments", [(), ("--account", "work")])
def test_a_prompt_with_a_forgotten_registration_suggests_the_option_new(
    simulator, official_login, ask, clock, arguments
):
    official_login(*arguments)
    forget_registrations(simulator)
    simulator.expire_access_tokens()
    clock.shift = 4000
    simulator.clock = clock
    command = " ".join(["'llm chatgpt login --official", *arguments, "--new'"])
    with pytest.raises(plugin.RefreshFailed, match=command) as caught:
        ask("hi")
    assert command in caught.value.advice
    # OpenAI may know the registration again later.
    assert not caught.value.permanent
    again = official_login(*arguments)
    assert again.exit_code == 0, again.stderr
    assert authorize_queries(simulator)[1]["client_id"] == "dynamic_agent_client"
    assert ask("hi").text


def test_a_logout_does_not_restore_a_forgotten_registration(
    simulator, official_login, run_llm, ask, clock
):
    official_login()
    forget_registrations(simulator)
    clock.shift = 4000
    simulator.clock = clock
    with pytest.raises(plugin.RefreshFailed):
        ask("hi")
    run_llm("chatgpt", "logout")
    assert official_login().exit_code == 0
    assert authorize_queries(simulator)[1]["client_id"] == "dynamic_agent_client"


def test_a_registration_forgotten_before_the_exchange_is_replaced(
    simulator, official_login, browser
):
    official_login()

    def visit(url):
        back = redirect_of(url)
        forget_registrations(simulator)
        browser.pages.append(fetch(back))

    browser.visit = visit
    result = official_login()
    assert result.exit_code == 1
    assert "no longer knows this installation" in result.stderr
    assert "'llm chatgpt login --official' to register again" in result.stderr
    browser.visit = lambda url: browser.pages.append(fetch(url))
    assert official_login().exit_code == 0
    assert len(simulator.clients) == 1


def test_a_later_sign_in_suggests_the_option_new(simulator, official_login, browser):
    first = official_login("--account", "work")
    assert "--new" not in first.stderr
    forget_registrations(simulator)
    command = "'llm chatgpt login --official --account work --new'"
    with pytest.MonkeyPatch.context() as context:
        context.setattr(config, "BROWSER_LOGIN_SECONDS", 0.3)
        result = official_login("--account", "work")
    assert result.exit_code == 1
    assert browser.pages[-1][0] == 400
    advice = f"Signing in as another user? Press Ctrl-C and run {command}"
    assert advice in result.stderr
    assert result.stderr.index(advice) < result.stderr.index("Waiting for the browser")
    assert official_login("--account", "work", "--new").exit_code == 0


def test_a_new_registration_ends_the_session_of_the_old_one(
    simulator, official_login, run_llm, ask
):
    official_login()
    first = plugin.load_tokens()
    assert official_login().exit_code == 0
    # Both sessions have one client id.
    assert revoked(simulator) == []
    second = plugin.load_tokens()
    result = official_login("--new")
    assert result.exit_code == 0, result.stderr
    assert authorize_queries(simulator)[2]["client_id"] == "dynamic_agent_client"
    assert revoked(simulator) == [second.refresh_token]
    third = plugin.load_tokens()
    assert third.client_id != second.client_id == first.client_id
    registration = read_store().registration("official")
    assert (registration["client_id"], registration["subject"]) == (third.client_id, third.subject)
    assert official_login().exit_code == 0
    assert authorize_queries(simulator)[3]["client_id"] == third.client_id
    assert ask("hi").text


def test_an_old_session_that_does_not_end_is_no_failure(simulator, official_login):
    official_login()
    simulator.always["official_revoke"] = lambda request: Answer(500)
    result = official_login("--new")
    assert result.exit_code == 0
    assert "Warning: Could not end the session at OpenAI (" in result.stderr


def test_new_replaces_another_user_only_with_yes(simulator, official_login):
    official_login()
    old, registration = plugin.load_tokens(), read_store().registration("official")
    simulator.account = Account(email="bob@example.com", user_id="user-bob")
    result = official_login()
    assert "to replace the other, run 'llm chatgpt login --official --new'" in result.stderr
    result = official_login("--new")
    assert result.exit_code == 1
    assert "Kept the login of ada@example.com." in result.stderr
    assert (plugin.load_tokens(), read_store().registration("official")) == (old, registration)
    assert revoked(simulator) == []
    assert official_login("--new", "--yes").exit_code == 0
    assert plugin.load_tokens().email == "bob@example.com"
    assert revoked(simulator) == [old.refresh_token]


def test_new_is_for_the_official_route(run_llm):
    result = run_llm("chatgpt", "login", "--new")
    assert result.exit_code == 2
    assert "--new only with --official" in result.stderr


def test_an_official_login_is_added_beside_a_codex_login(simulator, official_login, run_llm):
    codex = sign_in(simulator)
    result = official_login()
    assert result.exit_code == 0, result.stderr
    assert "Already signed in: default (ada@example.com)." in result.stderr
    assert plugin.load_tokens("default") == codex
    assert plugin.load_tokens().kind == "official"
    paths = {request.path for request in simulator.requests}
    assert paths == {"/api/accounts/authorize", "/api/accounts/oauth/token", "/v1/models"}


def test_a_codex_login_is_not_replaced_without_a_question(simulator, official_login):
    codex = sign_in(simulator)
    result = official_login("--account", "default")
    assert result.exit_code == 1
    assert plugin.load_tokens() == codex
    assert official_login("--account", "default", "--yes").exit_code == 0
    assert plugin.load_tokens().kind == "official"


def test_a_wrong_clock_of_this_machine_does_no_harm(simulator, official_login):
    behind = 86400
    simulator.clock = lambda: time.time() - behind
    assert official_login().exit_code == 0
    tokens = plugin.load_tokens()
    assert tokens.expires_at == pytest.approx(time.time() + 3600, abs=60)
    # By OpenAI's own clock, which is a day behind in this test.
    assert tokens.earliest_refresh_at == pytest.approx(simulator.clock() + 3240, abs=60)


def test_from_the_first_sign_in_to_the_last_sign_out(
    simulator, official_login, run_llm, clock, caplog
):
    """Most uses of this route, one after another, beside a Codex login."""
    caplog.set_level(logging.DEBUG)
    codex = sign_in(simulator)
    model, outputs = ("-m", "chatgpt-gpt-6-luna"), []

    def run(*arguments, exit_code=0, **options):
        result = run_llm(*arguments, **options)
        assert result.exit_code == exit_code, result.output
        outputs.append(result.output)
        return result

    simulator.clock = clock
    outputs.append(official_login().output)
    run(*model, "hi")
    functions = "def multiply(a: int, b: int) -> int:\n    return a * b"
    chain = run(*model, 'multiply {"a": 6, "b": 7}', "--functions", functions)
    assert "The tool returned: 42" in chain.stdout
    image = run(*model, "look", "--at", "-", "image/png", input=PNG)
    assert "(with 1 picture)" in image.stdout
    run(*model, "a pelican", "--schema", "name, age int")
    run("chat", *model, input="hello\nquit\n")
    clock.shift = 4000
    run(*model, "an hour later")
    assert len(simulator.refreshes) == 1
    simulator.script("official_responses", plan_error("subscription_sharing_usage_limit_exceeded"))
    limit = run(*model, "too much", exit_code=1)
    assert "https://chatgpt.com/settings/usage" in limit.stderr
    simulator.end_official_logins("refresh_token_reused")
    clock.shift = 8000
    ended = run(*model, "two hours later", exit_code=1)
    assert "'llm chatgpt login --official'" in ended.stderr
    run("chatgpt", "accounts", exit_code=1)
    again = official_login()
    assert again.exit_code == 0, again.stderr
    run("chatgpt", "logout", "--account", "official")

    assert len(simulator.clients) == 1
    assert {request.path for request in simulator.requests} == {
        "/api/accounts/authorize",
        "/api/accounts/oauth/token",
        "/api/accounts/oauth/revoke",
        "/v1/models",
        "/v1/responses",
    }
    assert plugin.load_tokens("default") == codex
    for text in (*outputs, caplog.text):
        assert_no_secrets(simulator, text)
