"""chatgpt-oauth.json: private, complete, locked, never lost."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import typing

import pytest

import llm_chatgpt_oauth as plugin
from conftest import edit_login, sign_in, store_key, wait_until
from disk import fill_disk
from llm_chatgpt import files
from llm_chatgpt.login.login_file import delete_tokens, locked_store, read_store, store_path

posix_only = pytest.mark.skipif(os.name == "nt", reason="POSIX file modes")
TOKENS = plugin.Tokens("access", "rt_1", "id", expires_at=5.0, refreshed_at=1.0, account_id="acc")


def test_a_stored_login_is_loaded_unchanged():
    plugin.store_tokens(TOKENS)
    assert plugin.load_tokens() == TOKENS
    data = json.loads(store_path().read_text())
    assert data["version"] == 1
    assert data["default"] == "default"
    assert set(data["accounts"]["default"]) >= {
        "id_token",
        "access_token",
        "refresh_token",
        "expires_at",
        "account_id",
        "email",
        "plan",
    }


def test_the_login_file_is_beside_keys_json(monkeypatch, tmp_path):
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path / "elsewhere"))
    plugin.store_tokens(TOKENS)
    assert (tmp_path / "elsewhere" / "chatgpt-oauth.json").exists()


def test_nothing_is_stored_at_first():
    assert plugin.load_tokens() is None
    assert not store_path().exists()


def test_each_account_has_its_own_login():
    plugin.store_tokens(TOKENS)
    plugin.store_tokens(plugin.Tokens("work"), "work")
    assert plugin.load_tokens().access_token == "access"
    assert plugin.load_tokens("work").access_token == "work"
    assert delete_tokens("work")
    assert plugin.load_tokens("work") is None
    assert plugin.load_tokens() == TOKENS


@posix_only
def test_a_new_login_survives_a_power_cut(monkeypatch):
    """The folder is flushed after the rename, because the old refresh token is used up."""
    flushed = []
    fsync = os.fsync

    def look(handle):
        fsync(handle)
        flushed.append(plugin.load_tokens() if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")

    monkeypatch.setattr(os, "fsync", look)
    plugin.store_tokens(TOKENS)
    assert flushed == ["file", TOKENS]


@posix_only
@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_the_login_file_is_private_from_its_first_byte(umask, monkeypatch):
    modes = []
    fsync = os.fsync

    def look(handle):
        modes.append(os.fstat(handle).st_mode)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", look)
    old = os.umask(umask)
    try:
        os.chmod(store_path().parent, 0o700)
        plugin.store_tokens(TOKENS)
    finally:
        os.umask(old)
    assert stat.S_IMODE(store_path().stat().st_mode) == 0o600
    assert {stat.S_IMODE(mode) for mode in modes if stat.S_ISREG(mode)} == {0o600}
    lock = store_path().with_name(store_path().name + ".lock")
    assert stat.S_IMODE(lock.stat().st_mode) & 0o077 == 0


def test_readers_never_see_half_a_file():
    plugin.store_tokens(TOKENS)
    stop = threading.Event()
    seen = []

    def read():
        while not stop.is_set():
            seen.append(plugin.load_tokens())

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(60):
        plugin.store_tokens(plugin.Tokens(f"access{number}" * 500, f"rt_{number}"))
    stop.set()
    reader.join()
    assert seen
    assert all(tokens is not None for tokens in seen)


def test_a_failed_write_leaves_the_old_file(monkeypatch):
    plugin.store_tokens(TOKENS)

    fill_disk(monkeypatch)
    with pytest.raises(plugin.StoreError, match="No space left on device"):
        plugin.store_tokens(plugin.Tokens("new"))
    assert plugin.load_tokens() == TOKENS
    assert not list(store_path().parent.glob("*.tmp"))


def test_temporary_files_of_killed_processes_are_deleted():
    plugin.store_tokens(TOKENS)
    (store_path().parent / "chatgpt-oauth.json.0123.tmp").write_text("from a killed process")
    plugin.store_tokens(TOKENS)
    assert sorted(p.name for p in store_path().parent.iterdir()) == [
        "chatgpt-oauth.json",
        "chatgpt-oauth.json.lock",
    ]


# Files that are damaged as a whole: nothing in them can be used.
DAMAGED = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe\x00",
    b'{"tokens": {"access_token": "x"}}',
    b'{"version": "1", "default": "default", "accounts": {}}',
    b'{"version": 1, "accounts": {}}',
    b'{"version": 1, "default": 7, "accounts": {}}',
    b'{"version": 1, "default": "default", "accounts": []}',
    b"[" * 100_000,
]
DAMAGED_ENTRIES = [
    None,
    {},
    [],
    {"access_token": 7},
    {"access_token": "two\nlines"},
    {"access_token": "\N{EM DASH}"},
]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_file_is_named_and_left_alone(content, run_llm):
    store_path().write_bytes(content)
    for call in (plugin.load_tokens, plugin.get_tokens):
        with pytest.raises(plugin.StoreError, match="llm chatgpt login") as caught:
            call()
        assert str(store_path()) in str(caught.value)
    result = run_llm("chatgpt", "status")
    assert result.exit_code == 1
    assert "damaged" in result.output
    assert store_path().read_bytes() == content


def backups():
    return list(store_path().parent.glob("chatgpt-oauth.json.damaged-*"))


@pytest.mark.parametrize("content", DAMAGED)
def test_a_login_replaces_a_damaged_file_and_keeps_a_backup(content, caplog):
    store_path().write_bytes(content)
    plugin.store_tokens(TOKENS)
    assert plugin.load_tokens() == TOKENS
    (backup,) = backups()
    assert backup.read_bytes() == content
    assert str(backup) in caplog.text
    if os.name != "nt":
        assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    assert list(delete_tokens(everything=True)) == ["default"]
    assert not backups()


@pytest.mark.parametrize("content", DAMAGED)
def test_a_logout_empties_a_damaged_file(content):
    store_path().write_bytes(content + b"secret")
    assert delete_tokens()
    assert plugin.load_tokens() is None
    for path in store_path().parent.iterdir():
        assert b"secret" not in path.read_bytes()


def change_file(change):
    data = json.loads(store_path().read_text())
    change(data)
    store_path().write_text(json.dumps(data))
    return data


def damage(name, entry):
    change_file(lambda data: data["accounts"].update({name: entry}))


@pytest.mark.parametrize("entry", DAMAGED_ENTRIES)
def test_a_damaged_entry_stops_no_other_account(simulator, entry, ask):
    sign_in(simulator)
    sign_in(simulator, "home")
    damage("work", entry)
    assert ask("hello").text
    assert plugin.load_tokens("home")
    assert plugin.load_tokens("work") is None
    with pytest.raises(plugin.NotSignedIn, match="'llm chatgpt login --account work' to replace"):
        plugin.get_tokens("work")


def test_no_other_login_is_used_in_place_of_a_damaged_one(simulator, run_llm, monkeypatch):
    """The other login could be another user's."""
    simulator.personal_tokens["at-eve"] = simulator.account
    monkeypatch.setenv("CODEX_ACCESS_TOKEN", "at-eve")
    store_key("default", "at-eve")
    sign_in(simulator)
    damage("default", None)
    for key in ((), ("--key", "default")):
        result = run_llm("-m", "chatgpt-gpt-6-luna", "hi", "--no-log", *key)
        assert (result.exit_code, result.stdout) == (1, "")
        assert "'default' is damaged, or was written by a newer llm-chatgpt-oauth" in result.stderr
        assert "'llm chatgpt login' to replace it" in result.stderr
    assert simulator.requests == []
    status = run_llm("chatgpt", "status")
    assert status.exit_code == 1
    assert "'default' is damaged" in status.stdout
    listed = run_llm("chatgpt", "accounts")
    assert listed.exit_code == 1
    assert listed.stdout.splitlines()[-1].split()[:2] == ["*", "default"]
    assert "'default' is damaged" in listed.stderr
    assert "No default account" not in listed.stderr


