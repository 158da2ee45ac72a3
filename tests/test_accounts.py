"""Several accounts, access tokens, Codex CLI's login, logging out."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import threading
import time

import llm
import pytest

import llm_chatgpt_oauth as plugin
from conftest import expire, new_login, secrets_watch, sign_in, sign_in_officially, start_llm
from llm_chatgpt import config, files
from llm_chatgpt.backend.catalogue import models_path
from llm_chatgpt.login.store import delete_tokens, locked_store, read_store, store_path
from llm_chatgpt.login.tokens import AUTH_CLAIM
from simulator import Account, Answer, error_answer, make_jwt, web_page

BOB = Account(email="bob@example.com", account_id="acc-bob", user_id="user-bob", plan="pro")
EVE = Account(email="eve@example.com", account_id="acc-eve", user_id="user-eve", plan="business")
AT = "at-3vqkxPoNotShown"


@pytest.fixture
def two(simulator):
    """ada is the default account, bob is `work`."""
    ada = sign_in(simulator)
    tokens = new_login(simulator, BOB)
    plugin.store_tokens(tokens, "work")
    return ada, tokens


@pytest.fixture
def at(simulator):
    simulator.personal_tokens[AT] = EVE
    return AT


def keep_key(name, value):
    path = llm.user_dir() / "keys.json"
    keys = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**keys, name: value}))


def bearers(simulator):
    return [r.headers["authorization"].split()[1] for r in simulator.seen("/codex/responses")]


# Names


def test_login_beside_another(simulator, run_llm):
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
    # A new login without a name has its own.
    store = read_store()
    assert (store.default, list(store.accounts)) == ("default", ["work", "default"])


def test_the_variable_also_names_a_login(simulator, run_llm, monkeypatch):
    sign_in(simulator)
    simulator.approve_after_polls = 0
    monkeypatch.setenv("LLM_CHATGPT_ACCOUNT", "work")
    assert run_llm("chatgpt", "login").exit_code == 0
    assert set(read_store().accounts) == {"default", "work"}
    monkeypatch.setenv("LLM_CHATGPT_ACCOUNT", AT)
    assert run_llm("chatgpt", "login").exit_code == 0
    assert set(read_store().accounts) == {"default", "work"}


@pytest.mark.parametrize("name", ["at-home", "", "a b", "-x", "x" * 49, "a\nb", "../x"])
def test_names_that_are_none(simulator, run_llm, name):
    result = run_llm("chatgpt", "login", f"--account={name}")
    assert result.exit_code == 2
    assert "up to 48 letters" in result.stderr
    assert not simulator.requests


@pytest.mark.parametrize("command", ["status", "usage", "models", "refresh", "logout", "doctor"])
def test_an_empty_name_is_not_the_default_account(two, run_llm, command):
    """As a script would have it whose variable is unset."""
    result = run_llm("chatgpt", command, "--account", "")
    assert result.exit_code == 1
    assert "Accounts: default, work" in result.output
    assert set(read_store().accounts) == {"default", "work"}


def test_accounts_are_listed(two, run_llm, simulator):
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
    with secrets_watch(simulator) as check:
        check(result.output + json.dumps(report))


def test_no_accounts(run_llm):
    result = run_llm("chatgpt", "accounts")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "llm chatgpt login" in result.stderr
    assert json.loads(run_llm("chatgpt", "accounts", "--json").stdout) == []


def test_use(two, run_llm, simulator, ask, monkeypatch):
    result = run_llm("chatgpt", "use", "work")
    assert "bob@example.com" in result.stdout
    ask("hello")
    assert bearers(simulator) == [two[1].access_token]
    monkeypatch.setenv("LLM_CHATGPT_ACCOUNT", "work")
    assert "takes precedence" in run_llm("chatgpt", "use", "default").stderr


@pytest.mark.parametrize("name", ["nobody", AT])
def test_use_of_an_unknown_account(two, run_llm, name):
    result = run_llm("chatgpt", "use", name)
    assert result.exit_code == 1
    assert "default, work." in result.stderr
    assert (name in result.stderr) == (name == "nobody")
    assert read_store().default == "default"


def test_use_without_any(run_llm):
    assert "llm chatgpt login" in run_llm("chatgpt", "use", "x").stderr


# Which one is used


def test_a_key_names_an_account(two, simulator, ask):
    ask("hello", key="work")
    ask("hello")
    assert bearers(simulator) == [two[1].access_token, two[0].access_token]
    assert simulator.seen("/codex/responses")[0].headers["chatgpt-account-id"] == "acc-bob"


def test_key_on_the_command_line_and_in_chat(two, simulator, run_llm):
    assert run_llm("-m", "chatgpt-gpt-6-luna", "--key", "work", "hello").exit_code == 0
    chat = run_llm("chat", "-m", "chatgpt-gpt-6-luna", "--key", "work", input="hello\nexit\n")
    assert chat.exit_code == 0
    assert bearers(simulator) == [two[1].access_token] * 2


def test_a_models_own_key(two, simulator, ask):
    model = ask.model()
    model.key = "work"
    ask.finish(lambda: model.prompt("hello"))
    assert bearers(simulator) == [two[1].access_token]


def test_the_order(two, simulator, at, monkeypatch, run_llm):
    """--key, LLM_CHATGPT_ACCOUNT, the stored login, llm's key, the variable."""

    def used():
        run_llm("-m", "chatgpt-gpt-6-luna", "hello")
        report = json.loads(run_llm("chatgpt", "status", "--json").stdout)
        return bearers(simulator)[-1], report["account"], report["reason"]

    other = "at-other"
    simulator.personal_tokens[other] = BOB
    monkeypatch.setenv("CODEX_ACCESS_TOKEN", at)
    keep_key("chatgpt", other)
    monkeypatch.setenv("LLM_CHATGPT_ACCOUNT", "work")
    assert used() == (
        two[1].access_token,
        "work",
        "chosen by LLM_CHATGPT_ACCOUNT",
    )
    monkeypatch.delenv("LLM_CHATGPT_ACCOUNT")
    assert used() == (
        two[0].access_token,
        "default",
        "the default account",
    )
    run_llm("chatgpt", "logout", "--all")
    assert used() == (other, None, "llm's key chatgpt")
    keep_key("chatgpt", "sk-no-access-token")
    assert used() == (at, None, "CODEX_ACCESS_TOKEN")


