"""An official login after the sign-in: refresh, commands, sign-out."""

from __future__ import annotations

import json
import re
import time

import pytest

import llm_chatgpt_oauth as plugin
from conftest import (
    assert_no_secrets,
    edit_login,
    entry_on_disk,
    prompt_in_five_processes,
    sign_in,
    sign_in_officially,
)
from disk import fill_disk
from llm_chatgpt.login.credentials import Rejection
from llm_chatgpt.login.login_file import locked_store, read_store, store_path
from simulator import RESOURCE, Answer

COMMAND = "'llm chatgpt login --official'"
# Seconds after the sign-in: the access token lasts 3600, and may be renewed from 3240 on.
DUE, EXPIRED = 3560, 4000


def signed_in_since(simulator, seconds=0.0, account="official"):
    """Store the login and the registration of a sign-in `seconds` ago."""
    tokens = sign_in_officially(simulator, account, ago=seconds)
    with locked_store() as writer:
        fields = {"client_id": tokens.client_id, "subject": tokens.subject, "email": tokens.email}
        writer.save(read_store().register(account, **fields))
    return tokens


def paths(simulator):
    return [request.path for request in simulator.requests]


def last_text(body):
    """The text of the last message."""
    content = body["input"][-1]["content"]
    return content if isinstance(content, str) else content[0]["text"]


# Refresh


def test_a_login_is_used_until_the_api_refuses_it(simulator, ask):
    signed_in_since(simulator, DUE)
    assert ask("hi").text
    assert paths(simulator) == ["/v1/responses"]
    old = signed_in_since(simulator, EXPIRED)
    assert ask("hi").text.startswith("This is answer 1")
    later_paths = paths(simulator)[1:]
    assert later_paths == ["/v1/responses", "/api/accounts/oauth/token", "/v1/responses"]
    request = simulator.refreshes[0]
    assert request.body == {
        "grant_type": "refresh_token",
        "client_id": old.client_id,
        "refresh_token": old.refresh_token,
        "resource": RESOURCE,
    }
    assert "x-www-form-urlencoded" in request.headers["content-type"]
    assert "originator" not in request.headers
    new = plugin.load_tokens()
    assert new.refresh_token != old.refresh_token
    assert new.expires_at == pytest.approx(time.time() + 3600, abs=60)
    assert (new.kind, new.account_key, new.issuer) == ("official", old.account_key, old.issuer)
    used = simulator.requests[-1].headers["authorization"]
    assert used == f"Bearer {new.access_token}"


@pytest.mark.parametrize("form", ["number", "text"])
def test_a_refused_login_is_not_renewed_before_its_time(simulator, ask, form):
    simulator.official.earliest_refresh_form = form
    old = signed_in_since(simulator)
    simulator.expire_access_tokens()
    with pytest.raises(plugin.RefreshFailed) as caught:
        ask("hi")
    assert "invalid_token" in str(caught.value) or "no longer accepts" in str(caught.value)
    assert "renews this login in 5" in str(caught.value)
    assert str(caught.value).count(COMMAND) == 1
    assert paths(simulator) == ["/v1/responses"]
    assert plugin.load_tokens() == old


@pytest.mark.parametrize(("seconds", "form"), [(3400, "number"), (0, "null"), (0, "absent")])
def test_a_refused_login_is_renewed_once_and_the_prompt_sent_again(simulator, ask, seconds, form):
    simulator.official.earliest_refresh_form = form
    signed_in_since(simulator, seconds)
    simulator.expire_access_tokens()
    assert ask("hi").text.startswith("This is answer 1")
    assert len(simulator.refreshes) == 1
    assert len(simulator.official_prompts) == 2


HOUR, DAY = 3600, 86400


@pytest.mark.parametrize("ahead_at_sign_in", [-5 * HOUR, 0, 5 * HOUR, DAY])
@pytest.mark.parametrize("ahead_now", [-5 * HOUR, 0, 5 * HOUR, DAY])
def test_a_wrong_clock_renews_nothing_early(simulator, ask, clock, ahead_at_sign_in, ahead_now):
    """An early refresh may cost the login, because OpenAI refuses it."""
    simulator.clock, simulator.official.early_refresh_spends = clock.right_time, True
    clock.shift = ahead_at_sign_in
    old = signed_in_since(simulator)
    clock.shift = ahead_now
    assert ask("one").text
    assert simulator.refreshes == []
    assert plugin.get_tokens() == plugin.load_tokens() == old
    # 55 minutes later the API no longer accepts the token, and OpenAI renews it.
    simulator.clock = lambda: clock.right_time() + 3301
    simulator.expire_access_tokens()
    assert ask("two").text
    assert len(simulator.refreshes) == 1


