"""Several accounts: their names, which one is used, and sign-ins by another user."""

from __future__ import annotations

import dataclasses
import json
import threading
import time

import llm
import pytest

import llm_chatgpt_oauth as plugin
from conftest import (
    BOB,
    EVE,
    PERSONAL_TOKEN,
    assert_no_secrets,
    bearers,
    expire,
    new_login,
    sign_in,
    store_key,
)
from disk import fill_disk
from llm_chatgpt.backend.catalogue import models_file
from llm_chatgpt.login.login_file import delete_tokens, locked_store, read_store
from simulator import Answer

# Names


def test_a_login_under_another_name_keeps_the_first_as_default(simulator, run_llm):
    old = sign_in(simulator)
    simulator.interval, simulator.approve_after_polls = "1", 0
    simulator.account = BOB
    result = run_llm("chatgpt", "login", "--account", "work")
    assert result.exit_code == 0
    assert "llm chatgpt use work" in result.stdout
    assert "--key work" in result.stdout
    assert plugin.load_tokens() == old
    assert plugin.load_tokens("work").email == "bob@example.com"


def test_the_first_login_is_the_default_one(simulator, run_llm):
    simulator.approve_after_polls = 0
    result = run_llm("chatgpt", "login", "--account", "work")
    assert "makes this account the default" not in result.stdout
    assert read_store().default == "work"
    assert run_llm("chatgpt", "login").exit_code == 0
    # A login without a name is stored as `default` and becomes the default account.
    store = read_store()
    assert (store.default, list(store.accounts)) == ("default", ["work", "default"])


def test_llm_chatgpt_account_names_a_new_login_if_it_is_no_token(simulator, run_llm, monkeypatch):
    sign_in(simulator)
    simulator.approve_after_polls = 0
    monkeypatch.setenv("LLM_CHATGPT_ACCOUNT", "work")
    assert run_llm("chatgpt", "login").exit_code == 0
    assert set(read_store().accounts) == {"default", "work"}
    monkeypatch.setenv("LLM_CHATGPT_ACCOUNT", PERSONAL_TOKEN)
    assert run_llm("chatgpt", "login").exit_code == 0
    assert set(read_store().accounts) == {"default", "work"}


@pytest.mark.parametrize("name", ["at-home", "", "a b", "-x", ".work", "x" * 49, "a\nb", "../x"])
def test_invalid_account_names_are_refused(simulator, run_llm, name):
    result = run_llm("chatgpt", "login", f"--account={name}")
    assert result.exit_code == 2
    assert "up to 48 letters" in result.stderr
    assert "starts with a letter or digit" in result.stderr
    assert not simulator.requests


@pytest.mark.parametrize("command", ["status", "usage", "models", "refresh", "logout", "doctor"])
def test_an_empty_name_is_not_the_default_account(two_logins, run_llm, command):
    """A script passes this if its variable is unset."""
    result = run_llm("chatgpt", command, "--account", "")
    assert result.exit_code == 1
    assert "Accounts: default, work" in result.output
    assert set(read_store().accounts) == {"default", "work"}


def test_accounts_are_listed(two_logins, run_llm, simulator):
    result = run_llm("chatgpt", "accounts")
    head, first, second = result.stdout.splitlines()
    assert head.split()[:3] == ["NAME", "EMAIL", "PLAN"]
    assert first.split()[:4] == ["*", "default", "ada@example.com", "Plus"]
    assert second.split()[:3] == ["work", "bob@example.com", "Pro"]
    assert second.endswith("  renews automatically")
    report = json.loads(run_llm("chatgpt", "accounts", "--json").stdout)
    assert [(a["name"], a["default"], a["kind"]) for a in report] == [
        ("default", True, "login"),
        ("work", False, "login"),
    ]
    assert_no_secrets(simulator, result.output + json.dumps(report))


def test_accounts_without_a_login_suggests_login(run_llm):
    result = run_llm("chatgpt", "accounts")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "llm chatgpt login" in result.stderr
    assert json.loads(run_llm("chatgpt", "accounts", "--json").stdout) == []


def test_use_changes_the_default_account(two_logins, run_llm, simulator, ask, monkeypatch):
    result = run_llm("chatgpt", "use", "work")
    assert "bob@example.com" in result.stdout
    ask("hello")
    assert bearers(simulator) == [two_logins[1].access_token]
    monkeypatch.setenv("LLM_CHATGPT_ACCOUNT", "work")
    assert "takes precedence" in run_llm("chatgpt", "use", "default").stderr


