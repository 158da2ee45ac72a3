"""A login that is refused before it sends a request."""

from __future__ import annotations

import os

import pytest

from disk import fill_disk
from llm_chatgpt.login.login_file import store_path


def unwritable_folders(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    return {"a file": file, "below a file": file / "llm"}


@pytest.mark.parametrize("arguments", [["login"], ["login", "--browser", "--no-open"]])
@pytest.mark.parametrize("where", ["a file", "below a file"])
def test_a_folder_that_cannot_be_created_is_refused(
    simulator, run_llm, monkeypatch, tmp_path, where, arguments
):
    folder = unwritable_folders(tmp_path)[where]
    monkeypatch.setenv("LLM_USER_PATH", str(folder))
    result = run_llm("chatgpt", *arguments)
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert "LLM_USER_PATH" in result.stderr
    assert str(folder) in result.stderr
    assert not simulator.requests


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root writes anywhere")
def test_a_read_only_folder_is_refused(simulator, run_llm):
    store_path().parent.chmod(0o500)
    result = run_llm("chatgpt", "login")
    store_path().parent.chmod(0o700)
    assert result.exit_code == 1
    assert "Make the folder writable" in result.stderr
    assert not simulator.requests


def test_a_full_disk_is_an_error_at_once(simulator, run_llm, monkeypatch):
    fill_disk(monkeypatch)
    result = run_llm("chatgpt", "login")
    assert result.exit_code == 1
    assert "No space left on device" in result.stderr
    assert not simulator.requests


@pytest.mark.skipif(os.name == "nt", reason="POSIX links")
def test_a_symbolic_link_in_place_of_the_login_file_is_refused(simulator, run_llm, tmp_path):
    (tmp_path / "target").write_text("{}")
    store_path().symlink_to(tmp_path / "target")
    result = run_llm("chatgpt", "login")
    assert result.exit_code == 1
    assert "is a symbolic link" in result.stderr
    assert "Put the file itself there" in result.stderr
    assert not simulator.requests


def test_another_host_for_the_redirect_is_refused(simulator, run_llm, monkeypatch):
    monkeypatch.setenv("LLM_CHATGPT_REDIRECT_HOST", "example.com")
    result = run_llm("chatgpt", "login", "--browser", "--no-open")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: LLM_CHATGPT_REDIRECT_HOST must be 127.0.0.1 or")
    assert not simulator.requests


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--browser --device", "either --browser or --device"),
        ("--official --browser", "--official cannot be combined with"),
        ("--official --device", "--official cannot be combined with"),
        ("--official --workspace=acme", "--official cannot be combined with"),
    ],
)
def test_ways_to_sign_in_exclude_each_other(run_llm, options, words):
    result = run_llm("chatgpt", "login", *options.split())
    assert result.exit_code == 2
    assert words in result.stderr