def test_a_login_replaces_a_damaged_entry_and_keeps_the_others(simulator, run_llm):
    ada = sign_in(simulator)
    simulator.approve_after_polls = 0
    damage("work", {"access_token": 7})
    assert run_llm("chatgpt", "login", "--account", "work").exit_code == 0
    assert plugin.load_tokens() == ada
    assert plugin.load_tokens("work").email == ada.email


def test_a_refresh_leaves_a_damaged_entry_in_the_file(simulator):
    sign_in(simulator, expires_at=1.0)
    damage("work", {"access_token": 7})
    assert plugin.get_tokens().expires_at > 1.0
    assert json.loads(store_path().read_text())["accounts"]["work"] == {"access_token": 7}
    assert list(delete_tokens("work")) == ["work"]
    assert "work" not in json.loads(store_path().read_text())["accounts"]
    assert not backups()


def test_a_file_of_a_newer_version_is_left_alone():
    content = b'{"version": 2, "something": "new"}'
    store_path().write_bytes(content)
    for call in (
        plugin.load_tokens,
        lambda: plugin.store_tokens(TOKENS),
        # These fail before they show or send anything.
        lambda: plugin.login(show=pytest.fail),
        lambda: plugin.login_with_browser(show=pytest.fail),
    ):
        with pytest.raises(plugin.StoreError, match="newer llm-chatgpt-oauth"):
            call()
    assert store_path().read_bytes() == content


