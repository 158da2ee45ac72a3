"""The simulator's Codex sign-in, checked by plain requests."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets

import httpx
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

import llm_chatgpt_oauth as plugin
from llm_chatgpt.login.tokens import AUTH_CLAIM, PROFILE_CLAIM
from plain_requests import client, get
from simulator import CLIENT_ID, Account

VERIFIER = secrets.token_urlsafe(64)
DIGEST = hashlib.sha256(VERIFIER.encode()).digest()
QUERY = {
    "response_type": "code",
    "client_id": CLIENT_ID,
    "redirect_uri": "http://127.0.0.1:1455/auth/callback",
    "scope": "openid profile email offline_access",
    "code_challenge": base64.urlsafe_b64encode(DIGEST).decode().rstrip("="),
    "code_challenge_method": "S256",
    "id_token_add_organizations": "true",
    "codex_cli_simplified_flow": "true",
    "state": "a-state",
}


def authorize(simulator, **changes):
    return client.get(f"{simulator.issuer}/oauth/authorize", params={**QUERY, **changes})


def refresh(simulator, token, **changes):
    body = {"client_id": CLIENT_ID, "grant_type": "refresh_token", "refresh_token": token}
    body = {name: value for name, value in {**body, **changes}.items() if value is not None}
    return client.post(f"{simulator.issuer}/oauth/token", json=body)


def exchange(simulator, answer, redirect_uri):
    form = {
        "grant_type": "authorization_code",
        "client_id": CLIENT_ID,
        "code": httpx.URL(answer.headers["location"]).params["code"],
        "redirect_uri": redirect_uri,
        "code_verifier": VERIFIER,
    }
    return client.post(f"{simulator.issuer}/oauth/token", data=form)


def test_the_browser_flow_checks_each_parameter_and_its_code_works_once(simulator):
    answer = authorize(simulator)
    assert answer.status_code == 302
    assert httpx.URL(answer.headers["location"]).params["state"] == "a-state"
    for name in QUERY:
        status = authorize(simulator, **{name: "wrong"}).status_code
        assert status == (302 if name == "state" else 400)
    assert exchange(simulator, answer, QUERY["redirect_uri"]).status_code == 200
    assert exchange(simulator, answer, QUERY["redirect_uri"]).status_code == 400


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_redirect_goes_to_the_named_host(simulator, host):
    redirect = f"http://{host}:1457/auth/callback"
    other = redirect.replace(host, {"127.0.0.1": "localhost", "localhost": "127.0.0.1"}[host])
    answer = authorize(simulator, redirect_uri=redirect)
    assert answer.headers["location"].startswith(redirect)
    # The exchange must repeat the address exactly.
    assert exchange(simulator, answer, other).status_code == 400
    answer = authorize(simulator, redirect_uri=redirect)
    assert exchange(simulator, answer, redirect).status_code == 200


def test_a_redirect_host_can_be_refused_with_a_page(simulator):
    simulator.redirect_hosts = {"localhost"}
    answer = authorize(simulator)
    assert answer.status_code == 400
    assert "location" not in answer.headers
    assert answer.headers["content-type"] == "text/html"
    assert "authorize_hydra_invalid_request" in answer.text
    localhost = QUERY["redirect_uri"].replace("127.0.0.1", "localhost")
    assert authorize(simulator, redirect_uri=localhost).status_code == 302


@pytest.mark.parametrize(
    ("wanted", "plan"),
    [(None, "plus"), ("acc-lab", "team"), ("acc-x,acc-lab", "team"), ("acc-x", "plus")],
)
def test_the_browser_can_ask_for_a_workspace(simulator, wanted, plan):
    own = simulator.account.account_id
    simulator.account.workspaces = (Account(account_id="acc-lab", plan="team"),)
    changes = {"allowed_workspace_id": wanted} if wanted else {}
    tokens = exchange(simulator, authorize(simulator, **changes), QUERY["redirect_uri"]).json()
    signed_in_to = plugin.parse_jwt_claims(tokens["id_token"])[AUTH_CLAIM]
    account_id = own if plan == "plus" else "acc-lab"
    assert signed_in_to["chatgpt_account_id"] == account_id
    assert signed_in_to["chatgpt_plan_type"] == plan
    headers = {
        "Authorization": f"Bearer {tokens['access_token']}",
        "ChatGPT-Account-ID": account_id,
    }
    # Each workspace lists the other one, too.
    ids = get(simulator, headers, "accounts/check").json()["account_ordering"]
    assert ids == [account_id, *({own, "acc-lab"} - {account_id})]


@pytest.mark.parametrize(
    ("add", "organizations", "has_account_id"),
    [
        ("true", ("org-ada", "org-lab"), True),
        (None, ("org-ada",), True),
        (None, ("org-ada", "org-lab"), False),
    ],
)
def test_organizations_are_named_on_request(simulator, add, organizations, has_account_id):
    simulator.account.organizations = organizations
    query = {k: v for k, v in QUERY.items() if k != "id_token_add_organizations"}
    query |= {"id_token_add_organizations": add} if add else {}
    answer = client.get(f"{simulator.issuer}/oauth/authorize", params=query)
    tokens = exchange(simulator, answer, QUERY["redirect_uri"]).json()
    claims = plugin.parse_jwt_claims(tokens["id_token"])[AUTH_CLAIM]
    assert ("chatgpt_account_id" in claims) == has_account_id
    assert ("organizations" in claims) == (add == "true")
    assert plugin.parse_jwt_claims(tokens["access_token"])[AUTH_CLAIM]["chatgpt_account_id"]


def test_tokens_are_signed_with_the_published_key(simulator):
    (key,) = client.get(f"{simulator.issuer}/.well-known/jwks.json").json()["keys"]
    assert (key["kty"], key["alg"], key["use"]) == ("RSA", "RS256", "sig")
    number = {name: int.from_bytes(decoded(key[name]), "big") for name in ("n", "e")}
    public = rsa.RSAPublicNumbers(number["e"], number["n"]).public_key()
    for reply in (simulator.sign_in(), simulator.sign_in_officially()):
        signed, _, signature = reply["id_token"].rpartition(".")
        assert json.loads(decoded(signed.split(".")[0]))["kid"] == key["kid"]
        arguments = (padding.PKCS1v15(), hashes.SHA256())
        public.verify(decoded(signature), signed.encode(), *arguments)
        with pytest.raises(InvalidSignature):
            public.verify(decoded(signature), f"{signed}A".encode(), *arguments)


def decoded(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def test_a_refresh_token_works_once(simulator):
    token = simulator.sign_in()["refresh_token"]
    new = refresh(simulator, token).json()
    again = refresh(simulator, token)
    assert again.status_code == 401
    assert again.json()["error"]["code"] == "refresh_token_reused"
    assert refresh(simulator, new["refresh_token"]).status_code == 200


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"refresh_reason": "unauthorized_recovery"}, 200),
        ({"refresh_reason": "proactive_expiry"}, 200),
        ({"scope": "openid profile email"}, 200),
        ({"scope": "openid admin"}, 400),
        ({"audience": "x"}, 400),
        ({"refresh_token": None}, 400),
    ],
)
def test_only_a_documented_refresh_is_accepted(simulator, changes, status):
    token = simulator.sign_in()["refresh_token"]
    answer = refresh(simulator, token, **changes)
    assert answer.status_code == status
    # A refusal does not use up the token.
    assert simulator.refresh_tokens[token]["state"] == (
        "refresh_token_reused" if status == 200 else "fresh"
    )


def test_a_reused_token_can_end_the_whole_family(simulator):
    simulator.kill_family_on_reuse = True
    token = simulator.sign_in()["refresh_token"]
    new = refresh(simulator, token).json()
    refresh(simulator, token)
    answer = refresh(simulator, new["refresh_token"])
    assert answer.json()["error"]["code"] == "refresh_token_invalidated"


def test_revoking_ends_the_session(simulator):
    token = simulator.sign_in()["refresh_token"]
    body = {"token": token, "token_type_hint": "refresh_token", "client_id": CLIENT_ID}
    assert client.post(f"{simulator.issuer}/oauth/revoke", json=body).status_code == 200
    assert refresh(simulator, token).json()["error"]["code"] == "refresh_token_invalidated"


def test_only_the_documented_request_starts_a_device_login(simulator):
    url = f"{simulator.issuer}/api/accounts/deviceauth/usercode"
    assert client.post(url, data={"client_id": CLIENT_ID}).status_code == 400
    assert client.post(url, json={"client_id": CLIENT_ID, "scope": "x"}).status_code == 400


def test_a_device_code_works_once(simulator):
    start = client.post(
        f"{simulator.issuer}/api/accounts/deviceauth/usercode", json={"client_id": CLIENT_ID}
    ).json()
    assert isinstance(start["interval"], str)
    body = {k: start[k] for k in ("device_auth_id", "user_code")}
    url = f"{simulator.issuer}/api/accounts/deviceauth/token"
    pending = client.post(url, json=body)
    assert pending.status_code == 403
    assert pending.json()["error"]["code"] == "deviceauth_authorization_pending"
    simulator.approve(start["user_code"])
    # Extra fields are tolerated.
    assert client.post(url, json={**body, "client_id": CLIENT_ID}).status_code == 200
    assert client.post(url, json=body).json()["error"]["code"] == "deviceauth_not_found"


def test_jwts_have_the_real_layout(simulator):
    reply = simulator.sign_in()
    id_claims = plugin.parse_jwt_claims(reply["id_token"])
    access_claims = plugin.parse_jwt_claims(reply["access_token"])
    assert id_claims["email"]
    assert set(id_claims[AUTH_CLAIM]) >= {"chatgpt_account_id", "organizations"}
    assert access_claims["aud"] == ["https://api.openai.com/v1"]
    assert access_claims["exp"] - access_claims["iat"] == 864000
    assert access_claims[AUTH_CLAIM]["chatgpt_account_user_id"].count("__") == 1
    assert access_claims[PROFILE_CLAIM]["email"]
