"""Files that cannot be locked, read, made private or replaced."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import time

import filelock
import llm
import pytest

import llm_chatgpt_oauth as plugin
from llm_chatgpt.files import replace_file, write_whole
from llm_chatgpt.login.store import store_path


def test_a_file_system_that_cannot_lock(simulator, signed_in, monkeypatch):
    def cannot(self, *args, **kwargs):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(filelock.FileLock, "acquire", cannot)
    with pytest.raises(plugin.StoreError, match="No locks available"):
        plugin.store_tokens(signed_in)
    # A token that works does not need the lock; one that has ended says what is wrong.
    expire_by_hand(100)
    assert plugin.get_tokens()
    expire_by_hand(-100)
    with pytest.raises(plugin.StoreError, match="No locks available"):
        plugin.get_tokens()


def expire_by_hand(seconds):
    data = json.loads(store_path().read_text())
    data["accounts"]["default"]["expires_at"] = time.time() + seconds
    store_path().write_text(json.dumps(data))


def test_a_file_that_cannot_be_read(simulator, signed_in, monkeypatch):
    def denied(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(pathlib.Path, "read_bytes", denied)
    with pytest.raises(
        plugin.StoreError, match=r"Could not read the login file .+ \(Permission denied\)"
    ):
        plugin.load_tokens()


def test_a_folder_that_is_gone(simulator, signed_in):
    shutil.rmtree(store_path().parent)
    with pytest.raises(llm.NeedsKeyException, match="llm chatgpt login"):
        plugin.get_tokens()


def test_a_private_file_that_cannot_be_made_private(signed_in, monkeypatch):
    def refused(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fchmod", refused, raising=False)
    with pytest.raises(plugin.StoreError, match="Operation not permitted"):
        plugin.store_tokens(plugin.Tokens("new"))
    monkeypatch.undo()
    assert not list(store_path().parent.glob("*.tmp"))


def test_a_replace_that_is_refused_for_good(monkeypatch, tmp_path):
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


def test_a_system_without_fchmod(monkeypatch, tmp_path):
    """As on Windows, where files are private by the folder's rights."""
    monkeypatch.delattr(os, "fchmod", raising=False)
    monkeypatch.setattr("llm_chatgpt.config.WINDOWS", True)
    write_whole(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"
