"""The sign-in part of the service: device codes, authorize, tokens, revocation, whoami."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import re
import secrets
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable
from typing import Any

from .replies import Answer, Request, error_answer, error_page
from .signing import KEY_ID, base64url, rs256

CLIENT_ID = "app_EMoamEEZ73f0CkXaXp7hrann"
AUTH_CLAIM = "https://api.openai.com/auth"
SCOPES = ["openid", "profile", "email", "offline_access"]
# Codex CLI asks for these as well.
CONNECTOR_SCOPES = ["api.connectors.read", "api.connectors.invoke"]
REFRESH_FIELDS = {"client_id", "grant_type", "refresh_token"}


@dataclasses.dataclass
class Account:
    """A ChatGPT user. Claims whose value is None are left out of the tokens."""

    email: str | None = "ada@example.com"
    plan: str | None = "plus"
    account_id: str | None = "5e1f7a3c-0000-4000-8000-00000000ada0"
    # Whether the tokens contain it; the list of workspaces always does.
    id_in_tokens: bool = True
    user_id: str = "user-ada"
    fedramp: bool = False
    # Whether the tokens have the claim AUTH_CLAIM.
    auth_object: bool = True
    organizations: tuple[str, ...] = ("org-ada",)
    # Retired models that this account still has. Its list contains them as hidden models.
    extra_models: tuple[str, ...] = ("gpt-5.2-codex",)
    # The region that the workspace's requests must name, and the region claims in its tokens,
    # which may differ from it and from each other.
    region: str | None = None
    compute_residency: str | None = "no_constraint"
    data_residency: str | None = None
    workspace_origin: str | None = "https://chatgpt.com"
    access_token_seconds: int = 10 * 24 * 3600
    # The name in the list of workspaces; None leaves the field out.
    name: str | None = None
    # The user's other workspaces.
    workspaces: tuple[Account, ...] = ()

    def choose(self, account_ids: list[str]) -> Account:
        """Return the account of the first listed workspace; this one if none is listed."""
        family = (dataclasses.replace(self, workspaces=()), *self.workspaces)
        for chosen in family if self.account_id not in account_ids else ():
            if chosen.account_id in account_ids:
                others = tuple(account for account in family if account is not chosen)
                return dataclasses.replace(chosen, workspaces=others)
        return self

    @property
    def auth_claim(self) -> dict[str, Any]:
        auth: dict[str, Any] = {
            "chatgpt_account_id": self.account_id if self.id_in_tokens else None,
            "chatgpt_plan_type": self.plan,
            "chatgpt_user_id": self.user_id,
            "chatgpt_account_user_id": f"{self.user_id}__{self.account_id}",
            "chatgpt_compute_residency": self.compute_residency,
            "chatgpt_data_residency": self.data_residency,
            "chatgpt_account_is_fedramp": self.fedramp or None,
        }
        return {k: v for k, v in auth.items() if v is not None}


def pkce_challenge(verifier: str) -> str:
    return base64url(hashlib.sha256(verifier.encode()).digest())


def make_jwt(claims: dict[str, Any]) -> str:
    """Make a token with these claims, signed with the key that `jwks.json` publishes."""
    header = base64url(json.dumps({"alg": "RS256", "typ": "JWT", "kid": KEY_ID}).encode())
    signed = f"{header}.{base64url(json.dumps(claims).encode())}"
    return f"{signed}.{base64url(rs256(signed.encode()))}"


def id_token_claims(account: Account, now: int) -> dict[str, Any]:
    claims: dict[str, Any] = {
        "iss": "https://auth.openai.com",
        "aud": [CLIENT_ID],
        "sub": f"auth0|{account.user_id}",
        "iat": now,
        "exp": now + 3600,
        "jti": str(uuid.uuid4()),
    }
    if account.email:
        claims |= {"email": account.email, "email_verified": True}
    if account.auth_object:
        organizations = [
            {"id": name, "is_default": True, "role": "owner", "title": "Personal"}
            for name in account.organizations
        ]
        more = {"groups": [], "organizations": organizations}
        claims[AUTH_CLAIM] = {**account.auth_claim, **more}
    return claims


def access_token_claims(account: Account, now: int) -> dict[str, Any]:
    claims: dict[str, Any] = {
        "iss": "https://auth.openai.com",
        "aud": ["https://api.openai.com/v1"],
        "client_id": CLIENT_ID,
        "sub": f"auth0|{account.user_id}",
        "iat": now,
        "nbf": now,
        "exp": now + account.access_token_seconds,
        "jti": str(uuid.uuid4()),
        "session_id": f"authsess_{secrets.token_hex(8)}",
        "scp": SCOPES,
    }
    if account.email:
        claims["https://api.openai.com/profile"] = {"email": account.email}
    if account.auth_object:
        claims[AUTH_CLAIM] = account.auth_claim
    return claims


class Issuer:
    """Signs users in and knows every token it has issued."""

    # Both are set by the server, which knows its port. Redirect addresses are compared with
    # the public one; recordings are made under the service's real name.
    issuer: str
    public_issuer: str

    def __init__(self) -> None:
        self.account = Account()
        self.clock: Callable[[], float] = time.time
        self.lock = threading.RLock()
        # Seconds between polls, a string as the live service writes it.
        self.interval: Any = "5"
        self.device_expires_in = 900.0
        self.approve_after_polls: int | None = None
        # The hosts to which the browser may be redirected. The service refused 127.0.0.1 until the
        # summer of 2026 (P32).
        self.redirect_hosts = {"127.0.0.1", "localhost"}
        self.issue_refresh_token = True
        # Whether using a refresh token twice ends every refresh token of that login.
        self.kill_family_on_reuse = False
        # Access tokens of the form `at-...`, each with its account.
        self.personal_tokens: dict[str, Account] = {}
        self.devices: dict[str, dict[str, Any]] = {}
        self.codes: dict[str, dict[str, Any]] = {}
        # Each with its account and state: "fresh", or the error code of the next use.
        self.refresh_tokens: dict[str, dict[str, Any]] = {}
        # Each with its account and the time it expires.
        self.access_tokens: dict[str, dict[str, Any]] = {}

    def approve(self, user_code: str, account: Account | None = None) -> None:
        """Approve a code, as the user does in the browser."""
        for device in self.devices.values():
            if device["user_code"] == user_code:
                device["state"], device["account"] = "approved", account or self.account
                return
        raise KeyError(user_code)

    def sign_in(self, account: Account | None = None) -> dict[str, Any]:
        """Return a token reply, as after a sign-in."""
        return self._issue(account or self.account, family=secrets.token_hex(4))

    def expire_access_tokens(self) -> None:
        for entry in self.access_tokens.values():
            entry["expires_at"] = 0.0

    # Device codes

    def serve_usercode(self, request: Request) -> Answer:
        if not request.is_json:
            return error_answer(400, "invalid_request")
        if request.body != {"client_id": CLIENT_ID}:
            return error_answer(400, "invalid_client")
        letters = "BCDFGHJKLMNPQRSTVWXZ23456789"
        user_code = "".join(secrets.choice(letters) for _ in range(9))
        user_code = f"{user_code[:4]}-{user_code[4:]}"
        device_auth_id = f"deviceauth_{secrets.token_hex(16)}"
        end = self.clock() + self.device_expires_in
        self.devices[device_auth_id] = {
            "user_code": user_code,
            "state": "pending",
            "polls": 0,
            "expires_at": end,
            "account": self.account,
        }
        moment = datetime.datetime.fromtimestamp(end, datetime.timezone.utc)
        body = {
            "device_auth_id": device_auth_id,
            "user_code": user_code,
            "interval": self.interval,
            "expires_at": moment.isoformat(),
        }
        return Answer(200, {k: v for k, v in body.items() if v is not None})

    def serve_device_token(self, request: Request) -> Answer:
        body = request.body
        if not isinstance(body, dict) or not {"device_auth_id", "user_code"} <= set(body):
            return error_answer(400, "invalid_request")
        device = self.devices.get(body["device_auth_id"])
        if device is None or device["user_code"] != body["user_code"]:
            return error_answer(404, "deviceauth_not_found")
        device["polls"] += 1
        if self.clock() > device["expires_at"]:
            return error_answer(403, "deviceauth_user_code_expired")
        if self.approve_after_polls is not None and device["polls"] > self.approve_after_polls:
            device["state"] = "approved"
        if device["state"] == "pending":
            return error_answer(403, "deviceauth_authorization_pending")
        # A device code works once; after that it is unknown.
        del self.devices[body["device_auth_id"]]
        verifier = base64url(secrets.token_bytes(64))
        challenge = pkce_challenge(verifier)
        redirect = f"{self.public_issuer}/deviceauth/callback"
        return Answer(
            200,
            {
                "authorization_code": self._new_code(challenge, redirect, device["account"]),
                "code_challenge": challenge,
                "code_verifier": verifier,
                "status": "approved",
            },
        )

    # The browser, and the exchange of codes for tokens

    def serve_authorize(self, request: Request) -> Answer:
        query = request.query
        wanted = {
            "response_type": "code",
            "client_id": CLIENT_ID,
            "code_challenge_method": "S256",
            "codex_cli_simplified_flow": "true",
        }
        redirect = query.get("redirect_uri", "")
        address = re.fullmatch(r"http://(localhost|127\.0\.0\.1):145[57]/auth/callback", redirect)
        if not (
            wanted.items() <= query.items()
            and set(SCOPES) <= set(query.get("scope", "").split())
            and address
            and len(query.get("code_challenge", "")) == 43
            and query.get("state")
            and query.get("id_token_add_organizations") in (None, "true")
        ):
            return error_page("invalid_request")
        if address[1] not in self.redirect_hosts:
            return error_page("authorize_hydra_invalid_request")
        account = self.account.choose(query.get("allowed_workspace_id", "").split(","))
        code = self._new_code(query["code_challenge"], redirect, account)
        # Otherwise the ID token of a user of several organizations names no account.
        self.codes[code]["add_organizations"] = query.get("id_token_add_organizations") == "true"
        target = urllib.parse.urlencode({"code": code, "state": query["state"]})
        return Answer(302, "", {"Location": f"{redirect}?{target}"})

    def _new_code(self, challenge: str, redirect_uri: str, account: Account) -> str:
        code = f"ac_{secrets.token_hex(24)}"
        self.codes[code] = {
            "challenge": challenge,
            "redirect_uri": redirect_uri,
            "account": account,
            "add_organizations": True,
        }
        return code

    def serve_token(self, request: Request) -> Answer:
        body = request.body
        if not isinstance(body, dict) or body.get("client_id") != CLIENT_ID:
            return error_answer(400, "invalid_request")
        if body.get("grant_type") == "authorization_code":
            return self._exchange(body)
        if body.get("grant_type") == "refresh_token":
            return self._refresh(body)
        return error_answer(400, "unsupported_grant_type")

    def _exchange(self, body: dict[str, str]) -> Answer:
        if set(body) != {"grant_type", "client_id", "code", "redirect_uri", "code_verifier"}:
            return error_answer(400, "invalid_request")
        entry = self.codes.pop(body["code"], None)
        if (
            entry is None
            or entry["redirect_uri"] != body["redirect_uri"]
            or entry["challenge"] != pkce_challenge(body["code_verifier"])
        ):
            return error_answer(400, "token_exchange_user_error")
        reply = self.sign_in(entry["account"])
        if not entry["add_organizations"]:
            reply["id_token"] = self._id_token_without_organizations(entry["account"])
        return Answer(200, reply)

    def _id_token_without_organizations(self, account: Account) -> str:
        claims = id_token_claims(account, int(self.clock()))
        if AUTH_CLAIM in claims:
            del claims[AUTH_CLAIM]["organizations"]
            if account.workspaces or len(account.organizations) > 1:
                claims[AUTH_CLAIM].pop("chatgpt_account_id", None)
        return make_jwt(claims)

    def _refresh(self, body: dict[str, str]) -> Answer:
        # Codex CLI adds a reason; a scope that was granted may be repeated.
        if set(body) - {"refresh_reason", "scope"} != REFRESH_FIELDS:
            return error_answer(400, "invalid_request")
        if not set(str(body.get("scope", "")).split()) <= {*SCOPES, *CONNECTOR_SCOPES}:
            return error_answer(400, "invalid_scope")
        with self.lock:
            entry = self.refresh_tokens.get(body["refresh_token"])
            if entry is None:
                return error_answer(401, "refresh_token_invalidated", "Your session has ended.")
            state = entry["state"]
            if state != "fresh":
                if state == "refresh_token_reused" and self.kill_family_on_reuse:
                    self._end_family(entry["family"])
                return error_answer(
                    401,
                    state,
                    "Your refresh token has already been used to generate a new access token. "
                    "Please try signing in again.",
                )
            entry["state"] = "refresh_token_reused"
            return Answer(200, self._issue(entry["account"], family=entry["family"]))

    def _end_family(self, family: str) -> None:
        for entry in self.refresh_tokens.values():
            if entry["family"] == family:
                entry["state"] = "refresh_token_invalidated"

    def _issue(self, account: Account, *, family: str) -> dict[str, Any]:
        now = int(self.clock())
        claims = access_token_claims(account, now)
        access_token, refresh_token = make_jwt(claims), f"rt_{secrets.token_hex(32)}"
        self.access_tokens[access_token] = {"account": account, "expires_at": claims["exp"]}
        self.refresh_tokens[refresh_token] = {
            "account": account,
            "state": "fresh",
            "family": family,
        }
        reply = {
            "id_token": make_jwt(id_token_claims(account, now)),
            "access_token": access_token,
            "refresh_token": refresh_token,
            "token_type": "Bearer",
            "expires_in": account.access_token_seconds,
            "scope": " ".join(SCOPES),
        }
        if not self.issue_refresh_token:
            del reply["refresh_token"]
        return reply

    # Revocation, and the owner of an access token

    def serve_revoke(self, request: Request) -> Answer:
        body = request.body
        if not request.is_json:
            return error_answer(400, "invalid_request")
        entry = self.refresh_tokens.get(body.get("token", ""))
        if body.get("token_type_hint") == "refresh_token" and entry:
            if body.get("client_id") != CLIENT_ID:
                return error_answer(400, "invalid_client")
            self._end_family(entry["family"])
        return Answer(200, {})

    def serve_whoami(self, request: Request) -> Answer:
        account = self.personal_tokens.get(request.bearer)
        if account is None:
            return error_answer(401, "token_invalidated")
        return Answer(
            200,
            {
                "email": account.email,
                "chatgpt_account_id": account.account_id,
                "chatgpt_plan_type": account.plan,
                "chatgpt_user_id": account.user_id,
            },
        )
