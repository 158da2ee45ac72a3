"""The check of the disk before a refresh, and a renewed login that cannot be stored."""

from __future__ import annotations

import os
import stat
import subprocess
import sys

import pytest

import llm_chatgpt_oauth as plugin
from conftest import entry_on_disk, expire
from disk import fill_disk
from llm_chatgpt import files
from llm_chatgpt.login.login_file import store_path


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root writes anywhere")
def test_no_refresh_is_sent_if_its_result_could_not_be_stored(simulator, signed_in):
    expire()
    folder = store_path().parent
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with pytest.raises(plugin.StoreError, match="Could not write"):
            plugin.get_tokens()
    finally:
        folder.chmod(0o700)
    assert simulator.refreshes == []


def fail_to_store(monkeypatch):
    """Let writes of the login file fail, but not the test write at the start of a refresh."""
    replace = files.replace_file

    def fails(source, target):
        if target == store_path():
            raise OSError(5, "Input/output error")
        replace(source, target)

    monkeypatch.setattr("llm_chatgpt.files.replace_file", fails)


def test_a_full_disk_uses_up_no_refresh_token(simulator, signed_in, monkeypatch):
    expire()
    fill_disk(monkeypatch)
    with pytest.raises(plugin.StoreError, match="No space left on device"):
        plugin.get_tokens()
    assert simulator.refreshes == []


def test_a_full_disk_does_not_stop_a_token_that_works(simulator, signed_in, monkeypatch, caplog):
    old = expire(100)
    fill_disk(monkeypatch)
    assert plugin.get_tokens() == old
    assert "No space left on device" in caplog.text


def test_a_renewed_login_that_cannot_be_stored_is_used_with_a_warning(
    simulator, signed_in, ask, monkeypatch, caplog
):
    old = expire()
    with monkeypatch.context() as context:
        fail_to_store(context)
        assert ask("hi").text
        assert "renewed but not stored" in caplog.text
        assert entry_on_disk()["refresh_token"] == old.refresh_token
        # This process goes on using the renewed login.
        assert ask("again").text
    # It stores the login as soon as it can.
    assert ask("later").text
    assert len(simulator.refreshes) == 1
    used = simulator.seen("/codex/responses")[0].headers["authorization"]
    assert used == f"Bearer {entry_on_disk()['access_token']}"


def test_an_unstored_login_is_stored_before_its_next_renewal(
    simulator, signed_in, monkeypatch, clock
):
    expire()
    with monkeypatch.context() as context:
        fail_to_store(context)
        first = plugin.get_tokens()
    clock.shift = 20 * 86400
    with monkeypatch.context() as context:
        fill_disk(context, "chatgpt-oauth.json", after=1)
        second = plugin.get_tokens()
    assert entry_on_disk()["refresh_token"] == first.refresh_token
    assert plugin.get_tokens() == second == plugin.load_tokens()
    assert [r.body["refresh_token"] for r in simulator.refreshes] == [
        signed_in.refresh_token,
        first.refresh_token,
    ]


END_OF_PROCESS = """
import sys, llm_chatgpt_oauth as plugin
from llm_chatgpt import files
from llm_chatgpt.login.login_file import delete_tokens

def fails(source, target):
    if target.suffix == ".json":
        raise OSError(5, "Input/output error")
    works(source, target)

works, files.replace_file = files.replace_file, fails
plugin.get_tokens()
files.replace_file = works
"""


@pytest.mark.parametrize("meanwhile", ["", "delete_tokens()"])
def test_an_unstored_login_is_stored_when_the_process_ends(simulator, signed_in, meanwhile):
    old = expire()
    code = END_OF_PROCESS + meanwhile
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
    assert len(simulator.refreshes) == 1
    if meanwhile:
        # The logout deleted the unstored login, too.
        assert plugin.load_tokens() is None
    else:
        assert plugin.load_tokens().refresh_token != old.refresh_token
        assert plugin.get_tokens() == plugin.load_tokens()
        assert len(simulator.refreshes) == 1
