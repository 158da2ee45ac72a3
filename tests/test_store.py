"""chatgpt-oauth.json: private, whole, locked, never lost."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading

import llm
import pytest

import llm_chatgpt_oauth as plugin
import rooms
from conftest import sign_in, wait_until

posix_only = pytest.mark.skipif(os.name == "nt", reason="POSIX file modes")
TOKENS = plugin.Tokens("access", "rt_1", "id", expires_at=5.0, refreshed_at=1.0, account_id="acc")


def path():
    return rooms.store_path()


def test_what_is_stored_is_what_is_loaded():
    plugin.store_tokens(TOKENS)
    assert plugin.load_tokens() == TOKENS
    data = json.loads(path().read_text())
    assert data["version"] == 1
    assert data["default"] == "default"
    assert set(data["accounts"]["default"]) >= {
        *("id_token", "access_token", "refresh_token", "expires_at", "account_id"),
        *("email", "plan"),
    }


def test_it_lies_beside_keys_json(monkeypatch, tmp_path):
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path / "elsewhere"))
    plugin.store_tokens(TOKENS)
    assert (tmp_path / "elsewhere" / "chatgpt-oauth.json").exists()


def test_nothing_is_stored_at_first():
    assert plugin.load_tokens() is None
    assert not path().exists()


def test_accounts_have_names():
    plugin.store_tokens(TOKENS)
    plugin.store_tokens(plugin.Tokens("work"), "work")
    assert plugin.load_tokens().access_token == "access"
    assert plugin.load_tokens("work").access_token == "work"
    assert rooms.delete_tokens("work")
    assert plugin.load_tokens("work") is None
    assert plugin.load_tokens() == TOKENS


@posix_only
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277, 0o777])
def test_private_from_its_first_byte(umask, monkeypatch):
    modes = []
    fsync = os.fsync

    def look(handle):
        modes.append(os.fstat(handle).st_mode)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", look)
    old = os.umask(umask)
    try:
        llm.user_dir()
        os.chmod(path().parent, 0o700)
        plugin.store_tokens(TOKENS)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path().stat().st_mode) == 0o600
    files = [stat.S_IMODE(mode) for mode in modes if stat.S_ISREG(mode)]
    assert files
    assert set(files) == {0o600}
    assert stat.S_IMODE(path().with_name(path().name + ".lock").stat().st_mode) & 0o077 == 0


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

    def full(*_):
        raise OSError(28, "No space left on device")

    rooms.replace(monkeypatch, "replace_file", full)
    with pytest.raises(plugin.StoreError, match="No space left on device"):
        plugin.store_tokens(plugin.Tokens("new"))
    monkeypatch.undo()


def test_no_temporary_file_stays_behind(monkeypatch):
    plugin.store_tokens(TOKENS)
    (path().parent / "chatgpt-oauth.json.0123.tmp").write_text("from a killed process")
    plugin.store_tokens(TOKENS)
    assert sorted(p.name for p in path().parent.iterdir()) == [
        "chatgpt-oauth.json",
        "chatgpt-oauth.json.lock",
    ]


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
    b'{"version": 1, "default": "default", "accounts": {"default": null}}',
    b'{"version": 1, "default": "default", "accounts": {"default": {}}}',
    b'{"version": 1, "default": "default", "accounts": {"default": {"access_token": 7}}}',
    b"[" * 100_000,
]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_file_is_named_and_left_alone(content, run_llm):
    llm.user_dir()
    path().write_bytes(content)
    for call in (plugin.load_tokens, plugin.get_tokens, rooms.delete_tokens):
        with pytest.raises(plugin.StoreError, match="llm chatgpt login") as caught:
            call()
        assert str(path()) in str(caught.value)
    result = run_llm("chatgpt", "status")
    assert result.exit_code == 1
    assert "damaged" in result.stderr
    assert path().read_bytes() == content


def test_a_login_mends_a_damaged_file():
    llm.user_dir()
    path().write_bytes(b"{")
    plugin.store_tokens(TOKENS)
    assert plugin.load_tokens() == TOKENS


def test_a_file_from_the_future_is_left_alone():
    llm.user_dir()
    content = b'{"version": 2, "something": "new"}'
    path().write_bytes(content)
    for call in (plugin.load_tokens, lambda: plugin.store_tokens(TOKENS)):
        with pytest.raises(plugin.StoreError, match="newer llm-chatgpt-oauth"):
            call()
    assert path().read_bytes() == content


def test_unknown_fields_are_fine():
    plugin.store_tokens(TOKENS)
    data = json.loads(path().read_text())
    data["future"] = data["accounts"]["default"]["future"] = {"a": 1}
    path().write_text(json.dumps(data))
    assert plugin.load_tokens() == TOKENS


@posix_only
def test_a_symbolic_link_in_its_place_is_refused(tmp_path):
    llm.user_dir()
    target = tmp_path / "target"
    target.write_text("precious")
    path().symlink_to(target)
    with pytest.raises(plugin.StoreError, match="symbolic link"):
        plugin.store_tokens(TOKENS)
    assert target.read_text() == "precious"


def test_a_lock_that_is_held_ends_in_a_message(monkeypatch):
    rooms.replace(monkeypatch, "LOCK_TIMEOUT_SECONDS", 0.1)
    with rooms.locked_store():
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
def test_the_lock_of_a_killed_process_holds_nobody_up():
    code = (
        rooms.IMPORT + "import time\n"
        "with p.locked_store():\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    process.kill()
    process.wait()
    plugin.store_tokens(TOKENS)
    assert plugin.load_tokens() == TOKENS


def test_a_file_that_a_reader_has_open_is_replaced_a_moment_later(monkeypatch):
    """As on Windows, where os.replace fails while another process reads the file."""
    rooms.replace(monkeypatch, "WINDOWS", True)
    replace, calls = os.replace, []

    def busy(source, target):
        calls.append(source)
        if len(calls) < 3:
            raise PermissionError(13, "Access is denied")
        replace(source, target)

    source, target = path().with_name("a"), path().with_name("b")
    llm.user_dir()
    source.write_text("x")
    monkeypatch.setattr(os, "replace", busy)
    rooms.replace_file(source, target)
    assert len(calls) == 3
    assert target.read_text() == "x"


def test_writers_in_many_processes_lose_nothing(simulator):
    sign_in(simulator)
    code = (
        "import sys, llm_chatgpt_oauth as p\n"
        "for n in range(5):\n"
        "    p.store_tokens(p.Tokens('t'), f'{sys.argv[1]}-{n}')"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, str(n)]) for n in range(4)]
    for process in processes:
        assert process.wait(60) == 0
    store = rooms.read_store()
    assert len(store.accounts) == 21
    wait_until(lambda: not list(path().parent.glob("*.tmp")))