# Data that this version does not understand -------------------------------------------------


# One value for each type that a field of a login has.
VALUES = {str: "text", str | None: "text", float: 7.5, float | None: 7.5, bool: True}
FIELDS = typing.get_type_hints(plugin.Tokens)
EVERY_FIELD = {
    **{name: VALUES[kind] for name, kind in FIELDS.items()},
    "origin": "https://eu.chatgpt.com",
    "kind": "official",
}


def test_every_field_of_a_login_is_stored_and_read():
    tokens = plugin.Tokens(**EVERY_FIELD)
    plugin.store_tokens(tokens)
    assert plugin.load_tokens() == tokens
    assert not [name for name, value in tokens._asdict().items() if not value]


LATER_KIND = {"kind": "passkey", "access_token": "at", "refresh_token": "rt_later", "new": [1.5]}


def test_data_that_this_version_does_not_understand_is_kept(simulator, run_llm):
    sign_in(simulator)

    def from_the_future(data):
        data["future"] = {"a": [None, 1, "\ud800"]}
        data["accounts"]["default"]["future"] = {"b": 2.5}
        data["accounts"]["later"] = LATER_KIND
        data["accounts"]["broken"] = [7]
        data["identities"] = {"x": {"email": "eve@example.com", "future": 3}}
        data["registrations"] = {"old": {"client_id": "c", "issuer": "i", "future": 4}}

    before = change_file(from_the_future)
    edit_login(expires_at=1.0)
    plugin.get_tokens()
    plugin.store_tokens(TOKENS, "home")
    assert run_llm("chatgpt", "use", "home").exit_code == 0
    assert list(delete_tokens("home")) == ["home"]
    after = json.loads(store_path().read_text())
    for name in ("future", "identities", "registrations"):
        assert after[name] == before[name]
    assert {k: after["accounts"][k] for k in ("later", "broken")} == {
        "later": LATER_KIND,
        "broken": [7],
    }
    assert after["accounts"]["default"]["future"] == {"b": 2.5}
    assert after["accounts"]["default"]["refresh_token"].startswith("rt_")
    # A new login keeps no field of the old one.
    sign_in(simulator)
    assert "future" not in json.loads(store_path().read_text())["accounts"]["default"]


def test_a_login_of_an_unknown_kind_is_never_used(simulator, run_llm, ask):
    sign_in(simulator)
    change_file(lambda data: data["accounts"].update(later=LATER_KIND))
    assert plugin.load_tokens("later") is None
    with pytest.raises(plugin.NotSignedIn, match="written by a newer llm-chatgpt-oauth"):
        plugin.get_tokens("later")
    result = run_llm("-m", "chatgpt-gpt-6-luna", "hi", "--key", "later", "--no-log")
    assert (result.exit_code, result.stdout) == (1, "")
    assert simulator.requests == []
    listed = run_llm("chatgpt", "accounts")
    assert listed.exit_code == 1
    assert listed.stdout.splitlines()[-1].split()[:2] == ["later", "?"]
    assert "damaged or too new" in listed.stdout
    assert "written by a newer llm-chatgpt-oauth" in run_llm("chatgpt", "use", "later").stderr
    assert ask("hi").text
    # A new login replaces it.
    plugin.store_tokens(TOKENS, "later")
    assert plugin.load_tokens("later") == TOKENS


# Surrogates and secrets ----------------------------------------------------------------


SURROGATE = "a\ud800b"


