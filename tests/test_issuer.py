"""A token is only sent to the issuer that gave it."""

from __future__ import annotations

import pytest

import llm_chatgpt_oauth as plugin
from conftest import edit_login, entry_on_disk, expire, sign_in, sign_in_officially
from llm_chatgpt import config
from simulator import Simulator


@pytest.fixture
def switch_issuer(monkeypatch):
    """Return a function that sets LLM_CHATGPT_ISSUER to another issuer and returns that issuer."""
    with Simulator() as other:

        def switch():
            monkeypatch.setenv("LLM_CHATGPT_ISSUER", other.issuer)
            return other

        yield switch


def test_both_routes_store_the_issuer(simulator, run_llm):
    simulator.approve_after_polls = 0
    assert run_llm("chatgpt", "login").exit_code == 0
    assert plugin.load_tokens().issuer == simulator.issuer
    assert sign_in_officially(simulator, "official").issuer == simulator.issuer


@pytest.mark.parametrize("route", ["codex", "official"])
def test_no_login_is_renewed_at_another_issuer(simulator, switch_issuer, ask, run_llm, route):
    official = route == "official"
    old = sign_in_officially(simulator, ago=4000) if official else sign_in(simulator)
    simulator.expire_access_tokens()
    other = switch_issuer()
    with pytest.raises(plugin.RefreshFailed, match="LLM_CHATGPT_ISSUER") as caught:
        ask("hi")
    assert "\n" not in str(caught.value)
    assert other.requests == []
    assert simulator.refreshes == []
    # The failure is not stored with the login.
    assert entry_on_disk()["refusal"] is None
    assert plugin.load_tokens() == old
    with pytest.raises(plugin.RefreshFailed, match="LLM_CHATGPT_ISSUER"):
        plugin.refresh_tokens(old)
    assert other.requests == []


def test_status_names_another_issuer_of_an_expired_login_without_a_request(
    simulator, switch_issuer, run_llm
):
    sign_in(simulator)
    expire()
    other = switch_issuer()
    status = run_llm("chatgpt", "status")
    assert status.exit_code == 1
    assert "LLM_CHATGPT_ISSUER" in status.output
    assert other.requests == simulator.requests == []


@pytest.mark.parametrize("route", ["codex", "official"])
def test_no_session_is_ended_at_another_issuer(simulator, switch_issuer, run_llm, route):
    sign_in_officially(simulator) if route == "official" else sign_in(simulator)
    other = switch_issuer()
    result = run_llm("chatgpt", "logout", "--revoke")
    assert result.exit_code == 0
    assert "LLM_CHATGPT_ISSUER" in result.stderr
    assert plugin.load_tokens() is None
    assert other.requests == simulator.requests == []


def test_a_login_of_an_older_version_belongs_to_openai(simulator, ask, monkeypatch):
    sign_in(simulator)
    edit_login(issuer=None, expires_at=1.0)
    with pytest.raises(plugin.RefreshFailed, match=r"comes from auth\.openai\.com"):
        ask("hi")
    assert simulator.requests == []
    # A new login under LLM_CHATGPT_ISSUER works.
    sign_in(simulator)
    expire()
    assert ask("hi").text
    # If the settings name OpenAI, the older login is renewed, and its issuer is stored.
    monkeypatch.setattr("llm_chatgpt.config.DEFAULT_ISSUER", simulator.issuer)
    edit_login(issuer=None, expires_at=1.0)
    assert ask("hi").text
    assert entry_on_disk()["issuer"] == simulator.issuer


# Settings


@pytest.mark.parametrize(
    "url",
    [
        "http://auth.example.com",
        "ftp://127.0.0.1",
        "auth.openai.com",
        "http://127.0.0.1.example.com",
        "http://localhost.example.com",
        "https://",
        "http://[::1",
        "https://host:port",
    ],
)
@pytest.mark.parametrize("name", ["ISSUER", "BASE_URL"])
def test_only_https_and_loopback_addresses_are_accepted(monkeypatch, name, url):
    monkeypatch.setenv(f"LLM_CHATGPT_{name}", url)
    with pytest.raises(plugin.ChatGPTError, match=f"LLM_CHATGPT_{name} must be an https"):
        config.issuer() if name == "ISSUER" else config.base_url()


@pytest.mark.parametrize(
    "url",
    ["https://x.example", "http://127.0.0.1:8000", "http://localhost:1", "http://[::1]:2/path/"],
)
def test_https_and_loopback_addresses_lose_only_a_trailing_slash(monkeypatch, url):
    monkeypatch.setenv("LLM_CHATGPT_ISSUER", url)
    assert config.issuer() == url.rstrip("/")


def test_the_real_addresses_are_the_default(monkeypatch):
    monkeypatch.delenv("LLM_CHATGPT_ISSUER")
    monkeypatch.setenv("LLM_CHATGPT_BASE_URL", "")
    assert config.issuer() == "https://auth.openai.com"
    assert config.base_url() == "https://chatgpt.com/backend-api"