@pytest.mark.parametrize("earliest", ["milliseconds", "by a clock that was a day ahead"])
def test_an_earliest_refresh_after_the_tokens_expiry_is_ignored(simulator, ask, earliest):
    """An older version stored the time by this machine's clock, which may be a day ahead."""
    tokens = signed_in_since(simulator)
    moment = tokens.earliest_refresh_at
    edit_login(
        "official",
        earliest_refresh_at=moment * 1000 if earliest == "milliseconds" else moment + DAY,
    )
    simulator.expire_access_tokens()
    for entry in simulator.official_refresh_tokens.values():
        entry["earliest"] = 0
    assert ask("hi").text
    assert len(simulator.refreshes) == 1


@pytest.mark.parametrize("opaque", [False, True])
def test_an_earliest_refresh_before_the_tokens_expiry_counts(simulator, opaque):
    """It is compared with the Date of the refusal, not with this machine's clock."""
    tokens = signed_in_since(simulator)
    if opaque:
        edit_login("official", access_token="opaque")
        tokens = plugin.load_tokens()
    for seconds, count in ((-1, 0), (1, 1)):
        date = tokens.earliest_refresh_at + seconds
        for entry in simulator.official_refresh_tokens.values():
            entry["earliest"] = 0
        rejection = Rejection(tokens.access_token, date)
        if count:
            assert plugin.get_tokens(rejected=rejection).access_token != tokens.access_token
        else:
            with pytest.raises(plugin.RefreshFailed, match="at the earliest") as caught:
                plugin.get_tokens(rejected=rejection)
            assert not caught.value.permanent
        assert len(simulator.refreshes) == count
    assert tokens.access_token not in repr(rejection)


def test_a_logout_while_others_wait_names_the_route(simulator, change_during_the_wait):
    old = signed_in_since(simulator, EXPIRED)
    with pytest.raises(plugin.NotSignedIn, match=COMMAND):
        change_during_the_wait(
            lambda: plugin.get_tokens(rejected=old.access_token),
            lambda store: store.without("official"),
        )
    assert simulator.refreshes == []


def test_a_login_that_another_program_has_ended_is_not_used(simulator, change_during_the_wait):
    old = signed_in_since(simulator, EXPIRED)
    refused = plugin.RefreshFailed("Your ChatGPT login has ended.", permanent=True)
    with pytest.raises(plugin.RefreshFailed, match="has ended") as caught:
        change_during_the_wait(
            lambda: plugin.get_tokens(rejected=old.access_token),
            lambda store: store.put_refusal("official", refused, ended=True),
        )
    assert caught.value.permanent
    assert simulator.requests == []


def test_a_login_that_is_still_refused_is_renewed_only_once(simulator, ask):
    signed_in_since(simulator, 3400)
    refusal = Answer(401, {"detail": {"error_code": "invalid_token"}})
    simulator.always["official_responses"] = lambda request: refusal
    with pytest.raises(plugin.ChatGPTError, match=COMMAND):
        ask("hi")
    assert len(simulator.refreshes) == 1
    assert len(simulator.official_prompts) == 2


def test_fields_that_a_reply_leaves_out_keep_their_values(simulator):
    simulator.official.refresh_omits = ("scope", "id_token")
    old = signed_in_since(simulator, DUE)
    new = plugin.get_tokens(rejected=old.access_token)
    assert new.refresh_token != old.refresh_token
    assert new.id_token == old.id_token
    assert (new.email, new.account_key) == (old.email, old.account_key)


def test_a_refresh_adds_no_account_id(simulator):
    old = signed_in_since(simulator, DUE)
    simulator.official.id_token = {"organizations": [{"id": "org-1"}], "chatgpt_account_id": "a-1"}
    assert plugin.get_tokens(rejected=old.access_token).account_id is None
    assert len(simulator.refreshes) == 1


FINAL = [
    "invalid_grant",
    "invalid_refresh_token",
    "token_expired",
    "refresh_token_expired",
    "refresh_token_invalidated",
    "refresh_token_reused",
]


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("code", FINAL)
def test_a_final_refusal_ends_the_login_but_not_the_registration(simulator, run_llm, code, nested):
    simulator.official.refresh_error = code
    simulator.official.nested_errors = nested
    old = signed_in_since(simulator, EXPIRED)
    # The second time nothing is sent.
    for _ in range(2):
        result = run_llm("-m", "chatgpt-gpt-6-luna", "hi")
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.count(COMMAND) == 1
        assert len(result.stderr.splitlines()) == 1
        assert paths(simulator) == ["/v1/responses", "/api/accounts/oauth/token"]
    registration = read_store().registration("official")
    assert (registration["client_id"], registration["subject"]) == (old.client_id, old.subject)
    assert_no_secrets(simulator, store_path().read_text() + result.stderr)
    status = run_llm("chatgpt", "status")
    assert status.exit_code == 1
    assert COMMAND in status.stdout
    assert plugin.load_tokens().email == "ada@example.com"


