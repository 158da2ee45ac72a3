"""Codex CLI's login, imported: read once, never renewed, never written."""

from __future__ import annotations

import json
import os
import time

import llm
import pytest

import llm_chatgpt_oauth as plugin
from conftest import BOB, assert_no_secrets, bearers, device_login, sign_in, store_key
from llm_chatgpt.login.login_file import read_store, store_path
from simulator import make_jwt


@pytest.fixture
def codex(simulator, tmp_path, monkeypatch):
    """Write Codex CLI's file with Bob's login. Returns `write(**changes)`; "gone" drops a field."""
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


def test_an_import_copies_the_access_token_only(simulator, codex, run_llm, ask):
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
    assert_no_secrets(simulator, result.output)


def test_if_nobody_is_signed_in_codex_clis_login_is_suggested(simulator, codex, run_llm, ask):
    with pytest.raises(llm.NeedsKeyException) as caught:
        ask("hello")
    message = str(caught.value)
    assert message == (
        "Not signed in to ChatGPT. Run 'llm chatgpt login' first, or 'llm chatgpt import' to use "
        "Codex CLI's login."
    )
    for command in ("status", "usage"):
        result = run_llm("chatgpt", command)
        assert result.exit_code == 1
        assert "'llm chatgpt import'" in result.output
    assert_no_secrets(simulator, message)


@pytest.mark.parametrize(
    "content",
    [{"auth_mode": "apikey"}, {"tokens": {"access_token": make_jwt({"exp": 1000})}}, None],
)
def test_import_is_not_suggested_without_a_usable_codex_login(simulator, codex, ask, content):
    if content:
        codex(**content)
    else:
        codex.path.unlink()
    with pytest.raises(llm.NeedsKeyException) as caught:
        ask("hello")
    assert str(caught.value) == "Not signed in to ChatGPT. Run 'llm chatgpt login' first."


def test_an_import_leaves_the_default_login_unchanged(simulator, codex, run_llm):
    ada = sign_in(simulator)
    result = run_llm("chatgpt", "import")
    assert "--key codex" in result.stdout
    assert plugin.load_tokens() == ada
    assert plugin.load_tokens("codex").kind == "codex"


def test_a_login_does_not_replace_the_imported_one(simulator, codex, run_llm):
    run_llm("chatgpt", "import")
    simulator.approve_after_polls = 0
    assert run_llm("chatgpt", "login").exit_code == 0
    store = read_store()
    assert (store.default, set(store.accounts)) == ("default", {"codex", "default"})


@pytest.mark.parametrize("how", ["file", "folder", "home"])
def test_an_import_finds_a_file_or_a_folder(simulator, codex, run_llm, monkeypatch, how, tmp_path):
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
def test_an_import_accepts_missing_and_odd_fields(simulator, codex, run_llm, ask, changes):
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
        ({"tokens": {"access_token": make_jwt({"exp": 1000})}}, "ago (1970-01-01"),
    ],
)
def test_an_import_refuses_other_and_expired_logins(simulator, codex, run_llm, changes, words):
    codex(**changes)
    result = run_llm("chatgpt", "import")
    assert result.exit_code == 1
    assert words in result.stderr
    assert not store_path().exists()


@pytest.mark.parametrize("content", ["{", "[]", "null", '"text"', '{"tokens": []}', b"\xff"])
def test_a_file_without_a_login_is_refused(simulator, codex, run_llm, content):
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


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such paths")
@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/nowhere/at/all", "There is no /nowhere/at/all. Name Codex CLI's auth.json or its"),
        ("~nosuchuser/.codex", "There is no ~nosuchuser/.codex."),
        ("x" * 300, "(File name too long)"),
        ("/dev/zero", "Could not read /dev/zero (not a regular file)."),
        ("fifo", "(not a regular file)"),
        ("/dev/null/auth.json", "(Not a directory)"),
    ],
)
@pytest.mark.parametrize("variable", [False, True])
def test_an_unreadable_path_is_an_error_on_one_line(
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
        assert "keyring" not in result.stderr


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root reads anything")
def test_a_folder_of_another_user_is_an_error(simulator, run_llm, tmp_path):
    (tmp_path / "other").mkdir(mode=0)
    result = run_llm("chatgpt", "import", str(tmp_path / "other" / ".codex"))
    assert result.exit_code == 1
    assert "(Permission denied)" in result.stderr


@pytest.mark.skipif(os.name == "nt", reason="POSIX users")
def test_an_import_without_a_home_folder_is_an_error(simulator, run_llm, monkeypatch):
    """As in a container whose user id has no name."""
    import pwd

    def nobody(uid):
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("CODEX_HOME")
    result = run_llm("chatgpt", "import")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: There is no ~/.codex/auth.json. ")


def test_an_imported_login_is_never_refreshed(simulator, codex, run_llm, ask):
    run_llm("chatgpt", "import")
    soon = plugin.load_tokens("codex")._replace(expires_at=time.time() + 20)
    plugin.store_tokens(soon, "codex")
    assert ask("hello").text
    expired = soon._replace(expires_at=time.time() - 1)
    plugin.store_tokens(expired, "codex")
    with pytest.raises(llm.ModelError, match="imported from Codex CLI has expired"):
        ask("hello")
    plugin.store_tokens(soon, "codex")
    simulator.expire_access_tokens()
    with pytest.raises(llm.ModelError, match="llm chatgpt import"):
        ask("hello")
    assert not simulator.refreshes
    assert plugin.load_tokens("codex") == soon


def test_an_import_replaces_a_login_of_the_plugin_only_with_yes(simulator, codex, run_llm):
    own = sign_in(simulator, "codex")
    result = run_llm("chatgpt", "import")
    assert result.exit_code == 1
    assert "Kept your own login" in result.stderr
    assert plugin.load_tokens("codex") == own
    assert run_llm("chatgpt", "import", "--yes").exit_code == 0
    assert plugin.load_tokens("codex").kind == "codex"


@pytest.mark.parametrize("first", ["import", "login"])
def test_a_login_without_a_name_is_named_default(simulator, codex, run_llm, first):
    """Even if an account of another name was signed out before."""
    if first == "import":
        run_llm("chatgpt", "import")
    else:
        device_login(simulator, run_llm, "--account", "work")
    run_llm("chatgpt", "logout")
    device_login(simulator, run_llm)
    store = read_store()
    assert (store.default, list(store.accounts)) == ("default", ["default"])


def test_imported_logins_are_never_revoked(simulator, codex, personal_token, run_llm):
    store_key("chatgpt", personal_token)
    run_llm("chatgpt", "import")
    result = run_llm("chatgpt", "logout", "--revoke", "--all")
    assert "session was not ended, because it belongs to Codex CLI" in result.stderr
    assert "Now in use: an access token" in result.stdout
    result = run_llm("chatgpt", "logout", "--revoke")
    assert "Not signed in" in result.stdout
    assert not simulator.seen("/oauth/revoke")