def test_account_names_come_before_llms_keys(two, simulator, at, ask):
    keep_key("work", at)
    keep_key("ci", at)
    ask("hello", key="work")
    ask("hello", key="ci")
    assert bearers(simulator) == [two[1].access_token, at]


def replace_get_key(monkeypatch, key):
    """As a plugin does that keeps keys elsewhere, such as llm-1password."""
    of_llm = llm.get_key

    def get_key(explicit_key=None, key_alias=None, env_var=None, *, alias=None, **others):
        name = alias or key_alias
        return key() if name in ("chatgpt", "team") else of_llm(alias=name, **others)

    monkeypatch.setattr(llm, "get_key", get_key)


@pytest.mark.parametrize("name", [None, "team"])
def test_a_plugin_that_keeps_keys_elsewhere(simulator, at, ask, run_llm, monkeypatch, name):
    replace_get_key(monkeypatch, lambda: at)
    assert ask("hello", key=name).text
    assert bearers(simulator) == [at]
    account = ["--account", name] if name else []
    assert "eve@example.com" in run_llm("chatgpt", "status", *account).stdout


@pytest.mark.parametrize("error", [llm.ModelError, RuntimeError, KeyError])
def test_a_plugin_that_cannot_read_its_keys(simulator, ask, run_llm, monkeypatch, error):
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


def test_space_around_a_token_is_not_a_part_of_it(simulator, at, ask, monkeypatch):
    """As `export CODEX_ACCESS_TOKEN=$(cat file)` or a pasted key may bring it."""
    monkeypatch.setenv("CODEX_ACCESS_TOKEN", f" {at}\r\n")
    ask("hello")
    ask("hello", key=f"{at} ")
    assert bearers(simulator) == [at, at]


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
def test_what_is_no_account_is_never_shown(two, simulator, ask, run_llm, value, monkeypatch):
    keep_key("openai", "sk-Secret")
    keep_key("ci", AT)
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


def test_a_name_where_nobody_is_signed_in(simulator, ask):
    with pytest.raises(llm.NeedsKeyException, match="llm chatgpt login"):
        ask("hello", key="work")


def test_damaged_llm_keys_stop_nothing(two, ask):
    (llm.user_dir() / "keys.json").write_text("{")
    assert ask("hello").text


def test_the_account_that_is_left_becomes_the_default(two, simulator, ask):
    assert list(delete_tokens()) == ["default"]
    assert read_store().default == "work"
    assert ask("hello").text
    assert bearers(simulator) == [two[1].access_token]


@pytest.mark.parametrize("name", ["work", "default"])
def test_of_several_accounts_none_is_chosen_unasked(two, simulator, run_llm, ask, name):
    plugin.store_tokens(two[0], "home")
    run_llm("chatgpt", "use", name)
    delete_tokens(name)
    with pytest.raises(llm.NeedsKeyException, match=r"No default account.*use NAME") as caught:
        ask("hello")
    for left in {"home", "work", "default"} - {name}:
        assert left in str(caught.value)
    assert run_llm("chatgpt", "use", "home").exit_code == 0
    assert ask("hello").text


def test_each_command_takes_an_account(two, simulator, run_llm):
    bob = two[1].access_token
    for command in ("usage", "refresh", "models"):
        assert run_llm("chatgpt", command, "--account", "work").exit_code == 0
    sent = [r.headers["authorization"] for r in simulator.requests]
    assert set(sent) == {f"Bearer {bob}"}
    assert "bob@example.com" in run_llm("chatgpt", "status", "--account", "work").stdout
    lists = json.loads(models_path().read_text())["accounts"]
    assert list(lists) == [two[1].account_key]