def test_a_surrogate_from_the_service_is_replaced(simulator, run_llm, ask):
    """JSON can contain it, UTF-8 cannot."""
    simulator.approve_after_polls = 0
    simulator.account = dataclasses.replace(simulator.account, email=SURROGATE, name=SURROGATE)
    result = run_llm("chatgpt", "login")
    assert result.exit_code == 0, result.output
    clean = SURROGATE.replace("\ud800", "\N{REPLACEMENT CHARACTER}")
    assert (plugin.load_tokens().email, plugin.load_tokens().workspace) == (clean, clean)
    edit_login(expires_at=1.0)
    assert ask("hi").text
    for command in (["status"], ["status", "--json"], ["accounts"], ["models"], ["logout"]):
        assert run_llm("chatgpt", *command).exit_code == 0


@pytest.mark.parametrize("field", [name for name in FIELDS if VALUES[FIELDS[name]] == "text"])
def test_a_surrogate_in_the_login_file_breaks_no_command(simulator, signed_in, run_llm, field):
    edit_login(**{field: SURROGATE})
    for command in (["status"], ["accounts"], ["refresh"], ["logout"]):
        run_llm("chatgpt", *command)
    run_llm("-m", "chatgpt-gpt-6-luna", "hi", "--no-log")


def test_the_repr_of_a_store_shows_no_secret(simulator, signed_in):
    text = repr(read_store())
    for secret in signed_in:
        assert not isinstance(secret, str) or secret not in text or secret == "login"
    assert "example.com" not in text


# Links and locks -----------------------------------------------------------------------


@posix_only
def test_a_symbolic_link_in_place_of_the_login_file_is_refused(tmp_path):
    target = tmp_path / "target"
    target.write_text("precious")
    store_path().symlink_to(target)
    with pytest.raises(plugin.StoreError, match="symbolic link"):
        plugin.store_tokens(TOKENS)
    assert target.read_text() == "precious"


def test_a_lock_that_stays_in_use_is_an_error(monkeypatch):
    monkeypatch.setattr("llm_chatgpt.config.LOCK_TIMEOUT_SECONDS", 0.1)
    with locked_store():
        done = []

        def try_it():
            with pytest.raises(plugin.StoreError, match=r"chatgpt-oauth\.json\.lock"):
                plugin.store_tokens(TOKENS)
            done.append(True)

        other = threading.Thread(target=try_it)
        other.start()
        other.join()
    assert done


@posix_only
def test_the_lock_of_a_killed_process_blocks_no_other():
    code = (
        "import time\n"
        "from llm_chatgpt.login.login_file import locked_store\n"
        "with locked_store():\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    process.kill()
    process.wait()
    plugin.store_tokens(TOKENS)
    assert plugin.load_tokens() == TOKENS


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_does_not_keep_the_lock_of_a_killed_process():
    code = (
        "import os, time\n"
        "from llm_chatgpt.login.login_file import locked_store\n"
        "with locked_store():\n"
        "    child = os.fork()\n"
        "    if not child: os.close(1); time.sleep(20); os._exit(0)\n"
        "    print(child, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    child = int(process.stdout.readline())
    process.kill()
    process.wait()
    try:
        with locked_store(5):
            pass
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_file_that_is_being_read_is_replaced_a_moment_later(monkeypatch):
    """On Windows, os.replace fails while another process reads the file."""
    monkeypatch.setattr("llm_chatgpt.config.WINDOWS", True)
    replace, calls = os.replace, []

    def busy(source, target):
        calls.append(source)
        if len(calls) < 3:
            raise PermissionError(13, "Access is denied")
        replace(source, target)

    source, target = store_path().with_name("a"), store_path().with_name("b")
    source.write_text("x")
    monkeypatch.setattr(os, "replace", busy)
    files.replace_file(source, target)
    assert len(calls) == 3
    assert target.read_text() == "x"


def test_four_processes_can_store_logins_at_once(simulator):
    sign_in(simulator)
    code = (
        "import sys, llm_chatgpt_oauth as p\n"
        "for n in range(5):\n"
        "    p.store_tokens(p.Tokens('t'), f'{sys.argv[1]}-{n}')"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, str(n)]) for n in range(4)]
    for process in processes:
        assert process.wait(60) == 0
    store = read_store()
    assert len(store.accounts) == 21
    wait_until(lambda: not list(store_path().parent.glob("*.tmp")))