def test_a_refresh_for_another_user_ends_the_login(simulator, run_llm):
    simulator.official.id_token = {"sub": "auth0|user-bob"}
    signed_in_since(simulator, EXPIRED, "work")
    # The simulator's setting also changes the stored login.
    tokens = plugin.load_tokens()._replace(subject="auth0|user-ada")
    plugin.store_tokens(tokens, "work")
    result = run_llm("-m", "chatgpt-gpt-6-luna", "hi")
    assert result.exit_code == 1
    assert "another user" in result.stderr
    assert "'llm chatgpt login --official --account work'" in result.stderr
    assert len(simulator.official_prompts) == 1
    assert plugin.load_tokens().access_token == ""


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(500), "OpenAI server error (500)"),
        (Answer(503, {"error": "invalid_grant"}), "OpenAI server error (503)"),
        (Answer(drop=True), "broke off"),
        (Answer(401, {"error": "invalid_client"}), "invalid_client"),
    ],
)
def test_a_refresh_that_fails_for_now_keeps_everything(simulator, run_llm, answer, words):
    old = signed_in_since(simulator, EXPIRED)
    simulator.script("official_token", answer)
    result = run_llm("-m", "chatgpt-gpt-6-luna", "hi")
    assert (result.exit_code, result.stdout) == (1, "")
    assert words in result.stderr
    assert len(simulator.refreshes) == 1
    assert plugin.load_tokens() == old
    assert run_llm("-m", "chatgpt-gpt-6-luna", "hi").exit_code == 0


def test_a_renewed_login_that_cannot_be_stored_is_used(simulator, ask, monkeypatch, caplog):
    old = signed_in_since(simulator, EXPIRED)
    with monkeypatch.context() as context:
        fill_disk(context, "chatgpt-oauth.json")
        assert ask("hi").text
        assert "renewed but not stored" in caplog.text
        assert entry_on_disk("official")["refresh_token"] == old.refresh_token
    assert ask("later").text
    assert len(simulator.refreshes) == 1
    assert entry_on_disk("official")["refresh_token"] != old.refresh_token


def test_five_processes_refresh_once(simulator):
    signed_in_since(simulator, EXPIRED)
    simulator.script("official_token", lambda request: time.sleep(0.3))
    prompt_in_five_processes()
    assert len(simulator.refreshes) == 1


# Commands


def test_the_commands_name_the_route(simulator, run_llm):
    signed_in_since(simulator)
    status = run_llm("chatgpt", "status")
    assert status.exit_code == 0
    assert status.stdout.startswith("Signed in as ada@example.com (ChatGPT plan, official)\n")
    assert "; renews when OpenAI asks for it\n" in status.stdout
    assert "Workspace" not in status.stdout
    listed = run_llm("chatgpt", "accounts")
    assert "official" in listed.stdout.splitlines()[1].split()[3:]
    status_report = json.loads(run_llm("chatgpt", "status", "--json").stdout)
    entry = json.loads(run_llm("chatgpt", "accounts", "--json").stdout)[0]
    for report in (status_report, entry):
        assert (report["kind"], report["email"]) == ("official", "ada@example.com")
        assert (report["account_id"], report["plan"], report["expired"]) == (None, None, False)
    assert simulator.requests == []


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_usage_sends_nothing(simulator, run_llm, as_json):
    signed_in_since(simulator, EXPIRED)
    result = run_llm("chatgpt", "usage", *as_json)
    assert result.exit_code == 0
    assert "https://chatgpt.com/settings/usage" in result.stdout
    assert simulator.requests == []


def test_doctor_asks_the_api(simulator, run_llm):
    signed_in_since(simulator)
    run_llm("chatgpt", "models")
    simulator.requests.clear()
    result = run_llm("chatgpt", "doctor")
    assert result.exit_code == 0, result.stdout
    assert paths(simulator) == ["/.well-known/openid-configuration", "/v1/models"]
    assert "official: a...@example.com (ChatGPT plan, official), access token: " in result.stdout
    assert re.search(r"models: \d+, fetched just now", result.stdout)
    assert_no_secrets(simulator, result.output)
    assert plugin.load_tokens().client_id not in result.output


def test_doctor_names_the_command_for_an_ended_login(simulator, run_llm):
    simulator.official.refresh_error = "invalid_grant"
    old = signed_in_since(simulator, EXPIRED)
    with pytest.raises(plugin.RefreshFailed):
        plugin.get_tokens(rejected=old.access_token)
    result = run_llm("chatgpt", "doctor")
    assert result.exit_code == 1
    assert COMMAND in result.stdout


