"""`llm chatgpt doctor`: each thing that can be wrong, and what it says."""

from __future__ import annotations

import dataclasses
import json
import os
import time

import filelock
import pytest

from conftest import expire, secrets_watch, sign_in
from llm_chatgpt.login.login_file import store_path
from proxy import Proxy
from simulator import Account, Answer, error_answer, web_page


@pytest.fixture
def examine(run_llm):
    """Run it; its findings by name, and the exit code."""

    def run(*arguments):
        result = run_llm("chatgpt", "doctor", "--json", *arguments)
        report = json.loads(result.stdout)
        assert report["ok"] == (result.exit_code == 0)
        found = {finding["name"]: finding for finding in report["findings"]}
        assert len(found) == len(report["findings"])
        broken = [name for name, f in found.items() if f["state"] == "broken"]
        assert report["ok"] == (not broken)
        # Whatever is wrong comes with what to do.
        assert all(f["advice"] for f in found.values() if f["state"] != "ok")
        return found

    return run


def assert_finding(finding, state, text="", advice=""):
    assert finding["state"] == state
    assert text in finding["text"]
    assert advice in finding["advice"]


def test_all_is_well(simulator, signed_in, examine, run_llm):
    run_llm("chatgpt", "refresh")
    del simulator.requests[:]
    found = examine()
    assert {f["state"] for f in found.values()} == {"ok"}
    assert set(found) == {
        "versions",
        "login file",
        "storage",
        "proxies",
        "certificates",
        "settings",
        "login",
        "sign-in host",
        "backend",
        "clock",
        "models",
    }
    assert "llm-chatgpt-oauth/" in found["versions"]["text"]
    assert "httpx" in found["versions"]["text"]
    assert "Plus plan" in found["login"]["text"]
    assert "in 10 days" in found["login"]["text"]
    assert found["models"]["text"].startswith("10, fetched")
    assert len(simulator.requests) == 2
    assert not simulator.refreshes


def test_it_can_be_shown_to_anybody(simulator, signed_in, run_llm, monkeypatch):
    monkeypatch.setenv("LLM_CHATGPT_ACCOUNT", "default")
    monkeypatch.setenv("HTTPS_PROXY", "http://user:Secret@proxy.example:3128")
    for arguments in ([], ["--json"]):
        output = run_llm("chatgpt", "doctor", *arguments).output
        with secrets_watch(simulator) as check:
            check(output)
        assert "ada@example.com" not in output
        assert "a...@example.com" in output
        assert simulator.account.account_id not in output
        assert "Secret" not in output
        assert "proxy.example:3128" in output


def test_a_line_each_with_what_to_do(simulator, run_llm):
    result = run_llm("chatgpt", "doctor")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    wanted = "broken   login: no login to use"
    place = next(i for i, line in enumerate(lines) if line.startswith(wanted))
    assert lines[place + 1].strip() == (
        "-> Not signed in to ChatGPT. Run 'llm chatgpt login' first."
    )


def test_a_home_folder_is_not_named(simulator, monkeypatch, run_llm, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    output = run_llm("chatgpt", "doctor").output
    assert str(tmp_path) not in output
    assert f"~{os.sep}llm" in output


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_a_file_that_others_can_read(signed_in, examine):
    store_path().chmod(0o644)
    assert_finding(examine()["login file"], "warning", text="mode 644", advice="chmod 600")


def test_a_damaged_file(simulator, examine):
    store_path().write_text("{")
    assert_finding(examine()["login"], "broken", advice="is damaged")


def test_a_file_that_cannot_be_read(signed_in, examine, monkeypatch):
    def refused(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(store_path()), "read_bytes", refused)
    assert_finding(examine()["login"], "broken", advice="read access")


def test_a_lock_that_is_held(signed_in, examine):
    with filelock.FileLock(f"{store_path()}.lock"):
        assert_finding(examine()["storage"], "warning", text="another program holds the lock")


@pytest.mark.parametrize("error", [NotImplementedError(), PermissionError(13, "Permission denied")])
def test_a_folder_that_cannot_be_written(signed_in, examine, run_llm, monkeypatch, error):
    def no(*_, **__):
        raise error

    monkeypatch.setattr(filelock.FileLock, "acquire", no)
    finding = examine()["storage"]
    assert_finding(finding, "broken", advice="LLM_USER_PATH")
    result = run_llm("chatgpt", "status")
    assert result.exit_code == 0
    assert result.stderr == f"Warning: {finding['advice']}\n"


def test_a_folder_that_cannot_be_made(simulator, examine, run_llm, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path / "file" / "folder"))
    finding = examine()["storage"]
    assert_finding(finding, "broken", advice="LLM_USER_PATH")
    for command in ("status", "login", "accounts", "logout"):
        result = run_llm("chatgpt", command)
        assert result.exit_code == 1
        assert result.output == f"Error: {finding['advice']}\n"
    assert not simulator.seen("/deviceauth")


def test_certificates_that_cannot_be_read(signed_in, examine, monkeypatch, tmp_path):
    monkeypatch.setenv("CODEX_CA_CERTIFICATE", str(tmp_path / "missing.pem"))
    assert_finding(examine()["certificates"], "broken", text="CODEX_CA_CERTIFICATE")