@pytest.mark.parametrize(
    ("endpoint", "command"),
    [("usage", "usage"), ("models", "refresh"), ("models", "models"), ("usage", "reset")],
)
def test_advice_names_the_account(two, simulator, run_llm, endpoint, command):
    simulator.always[endpoint] = lambda request: Answer(401, {"detail": "No"})
    more = ["--yes"] if command == "reset" else []
    result = run_llm("chatgpt", command, "--account", "work", *more)
    assert result.exit_code == 1
    assert "Run 'llm chatgpt login --account work' to sign in again." in result.stderr


def test_only_the_account_in_question_is_refreshed(two, simulator, ask):
    expired = two[1]._replace(expires_at=time.time() - 60)
    plugin.store_tokens(expired, "work")
    ask("hello", key="work")
    assert len(simulator.refreshes) == 1
    store = read_store()
    assert store.default == "default"
    assert store.get() == two[0]
    assert store.get("work").access_token != two[1].access_token
    assert store.get("work").email == "bob@example.com"


def test_none_and_its_name_are_one_refresh(two, simulator):
    """A default account is refreshed once, whether it is named or not."""
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


def test_a_renewed_login_that_is_not_stored_survives_other_accounts(two, simulator, monkeypatch):
    expire()
    replace = files.replace_file

    def full(source, target):
        if target == store_path():
            raise OSError(28, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as context:
        context.setattr("llm_chatgpt.files.replace_file", full)
        renewed = plugin.get_tokens()
    plugin.store_tokens(two[1], "work")
    assert plugin.get_tokens() == renewed == plugin.load_tokens()
    assert len(simulator.refreshes) == 1


# Somebody else


def test_somebody_else_is_not_replaced_by_a_script(simulator, run_llm):
    old = sign_in(simulator)
    simulator.account, simulator.approve_after_polls = BOB, 0
    result = run_llm("chatgpt", "login")
    assert result.exit_code == 1
    assert "Kept ada@example.com. To add bob@example.com" in result.stderr
    assert "ada@example.com" in result.stderr
    assert plugin.load_tokens() == old
    assert run_llm("chatgpt", "login", "--yes").exit_code == 0
    assert plugin.load_tokens().email == "bob@example.com"


def test_the_same_person_is_not_asked_about(simulator, run_llm):
    sign_in(simulator)
    simulator.approve_after_polls = 0
    assert run_llm("chatgpt", "login").exit_code == 0


def test_colleagues_share_a_workspace_but_are_not_the_same(simulator, run_llm):
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
        # While the user is asked, eve signs in under this name elsewhere; then it is renewed.
        plugin.store_tokens(eve._replace(expires_at=eve.expires_at - len(replaced)))
        return True

    plugin.login(show=lambda code: None, replace=replace)
    assert replaced == [(ada.email, BOB.email), (EVE.email, BOB.email)]
    assert plugin.load_tokens().email == BOB.email


def test_two_users_who_sign_in_at_the_same_moment(simulator, run_llm):
    """Under one name, and none of them was signed in before: no terminal, so nobody is asked."""
    eve = new_login(simulator, EVE)
    simulator.account, simulator.approve_after_polls = BOB, 0
    threads = []

    def hold_the_lock(request):
        locked = threading.Event()

        def store_eve():
            with locked_store() as writer:
                locked.set()
                # Until the login waits for the lock.
                time.sleep(0.5)
                writer.save(read_store().add("default", eve, as_default=True))

        threads.append(threading.Thread(target=store_eve))
        threads[0].start()
        locked.wait()

    simulator.script("token", hold_the_lock)
    result = run_llm("chatgpt", "login")
    threads[0].join()
    assert result.exit_code == 1
    assert "Kept eve@example.com. To add bob@example.com as well" in result.stderr
    assert plugin.load_tokens().email == "eve@example.com"


# Access tokens


def test_an_access_token_by_key(simulator, at, ask):
    ask("hello", key=at)
    ask("hello", key=at)
    assert bearers(simulator) == [at, at]
    assert simulator.seen("/codex/responses")[0].headers["chatgpt-account-id"] == "acc-eve"
    assert len(simulator.seen("/whoami")) == 1
    assert not simulator.refreshes


def test_the_owner_is_asked_for_once_by_all_programs(simulator, at, run_llm):
    sign_in(simulator)
    run_llm("-m", "chatgpt-gpt-6-luna", "makes logs.db")
    run_llm("chatgpt", "logout")
    keep_key("chatgpt", at)
    processes = [start_llm("-m", "chatgpt-gpt-6-luna", "hi", "--no-log") for _ in range(4)]
    for process in processes:
        _, stderr = process.communicate()
        assert process.returncode == 0, stderr
    assert len(simulator.seen("/whoami")) == 1
    assert run_llm("-m", "chatgpt-gpt-6-luna", "hi").exit_code == 0
    assert len(simulator.seen("/whoami")) == 1
    stored = store_path().read_text()
    assert at not in stored
    assert "acc-eve" in stored
    if os.name != "nt":
        assert store_path().stat().st_mode & 0o777 == 0o600
    assert "eve@example.com (Business plan)" in run_llm("chatgpt", "status").stdout


def test_many_tasks_ask_once(simulator, at):
    async def together():
        model = llm.get_async_model("chatgpt-gpt-6-luna")
        prompts = [model.prompt("hi", key=at).text() for _ in range(20)]
        return await asyncio.gather(*prompts)

    assert len(asyncio.run(together())) == 20
    assert len(simulator.seen("/whoami")) == 1


def test_who_waited_for_a_look_up_shares_its_failure(simulator, at):
    simulator.script("whoami", lambda request: time.sleep(0.3) or Answer(500))

    async def together():
        calls = (plugin.get_tokens_async(at) for _ in range(10))
        return await asyncio.gather(*calls, return_exceptions=True)

    found = asyncio.run(together())
    assert [type(f) for f in found] == [plugin.RefreshFailed] * 10
    assert len(simulator.seen("/whoami")) == 1
    assert plugin.get_tokens(at).email == "eve@example.com"


def test_where_nothing_can_be_kept_it_still_works(simulator, at, ask, monkeypatch):
    """A read-only container, say: the owner is asked for once per process."""

    monkeypatch.setattr("llm_chatgpt.config.LOCK_TIMEOUT_SECONDS", 0.1)
    with locked_store():
        ask("hello", key=at)
        ask("hello", key=at)
    assert len(simulator.seen("/whoami")) == 1
    assert not store_path().exists()


def test_an_owner_that_cannot_be_written_is_not_asked_for_twice(simulator, at, ask, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llm_chatgpt.files.replace_file", full)
    ask("hello", key=at)
    assert len(simulator.seen("/whoami")) == 1


def test_a_refused_access_token(simulator, at, ask):
    ask("hello", key=at)
    del simulator.personal_tokens[at]
    with pytest.raises(llm.ModelError, match="Create a new one") as caught:
        ask("hello", key=at)
    assert at not in str(caught.value)
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
def test_an_owner_that_is_not_found_out(simulator, at, ask, answer, words):
    simulator.script("whoami", answer)
    with pytest.raises(llm.ModelError, match=words):
        ask("hello", key=at)
    # Nothing wrong is remembered.
    assert ask("hello", key=at).text


@pytest.mark.parametrize(
    "body",
    [
        {"email": "e@example.com", "account_id": "acc-eve", "plan_type": "business"},
        {"email": "e@example.com", AUTH_CLAIM: {"chatgpt_account_id": "acc-eve"}},
        {"chatgpt_account_id": "acc-eve", "chatgpt_account_is_fedramp": False, "new": [1]},
    ],
)
def test_whoami_in_other_forms(simulator, at, ask, body):
    simulator.script("whoami", Answer(200, body))
    ask("hello", key=at)
    assert simulator.seen("/codex/responses")[0].headers["chatgpt-account-id"] == "acc-eve"


def test_status_asks_nobody(simulator, at, run_llm, monkeypatch):
    monkeypatch.setenv("CODEX_ACCESS_TOKEN", at)
    result = run_llm("chatgpt", "status")
    assert result.exit_code == 0
    assert "not checked yet" in result.stdout
    report = json.loads(run_llm("chatgpt", "status", "--json").stdout)
    assert (report["kind"], report["account"]) == ("access_token", None)
    assert "CODEX_ACCESS_TOKEN" in report["reason"]
    assert at not in result.output + json.dumps(report)
    assert not simulator.requests


def test_the_variable_with_something_else_in_it(simulator, ask, monkeypatch):
    """Codex CLI also takes agent identities there, which this login does not know."""
    monkeypatch.setenv("CODEX_ACCESS_TOKEN", make_jwt({"sub": "agent"}))
    with pytest.raises(llm.NeedsKeyException, match="llm chatgpt login"):
        ask("hello")


def test_commands_with_an_access_token(simulator, at, run_llm, monkeypatch):
    monkeypatch.setenv("CODEX_ACCESS_TOKEN", at)
    for command in ("models", "usage", "refresh"):
        result = run_llm("chatgpt", command)
        assert result.exit_code == 0, result.stderr
    assert len(simulator.seen("/whoami")) == 1


def test_a_damaged_store_is_told_before_another_identity_is_used(simulator, at, ask, monkeypatch):
    monkeypatch.setenv("CODEX_ACCESS_TOKEN", at)
    store_path().write_text("{")
    with pytest.raises(plugin.StoreError):
        ask("hello")


# Codex CLI's login


@pytest.fixture
def codex(simulator, tmp_path, monkeypatch):
    """A folder like ~/.codex with bob's login, and a function that changes its file."""
    folder = tmp_path / "codex"
    folder.mkdir()
    monkeypatch.setenv("CODEX_HOME", str(folder))
    path = folder / "auth.json"
    reply = simulator.sign_in(BOB)
    content = {
        "auth_mode": "chatgpt",
        "OPENAI_API_KEY": None,
        "tokens": {
            "id_token": reply["id_token"],
            "access_token": reply["access_token"],
            "refresh_token": reply["refresh_token"],
            "account_id": "acc-bob",
            "oauth_provenance": {"issuer": "x", "client_id": "y"},
            "login_owner_id": "z",
        },
        "last_refresh": "2026-11-20T10:00:00Z",
        "something_new": {"a": [1]},
    }

    def write(tokens=None, **changes):
        new = {**content, **changes, "tokens": {**content["tokens"], **(tokens or {})}}
        path.write_text(json.dumps({k: v for k, v in new.items() if v != "gone"}))
        return path

    write.path, write.reply = path, reply
    write()
    return write


def test_import(simulator, codex, run_llm, ask):
    before = codex.path.read_bytes(), codex.path.stat().st_mtime_ns
    result = run_llm("chatgpt", "import")
    assert result.exit_code == 0
    assert "Imported as account codex: bob@example.com (Pro plan)" in result.stdout
    assert "renew it with Codex CLI" in result.stdout
    assert (codex.path.read_bytes(), codex.path.stat().st_mtime_ns) == before
    stored = store_path().read_text()
    assert codex.reply["refresh_token"] not in stored
    assert codex.reply["id_token"] not in stored
    assert read_store().default == "codex"
    ask("hello")
    assert bearers(simulator) == [codex.reply["access_token"]]
    with secrets_watch(simulator) as check:
        check(result.output)


CODEX_ADVICE = "'llm chatgpt login' first, or 'llm chatgpt import' to use Codex CLI's login."


def test_who_is_not_signed_in_is_told_of_codex_clis_login(simulator, codex, run_llm, ask):
    with pytest.raises(llm.NeedsKeyException) as caught:
        ask("hello")
    message = f"Not signed in to ChatGPT. Run {CODEX_ADVICE}"
    assert str(caught.value) == message
    for command in ("status", "usage"):
        result = run_llm("chatgpt", command)
        assert result.exit_code == 1
        assert "'llm chatgpt import'" in result.output
    with secrets_watch(simulator) as check:
        check(message)


@pytest.mark.parametrize(
    "content",
    [
        {"auth_mode": "apikey"},
        {"tokens": {"access_token": make_jwt({"exp": 1000})}},
        None,
    ],
)
def test_who_has_no_login_of_codex_cli_either(simulator, codex, ask, content):
    if content:
        codex(**content)
    else:
        codex.path.unlink()
    with pytest.raises(llm.NeedsKeyException) as caught:
        ask("hello")
    assert str(caught.value) == "Not signed in to ChatGPT. Run 'llm chatgpt login' first."


def test_import_beside_a_login(simulator, codex, run_llm):
    ada = sign_in(simulator)
    result = run_llm("chatgpt", "import")
    assert "--key codex" in result.stdout
    assert plugin.load_tokens() == ada
    assert plugin.load_tokens("codex").kind == "codex"


def test_a_login_does_not_take_the_imported_ones_place(simulator, codex, run_llm):
    run_llm("chatgpt", "import")
    simulator.approve_after_polls = 0
    assert run_llm("chatgpt", "login").exit_code == 0
    store = read_store()
    assert (store.default, set(store.accounts)) == ("default", {"codex", "default"})


@pytest.mark.parametrize("how", ["file", "folder", "home"])
def test_import_from_elsewhere(simulator, codex, run_llm, monkeypatch, how, tmp_path):
    monkeypatch.delenv("CODEX_HOME")
    arguments = {"file": [str(codex.path)], "folder": [str(codex.path.parent)], "home": []}[how]
    if how == "home":
        (tmp_path / "home" / ".codex").mkdir(parents=True)
        codex.path.rename(tmp_path / "home" / ".codex" / "auth.json")
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    assert run_llm("chatgpt", "import", *arguments).exit_code == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"auth_mode": "gone"},
        {"tokens": {"id_token": "junk"}},
        {"tokens": {"id_token": None, "refresh_token": None, "account_id": None}},
        {"last_refresh": 7},
    ],
)
def test_what_else_an_import_takes(simulator, codex, run_llm, ask, changes):
    codex(**changes)
    result = run_llm("chatgpt", "import")
    assert result.exit_code == 0, result.stderr
    assert plugin.load_tokens("codex").account_id == "acc-bob"
    assert ask("hello").text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"auth_mode": "apikey"}, "holds no ChatGPT login"),
        ({"auth_mode": "agentIdentity"}, "holds no ChatGPT login"),
        ({"auth_mode": "personalAccessToken"}, "llm keys set chatgpt"),
        ({"auth_mode": "gone", "personal_access_token": "at-x"}, "llm keys set chatgpt"),
        ({"tokens": {"access_token": None}}, "holds no ChatGPT login"),
        ({"tokens": {"access_token": make_jwt({"exp": 1000})}}, "expired 1970"),
    ],
)
def test_what_an_import_refuses(simulator, codex, run_llm, changes, words):
    codex(**changes)
    result = run_llm("chatgpt", "import")
    assert result.exit_code == 1
    assert words in result.stderr
    assert not store_path().exists()


