"""`llm chatgpt doctor`: each problem that it can find, and its advice."""

from __future__ import annotations

import dataclasses
import json
import os
import time

import filelock
import pytest

from conftest import assert_no_secrets, expire, sign_in
from llm_chatgpt.login.login_file import store_path
from proxy import Proxy
from simulator import Account, Answer, error_answer, web_page


@pytest.fixture
def examine(run_llm):
    """Run `llm chatgpt doctor --json` and return its findings by name."""

    def run(*arguments):
        result = run_llm("chatgpt", "doctor", "--json", *arguments)
        report = json.loads(result.stdout)
        assert report["ok"] == (result.exit_code == 0)
        found = {finding["name"]: finding for finding in report["findings"]}
        assert len(found) == len(report["findings"])
        broken = [name for name, f in found.items() if f["state"] == "broken"]
        assert report["ok"] == (not broken)
        # Every problem comes with advice.
        assert all(f["advice"] for f in found.values() if f["state"] != "ok")
        return found

    return run


def assert_finding(finding, state, text="", advice=""):
    assert finding["state"] == state
    assert text in finding["text"]
    assert advice in finding["advice"]


def test_everything_is_ok_after_a_login(simulator, signed_in, examine, run_llm):
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


def test_the_output_shows_no_secret_no_account_id_and_no_full_email(
    simulator, signed_in, run_llm, monkeypatch
):
    monkeypatch.setenv("LLM_CHATGPT_ACCOUNT", "default")
    monkeypatch.setenv("HTTPS_PROXY", "http://user:Secret@proxy.example:3128")
    for arguments in ([], ["--json"]):
        output = run_llm("chatgpt", "doctor", *arguments).output
        assert_no_secrets(simulator, output)
        assert "ada@example.com" not in output
        assert "a...@example.com" in output
        assert simulator.account.account_id not in output
        assert "Secret" not in output
        assert "proxy.example:3128" in output


def test_advice_follows_the_line_of_its_problem(simulator, run_llm):
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
def test_a_login_file_that_others_can_read_is_a_warning(signed_in, examine):
    store_path().chmod(0o644)
    assert_finding(examine()["login file"], "warning", text="mode 644", advice="chmod 600")


def test_a_damaged_login_file_is_broken(simulator, examine):
    store_path().write_text("{")
    assert_finding(examine()["login"], "broken", advice="is damaged")


def test_an_unreadable_login_file_is_broken(signed_in, examine, monkeypatch):
    def refused(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(store_path()), "read_bytes", refused)
    assert_finding(examine()["login"], "broken", advice="read access")


def test_a_held_lock_is_a_warning(signed_in, examine):
    with filelock.FileLock(f"{store_path()}.lock"):
        assert_finding(examine()["storage"], "warning", text="another program holds the lock")


@pytest.mark.parametrize("error", [NotImplementedError(), PermissionError(13, "Permission denied")])
def test_a_lock_that_cannot_be_taken_is_broken(signed_in, examine, run_llm, monkeypatch, error):
    def no(*_, **__):
        raise error

    monkeypatch.setattr(filelock.FileLock, "acquire", no)
    finding = examine()["storage"]
    assert_finding(finding, "broken", advice="LLM_USER_PATH")
    result = run_llm("chatgpt", "status")
    assert result.exit_code == 0
    assert result.stderr == f"Warning: {finding['advice']}\n"


def test_an_uncreatable_folder_is_broken(simulator, examine, run_llm, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path / "file" / "folder"))
    finding = examine()["storage"]
    assert_finding(finding, "broken", advice="LLM_USER_PATH")
    for command in ("status", "login", "accounts", "logout"):
        result = run_llm("chatgpt", command)
        assert result.exit_code == 1
        assert result.output == f"Error: {finding['advice']}\n"
    assert not simulator.seen("/deviceauth")


def test_unreadable_certificates_are_broken(signed_in, examine, monkeypatch, tmp_path):
    monkeypatch.setenv("CODEX_CA_CERTIFICATE", str(tmp_path / "missing.pem"))
    assert_finding(examine()["certificates"], "broken", text="CODEX_CA_CERTIFICATE")


