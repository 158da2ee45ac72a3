"""What the user grants on the official route, and to which registration."""

from __future__ import annotations

import pytest

import llm_chatgpt_oauth as plugin
from conftest import assert_no_secrets, authorize_queries, exchanges
from llm_chatgpt.login.login_file import locked_store, read_store, store_path
from simulator import OFFICIAL_SCOPE, PLAN_SCOPE, Account

NO_PLAN = OFFICIAL_SCOPE.replace(f" {PLAN_SCOPE}", "")


@pytest.mark.parametrize("withheld", [False, True])
def test_a_sign_in_without_the_plan_stores_no_login(
    simulator, official_login, run_llm, ask, withheld
):
    simulator.official.scope = NO_PLAN
    simulator.official.withholds_tokens = withheld
    result = official_login()
    assert (result.exit_code, result.stdout) == (1, "")
    assert "without permission to use your ChatGPT plan" in result.stderr
    assert "'llm chatgpt login --official'" in result.stderr
    assert_no_secrets(simulator, store_path().read_text())
    (client_id,) = simulator.clients
    registration = read_store().registration("official")
    assert (registration["client_id"], registration["subject"]) == (client_id, "auth0|user-ada")

    sent = len(simulator.requests)
    for key in ({}, {"key": "official"}):
        with pytest.raises(plugin.NotSignedIn, match="'llm chatgpt login --official'"):
            ask("hi", **key)
    assert run_llm("chatgpt", "status").exit_code == 1
    assert len(simulator.requests) == sent

    simulator.official.scope = OFFICIAL_SCOPE
    assert official_login().exit_code == 0
    assert authorize_queries(simulator)[1]["prompt"] == "consent"
    assert authorize_queries(simulator)[1]["client_id"] == client_id
    assert official_login().exit_code == 0
    assert "prompt" not in authorize_queries(simulator)[2]


def test_the_redirects_scope_counts_if_the_reply_has_none(simulator, official_login):
    def without_scope(request):
        reply = simulator.serve_official_token(request)
        del reply.body["scope"]
        return reply

    simulator.official.scope = NO_PLAN
    simulator.script("official_token", without_scope)
    result = official_login()
    assert result.exit_code == 1
    assert "without permission to use your ChatGPT plan" in result.stderr
    assert plugin.load_tokens() is None


def test_a_later_sign_in_without_the_plan_ends_the_earlier_login(
    simulator, official_login, run_llm, ask
):
    official_login()
    official_login("--account", "work")
    other = plugin.load_tokens("work")
    simulator.official.scope = NO_PLAN
    assert official_login().exit_code == 1
    sent = len(simulator.requests)
    with pytest.raises(plugin.RefreshFailed, match=r"without permission.*'llm chatgpt login --off"):
        ask("hi")
    status = run_llm("chatgpt", "status")
    assert status.exit_code == 1
    assert "without permission to use your ChatGPT plan" in status.stdout
    assert len(simulator.requests) == sent
    assert plugin.load_tokens("work") == other
    simulator.official.scope = OFFICIAL_SCOPE
    assert official_login().exit_code == 0
    assert authorize_queries(simulator)[-1]["prompt"] == "consent"
    assert ask("hi").text


def test_a_user_who_declined_is_asked_again(simulator, official_login):
    official_login()
    simulator.official.declined = True
    assert official_login().exit_code == 1
    simulator.official.declined = False
    assert official_login().exit_code == 0
    prompts = [query.get("prompt") for query in authorize_queries(simulator)]
    assert prompts == [None, None, "consent"]


def test_two_sign_ins_at_once_keep_one_registration(simulator, browser):
    def while_another_one_finishes(request):
        plugin.login_officially(show=lambda other: browser.open(other.url))
        simulator.account = Account(email="bob@example.com", user_id="user-bob")
        browser.open(request.url)

    with pytest.raises(plugin.LoginFailed, match="belongs to another registration"):
        plugin.login_officially(show=while_another_one_finishes)
    tokens, registration = plugin.load_tokens(), read_store().registration("official")
    assert tokens.email == "ada@example.com"
    stored = (registration["client_id"], registration["subject"])
    assert stored == (tokens.client_id, tokens.subject)
    assert len(exchanges(simulator)) == 1


@pytest.mark.parametrize("damage", [{"subject": 5}, {"client_id": ["x"], "subject": {}}])
def test_a_damaged_registration_is_replaced(simulator, official_login, damage):
    with locked_store() as writer:
        writer.save(read_store().register("official", **damage))
    assert official_login().exit_code == 0
    registration = read_store().registration("official")
    stored = (registration["client_id"], registration["subject"])
    assert stored == (*simulator.clients, "auth0|user-ada")


def test_a_registration_at_another_issuer_does_not_change_the_advice(
    simulator, official_login, run_llm, monkeypatch
):
    official_login()
    run_llm("chatgpt", "logout")
    monkeypatch.setenv("LLM_CHATGPT_ISSUER", "https://auth.example")
    assert "Run 'llm chatgpt login' first." in run_llm("chatgpt", "status").stdout


@pytest.mark.parametrize("signed_out", [False, True])
def test_another_user_under_the_same_name_is_refused(
    simulator, official_login, run_llm, signed_out
):
    official_login()
    if signed_out:
        run_llm("chatgpt", "logout")
    old = plugin.load_tokens()
    simulator.account = Account(email="bob@example.com", user_id="user-bob")
    result = official_login("--yes")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "another ChatGPT user" in result.stderr
    assert "'llm chatgpt login --official --account NAME'" in result.stderr
    assert plugin.load_tokens() == old
    assert official_login("--account", "bob").exit_code == 0
    assert plugin.load_tokens("bob").email == "bob@example.com"