@pytest.mark.parametrize("name", ["nobody", PERSONAL_TOKEN])
def test_use_of_an_unknown_account_lists_the_known_ones(two_logins, run_llm, name):
    result = run_llm("chatgpt", "use", name)
    assert result.exit_code == 1
    assert "default, work." in result.stderr
    assert (name in result.stderr) == (name == "nobody")
    assert read_store().default == "default"


def test_use_without_a_login_suggests_login(run_llm):
    assert "llm chatgpt login" in run_llm("chatgpt", "use", "x").stderr


# Which account is used


def test_a_key_names_an_account(two_logins, simulator, ask):
    ask("hello", key="work")
    ask("hello")
    assert bearers(simulator) == [two_logins[1].access_token, two_logins[0].access_token]
    assert simulator.seen("/codex/responses")[0].headers["chatgpt-account-id"] == "acc-bob"


def test_key_chooses_the_account_in_prompt_and_chat(two_logins, simulator, run_llm):
    assert run_llm("-m", "chatgpt-gpt-6-luna", "--key", "work", "hello").exit_code == 0
    chat = run_llm("chat", "-m", "chatgpt-gpt-6-luna", "--key", "work", input="hello\nexit\n")
    assert chat.exit_code == 0
    assert bearers(simulator) == [two_logins[1].access_token] * 2


def test_a_models_key_chooses_the_account(two_logins, simulator, ask):
    model = ask.model()
    model.key = "work"
    ask.finish(lambda: model.prompt("hello"))
    assert bearers(simulator) == [two_logins[1].access_token]


def test_the_precedence_of_logins(two_logins, simulator, personal_token, monkeypatch, run_llm):
    """LLM_CHATGPT_ACCOUNT, the default account, llm's key `chatgpt`, CODEX_ACCESS_TOKEN."""

    def used():
        run_llm("-m", "chatgpt-gpt-6-luna", "hello")
        report = json.loads(run_llm("chatgpt", "status", "--json").stdout)
        return bearers(simulator)[-1], report["account"], report["reason"]

    other = "at-other"
    simulator.personal_tokens[other] = BOB
    monkeypatch.setenv("CODEX_ACCESS_TOKEN", personal_token)
    store_key("chatgpt", other)
    monkeypatch.setenv("LLM_CHATGPT_ACCOUNT", "work")
    work, default = two_logins[1].access_token, two_logins[0].access_token
    assert used() == (work, "work", "chosen by LLM_CHATGPT_ACCOUNT")
    monkeypatch.delenv("LLM_CHATGPT_ACCOUNT")
    assert used() == (default, "default", "the default account")
    run_llm("chatgpt", "logout", "--all")
    assert used() == (other, None, "llm's key chatgpt")
    store_key("chatgpt", "sk-no-access-token")
    assert used() == (personal_token, None, "CODEX_ACCESS_TOKEN")


def test_account_names_come_before_llms_keys(two_logins, simulator, personal_token, ask):
    store_key("work", personal_token)
    store_key("ci", personal_token)
    ask("hello", key="work")
    ask("hello", key="ci")
    assert bearers(simulator) == [two_logins[1].access_token, personal_token]


def replace_get_key(monkeypatch, key):
    """Replace llm.get_key, as plugins such as llm-1password do."""
    original = llm.get_key

    def get_key(explicit_key=None, key_alias=None, env_var=None, *, alias=None, **others):
        name = alias or key_alias
        return key() if name in ("chatgpt", "team") else original(alias=name, **others)

    monkeypatch.setattr(llm, "get_key", get_key)


@pytest.mark.parametrize("name", [None, "team"])
def test_keys_from_another_plugin_are_used(
    simulator, personal_token, ask, run_llm, monkeypatch, name
):
    replace_get_key(monkeypatch, lambda: personal_token)
    assert ask("hello", key=name).text
    assert bearers(simulator) == [personal_token]
    account = ["--account", name] if name else []
    assert "eve@example.com" in run_llm("chatgpt", "status", *account).stdout


@pytest.mark.parametrize("error", [llm.ModelError, RuntimeError, KeyError])
def test_a_key_plugins_error_is_shown_without_a_login(simulator, ask, run_llm, monkeypatch, error):
    def locked():
        raise error("The vault is locked.\nUnlock it.")

    replace_get_key(monkeypatch, locked)
    words = "Could not read a key of llm: "
    with pytest.raises(plugin.ChatGPTError, match=words):
        ask("hello")
    for command in ("status", "doctor", "usage"):
        result = run_llm("chatgpt", command)
        assert result.exit_code == 1
        assert words in result.output
        assert "vault is locked" in result.output
    sign_in(simulator)
    assert ask("hello").text