@pytest.mark.parametrize("content", ["{", "[]", "null", '"text"', '{"tokens": []}', b"\xff"])
def test_a_file_that_is_none(simulator, codex, run_llm, content):
    codex.path.write_bytes(content if isinstance(content, bytes) else content.encode())
    result = run_llm("chatgpt", "import")
    assert result.exit_code == 1
    assert "llm chatgpt login" in result.stderr


def test_a_missing_file_may_mean_the_keyring(simulator, codex, run_llm):
    codex.path.unlink()
    result = run_llm("chatgpt", "import")
    assert result.exit_code == 1
    assert "keyring" in result.stderr
    assert "cli_auth_credentials_store" in result.stderr
    codex.path.mkdir()
    assert "Could not read" in run_llm("chatgpt", "import").stderr


KEYRING = "keyring"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such paths")
@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/nowhere/at/all", "There is no /nowhere/at/all. Name Codex CLI's auth.json or its"),
        ("~nosuchuser/.codex", "Could not find the home folder in ~nosuchuser/.codex."),
        ("x" * 300, "(File name too long)"),
        ("/dev/zero", "Could not read /dev/zero (not a regular file)."),
        ("fifo", "(not a regular file)"),
        ("/dev/null/auth.json", "(Not a directory)"),
    ],
)
@pytest.mark.parametrize("variable", [False, True])
def test_a_place_that_cannot_be_read(
    simulator, run_llm, monkeypatch, tmp_path, path, words, variable
):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    if variable:
        monkeypatch.setenv("CODEX_HOME", path)
    result = run_llm("chatgpt", "import", *([] if variable else [path]))
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("Error: ")
    if not variable:
        assert words in result.stderr
        assert KEYRING not in result.stderr


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root reads anything")
def test_a_folder_of_another_user(simulator, run_llm, tmp_path):
    (tmp_path / "other").mkdir(mode=0)
    result = run_llm("chatgpt", "import", str(tmp_path / "other" / ".codex"))
    assert result.exit_code == 1
    assert "(Permission denied)" in result.stderr


