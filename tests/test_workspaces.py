"""Workspaces: their names, ids and origins, several for one user, and sign-in by id."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest

import llm_chatgpt_oauth as plugin
from conftest import BOB, device_login, expire, sign_in
from llm_chatgpt import config
from llm_chatgpt.login.login_file import read_store, store_path
from simulator import Account, Answer

ACME = Account(name="Acme", plan="team", account_id="aaaa1111-0000-4000-8000-00000000ac3e")
GLOBEX = dataclasses.replace(
    ACME, name="Globex", plan="business", account_id="bbbb2222-0000-4000-8000-000000061be8"
)


@pytest.fixture
def two_workspaces(simulator, run_llm):
    """One user with a login for each of their workspaces: `default` and `other`."""
    simulator.approve_after_polls = 0
    for account, arguments in ((ACME, []), (GLOBEX, ["--account", "other"])):
        simulator.account = account
        assert run_llm("chatgpt", "login", *arguments).exit_code == 0


def test_two_workspaces_of_one_user_can_be_told_apart(two_workspaces, simulator, run_llm):
    seen = len(simulator.requests)
    first, second = run_llm("chatgpt", "accounts").stdout.splitlines()[1:]
    assert first.split()[:5] == ["*", "default", "ada@example.com", "Team", "Acme"]
    assert second.split()[:4] == ["other", "ada@example.com", "Business", "Globex"]
    assert max(len(first), len(second)) <= 80
    status = run_llm("chatgpt", "status")
    assert "Signed in as ada@example.com (Team plan, Acme)\n" in status.stdout
    assert f"\nWorkspace: Acme ({ACME.account_id})\n" in status.stdout
    report = json.loads(run_llm("chatgpt", "status", "--account", "other", "--json").stdout)
    assert (report["workspace"], report["account_id"]) == ("Globex", GLOBEX.account_id)
    listed = json.loads(run_llm("chatgpt", "accounts", "--json").stdout)
    assert [entry["workspace"] for entry in listed] == ["Acme", "Globex"]
    assert [entry["account_id"] for entry in listed] == [ACME.account_id, GLOBEX.account_id]
    assert len(simulator.requests) == seen


@pytest.mark.parametrize("name", ["Acme", None])
def test_workspaces_with_equal_or_no_names_are_told_apart_by_their_ids(simulator, run_llm, name):
    for account, workspace in ((None, ACME), ("other", GLOBEX)):
        simulator.account = workspace
        sign_in(simulator, account, workspace=name)
    table = run_llm("chatgpt", "accounts").stdout
    assert "aaaa1111" in table
    assert "bbbb2222" in table
    shown = f"{name} ({ACME.account_id})" if name else ACME.account_id
    assert f"Workspace: {shown}" in run_llm("chatgpt", "status").stdout


def test_a_refresh_keeps_the_workspaces_name(two_workspaces, simulator):
    expire()
    assert plugin.get_tokens().workspace == "Acme"
    assert plugin.load_tokens().workspace == "Acme"
    assert len(simulator.refreshes) == 1


def test_a_login_file_without_workspace_names_is_read(two_workspaces, run_llm):
    text = store_path().read_text()
    store_path().write_text(re.sub(r'\n *"workspace": "\w+",', "", text))
    assert "workspace" not in store_path().read_text()
    assert "\nWorkspace: aaaa1111-" in run_llm("chatgpt", "status").stdout
    assert run_llm("chatgpt", "accounts").exit_code == 0


def test_another_workspace_of_the_same_user_is_not_replaced_unasked(
    two_workspaces, simulator, run_llm
):
    simulator.account = GLOBEX
    simulator.approve_after_polls = 0
    result = run_llm("chatgpt", "login")
    assert result.exit_code == 1
    for sentence in (
        "You are already signed in as ada@example.com (Team plan, Acme);",
        "this login is ada@example.com (Business plan, Globex).",
        f"Old workspace: Acme ({ACME.account_id})",
        f"New workspace: Globex ({GLOBEX.account_id})",
        "Kept the login of ada@example.com in Acme. To add ada@example.com in Globex as well, use "
        "--account",
    ):
        assert sentence in result.stderr
    assert plugin.load_tokens().workspace == "Acme"


def test_another_workspace_than_the_requested_one_is_not_stored(simulator, run_llm):
    old = sign_in(simulator)
    simulator.account = dataclasses.replace(ACME, email="eve@example.com")
    simulator.approve_after_polls = 0
    result = run_llm("chatgpt", "login", "--yes", "--workspace", GLOBEX.account_id)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"workspace Acme ({ACME.account_id}), not to {GLOBEX.account_id}." in result.stderr
    assert "Nothing was stored." in result.stderr
    assert read_store().accounts == {"default": old}
    result = run_llm("chatgpt", "login", "--yes", "--workspace", ACME.account_id)
    assert result.stdout.startswith("Signed in as eve@example.com (Team plan, Acme)\n")
    assert plugin.load_tokens().account_id == ACME.account_id


@pytest.mark.parametrize("workspace_id", ["", "a b"])
def test_an_invalid_workspace_id_is_refused(simulator, run_llm, workspace_id):
    result = run_llm("chatgpt", "login", "--workspace", workspace_id)
    assert result.exit_code == 2
    assert "--workspace takes a workspace's id" in result.stderr
    assert not simulator.requests


# Tokens without an account id -----------------------------------------------------------


def sign_in_without_id(simulator, run_llm, *options, organizations=()):
    simulator.account = dataclasses.replace(ACME, id_in_tokens=False, organizations=organizations)
    # During the sign-in there is no account id to send.
    simulator.require_account_header = False
    simulator.approve_after_polls = 0
    done = run_llm("chatgpt", "login", *options)
    assert done.exit_code == 0, done.stderr
    simulator.require_account_header = True
    return plugin.load_tokens()


@pytest.mark.parametrize("organizations", [(), ("org-1",)])
def test_the_service_is_asked_for_an_account_id(simulator, run_llm, organizations):
    tokens = sign_in_without_id(simulator, run_llm, organizations=organizations)
    assert (tokens.account_id, tokens.workspace) == (ACME.account_id, "Acme")
    assert run_llm("-m", "chatgpt-gpt-6-luna", "hi", "--no-log").exit_code == 0
    sent = simulator.seen("/codex/responses")[0].headers
    assert sent["chatgpt-account-id"] == ACME.account_id
    expire()
    assert plugin.get_tokens().account_id == ACME.account_id


@pytest.mark.parametrize(
    ("answer", "account_id"),
    [
        ({"accounts": [{"id": "a"}, {"id": "b"}], "account_ordering": ["x", "b", "a"]}, "b"),
        ({"accounts": [{"id": "a", "is_deactivated": True}, {"id": "b"}]}, "b"),
        ({"accounts": [{"id": "a\n"}, {"id": 7}]}, None),
        ({"accounts": [{"id": "a"}, {"id": "a"}]}, None),
        ({}, None),
        ([], None),
    ],
)
def test_the_account_is_the_first_usable_one_of_the_answer(simulator, run_llm, answer, account_id):
    simulator.script("accounts", Answer(200, answer))
    assert sign_in_without_id(simulator, run_llm).account_id == account_id


def test_a_requested_workspace_need_not_be_named_in_the_tokens(simulator, run_llm):
    tokens = sign_in_without_id(simulator, run_llm, "--workspace", str(ACME.account_id))
    assert tokens.account_id == ACME.account_id


# The origin of a workspace -------------------------------------------------------------


def accounts_answer(**changes):
    entry = {"id": "5e1f7a3c-0000-4000-8000-00000000ada0", "account_routing_override": "us"}
    entry |= {"workspace_backend_origin": "https://eu.chatgpt.com", **changes}
    return Answer(200, {"accounts": [{k: v for k, v in entry.items() if v != "gone"}]})


@pytest.mark.parametrize(
    ("answer", "origin"),
    [
        (None, "https://chatgpt.com"),
        (accounts_answer(), "https://eu.chatgpt.com"),
        (accounts_answer(account_routing_override="gone"), "https://eu.chatgpt.com"),
        (
            accounts_answer(workspace_backend_origin="https://a.b-c.chatgpt.com"),
            "https://a.b-c.chatgpt.com",
        ),
        (accounts_answer(account_routing_override="mars"), None),
        (accounts_answer(id="another"), None),
        (Answer(200, {"accounts": [accounts_answer().body["accounts"][0]] * 2}), None),
        (Answer(200, {"accounts": {"id": 1}}), None),
        (Answer(200, "junk"), None),
        (Answer(401), None),
        (Answer(500), None),
        (Answer(drop=True), None),
        *[
            (accounts_answer(workspace_backend_origin=bad), None)
            for bad in (
                "http://eu.chatgpt.com",
                "https://eu.chatgpt.com/",
                "https://eu.chatgpt.com:8443",
                "https://eu.chatgpt.com/path",
                "https://user@eu.chatgpt.com",
                "https://evilchatgpt.com",
                "https://chatgpt.com.evil.example",
                "https://chatgpt.com\n.evil.example",
                "https://eu.chatgpt.com\n",
                "https://.chatgpt.com",
                "gone",
                None,
                7,
            )
        ],
    ],
)
def test_only_a_safe_and_unambiguous_origin_is_stored(simulator, run_llm, answer, origin):
    if answer:
        simulator.script("accounts", answer)
    simulator.approve_after_polls = 0
    result = run_llm("chatgpt", "login")
    assert result.exit_code == 0
    assert plugin.load_tokens().origin == origin
    assert "workspace" not in result.stdout


def test_a_failed_lookup_keeps_the_known_origin(simulator, run_llm):
    sign_in(simulator, origin="https://eu.chatgpt.com")
    simulator.approve_after_polls = 0
    simulator.script("accounts", Answer(500))
    run_llm("chatgpt", "login")
    assert plugin.load_tokens().origin == "https://eu.chatgpt.com"
    simulator.account = dataclasses.replace(BOB, workspace_origin=None)
    run_llm("chatgpt", "login", "--yes")
    assert plugin.load_tokens().origin is None


def test_a_refresh_keeps_the_origin(simulator):
    sign_in(simulator, origin="https://eu.chatgpt.com")
    expire()
    assert plugin.get_tokens().origin == "https://eu.chatgpt.com"
    assert plugin.load_tokens().origin == "https://eu.chatgpt.com"


def test_an_unsafe_origin_in_the_login_file_is_ignored(simulator):
    sign_in(simulator, origin="https://evil.example")
    assert plugin.load_tokens().origin is None


def test_a_base_url_set_by_the_user_wins(simulator, ask):
    sign_in(simulator, origin="https://eu.chatgpt.com")
    assert ask("hello").text
    assert config.base_url("https://eu.chatgpt.com") == simulator.base_url


@pytest.mark.parametrize("override", [["us"], {"us": 1}, 7, True])
def test_an_odd_routing_override_does_not_break_a_login(simulator, run_llm, override):
    simulator.script("accounts", accounts_answer(account_routing_override=override))
    device_login(simulator, run_llm)
    assert plugin.load_tokens().origin is None
