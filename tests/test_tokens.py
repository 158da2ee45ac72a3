"""The claims, the account and the lifetime of a login."""

from __future__ import annotations

import base64
import json

import pytest

import llm_chatgpt_oauth as plugin
from llm_chatgpt import http
from llm_chatgpt.login import oauth
from llm_chatgpt.login.tokens import AUTH_CLAIM, needs_refresh, tokens_from_reply
from simulator import make_jwt


def unsigned(payload: bytes) -> str:
    return f"e30.{base64.urlsafe_b64encode(payload).rstrip(b'=').decode()}.c2ln"


def test_claims_are_read_without_checking_the_signature():
    assert plugin.parse_jwt_claims(make_jwt({"sub": "ada", "n": 1})) == {"sub": "ada", "n": 1}


@pytest.mark.parametrize(
    "token",
    [
        None,
        7,
        "",
        "no dots",
        "a.b",
        "a..c",
        "a.b.c.d",
        "a.!!!.c",
        unsigned(b"not json"),
        unsigned(b"[1, 2]"),
        unsigned(b"\xff\xfe"),
        unsigned(b"[" * 100_000),
        "at-abcdef",
    ],
)
def test_only_a_jwt_has_claims(token):
    assert plugin.parse_jwt_claims(token) is None


TOP = {"chatgpt_account_id": "top"}
INSIDE = {AUTH_CLAIM: {"chatgpt_account_id": "inside"}}
PLUS = {AUTH_CLAIM: {"chatgpt_plan_type": "plus"}}
ORGANIZATION = {"organizations": [{"id": "org-1"}, {"id": "org-2"}]}


@pytest.mark.parametrize(
    ("id_claims", "access_claims", "expected"),
    [
        (TOP | INSIDE, INSIDE, "top"),
        # An id at the top level comes first, even if it is in the other token.
        (INSIDE, TOP, "top"),
        (INSIDE, {AUTH_CLAIM: {"chatgpt_account_id": "other"}}, "inside"),
        (ORGANIZATION, INSIDE, "inside"),
        (ORGANIZATION, {}, "org-1"),
        ({}, ORGANIZATION, "org-1"),
        ({AUTH_CLAIM: ORGANIZATION}, {}, "org-1"),
        ({}, {}, None),
        ({"chatgpt_account_id": 7, AUTH_CLAIM: "text", "organizations": ["x"]}, {}, None),
        ({"chatgpt_account_id": ""}, INSIDE, "inside"),
        ({"organizations": []}, {}, None),
    ],
)
def test_the_account_id_is_searched_in_the_documented_order(id_claims, access_claims, expected):
    found = plugin.extract_account_id(make_jwt(id_claims), make_jwt(access_claims))
    assert found == expected


def test_tokens_that_are_no_jwts_have_no_account():
    assert plugin.extract_account_id(None, "at-token") is None


def test_the_expiry_is_by_this_machines_clock():
    # The server's clock is a day ahead of this machine's. The token still lasts an hour.
    reply = {"access_token": make_jwt({"iat": 100_000, "exp": 103_600})}
    tokens = tokens_from_reply(reply, now=50.0)
    assert tokens.expires_at == 3650.0


@pytest.mark.parametrize(
    ("claims", "more", "expected"),
    [
        ({}, {"expires_in": 60}, 110.0),
        ({"exp": 500}, {}, 500.0),
        ({"exp": 500}, {"expires_in": 60}, 110.0),
        ({}, {}, None),
        ({"exp": "soon", "iat": True}, {"expires_in": None}, None),
    ],
)
def test_the_expiry_comes_from_expires_in_or_exp(claims, more, expected):
    tokens = tokens_from_reply({"access_token": make_jwt(claims), **more}, now=50.0)
    assert tokens.expires_at == expected


def test_fields_that_a_refresh_leaves_out_keep_their_values():
    old = tokens_from_reply(
        {
            "access_token": make_jwt({"iat": 0, "exp": 100, **INSIDE}),
            "refresh_token": "rt_old",
            "id_token": make_jwt(
                {"email": "ada@example.com", AUTH_CLAIM: {"chatgpt_plan_type": "plus"}}
            ),
        },
        now=0.0,
    )
    new = tokens_from_reply({"refresh_token": "rt_new"}, old=old, now=1000.0)
    assert new.refresh_token == "rt_new"
    assert (new.access_token, new.id_token) == (old.access_token, old.id_token)
    # The same access token does not last longer.
    assert new.expires_at == old.expires_at
    assert (new.account_id, new.email, new.plan) == ("inside", "ada@example.com", "plus")


def test_a_refresh_does_not_change_the_account():
    old = plugin.Tokens(access_token="a", account_id="mine")
    new = tokens_from_reply({"access_token": make_jwt(TOP)}, old=old, now=0.0)
    assert new.account_id == "mine"


def test_without_an_account_id_the_email_identifies_a_login():
    first, other = make_jwt({"email": "ada@example.com"}), make_jwt({"email": "bob@example.com"})
    old = tokens_from_reply({"access_token": first}, now=0.0)
    new = tokens_from_reply({"access_token": make_jwt({"iat": 1})}, old=old, now=1.0)
    assert new.account_key == old.account_key
    assert tokens_from_reply({"access_token": other}, now=0.0).account_key != old.account_key
    assert plugin.Tokens("a").account_key != plugin.Tokens("b").account_key


def test_a_reply_without_an_access_token_is_no_login():
    assert tokens_from_reply({"refresh_token": "rt"}, now=0.0) is None
    assert tokens_from_reply({"access_token": ""}, now=0.0) is None


@pytest.mark.parametrize(
    ("expires_at", "refreshed_at", "now", "expected", "why"),
    [
        (1000.0, 0, 699.0, False, "more than five minutes left"),
        (1000.0, 0, 700.0, True, "exactly five minutes left"),
        (1000.0, 0, 2000.0, True, "expired"),
        (None, 0, 8 * 86400 - 1, False, "unknown expiry, younger than eight days"),
        (None, 0, 8 * 86400, True, "unknown expiry, eight days old"),
    ],
)
def test_a_refresh_is_due_before_the_expiry_or_after_eight_days(
    expires_at, refreshed_at, now, expected, why
):
    tokens = plugin.Tokens("a", expires_at=expires_at, refreshed_at=refreshed_at)
    assert needs_refresh(tokens, now) is expected, why


def test_no_secret_shows_in_a_repr():
    tokens = plugin.Tokens("SECRET1", "SECRET2", "SECRET3", account_id="SECRET4", email="SECRET5")
    code = plugin.DeviceCode("AAAA-BBBB", "SECRET6")
    approved = oauth.AuthorizationCode("SECRET7", "SECRET8", "http://127.0.0.1/")
    reply = http.Reply(200, {}, json.dumps({"access_token": "SECRET9"}).encode())
    assert "SECRET" not in repr([tokens, code, approved, reply])