@pytest.mark.skipif(os.name == "nt", reason="POSIX users")
def test_an_import_without_a_home_folder(simulator, run_llm, monkeypatch):
    """As in a container that runs under a number without a name."""
    import pwd

    def nobody(uid):
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("CODEX_HOME")
    result = run_llm("chatgpt", "import")
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: Could not find the home folder in ~/.codex. Name Codex CLI's auth.json.\n"
    )


def test_an_imported_login_is_never_refreshed(simulator, codex, run_llm, ask):
    run_llm("chatgpt", "import")
    soon = plugin.load_tokens("codex")._replace(expires_at=time.time() + 20)
    plugin.store_tokens(soon, "codex")
    assert ask("hello").text
    ended = soon._replace(expires_at=time.time() - 1)
    plugin.store_tokens(ended, "codex")
    with pytest.raises(llm.ModelError, match="imported from Codex CLI has expired"):
        ask("hello")
    plugin.store_tokens(soon, "codex")
    simulator.expire_access_tokens()
    with pytest.raises(llm.ModelError, match="llm chatgpt import"):
        ask("hello")
    assert not simulator.refreshes
    assert plugin.load_tokens("codex") == soon


def test_import_over_a_login_of_that_name(simulator, codex, run_llm):
    own = sign_in(simulator, "codex")
    result = run_llm("chatgpt", "import")
    assert result.exit_code == 1
    assert "Kept your own login" in result.stderr
    assert plugin.load_tokens("codex") == own
    assert run_llm("chatgpt", "import", "--yes").exit_code == 0
    assert plugin.load_tokens("codex").kind == "codex"


