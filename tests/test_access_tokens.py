"""Access tokens in place of a login: the owner, the errors, and what is never shown."""

from __future__ import annotations

import asyncio
import json
import os
import time

import llm
import pytest

import llm_chatgpt_oauth as plugin
from conftest import bearers, sign_in, start_llm, store_key
from disk import fill_disk
from llm_chatgpt.backend.catalogue import store_models
from llm_chatgpt.login.login_file import locked_store, store_path
from llm_chatgpt.login.tokens import AUTH_CLAIM
from simulator import Answer, make_jwt, web_page


def test_an_access_token_works_as_a_key_and_is_looked_up_once(simulator, personal_token, ask):
    ask("hello", key=personal_token)
    ask("hello", key=personal_token)
    assert bearers(simulator) == [personal_token, personal_token]
    assert simulator.seen("/codex/responses")[0].headers["chatgpt-account-id"] == "acc-eve"
    assert len(simulator.seen("/whoami")) == 1
    assert not simulator.refreshes


def test_programs_share_one_lookup_of_the_owner(simulator, personal_token, run_llm):
    store_key("chatgpt", personal_token)
    processes = [start_llm("-m", "chatgpt-gpt-6-luna", "hi", "--no-log") for _ in range(4)]
    for process in processes:
        _, stderr = process.communicate()
        assert process.returncode == 0, stderr
    assert len(simulator.seen("/whoami")) == 1
    assert run_llm("-m", "chatgpt-gpt-6-luna", "hi").exit_code == 0
    assert len(simulator.seen("/whoami")) == 1
    stored = store_path().read_text()
    assert personal_token not in stored
    assert "acc-eve" in stored
    if os.name != "nt":
        assert store_path().stat().st_mode & 0o777 == 0o600
    assert "eve@example.com (Business plan)" in run_llm("chatgpt", "status").stdout


def test_tasks_share_one_lookup_of_the_owner(simulator, personal_token):
    async def together():
        model = llm.get_async_model("chatgpt-gpt-6-luna")
        prompts = [model.prompt("hi", key=personal_token).text() for _ in range(20)]
        return await asyncio.gather(*prompts)

    assert len(asyncio.run(together())) == 20
    assert len(simulator.seen("/whoami")) == 1


def test_tasks_that_wait_for_a_lookup_share_its_failure(simulator, personal_token):
    simulator.script("whoami", lambda request: time.sleep(0.3) or Answer(500))

    async def together():
        calls = (plugin.get_tokens_async(personal_token) for _ in range(10))
        return await asyncio.gather(*calls, return_exceptions=True)

    found = asyncio.run(together())
    assert [type(f) for f in found] == [plugin.RefreshFailed] * 10
    assert len(simulator.seen("/whoami")) == 1
    assert plugin.get_tokens(personal_token).email == "eve@example.com"


def test_an_access_token_works_without_the_lock(simulator, personal_token, ask, monkeypatch):
    """The owner is then looked up once per process."""
    monkeypatch.setattr("llm_chatgpt.config.LOCK_TIMEOUT_SECONDS", 0.1)
    with locked_store():
        ask("hello", key=personal_token)
        ask("hello", key=personal_token)
    assert len(simulator.seen("/whoami")) == 1
    assert not store_path().exists()


def test_an_owner_that_cannot_be_stored_is_looked_up_once(
    simulator, personal_token, ask, monkeypatch
):
    refused = fill_disk(monkeypatch)
    ask("hello", key=personal_token)
    ask("hello", key=personal_token)
    assert refused
    assert len(simulator.seen("/whoami")) == 1


def test_a_refused_access_token_is_an_error_and_never_renewed(simulator, personal_token, ask):
    ask("hello", key=personal_token)
    del simulator.personal_tokens[personal_token]
    with pytest.raises(llm.ModelError, match="Create a new one") as caught:
        ask("hello", key=personal_token)
    assert personal_token not in str(caught.value)
    assert not simulator.refreshes
    with pytest.raises(llm.ModelError, match="rejected this access token"):
        ask("hello", key="at-unknown")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(drop=True), "Check the network"),
        (web_page(), "Cloudflare"),
        (Answer(500), r"server error \(500\)"),
        (Answer(200, "junk"), "did not say who owns"),
    ],
)
def test_a_failed_lookup_is_explained_and_not_remembered(
    simulator, personal_token, ask, answer, words
):
    simulator.script("whoami", answer)
    with pytest.raises(llm.ModelError, match=words):
        ask("hello", key=personal_token)
    assert ask("hello", key=personal_token).text