def test_a_rejected_access_token_is_a_warning_and_not_renewed(signed_in, simulator, examine):
    expire()
    assert examine()["login"]["state"] == "ok"
    simulator.expire_access_tokens()
    assert_finding(examine()["backend"], "warning", advice="next prompt")
    assert not simulator.refreshes


def test_an_expired_login_without_a_refresh_token_is_broken(simulator, examine):
    sign_in(simulator, refresh_token=None, expires_at=time.time() - 60)
    assert_finding(examine()["login"], "broken", advice="llm chatgpt login")


def test_an_expired_imported_login_advises_import(simulator, examine):
    sign_in(simulator, kind="codex", refresh_token=None, expires_at=time.time() - 60)
    assert "llm chatgpt import" in examine()["login"]["advice"]


@pytest.mark.parametrize(
    ("kind", "command"),
    [("login", "'llm chatgpt login --account work'"), ("codex", "'llm chatgpt import'")],
)
def test_a_rejected_login_that_cannot_be_renewed_is_broken(simulator, examine, kind, command):
    sign_in(simulator)
    sign_in(simulator, "work", kind=kind, refresh_token=None)
    assert examine("--account", "work")["backend"]["state"] == "ok"
    simulator.expire_access_tokens()
    finding = examine("--account", "work")["backend"]
    assert finding["state"] == "broken"
    assert "rejects the access token" in finding["text"]
    assert command in finding["advice"]


def test_a_personal_access_token_is_not_looked_up(simulator, examine, monkeypatch, run_llm):
    simulator.personal_tokens["at-eve"] = Account(email=None)
    monkeypatch.setenv("CODEX_ACCESS_TOKEN", "at-eve")
    assert "not checked yet" in examine()["login"]["text"]
    assert not simulator.seen("/whoami")
    run_llm("chatgpt", "usage")
    assert "without an email" in examine()["login"]["text"]
    simulator.personal_tokens.clear()
    assert examine()["backend"]["state"] == "broken"


def test_a_rejected_access_token_with_an_unknown_owner_is_broken(simulator, examine, monkeypatch):
    monkeypatch.setenv("CODEX_ACCESS_TOKEN", "at-unknown")
    assert_finding(
        examine()["backend"],
        "broken",
        text="rejects the access token",
        advice="llm keys set chatgpt",
    )
    assert not simulator.seen("/whoami")


def test_a_login_whose_refresh_was_refused_is_broken(signed_in, simulator, examine, run_llm):
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
def test_the_backends_answer_decides_its_state(signed_in, simulator, examine, answer, state, words):
    simulator.script("models", answer)
    finding = examine()["backend"]
    assert finding["state"] == state
    assert words in finding["advice"]


def test_unreachable_and_invalid_hosts_are_named(signed_in, examine, monkeypatch):
    monkeypatch.setenv("LLM_CHATGPT_ISSUER", "http://127.0.0.1:9")
    monkeypatch.setenv("LLM_CHATGPT_BASE_URL", "http://chatgpt.example")
    found = examine()
    assert found["sign-in host"]["advice"].startswith("Could not reach 127.0.0.1:9. Check the")
    assert "LLM_CHATGPT_BASE_URL must be" in found["backend"]["advice"]
    assert "clock" not in found


def test_a_wrong_clock_is_a_warning_that_says_by_how_much(signed_in, simulator, examine):
    simulator.clock = lambda: time.time() - 3 * 3600
    finding = examine()["clock"]
    assert finding["state"] == "warning"
    assert finding["text"] == "3 hours ahead of OpenAI's servers"
    simulator.clock = lambda: time.time() + 3600
    assert examine()["clock"]["text"] == "1 hour behind OpenAI's servers"


def test_a_missing_model_list_advises_refresh(signed_in, examine):
    assert "llm chatgpt refresh" in examine()["models"]["advice"]


def test_account_chooses_the_login(simulator, examine):
    sign_in(simulator)
    simulator.account = dataclasses.replace(simulator.account, email="bob@example.com")
    sign_in(simulator, "work")
    assert "b...@example.com" in examine("--account", "work")["login"]["text"]
    simulator.script("models", Answer(403, {"detail": "No."}))
    advice = examine("--account", "work")["backend"]["advice"]
    assert "'llm chatgpt login --account work'" in advice


def test_the_certificates_issuer_is_named(simulator, signed_in, examine, monkeypatch, tmp_path):
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