# Logout


def test_logout_is_local(two, simulator, run_llm):
    result = run_llm("chatgpt", "logout")
    assert result.exit_code == 0
    assert "Signed out of account default" in result.stdout
    assert not simulator.requests
    assert list(read_store().accounts) == ["work"]


def test_logout_of_one_and_of_all(two, simulator, run_llm, monkeypatch):
    assert "Signed out of account work" in run_llm("chatgpt", "logout", "--account", "work").stdout
    assert list(read_store().accounts) == ["default"]
    plugin.store_tokens(two[1], "work")
    monkeypatch.setenv("LLM_CHATGPT_ACCOUNT", "work")
    assert "Signed out of account work" in run_llm("chatgpt", "logout").stdout
    monkeypatch.delenv("LLM_CHATGPT_ACCOUNT")
    plugin.store_tokens(two[1], "work")
    assert run_llm("chatgpt", "logout", "--all").stdout.count("Signed out") == 2
    assert not read_store().accounts
    assert "Not signed in" in run_llm("chatgpt", "logout", "--all").stdout
    assert run_llm("chatgpt", "logout", "--all", "--account", "x").exit_code == 2


def test_an_access_token_is_not_signed_out(two, simulator, at, run_llm, monkeypatch):
    monkeypatch.setenv("LLM_CHATGPT_ACCOUNT", at)
    result = run_llm("chatgpt", "logout")
    assert result.exit_code == 1
    assert "cannot be signed out" in result.stderr
    assert set(read_store().accounts) == {"default", "work"}