def test_space_around_a_token_is_not_a_part_of_it(simulator, personal_token, ask, monkeypatch):
    """`export CODEX_ACCESS_TOKEN=$(cat file)` or a pasted key may add it."""
    monkeypatch.setenv("CODEX_ACCESS_TOKEN", f" {personal_token}\r\n")
    ask("hello")
    ask("hello", key=f"{personal_token} ")
    assert bearers(simulator) == [personal_token, personal_token]


@pytest.mark.parametrize(
    "value",
    [
        "at-",
        "at-two words",
        "at-two\nlines",
        "sk-proj-Secret",
        "eyJhbGciOi.J9.x",
        "AT-x",
        "rt_0123",
        "5e1f7a3c-0000-4000-8000-00000000ada0",
        "at-\N{EM DASH}",
    ],
)
def test_an_unknown_value_is_never_shown(two_logins, simulator, ask, run_llm, value, monkeypatch):
    store_key("openai", "sk-Secret")
    store_key("ci", PERSONAL_TOKEN)
    with pytest.raises(llm.NeedsKeyException) as caught:
        ask("hello", key=value)
    assert "Accounts: default, work, ci." in str(caught.value)
    assert value not in str(caught.value)
    for arguments in (["status"], ["usage"], ["models"], ["refresh"], ["logout"], ["doctor"]):
        result = run_llm("chatgpt", *arguments, "--account", value)
        assert result.exit_code == 1
        assert "default, work, ci" in result.output
        assert value not in result.output
        assert "Secret" not in result.output
    monkeypatch.setenv("LLM_CHATGPT_ACCOUNT", value)
    with pytest.raises(llm.NeedsKeyException, match="Accounts: default, work, ci"):
        ask("hello")
    assert not simulator.seen("/codex/responses")


def test_an_account_name_before_any_login_suggests_login(simulator, ask):
    with pytest.raises(llm.NeedsKeyException, match="llm chatgpt login"):
        ask("hello", key="work")


def test_damaged_llm_keys_stop_nothing(two_logins, ask):
    (llm.user_dir() / "keys.json").write_text("{")
    assert ask("hello").text


def test_the_only_remaining_account_becomes_the_default(two_logins, simulator, ask):
    assert list(delete_tokens()) == ["default"]
    assert read_store().default == "work"
    assert ask("hello").text
    assert bearers(simulator) == [two_logins[1].access_token]


@pytest.mark.parametrize("name", ["work", "default"])
def test_the_plugin_never_chooses_among_several_accounts(two_logins, simulator, run_llm, ask, name):
    plugin.store_tokens(two_logins[0], "home")
    run_llm("chatgpt", "use", name)
    delete_tokens(name)
    with pytest.raises(llm.NeedsKeyException, match=r"No default account.*use NAME") as caught:
        ask("hello")
    listed = run_llm("chatgpt", "accounts")
    assert (listed.exit_code, "*" in listed.stdout) == (0, False)
    for message in (str(caught.value), listed.stderr):
        assert "No default account. Choose one with 'llm chatgpt use NAME'" in message
        for left in {"home", "work", "default"} - {name}:
            assert left in message
    assert run_llm("chatgpt", "use", "home").exit_code == 0
    assert ask("hello").text


def test_each_command_takes_an_account(two_logins, simulator, run_llm):
    bob = two_logins[1].access_token
    for command in ("usage", "refresh", "models"):
        assert run_llm("chatgpt", command, "--account", "work").exit_code == 0
    sent = [r.headers["authorization"] for r in simulator.requests]
    assert set(sent) == {f"Bearer {bob}"}
    assert "bob@example.com" in run_llm("chatgpt", "status", "--account", "work").stdout
    lists = json.loads(models_file().read_text())["accounts"]
    assert list(lists) == [two_logins[1].account_key]


@pytest.mark.parametrize(
    ("endpoint", "command"),
    [("usage", "usage"), ("models", "refresh"), ("models", "models"), ("usage", "reset")],
)
def test_advice_names_the_account(two_logins, simulator, run_llm, endpoint, command):
    simulator.always[endpoint] = lambda request: Answer(401, {"detail": "No"})
    more = ["--yes"] if command == "reset" else []
    result = run_llm("chatgpt", command, "--account", "work", *more)
    assert result.exit_code == 1
    assert "Run 'llm chatgpt login --account work' to sign in again." in result.stderr


