"""The simulator's official route, checked by plain requests for what the plugin never sends."""

from __future__ import annotations

import base64
import json
import secrets
import time
import urllib.parse
import uuid

import httpx
import pytest

from conftest import redirect_of, with_query
from simulator import (
    OFFICIAL_SCOPE,
    PLAN_SCOPE,
    REGISTRATION,
    RESOURCE,
)
from simulator.issuer import pkce_challenge

VERIFIER = "v" * 43
CALLBACK = "http://127.0.0.1:54321/auth/callback"
BODY = {
    "model": "gpt-6-luna",
    "store": False,
    "stream": True,
    "input": [{"role": "user", "content": "hi"}],
    "include": ["reasoning.encrypted_content"],
}
FUNCTION = {
    "type": "function",
    "name": "multiply",
    "description": "",
    "parameters": {"type": "object", "properties": {}},
    "strict": None,
}


def authorize_url(simulator, client_id=REGISTRATION, **changes):
    hint = {"agent_name_hint": "another-client"} if client_id == REGISTRATION else {}
    query = {
        "client_id": client_id,
        **hint,
        "ext_agent_host_id": f"urn:uuid:{uuid.uuid4()}",
        "response_type": "code",
        "redirect_uri": CALLBACK,
        "scope": OFFICIAL_SCOPE,
        "resource": RESOURCE,
        "state": secrets.token_urlsafe(32),
        "nonce": secrets.token_urlsafe(32),
        "code_challenge": pkce_challenge(VERIFIER),
        "code_challenge_method": "S256",
    }
    url = f"{simulator.issuer}/api/accounts/authorize?{urllib.parse.urlencode(query)}"
    return with_query(url, **changes)


def callback_of(url):
    """The parameters with which the browser comes back."""
    return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(redirect_of(url)).query))


def post_form(simulator, endpoint, **fields):
    fields = {k: v for k, v in fields.items() if v is not None}
    return httpx.post(f"{simulator.issuer}/api/accounts/oauth/{endpoint}", data=fields)


def exchange(simulator, callback, **changes):
    fields = {
        "grant_type": "authorization_code",
        "client_id": callback.get("client_id"),
        "code": callback["code"],
        "code_verifier": VERIFIER,
        "redirect_uri": CALLBACK,
        "resource": RESOURCE,
    }
    return post_form(simulator, "token", **{**fields, **changes})


def refresh(simulator, reply, **changes):
    fields = {
        "grant_type": "refresh_token",
        "client_id": claims(reply["id_token"])["aud"][0],
        "refresh_token": reply["refresh_token"],
        "resource": RESOURCE,
    }
    return post_form(simulator, "token", **{**fields, **changes})


def claims(token):
    payload = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))


def post(simulator, token, headers=None, **changes):
    body = {k: v for k, v in {**BODY, **changes}.items() if v is not None}
    headers = {"Authorization": f"Bearer {token}", **(headers or {})}
    return httpx.post(f"{simulator.api_url}/responses", json=body, headers=headers)


@pytest.fixture
def token(simulator):
    return simulator.sign_in_officially()["access_token"]


def test_an_app_registers_once_and_signs_in_again(simulator):
    url = authorize_url(simulator)
    callback = callback_of(url)
    query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(url).query))
    assert callback["state"] == query["state"]
    client_id = callback["client_id"]
    assert simulator.clients == {client_id: "another-client"}
    reply = exchange(simulator, callback).json()
    assert set(reply) == {
        *("access_token", "refresh_token", "id_token", "token_type", "expires_in", "scope"),
        "earliest_refresh_at",
    }
    assert reply["earliest_refresh_at"] - time.time() == pytest.approx(54 * 60, abs=10)
    told = claims(reply["id_token"])
    assert (told["iss"], told["aud"]) == (simulator.issuer, [client_id])
    assert told["nonce"] == query["nonce"]
    assert told["email"] == "ada@example.com"
    assert "chatgpt" not in json.dumps(claims(reply["access_token"])).replace(PLAN_SCOPE, "")
    again = callback_of(
        authorize_url(
            simulator, client_id, id_token_hint=reply["id_token"], login_hint="ada@example.com"
        )
    )
    assert "client_id" not in again
    assert exchange(simulator, again, client_id=client_id).status_code == 200
    assert list(simulator.clients) == [client_id]


def test_prompts_are_answered(simulator, token):
    answer = post(
        simulator,
        token,
        input=[
            {"type": "additional_tools", "role": "developer", "tools": [FUNCTION]},
            {"role": "user", "content": 'multiply {"a": 6}'},
        ],
    )
    assert answer.status_code == 200
    assert "Content-Type" not in answer.headers
    assert answer.headers["x-request-id"]
    assert not [name for name in answer.headers if name.startswith(("x-codex", "x-models"))]
    frames = answer.text.strip().split("\n\n")
    items = [json.loads(frame.split("data: ")[1]).get("item", {}) for frame in frames]
    assert [i["name"] for i in items if i.get("type") == "function_call"] == ["multiply"] * 2
