"""Recorded answers replayed without a simulator, and proof that nothing secret is in them."""

from __future__ import annotations

import asyncio
import base64
import json
import pathlib
import re
import sys
import time

import llm
import pytest
import yaml

import llm_chatgpt_oauth as plugin
from cassettes import FOLDER, SCENARIOS, SIGN_INS, CassetteScrubber, cassette, prompt_sync
from llm_chatgpt import clients
from llm_chatgpt.live.scrub import secrets_in
from llm_chatgpt.login.tokens import AUTH_CLAIM
from simulator import Account, make_jwt


def prompt_async(*args, slug="gpt-6-luna", **kwargs):
    async def run():
        model = llm.get_async_model(f"chatgpt-{slug}")
        conversation = llm.AsyncConversation(model, id="a-fixed-id")
        response = conversation.prompt(*args, **kwargs)
        await response.text()
        return response

    return asyncio.run(run())


@pytest.fixture(params=["httpx", "httpx2"])
def library(request, monkeypatch):
    """Run the test with each HTTP library. One cassette serves both."""
    module = pytest.importorskip(request.param)
    monkeypatch.setattr(clients, "library", lambda: module)
    return module


@pytest.fixture(params=[prompt_sync, prompt_async])
def replay(request, monkeypatch, library):
    """Run a scenario against its cassette, under the service's real addresses."""
    for name in ("ISSUER", "BASE_URL", "API_URL"):
        monkeypatch.delenv(f"LLM_CHATGPT_{name}")

    def run(name):
        if name not in SIGN_INS:
            now = int(time.time())
            access = make_jwt({"iat": now, "exp": now + 864000})
            plugin.store_tokens(
                plugin.Tokens(access, "rt_any", expires_at=now + 864000.0, account_id="acc")
            )
        with cassette(name) as played:
            result = SCENARIOS[name].act(request.param)
        assert played.all_played
        return result

    return run


def test_login(replay):
    code, tokens, models = replay("login")
    assert code.verification_url == "https://auth.openai.com/codex/device"
    assert plugin.load_tokens() == tokens
    assert (tokens.email, tokens.plan) == ("ada@example.com", "plus")
    assert tokens.expires_at == pytest.approx(time.time() + 864000, abs=60)
    assert models.listed[0].slug == "gpt-6.2-sol"


def test_refresh(replay):
    before = "rt_any"
    response = replay("refresh")
    assert "".join(response._chunks) == "This is answer 1. You said: After a refresh"
    tokens = plugin.load_tokens()
    assert tokens.refresh_token not in (None, before)
    assert tokens.expires_at > time.time() + 86400


def test_prompt(replay):
    response = replay("prompt")
    assert "".join(response._chunks) == "Percy, Pouch and Gulp."
    assert response.input_tokens > 0
    assert response._messages_now()[0].parts[0].text == "**Naming pelicans**"


def test_tool_turn(replay):
    first, second = replay("tool_turn")
    assert [(c.name, c.arguments) for c in first._tool_calls] == [("multiply", {"a": 6, "b": 7})]
    assert "".join(second._chunks) == "It is 42."


def test_refusals(replay):
    retired, limit = replay("refusals")
    assert "'gpt-5.2-codex' model is not supported" in str(retired)
    assert isinstance(limit, plugin.UsageLimitReached)
    assert "Plus plan is reached" in str(limit)


def test_official(replay):
    signed_in, first, second = replay("official")
    assert (signed_in.kind, signed_in.email) == ("official", "ada@example.com")
    assert (signed_in.issuer, signed_in.subject) == ("https://auth.openai.com", "scrubbed-sub-1")
    now = plugin.load_tokens()
    assert now.refresh_token not in (None, signed_in.refresh_token)
    assert now.account_key == signed_in.account_key
    assert [(c.name, c.arguments) for c in first._tool_calls] == [("multiply", {"a": 6, "b": 7})]
    assert "".join(second._chunks) == "It is 42."


def test_another_body_does_not_match(replay, monkeypatch):
    import vcr.errors

    monkeypatch.setattr(SCENARIOS["prompt"], "act", lambda ask: ask("Something else"))
    with pytest.raises(vcr.errors.CannotOverwriteExistingCassetteException):
        replay("prompt")


# Scrubbing ----------------------------------------------------------------------------


def all_cassettes():
    return sorted(FOLDER.glob("*.yaml"))


def test_there_is_a_cassette_for_each_scenario():
    assert {path.stem for path in all_cassettes()} == set(SCENARIOS)