def test_revoke(two, simulator, run_llm):
    result = run_llm("chatgpt", "logout", "--revoke")
    assert result.exit_code == 0
    assert "other programs" in result.stderr
    request = simulator.seen("/oauth/revoke")[0]
    assert request.body == {
        "token": two[0].refresh_token,
        "token_type_hint": "refresh_token",
        "client_id": config.CLIENT_ID,
    }
    assert list(read_store().accounts) == ["work"]
    with pytest.raises(plugin.RefreshFailed):
        plugin.refresh_tokens(two[0])
    with secrets_watch(simulator) as check:
        check(result.output)


def test_revoke_without_a_refresh_token(simulator, run_llm):
    tokens = sign_in(simulator, refresh_token=None)
    run_llm("chatgpt", "logout", "--revoke")
    body = simulator.seen("/oauth/revoke")[0].body
    assert body == {"token": tokens.access_token, "token_type_hint": "access_token"}


@pytest.mark.parametrize("answer", [Answer(500), Answer(drop=True), error_answer(400, "x")])
def test_a_revocation_that_fails_signs_out_all_the_same(signed_in, simulator, run_llm, answer):
    simulator.script("revoke", answer)
    result = run_llm("chatgpt", "logout", "--revoke")
    assert result.exit_code == 0
    assert "Warning: Could not end the session at OpenAI (" in result.stderr
    assert not read_store().accounts


def test_a_revocation_that_hangs(signed_in, simulator, run_llm, monkeypatch):
    monkeypatch.setattr("llm_chatgpt.config.REVOKE_TIMEOUT_SECONDS", 0.05)
    simulator.script("revoke", Answer(delay=0.5))
    result = run_llm("chatgpt", "logout", "--revoke")
    assert "did not answer" in result.stderr
    assert not read_store().accounts


def test_what_is_not_ours_is_never_revoked(simulator, codex, at, run_llm):
    keep_key("chatgpt", at)
    run_llm("chatgpt", "import")
    result = run_llm("chatgpt", "logout", "--revoke", "--all")
    assert "belongs to Codex CLI" in result.stderr
    assert "Now in use: an access token" in result.stdout
    result = run_llm("chatgpt", "logout", "--revoke")
    assert "Not signed in" in result.stdout
    assert not simulator.seen("/oauth/revoke")


# Workspaces (the addresses themselves: test_network.py)


def check_answer(**changes):
    entry = {"id": "5e1f7a3c-0000-4000-8000-00000000ada0", "account_routing_override": "us"}
    entry |= {"workspace_backend_origin": "https://eu.chatgpt.com", **changes}
    return Answer(200, {"accounts": [{k: v for k, v in entry.items() if v != "gone"}]})