def test_a_refused_command_says_when_openai_renews_the_login(simulator, run_llm):
    old = signed_in_since(simulator, account="work")
    simulator.expire_access_tokens()
    result = run_llm("chatgpt", "models")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "renews this login in 5" in result.stderr
    assert "'llm chatgpt login --official --account work'" in result.stderr
    assert paths(simulator) == ["/v1/models"]
    assert plugin.load_tokens() == old


def test_an_official_account_is_chosen_like_any_other(simulator, run_llm):
    sign_in(simulator)
    signed_in_since(simulator)
    model = ("-m", "chatgpt-gpt-6-luna")
    assert run_llm(*model, "one").exit_code == 0
    assert run_llm(*model, "--key", "official", "two").exit_code == 0
    result = run_llm("chatgpt", "use", "official")
    assert result.stdout.startswith("Default account: official, ada@example.com (ChatGPT plan")
    assert run_llm(*model, "three").exit_code == 0
    assert [last_text(body) for body in simulator.prompts] == ["one"]
    assert [last_text(body) for body in simulator.official_prompts] == ["two", "three"]
    assert "chatgpt-account-id" in simulator.seen("/codex/responses")[0].headers
    simulator.requests.clear()
    assert run_llm("chatgpt", "usage", "--account", "default").exit_code == 0
    assert paths(simulator) == ["/backend-api/wham/usage"]


# Sign-out


def test_a_logout_ends_the_session_and_keeps_the_registration(simulator, run_llm):
    old = signed_in_since(simulator)
    result = run_llm("chatgpt", "logout")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "Signed out of account official.\n"
    (revoked,) = simulator.requests
    assert revoked.path == "/api/accounts/oauth/revoke"
    assert "x-www-form-urlencoded" in revoked.headers["content-type"]
    assert revoked.body == {
        "token": old.refresh_token,
        "token_type_hint": "refresh_token",
        "client_id": old.client_id,
    }
    entry = simulator.official_refresh_tokens[old.refresh_token]
    assert entry["state"] == "refresh_token_invalidated"
    assert_no_secrets(simulator, store_path().read_text())
    assert read_store().registration("official")["client_id"] == old.client_id
    again = run_llm("-m", "chatgpt-gpt-6-luna", "hi")
    assert again.exit_code == 1
    assert COMMAND in again.stderr
    assert len(simulator.requests) == 1


@pytest.mark.parametrize(
    ("answer", "attempts"),
    [(Answer(500), 2), (Answer(drop=True), 2), (Answer(400, {"error": "invalid_request"}), 1)],
)
def test_a_logout_that_is_not_confirmed_warns_and_signs_out(simulator, run_llm, answer, attempts):
    signed_in_since(simulator)
    simulator.always["official_revoke"] = lambda request: answer
    result = run_llm("chatgpt", "logout")
    assert result.exit_code == 0
    assert len(result.stderr.splitlines()) == 1
    assert "Could not end the session at OpenAI" in result.stderr
    assert paths(simulator) == ["/api/accounts/oauth/revoke"] * attempts
    assert plugin.load_tokens() is None
    assert read_store().registration("official")


def test_a_logout_is_tried_twice(simulator, run_llm):
    signed_in_since(simulator)
    simulator.script("official_revoke", Answer(502))
    result = run_llm("chatgpt", "logout")
    assert (result.exit_code, result.stderr) == (0, "")
    assert len(simulator.requests) == 2


def test_a_logout_of_all_ends_only_the_official_sessions(simulator, run_llm):
    sign_in(simulator)
    signed_in_since(simulator)
    signed_in_since(simulator, account="work")
    result = run_llm("chatgpt", "logout", "--all")
    assert (result.exit_code, result.stderr) == (0, "")
    assert paths(simulator) == ["/api/accounts/oauth/revoke"] * 2
    assert not read_store().accounts
    assert set(read_store().registrations) == {"official", "work"}


@pytest.mark.parametrize(("gone", "left"), [("official", "default"), ("default", "official")])
def test_a_logout_leaves_the_other_route_alone(simulator, run_llm, gone, left):
    logins = {"default": sign_in(simulator), "official": signed_in_since(simulator)}
    assert run_llm("chatgpt", "logout", "--account", gone).exit_code == 0
    assert plugin.load_tokens(left) == logins[left]
    assert len(simulator.requests) == (gone == "official")


def test_a_logout_after_openai_ended_the_session_sends_nothing(simulator, run_llm):
    simulator.official.refresh_error = "refresh_token_invalidated"
    old = signed_in_since(simulator, EXPIRED)
    with pytest.raises(plugin.RefreshFailed):
        plugin.get_tokens(rejected=old.access_token)
    simulator.requests.clear()
    result = run_llm("chatgpt", "logout")
    assert (result.exit_code, simulator.requests) == (0, [])