@pytest.mark.parametrize("path", all_cassettes(), ids=lambda path: path.stem)
def test_no_cassette_holds_a_secret(path: pathlib.Path):
    text = path.read_text()
    assert "simulator" in text.splitlines()[0]
    # Parsed, because YAML wraps long lines.
    text = json.dumps(yaml.safe_load(text), default=lambda data: data.decode())
    for pattern in (
        r"rt_[0-9a-f]{8}",
        r"ac_[0-9a-f]{8}",
        r"deviceauth_[0-9a-f]{8}",
        "gAAAA",
        r"oaiapp_[0-9a-f]",
    ):
        assert not re.search(pattern, text), pattern
    scrubber = CassetteScrubber()
    assert [s for s in secrets_in(text) if scrubber.replacement("any", s) != s] == []
    tokens = re.findall(r"eyJ[\w-]+\.([\w-]+)\.([\w-]+)", text)
    assert bool(tokens) == (path.stem in ("login", "refresh", "official"))
    for payload, signature in tokens:
        assert signature == "scrubbed"
        text += base64.urlsafe_b64decode(payload + "==").decode()
    assert "Bearer " not in text
    assert Account().account_id not in text
    assert Account().user_id not in text
    assert "org-ada" not in text
    assert set(re.findall(r"[\w.]+@[\w.]+\w", text)) <= {"ada@example.com"}


def test_everything_a_real_answer_could_hold_is_scrubbed():
    secret = make_jwt(
        {
            "email": "grace@navy.mil",
            "name": "Grace",
            "aud": ["oaiapp_real"],
            "sub": "auth0|grace",
            "iat": 1,
            "exp": 2,
            AUTH_CLAIM: {
                "chatgpt_account_id": "real-account",
                "chatgpt_plan_type": "plus",
                "organizations": [{"id": "org-real"}],
            },
        }
    )
    text = json.dumps({"access_token": secret, "refresh_token": "rt_real", "expires_in": 9})
    scrubbed = json.loads(CassetteScrubber().text(text))
    claims = plugin.parse_jwt_claims(scrubbed["access_token"])
    assert claims["email"] == "ada@example.com"
    assert claims["exp"] == 2
    assert claims[AUTH_CLAIM]["chatgpt_plan_type"] == "plus"
    everything = json.dumps([scrubbed, claims])
    for word in ("grace", "navy", "real"):
        assert word not in everything
    assert scrubbed["expires_in"] == 9


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b'{"refresh_token": "rt_real", "client_id": "app_x"}'),
        ("application/json", b'{"user_code":"REAL-12345","device_auth_id":"deviceauth_real"}'),
        ("application/x-www-form-urlencoded", b"code=ac_real&code_verifier=real&client_id=app_x"),
        ("", b'event: x\ndata: {"item":{"id":"rs_real","encrypted_content":"gAAAAreal"}}\n\n'),
        ("", b'data: {"safety_identifier": "user-real", "item_id": "msg_real"}\n\n'),
    ],
)
def test_bodies_are_scrubbed(kind, body):
    scrubber = CassetteScrubber()
    once = scrubber.body(body, kind)
    assert b"real" not in once.lower()
    # Scrubbing again changes nothing, and a secret always gets the same replacement.
    assert scrubber.body(once, kind) == once
    assert scrubber.body(body, kind) == once


def test_headers_are_scrubbed():
    import vcr.request

    request = vcr.request.Request(
        "POST",
        "https://chatgpt.com/x",
        b"{}",
        {"Authorization": "Bearer real", "ChatGPT-Account-ID": "real", "originator": "llm"},
    )
    scrubbed = CassetteScrubber().request(request)
    assert dict(scrubbed.headers) == {"originator": "llm"}
    response = {"headers": {"Set-Cookie": ["real"], "CF-RAY": ["x"]}, "body": {"string": b""}}
    assert CassetteScrubber().response(response)["headers"] == {}


def test_a_token_that_is_no_jwt_is_scrubbed():
    text = json.dumps({"access_token": "at-real-token"})
    assert "real" not in CassetteScrubber().text(text)
    fake = f"eyJhbGciOiJ9.{base64.urlsafe_b64encode(b'no json!!').decode().rstrip('=')}.sig"
    assert fake not in CassetteScrubber().text(f"x {fake}")


def test_the_recorder_needs_no_network(tmp_path, monkeypatch):
    """Run the recorder, but into another folder."""
    import cassettes

    monkeypatch.setattr(cassettes, "FOLDER", tmp_path)
    monkeypatch.setattr(sys, "argv", ["cassettes.py"])
    cassettes.record_from_simulator()
    assert {path.stem for path in tmp_path.glob("*.yaml")} == set(SCENARIOS)