def test_an_access_token_that_has_ended(signed_in, simulator, examine):
    expire()
    assert examine()["login"]["state"] == "ok"
    simulator.expire_access_tokens()
    assert_finding(examine()["backend"], "warning", advice="next prompt")
    assert not simulator.refreshes


def test_a_login_that_cannot_be_renewed(simulator, examine):
    sign_in(simulator, refresh_token=None, expires_at=time.time() - 60)
    assert_finding(examine()["login"], "broken", advice="llm chatgpt login")


def test_an_imported_login_that_has_ended(simulator, examine):
    sign_in(simulator, kind="codex", refresh_token=None, expires_at=time.time() - 60)
    assert "llm chatgpt import" in examine()["login"]["advice"]


@pytest.mark.parametrize(
    ("kind", "command"),
    [("login", "'llm chatgpt login --account work'"), ("codex", "'llm chatgpt import'")],
)
def test_a_rejected_login_that_cannot_be_renewed(simulator, examine, kind, command):
    sign_in(simulator)
    sign_in(simulator, "work", kind=kind, refresh_token=None)
    assert examine("--account", "work")["backend"]["state"] == "ok"
    simulator.expire_access_tokens()
    finding = examine("--account", "work")["backend"]
    assert finding["state"] == "broken"
    assert "rejects the access token" in finding["text"]
    assert command in finding["advice"]


def test_an_access_token(simulator, examine, monkeypatch, run_llm):
    simulator.personal_tokens["at-eve"] = Account(email=None)
    monkeypatch.setenv("CODEX_ACCESS_TOKEN", "at-eve")
    assert "not checked yet" in examine()["login"]["text"]
    assert not simulator.seen("/whoami")
    run_llm("chatgpt", "usage")
    assert "without an email" in examine()["login"]["text"]
    simulator.personal_tokens.clear()
    assert examine()["backend"]["state"] == "broken"


def test_an_access_token_that_is_rejected_before_its_owner_is_known(
    simulator, examine, monkeypatch
):
    monkeypatch.setenv("CODEX_ACCESS_TOKEN", "at-unknown")
    assert_finding(
        examine()["backend"],
        "broken",
        text="rejects the access token",
        advice="llm keys set chatgpt",
    )
    assert not simulator.seen("/whoami")


def test_a_login_whose_refresh_was_refused(signed_in, simulator, examine, run_llm):
    expire()
    assert examine()["login"]["state"] == "ok"
    simulator.script("token", error_answer(401, "refresh_token_expired"))
    assert run_llm("-m", "chatgpt-gpt-6-luna", "hi").exit_code == 1
    assert_finding(
        examine()["login"], "broken", text="expired, sign in again", advice="llm chatgpt login"
    )
    assert len(simulator.refreshes) == 1


@pytest.mark.parametrize(
    ("answer", "state", "words"),
    [
        (web_page(), "broken", "Cloudflare"),
        (Answer(503), "warning", "Try again later"),
        (Answer(403, {"detail": "No."}), "broken", "Try again later, or run"),
        (Answer(drop=True), "broken", "Check the network"),
        (Answer(404), "ok", ""),
        (Answer(404, "<html>", {"Content-Type": "text/html"}), "ok", ""),
    ],
)
def test_what_the_backend_answers(signed_in, simulator, examine, answer, state, words):
    simulator.script("models", answer)
    finding = examine()["backend"]
    assert finding["state"] == state
    assert words in finding["advice"]


def test_no_network(signed_in, examine, monkeypatch):
    monkeypatch.setenv("LLM_CHATGPT_ISSUER", "http://127.0.0.1:9")
    monkeypatch.setenv("LLM_CHATGPT_BASE_URL", "http://chatgpt.example")
    found = examine()
    assert found["sign-in host"]["advice"].startswith("Could not reach 127.0.0.1:9. Check the")
    assert "LLM_CHATGPT_BASE_URL must be" in found["backend"]["advice"]
    assert "clock" not in found


def test_a_wrong_clock(signed_in, simulator, examine):
    simulator.clock = lambda: time.time() - 3 * 3600
    finding = examine()["clock"]
    assert finding["state"] == "warning"
    assert finding["text"] == "3 hours ahead of OpenAI's servers"
    simulator.clock = lambda: time.time() + 3600
    assert examine()["clock"]["text"] == "1 hour behind OpenAI's servers"


def test_no_model_list(signed_in, examine):
    assert "llm chatgpt refresh" in examine()["models"]["advice"]


def test_another_account(simulator, examine):
    sign_in(simulator)
    simulator.account = dataclasses.replace(simulator.account, email="bob@example.com")
    sign_in(simulator, "work")
    assert "b...@example.com" in examine("--account", "work")["login"]["text"]
    simulator.script("models", Answer(403, {"detail": "No."}))
    advice = examine("--account", "work")["backend"]["advice"]
    assert "'llm chatgpt login --account work'" in advice


def test_the_certificate_is_named(simulator, signed_in, examine, monkeypatch, tmp_path):
    for name in simulator.environment:
        monkeypatch.delenv(name)
    with Proxy(simulator, tmp_path) as proxy:
        for name, value in proxy.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("CODEX_CA_CERTIFICATE", str(proxy.certificate))
        found = examine()
    assert "certificate from Company Root until" in found["backend"]["text"]
    assert found["sign-in host"]["text"].startswith("auth.openai.com answers")
    assert "https through 127.0.0.1" in found["proxies"]["text"]
    assert "Secret" not in json.dumps(found)