@pytest.mark.parametrize(
    "body",
    [
        {"email": "e@example.com", "account_id": "acc-eve", "plan_type": "business"},
        {"email": "e@example.com", AUTH_CLAIM: {"chatgpt_account_id": "acc-eve"}},
        {"chatgpt_account_id": "acc-eve", "chatgpt_account_is_fedramp": False, "new": [1]},
    ],
)
def test_other_forms_of_the_whoami_answer_are_read(simulator, personal_token, ask, body):
    simulator.script("whoami", Answer(200, body))
    ask("hello", key=personal_token)
    assert simulator.seen("/codex/responses")[0].headers["chatgpt-account-id"] == "acc-eve"


def test_status_sends_no_request(simulator, personal_token, run_llm, monkeypatch):
    monkeypatch.setenv("CODEX_ACCESS_TOKEN", personal_token)
    result = run_llm("chatgpt", "status")
    assert result.exit_code == 0
    assert "not checked yet" in result.stdout
    report = json.loads(run_llm("chatgpt", "status", "--json").stdout)
    assert (report["kind"], report["account"]) == ("access_token", None)
    assert "CODEX_ACCESS_TOKEN" in report["reason"]
    assert personal_token not in result.output + json.dumps(report)
    assert not simulator.requests


def test_an_unknown_owner_has_no_model_list_yet(simulator, personal_token, run_llm):
    """The stored list of another login without an account id is not used for it."""
    unknown = sign_in(simulator, account_id=None, email=None)
    store_models(unknown, {"fetched_at": time.time(), "models": [{"slug": "gpt-6-luna"}]})
    assert (
        "models: not fetched yet"
        in run_llm("chatgpt", "doctor", "--account", personal_token).stdout
    )
    simulator.models = simulator.models[:1]
    listed = run_llm("chatgpt", "models", "--account", personal_token, "--json").stdout
    assert [model["slug"] for model in json.loads(listed)] == ["gpt-6.2-sol"]


def test_codex_access_token_is_ignored_if_it_holds_no_access_token(simulator, ask, monkeypatch):
    """Codex CLI also accepts agent identities in this variable; the plugin does not."""
    monkeypatch.setenv("CODEX_ACCESS_TOKEN", make_jwt({"sub": "agent"}))
    with pytest.raises(llm.NeedsKeyException, match="llm chatgpt login"):
        ask("hello")


def test_commands_work_with_an_access_token(simulator, personal_token, run_llm, monkeypatch):
    monkeypatch.setenv("CODEX_ACCESS_TOKEN", personal_token)
    for command in ("models", "usage", "refresh"):
        result = run_llm("chatgpt", command)
        assert result.exit_code == 0, result.stderr
    assert len(simulator.seen("/whoami")) == 1


def test_a_damaged_login_file_is_an_error_and_no_other_login_is_used(
    simulator, personal_token, ask, monkeypatch
):
    monkeypatch.setenv("CODEX_ACCESS_TOKEN", personal_token)
    store_path().write_text("{")
    with pytest.raises(plugin.StoreError):
        ask("hello")


def test_signing_out_of_all_forgets_the_owners_of_access_tokens(
    two_logins, personal_token, ask, run_llm
):
    ask("hello", key=personal_token)
    assert "eve@example.com" in store_path().read_text()
    assert run_llm("chatgpt", "logout", "--all").exit_code == 0
    assert "example.com" not in store_path().read_text()


@pytest.mark.parametrize("value", ["two\nlines", "\N{EM DASH}", "tab\t"])
def test_a_value_that_does_not_fit_a_header_is_never_sent_or_shown(simulator, value, run_llm):
    """Such a value can come from a damaged login file or a strange token reply."""
    tokens = sign_in(simulator, expires_at=1.0)
    simulator.script("token", Answer(200, {"access_token": value, "refresh_token": "rt_x"}))
    result = run_llm("-m", "chatgpt-gpt-6-luna", "hi", "--no-log")
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert value not in result.stderr
    assert plugin.load_tokens() == tokens
    plugin.store_tokens(tokens._replace(expires_at=None, account_id=value))
    simulator.require_account_header = False
    assert run_llm("-m", "chatgpt-gpt-6-luna", "hi", "--no-log").exit_code == 0
