"""Files that cannot be locked, read or replaced."""

from __future__ import annotations

import os
import pathlib
import shutil
import time

import filelock
import llm
import pytest

import llm_chatgpt_oauth as plugin
from conftest import edit_login
from llm_chatgpt.files import replace_file
from llm_chatgpt.login.login_file import store_path


def test_without_locks_a_valid_login_works_but_no_login_is_stored(
    simulator, signed_in, monkeypatch
):
    def cannot(self, *args, **kwargs):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(filelock.FileLock, "acquire", cannot)
    with pytest.raises(plugin.StoreError, match="No locks available"):
        plugin.store_tokens(signed_in)
    # A valid token needs no lock. Renewing an expired one does.
    edit_login(expires_at=time.time() + 100)
    assert plugin.get_tokens()
    edit_login(expires_at=time.time() - 100)
    with pytest.raises(plugin.StoreError, match="No locks available"):
        plugin.get_tokens()


def test_an_unreadable_login_file_is_an_error(simulator, signed_in, monkeypatch):
    def denied(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(pathlib.Path, "read_bytes", denied)
    with pytest.raises(
        plugin.StoreError, match=r"Could not read the login file .+ \(Permission denied\)"
    ):
        plugin.load_tokens()


def test_a_missing_folder_means_not_signed_in(simulator, signed_in):
    shutil.rmtree(store_path().parent)
    with pytest.raises(llm.NeedsKeyException, match="llm chatgpt login"):
        plugin.get_tokens()


def test_a_permanent_error_of_replace_is_raised(monkeypatch, tmp_path):
    def refused(*_):
        raise PermissionError(13, "Access is denied")

    monkeypatch.setattr(os, "replace", refused)
    monkeypatch.setattr("llm_chatgpt.config.WINDOWS", True)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with pytest.raises(PermissionError):
        replace_file(tmp_path / "a", tmp_path / "b")
    monkeypatch.setattr("llm_chatgpt.config.WINDOWS", False)
    with pytest.raises(PermissionError):
        replace_file(tmp_path / "a", tmp_path / "b")


# FIFOs in place of files


@pytest.fixture
def fifo():
    """Replace a file with a FIFO, which would block its reader forever."""

    def put(name):
        path = llm.user_dir() / name
        path.unlink(missing_ok=True)
        os.mkfifo(path)

    return put


@pytest.mark.skipif(os.name == "nt", reason="Windows has no FIFOs")
@pytest.mark.parametrize("arguments", [["status"], ["login"], ["logout"], ["usage"]])
def test_a_login_file_that_is_a_fifo_is_refused(simulator, signed_in, run_llm, fifo, arguments):
    fifo("chatgpt-oauth.json")
    result = run_llm("chatgpt", *arguments)
    assert result.exit_code == 1
    assert "Could not read the login file" in result.stderr
    assert "(not a regular file)" in result.stderr
    assert not simulator.requests


@pytest.mark.skipif(os.name == "nt", reason="Windows has no FIFOs")
def test_other_files_that_are_fifos_are_not_waited_for(simulator, signed_in, run_llm, fifo):
    fifo("chatgpt-models.json")
    assert run_llm("models").exit_code == 0
    assert run_llm("chatgpt", "models").exit_code == 0
    fifo("chatgpt-host-id")
    host_id = llm.user_dir() / "chatgpt-host-id"
    plugin.OfficialLogin(1, {}, "official")
    assert host_id.is_file()


def test_windows_reads_the_login_file_again_after_a_replacement(signed_in, monkeypatch):
    read, failures = pathlib.Path.read_bytes, [None, None]

    def while_it_is_replaced(path):
        if failures:
            failures.pop()
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr("llm_chatgpt.config.WINDOWS", True)
    monkeypatch.setattr(pathlib.Path, "read_bytes", while_it_is_replaced)
    assert plugin.load_tokens() == signed_in
    assert failures == []