def test_only_the_account_in_question_is_refreshed(two_logins, simulator, ask):
    expired = two_logins[1]._replace(expires_at=time.time() - 60)
    plugin.store_tokens(expired, "work")
    ask("hello", key="work")
    assert len(simulator.refreshes) == 1
    store = read_store()
    assert store.default == "default"
    assert store.get() == two_logins[0]
    assert store.get("work").access_token != two_logins[1].access_token
    assert store.get("work").email == "bob@example.com"


def test_the_default_account_is_refreshed_once_with_or_without_its_name(two_logins, simulator):
    expire()
    barrier = threading.Barrier(8)
    got = []

    def one(key):
        barrier.wait()
        got.append(plugin.get_tokens(key))

    threads = [threading.Thread(target=one, args=(k,)) for k in [None, "default"] * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({tokens.access_token for tokens in got}) == 1
    assert len(simulator.refreshes) == 1


def test_storing_another_account_also_stores_a_renewed_login(two_logins, simulator, monkeypatch):
    expire()
    with monkeypatch.context() as context:
        fill_disk(context, "chatgpt-oauth.json")
        renewed = plugin.get_tokens()
    plugin.store_tokens(two_logins[1], "work")
    assert plugin.get_tokens() == renewed == plugin.load_tokens()
    assert len(simulator.refreshes) == 1


# Another user signs in


def test_a_script_does_not_replace_another_user(simulator, run_llm):
    old = sign_in(simulator)
    simulator.account, simulator.approve_after_polls = BOB, 0
    result = run_llm("chatgpt", "login")
    assert result.exit_code == 1
    assert "Kept the login of ada@example.com. To add bob@example.com" in result.stderr
    assert plugin.load_tokens() == old
    assert run_llm("chatgpt", "login", "--yes").exit_code == 0
    assert plugin.load_tokens().email == "bob@example.com"


def test_signing_in_again_as_the_same_user_asks_nothing(simulator, run_llm):
    sign_in(simulator)
    simulator.approve_after_polls = 0
    assert run_llm("chatgpt", "login").exit_code == 0


def test_two_users_of_one_workspace_are_different_users(simulator, run_llm):
    sign_in(simulator)
    simulator.account = dataclasses.replace(simulator.account, email="bob@example.com")
    simulator.approve_after_polls = 0
    assert run_llm("chatgpt", "login").exit_code == 1


def test_another_user_who_signs_in_meanwhile_is_asked_about_as_well(simulator):
    ada = sign_in(simulator)
    eve = new_login(simulator, EVE)
    simulator.account, simulator.approve_after_polls = BOB, 0
    replaced = []

    def replace(old, new):
        replaced.append((old.email, new.email))
        # While the user decides, Eve signs in under this name elsewhere, and her login is renewed.
        plugin.store_tokens(eve._replace(expires_at=eve.expires_at - len(replaced)))
        return True

    plugin.login(show=lambda code: None, replace=replace)
    assert replaced == [(ada.email, BOB.email), (EVE.email, BOB.email)]
    assert plugin.load_tokens().email == BOB.email


def test_the_second_of_two_simultaneous_logins_is_refused(simulator, run_llm):
    """Both use one new account name. Without a terminal, nobody can be asked."""
    eve = new_login(simulator, EVE)
    simulator.account, simulator.approve_after_polls = BOB, 0
    threads = []

    def hold_the_lock(request):
        locked = threading.Event()

        def store_eve():
            with locked_store() as writer:
                locked.set()
                # Long enough for the login to begin to wait for the lock.
                time.sleep(0.5)
                writer.save(read_store().add("default", eve, as_default=True))

        threads.append(threading.Thread(target=store_eve))
        threads[0].start()
        locked.wait()

    simulator.script("token", hold_the_lock)
    result = run_llm("chatgpt", "login")
    threads[0].join()
    assert result.exit_code == 1
    assert "Kept the login of eve@example.com. To add bob@example.com as well" in result.stderr
    assert plugin.load_tokens().email == "eve@example.com"


def test_a_refresh_changes_nothing_but_the_tokens(two_logins, simulator, ask):
    plugin.store_tokens(two_logins[0], "home")
    delete_tokens("default")
    expired = two_logins[1]._replace(expires_at=1.0)
    plugin.store_tokens(expired, "work")
    before = read_store()
    # Neither of the two accounts is the default.
    assert before.default == ""
    assert ask("hello", key="work").text
    after = read_store()
    assert after.get("work").access_token != two_logins[1].access_token
    assert after.put("work", expired).to_bytes() == before.to_bytes()


def test_an_unknown_account_name_lists_the_known_ones(two_logins, ask):
    with pytest.raises(llm.NeedsKeyException, match=r"named 'home'\. Accounts: default, work\."):
        ask("hi", key="home")