@pytest.mark.parametrize(
    ("answer", "origin"),
    [
        (None, "https://chatgpt.com"),
        (check_answer(), "https://eu.chatgpt.com"),
        (check_answer(account_routing_override="gone"), "https://eu.chatgpt.com"),
        (
            check_answer(workspace_backend_origin="https://a.b-c.chatgpt.com"),
            "https://a.b-c.chatgpt.com",
        ),
        (check_answer(account_routing_override="mars"), None),
        (check_answer(id="another"), None),
        (Answer(200, {"accounts": [check_answer().body["accounts"][0]] * 2}), None),
        (Answer(200, {"accounts": {"id": 1}}), None),
        (Answer(200, "junk"), None),
        (Answer(401), None),
        (Answer(500), None),
        (Answer(drop=True), None),
        *[
            (check_answer(workspace_backend_origin=bad), None)
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
def test_where_the_workspace_is_served(simulator, run_llm, answer, origin):
    if answer:
        simulator.script("accounts", answer)
    simulator.approve_after_polls = 0
    result = run_llm("chatgpt", "login")
    assert result.exit_code == 0
    assert plugin.load_tokens().origin == origin
    assert "workspace" not in result.stdout


def test_not_finding_out_keeps_what_was_known(simulator, run_llm):
    sign_in(simulator, origin="https://eu.chatgpt.com")
    simulator.approve_after_polls = 0
    simulator.script("accounts", Answer(500))
    run_llm("chatgpt", "login")
    assert plugin.load_tokens().origin == "https://eu.chatgpt.com"
    simulator.account = dataclasses.replace(BOB, workspace_origin=None)
    run_llm("chatgpt", "login", "--yes")
    assert plugin.load_tokens().origin is None


def test_the_origin_survives_a_refresh(simulator):
    sign_in(simulator, origin="https://eu.chatgpt.com")
    expire()
    assert plugin.get_tokens().origin == "https://eu.chatgpt.com"
    assert plugin.load_tokens().origin == "https://eu.chatgpt.com"


def test_an_origin_that_was_written_into_the_file_by_hand_is_checked(simulator):
    sign_in(simulator, origin="https://evil.example")
    assert plugin.load_tokens().origin is None


def test_a_base_url_set_by_the_user_wins(simulator, ask):
    sign_in(simulator, origin="https://eu.chatgpt.com")
    assert ask("hello").text
    assert config.base_url("https://eu.chatgpt.com") == simulator.base_url


# Names and the default account --------------------------------------------------------


def test_a_refresh_changes_nothing_but_the_tokens(two, simulator, ask):
    plugin.store_tokens(two[0], "home")
    delete_tokens("default")
    expired = two[1]._replace(expires_at=1.0)
    plugin.store_tokens(expired, "work")
    before = read_store()
    # Of two accounts neither has been chosen.
    assert before.default == ""
    assert ask("hello", key="work").text
    after = read_store()
    assert after.get("work").access_token != two[1].access_token
    assert after.put("work", expired).to_bytes() == before.to_bytes()


def login(simulator, run_llm, *arguments):
    simulator.approve_after_polls = 0
    assert run_llm("chatgpt", "login", *arguments).exit_code == 0


@pytest.mark.parametrize("first", ["import", "login"])
def test_a_login_without_a_name_is_named_default(simulator, codex, run_llm, first):
    """Whatever the account that was signed out before was named."""
    if first == "import":
        run_llm("chatgpt", "import")
    else:
        login(simulator, run_llm, "--account", "work")
    run_llm("chatgpt", "logout")
    login(simulator, run_llm)
    store = read_store()
    assert (store.default, list(store.accounts)) == ("default", ["default"])


# Signing out, whatever goes wrong -------------------------------------------------------


@pytest.mark.parametrize(
    "setting",
    [("ISSUER", "http://elsewhere.example"), ("ORIGINATOR", "\N{EM DASH}")],
)
def test_a_revocation_that_settings_prevent_signs_out(
    signed_in, simulator, run_llm, monkeypatch, setting
):
    monkeypatch.setenv(f"LLM_CHATGPT_{setting[0]}", setting[1])
    result = run_llm("chatgpt", "logout", "--revoke")
    assert result.exit_code == 0
    assert "the session at OpenAI" in result.stderr
    assert not read_store().accounts


def test_a_revocation_that_is_answered_with_junk_signs_out(signed_in, simulator, run_llm):
    simulator.script("revoke", Answer(200, "x", {"Content-Encoding": "gzip"}))
    assert run_llm("chatgpt", "logout", "--revoke").exit_code == 0
    assert not read_store().accounts


def test_a_revocation_that_is_interrupted_signs_out(signed_in, run_llm, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("llm_chatgpt.commands.accounts.revoke_all", stop)
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

    def never(request):
        waiting.release()
        release.wait(20)

    for endpoint in hang:
        simulator.always[endpoint] = never
    results = []
    # Its output is compared elsewhere; CliRunner works in the main thread only.
    thread = threading.Thread(
        target=lambda: results.append(
            start_llm("chatgpt", "logout", "--all", "--revoke").communicate(timeout=60)
        )
    )
    start = time.monotonic()
    thread.start()
    for _ in range(len(hang) and 3):
        assert waiting.acquire(timeout=20)
    # All three are out, so they run side by side, and the lock is free.
    with locked_store(2):
        assert not read_store().accounts
    release.set()
    thread.join()
    assert time.monotonic() - start < 20
    assert results[0][0].count("Signed out of account") == 4


def test_signing_out_of_all_forgets_the_owners_of_access_tokens(two, at, ask, run_llm):
    ask("hello", key=at)
    assert "eve@example.com" in store_path().read_text()
    assert run_llm("chatgpt", "logout", "--all").exit_code == 0
    assert "example.com" not in store_path().read_text()


# Odd answers ---------------------------------------------------------------------------


@pytest.mark.parametrize("override", [["us"], {"us": 1}, 7, True])
def test_an_odd_routing_override_does_not_break_a_login(simulator, run_llm, override):
    simulator.script("accounts", check_answer(account_routing_override=override))
    login(simulator, run_llm)
    assert plugin.load_tokens().origin is None


def test_an_origin_that_cannot_be_stored_does_not_break_a_login(simulator, run_llm, monkeypatch):
    replace, calls = os.replace, []

    def full_at_the_second_write(source, target):
        if str(target).endswith("chatgpt-oauth.json"):
            calls.append(target)
            if len(calls) == 2:
                raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full_at_the_second_write)
    login(simulator, run_llm)
    assert len(calls) == 2
    assert plugin.load_tokens().email == "ada@example.com"


@pytest.mark.parametrize("value", ["two\nlines", "\N{EM DASH}", "tab\t"])
def test_what_cannot_stand_in_a_header_is_told_without_the_token(simulator, value, run_llm):
    """As a damaged store or a strange token reply could have it."""
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
