"""The ChatGPT login and the Codex backend on 127.0.0.1, as strict as the real ones.

Written from the project's protocol notes (auth.md, responses.md), not from what the plugin
sends. A test scripts faults with `Simulator.script`, answers with `Simulator.answer`, and
reads what arrived in `Simulator.requests`.

By hand:  python tests/simulator.py [--port N]     (approves every device code by itself)
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import dataclasses
import datetime
import hashlib
import html
import io
import json
import pathlib
import re
import secrets
import socket
import sys
import threading
import time
import urllib.parse
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

CLIENT_ID = "app_EMoamEEZ73f0CkXaXp7hrann"
CATALOGUE = json.loads((pathlib.Path(__file__).parent / "catalogue.json").read_text())["models"]
AUTH_CLAIM = "https://api.openai.com/auth"

# responses.md 3
UNSUPPORTED_PARAMETERS = [
    "max_output_tokens",
    "temperature",
    "top_p",
    "top_k",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "stop",
    "user",
    "metadata",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "safety_identifier",
    "truncation",
    "max_tool_calls",
    "background",
    "prompt_cache_retention",
    "previous_response_id",
]
KNOWN_PARAMETERS = {
    *[
        "model",
        "instructions",
        "input",
        "store",
        "stream",
        "include",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "reasoning",
        "text",
        "prompt_cache_key",
        "service_tier",
        "client_metadata",
        "stream_options",
        "context_management",
    ]
}
# responses.md 10: refused for ChatGPT accounts in 2026.
RETIRED = re.compile(
    r"gpt-5|gpt-5\.1.*|gpt-5-codex.*|gpt-5\.2-codex|codex-mini-latest|gpt-5\.5-pro"
)
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
# A picture of one pixel.
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
CLOUDFLARE_PAGE = "<!DOCTYPE html><html><head><title>Just a moment...</title></head></html>"


# What a model answers --------------------------------------------------------------


@dataclasses.dataclass
class Say:
    text: str
    deltas: list[str] | None = None
    annotations: list[dict[str, Any]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Refuse:
    text: str


@dataclasses.dataclass
class Think:
    summary: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Call:
    name: str
    arguments: Any
    call_id: str | None = None


@dataclasses.dataclass
class Search:
    query: str
    sources: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Draw:
    prompt: str
    picture: bytes = PNG
    output_format: str = "png"


# What a server does instead --------------------------------------------------------


@dataclasses.dataclass
class Answer:
    """A whole HTTP answer. `delay` seconds before it; `drop` closes without one."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    delay: float = 0.0
    drop: bool = False


@dataclasses.dataclass
class Stream:
    """A stream of raw pieces. `end`: "finish" (as HTTP wants), "cut" (without), "open"."""

    pieces: Iterable[bytes | float]
    end: str = "finish"
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    # The pieces are HTTP chunks already.
    chunked: bool = False


def sse(event: dict[str, Any]) -> bytes:
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


def web_page(status: int = 403) -> Answer:
    return Answer(
        status,
        CLOUDFLARE_PAGE,
        {
            "Content-Type": "text/html; charset=UTF-8",
            "cf-mitigated": "challenge",
            "CF-RAY": "8f0000000000abcd-FRA",
        },
    )


def error_answer(
    status: int, code: str | None, message: str = "It did not work.", **more: Any
) -> Answer:
    """The envelope of auth.md 5 and responses.md 8."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return Answer(status, {"error": {**error, **more}, "status": status})


def usage_limit(**more: Any) -> Answer:
    error = {
        "type": "usage_limit_reached",
        "message": "The usage limit has been reached",
        "plan_type": "plus",
        "resets_at": int(time.time()) + 36640,
        "resets_in_seconds": 36640,
        "eligible_promo": None,
    }
    return Answer(429, {"error": {**error, **more}})


# Who is signed in ------------------------------------------------------------------


@dataclasses.dataclass
class Account:
    """A ChatGPT user. What is None is left out of the claims."""

    email: str | None = "ada@example.com"
    plan: str | None = "plus"
    account_id: str | None = "5e1f7a3c-0000-4000-8000-00000000ada0"
    user_id: str = "user-ada"
    fedramp: bool = False
    auth_object: bool = True
    organizations: tuple[str, ...] = ("org-ada",)
    # Beside the catalogue; the service has retired these for many accounts.
    extra_models: tuple[str, ...] = ("gpt-5.2-codex", "gpt-5.3-codex", "gpt-5.2")
    workspace_origin: str | None = "https://chatgpt.com"
    access_token_seconds: int = 10 * 24 * 3600


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def make_jwt(claims: dict[str, Any]) -> str:
    header = base64url(json.dumps({"alg": "RS256", "typ": "JWT", "kid": "simulator"}).encode())
    payload = base64url(json.dumps(claims).encode())
    return f"{header}.{payload}.{base64url(secrets.token_bytes(32))}"


@dataclasses.dataclass
class Request:
    """One request as it arrived. `body` is JSON, or a form's fields, or None."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    raw: bytes
    body: Any
    connection: int
    at: float


class Refusal(Exception):
    def __init__(self, answer: Answer):
        self.answer = answer


def refuse(status: int, detail: Any) -> Refusal:
    return Refusal(Answer(status, {"detail": detail}))


class Simulator:
    """Start it with `with Simulator() as simulator:`; every knob is an attribute."""

    def __init__(self, port: int = 0) -> None:
        self.account = Account()
        self.requests: list[Request] = []
        self.clock: Callable[[], float] = time.time
        # Device login: "5" as the live service writes it; tests do not wait for it.
        self.interval: Any = "5"
        self.device_expires_in = 900.0
        self.approve_after_polls: int | None = None
        self.issue_refresh_token = True
        self.kill_family_on_reuse = False
        self.require_account_header = True
        self.models: list[dict[str, Any]] = [self._catalogue_entry(m) for m in CATALOGUE]
        self.retired = RETIRED
        self.served_model: str | None = None
        self.refuses_summary: set[str] = set()
        self.used_percent = {"primary": 30.0, "secondary": 12.0}
        self.response_headers: dict[str, str] = {}
        self.frames_per_write = 1
        self.lock = threading.RLock()
        self._scripts: dict[str, deque[Any]] = {}
        self._answers: deque[Any] = deque()
        self._devices: dict[str, dict[str, Any]] = {}
        self._codes: dict[str, dict[str, Any]] = {}
        self._refresh_tokens: dict[str, dict[str, Any]] = {}
        self._access_tokens: dict[str, dict[str, Any]] = {}
        self._reasoning: dict[str, str] = {}
        self._turn_states: set[str] = set()
        self._sessions: dict[str, list[str]] = {}
        self._counter = 0
        self.personal_tokens: dict[str, Account] = {}
        handler = type("Handler", (_Handler,), {"simulator": self})
        self._server = _Server(("127.0.0.1", port), handler)
        self.port = self._server.server_address[1]
        self.issuer = f"http://127.0.0.1:{self.port}"
        self.base_url = f"{self.issuer}/backend-api"
        # What redirect addresses are compared with; cassettes are made under the real name.
        self.public_issuer = self.issuer

    @staticmethod
    def _catalogue_entry(model: dict[str, Any]) -> dict[str, Any]:
        """As /models writes it: levels as objects, a successor as an object, and more."""
        levels = model["supported_reasoning_levels"]
        return {
            **model,
            "supported_reasoning_levels": [{"effort": e, "description": e} for e in levels],
            "service_tiers": [
                {"id": tier, "name": "Fast", "description": "Faster"}
                for tier in model["service_tiers"]
            ],
            "upgrade": {"model": model["upgrade"], "migration_markdown": "Try it."}
            if model["upgrade"]
            else None,
            # What the official client 0.169.0 demands beside what the notes tell of.
            "description": f"{model['display_name']}, as far as it goes",
            "base_instructions": "You are a coding agent. " * 50,
            "supported_in_api": True,
            "shell_type": "shell_command",
            "apply_patch_tool_type": "freeform",
            "supports_reasoning_summaries": True,
            "supports_parallel_tool_calls": True,
            "truncation_policy": {"mode": "tokens", "limit": 10000},
            "experimental_supported_tools": [],
            "an_unknown_field": {"deep": [1, 2]},
        }

    # Life

    def __enter__(self) -> Simulator:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def environment(self) -> dict[str, str]:
        """The two settings by which the plugin finds it."""
        return {"LLM_CHATGPT_ISSUER": self.issuer, "LLM_CHATGPT_BASE_URL": self.base_url}

    # What tests say

    def script(self, endpoint: str, *answers: Any) -> None:
        """The next answers of an endpoint ("usercode", "device_token", "authorize", "token",
        "revoke", "whoami", "responses", "models", "usage", "accounts"). Each an Answer, a
        Stream, None (the normal thing), or a function of the request that returns one."""
        self._scripts.setdefault(endpoint, deque()).extend(answers)

    def answer(self, *items: Any) -> None:
        """What the model says next time: Say, Think, Call, Search, Draw."""
        self._answers.append(list(items))

    def seen(self, path: str) -> list[Request]:
        """The requests whose path ends so."""
        return [request for request in self.requests if request.path.endswith(path)]

    @property
    def refreshes(self) -> list[Request]:
        return [r for r in self.seen("/oauth/token") if r.body["grant_type"] == "refresh_token"]

    @property
    def prompts(self) -> list[Any]:
        return [request.body for request in self.seen("/codex/responses")]

    def approve(self, user_code: str, account: Account | None = None) -> None:
        """The person has entered the code in the browser and agreed."""
        for device in self._devices.values():
            if device["user_code"] == user_code:
                device["state"], device["account"] = "approved", account or self.account
                return
        raise KeyError(user_code)

    def sign_in(self, account: Account | None = None) -> dict[str, Any]:
        """A token reply, as if a login had just happened."""
        return self._issue(account or self.account, family=secrets.token_hex(4))

    def expire_access_tokens(self) -> None:
        for entry in self._access_tokens.values():
            entry["expires_at"] = 0.0

    # The issuer

    def _usercode(self, request: Request) -> Answer:
        if not isinstance(request.body, dict) or "json" not in request.headers.get(
            "content-type", ""
        ):
            return error_answer(400, "invalid_request")
        if request.body.get("client_id") != CLIENT_ID or set(request.body) != {"client_id"}:
            return error_answer(400, "invalid_client")
        letters = "BCDFGHJKLMNPQRSTVWXZ23456789"
        user_code = "".join(secrets.choice(letters) for _ in range(4))
        user_code += "-" + "".join(secrets.choice(letters) for _ in range(5))
        device_auth_id = f"deviceauth_{secrets.token_hex(16)}"
        end = self.clock() + self.device_expires_in
        self._devices[device_auth_id] = {
            "user_code": user_code,
            "state": "pending",
            "polls": 0,
            "ends": end,
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

    def _device_token(self, request: Request) -> Answer:
        body = request.body
        if not isinstance(body, dict) or not {"device_auth_id", "user_code"} <= set(body):
            return error_answer(400, "invalid_request")
        device = self._devices.get(body["device_auth_id"])
        if device is None or device["user_code"] != body["user_code"]:
            return error_answer(404, "deviceauth_not_found")
        device["polls"] += 1
        if self.clock() > device["ends"]:
            return error_answer(403, "deviceauth_user_code_expired")
        if self.approve_after_polls is not None and device["polls"] > self.approve_after_polls:
            device["state"] = "approved"
        if device["state"] == "denied":
            return error_answer(401, "authorization_declined")
        if device["state"] == "pending":
            return error_answer(403, "deviceauth_authorization_pending")
        # Single use: asked again, it is not known any more.
        del self._devices[body["device_auth_id"]]
        verifier = base64url(secrets.token_bytes(64))
        challenge = base64url(hashlib.sha256(verifier.encode()).digest())
        code = f"ac_{secrets.token_hex(24)}"
        self._codes[code] = {
            "challenge": challenge,
            "redirect_uri": f"{self.public_issuer}/deviceauth/callback",
            "account": device["account"],
        }
        return Answer(
            200,
            {
                "authorization_code": code,
                "code_challenge": challenge,
                "code_verifier": verifier,
                "status": "approved",
            },
        )

    def _authorize(self, request: Request) -> Answer:
        query = request.query
        wanted = {
            "response_type": "code",
            "client_id": CLIENT_ID,
            "code_challenge_method": "S256",
            "id_token_add_organizations": "true",
            "codex_cli_simplified_flow": "true",
        }
        redirect = query.get("redirect_uri", "")
        fine = all(query.get(name) == value for name, value in wanted.items())
        fine = fine and {"openid", "profile", "email", "offline_access"} <= set(
            query.get("scope", "").split()
        )
        fine = fine and bool(
            re.fullmatch(r"http://(localhost|127\.0\.0\.1):(1455|1457)/auth/callback", redirect)
        )
        fine = fine and len(query.get("code_challenge", "")) == 43 and bool(query.get("state"))
        if not fine:
            return Answer(400, "<html>invalid_request</html>", {"Content-Type": "text/html"})
        code = f"ac_{secrets.token_hex(24)}"
        self._codes[code] = {
            "challenge": query["code_challenge"],
            "redirect_uri": redirect,
            "account": self.account,
        }
        target = urllib.parse.urlencode({"code": code, "state": query["state"]})
        return Answer(302, "", {"Location": f"{redirect}?{target}"})

    def _token(self, request: Request) -> Answer:
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
        entry = self._codes.pop(body["code"], None)
        challenge = base64url(hashlib.sha256(body["code_verifier"].encode()).digest())
        if (
            entry is None
            or entry["redirect_uri"] != body["redirect_uri"]
            or entry["challenge"] != challenge
        ):
            return error_answer(400, "token_exchange_user_error")
        return Answer(200, self._issue(entry["account"], family=secrets.token_hex(4)))

    def _refresh(self, body: dict[str, str]) -> Answer:
        if "scope" in body:
            return error_answer(400, "invalid_request")
        with self.lock:
            entry = self._refresh_tokens.get(body.get("refresh_token", ""))
            if entry is None:
                return error_answer(401, "refresh_token_invalidated", "Your session has ended.")
            if entry["state"] != "fresh":
                if entry["state"] == "refresh_token_reused" and self.kill_family_on_reuse:
                    for other in self._refresh_tokens.values():
                        if other["family"] == entry["family"]:
                            other["state"] = "refresh_token_invalidated"
                return error_answer(
                    401,
                    entry["state"],
                    "Your refresh token has already been used to generate a new access token. "
                    "Please try signing in again.",
                )
            entry["state"] = "refresh_token_reused"
            return Answer(200, self._issue(entry["account"], family=entry["family"]))

    def _issue(self, account: Account, *, family: str) -> dict[str, Any]:
        now = int(self.clock())
        auth: dict[str, Any] = {
            "chatgpt_account_id": account.account_id,
            "chatgpt_plan_type": account.plan,
            "chatgpt_user_id": account.user_id,
            "chatgpt_account_user_id": f"{account.user_id}__{account.account_id}",
            "chatgpt_compute_residency": "no_constraint",
        }
        if account.fedramp:
            auth["chatgpt_account_is_fedramp"] = True
        auth = {k: v for k, v in auth.items() if v is not None}
        organizations = [
            {"id": name, "is_default": True, "role": "owner", "title": "Personal"}
            for name in account.organizations
        ]
        id_claims: dict[str, Any] = {
            "iss": "https://auth.openai.com",
            "aud": [CLIENT_ID],
            "sub": f"auth0|{account.user_id}",
            "iat": now,
            "exp": now + 3600,
            "jti": str(uuid.uuid4()),
        }
        access_claims: dict[str, Any] = {
            "iss": "https://auth.openai.com",
            "aud": ["https://api.openai.com/v1"],
            "client_id": CLIENT_ID,
            "sub": f"auth0|{account.user_id}",
            "iat": now,
            "nbf": now,
            "exp": now + account.access_token_seconds,
            "jti": str(uuid.uuid4()),
            "session_id": f"authsess_{secrets.token_hex(8)}",
            "scp": ["openid", "profile", "email", "offline_access"],
        }
        if account.email:
            id_claims |= {"email": account.email, "email_verified": True}
            access_claims["https://api.openai.com/profile"] = {"email": account.email}
        if account.auth_object:
            id_claims[AUTH_CLAIM] = {**auth, "groups": [], "organizations": organizations}
            access_claims[AUTH_CLAIM] = auth
        access_token, refresh_token = make_jwt(access_claims), f"rt_{secrets.token_hex(32)}"
        self._access_tokens[access_token] = {
            "account": account,
            "expires_at": access_claims["exp"],
        }
        self._refresh_tokens[refresh_token] = {
            "account": account,
            "state": "fresh",
            "family": family,
        }
        reply = {
            "id_token": make_jwt(id_claims),
            "access_token": access_token,
            "refresh_token": refresh_token,
            "token_type": "Bearer",
            "expires_in": account.access_token_seconds,
            "scope": "openid profile email offline_access",
        }
        if not self.issue_refresh_token:
            del reply["refresh_token"]
        return reply

    def _revoke(self, request: Request) -> Answer:
        body = request.body
        if not isinstance(body, dict) or "json" not in request.headers.get("content-type", ""):
            return error_answer(400, "invalid_request")
        entry = self._refresh_tokens.get(body.get("token", ""))
        if body.get("token_type_hint") == "refresh_token" and entry:
            if body.get("client_id") != CLIENT_ID:
                return error_answer(400, "invalid_client")
            for other in self._refresh_tokens.values():
                if other["family"] == entry["family"]:
                    other["state"] = "refresh_token_invalidated"
        return Answer(200, {})

    def _whoami(self, request: Request) -> Answer:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        account = self.personal_tokens.get(token)
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

    # The backend

    def _signed_in(self, request: Request) -> Account:
        agent = request.headers.get("user-agent", "")
        if not agent or agent.startswith("Python-urllib"):
            raise Refusal(web_page())
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        if bearer in self.personal_tokens:
            return self.personal_tokens[bearer]
        entry = self._access_tokens.get(bearer)
        if entry is None:
            raise refuse(401, "Could not parse your authentication token. Please try again.")
        if entry["expires_at"] <= self.clock():
            raise Refusal(
                error_answer(
                    401,
                    "token_expired",
                    "Provided authentication token is expired. Please try signing in again.",
                )
            )
        account: Account = entry["account"]
        named = request.headers.get("chatgpt-account-id")
        if named != account.account_id and (named or self.require_account_header):
            raise refuse(401, "Unauthorized")
        if account.fedramp and request.headers.get("x-openai-fedramp") != "true":
            raise refuse(401, "Unauthorized")
        return account

    def _models(self, request: Request) -> Answer:
        self._signed_in(request)
        version = request.query.get("client_version")
        if not version:
            return Answer(400, {"detail": [{"loc": ["query", "client_version"], "msg": "missing"}]})
        shown = [
            m for m in self.models if _version(m["minimal_client_version"]) <= _version(version)
        ]
        return Answer(200, {"models": shown}, {"ETag": self.models_etag})

    @property
    def models_etag(self) -> str:
        return 'W/"' + hashlib.sha256(json.dumps(self.models).encode()).hexdigest()[:16] + '"'

    def _usage(self, request: Request) -> Answer:
        account = self._signed_in(request)

        def window(name: str, seconds: int) -> dict[str, Any]:
            return {
                "used_percent": self.used_percent[name],
                "limit_window_seconds": seconds,
                "reset_after_seconds": seconds // 2,
                "reset_at": int(self.clock()) + seconds // 2,
            }

        return Answer(
            200,
            {
                "user_id": account.user_id,
                "account_id": account.account_id,
                "email": account.email,
                "plan_type": account.plan,
                "rate_limit": {
                    "allowed": True,
                    "limit_reached": False,
                    "primary_window": window("primary", 18000),
                    "secondary_window": window("secondary", 604800),
                },
                "code_review_rate_limit": None,
                "additional_rate_limits": None,
                "credits": {"has_credits": False, "unlimited": False, "balance": "0"},
                "spend_control": {"reached": False, "individual_limit": None},
                "rate_limit_reached_type": None,
                "rate_limit_reset_credits": {"available_count": 0},
            },
        )

    def _accounts(self, request: Request) -> Answer:
        account = self._signed_in(request)
        entry = {
            "id": account.account_id,
            "workspace_backend_origin": account.workspace_origin,
            "account_routing_override": "NO_CONSTRAINT",
            "plan_type": account.plan,
            "structure": "personal",
            "is_deactivated": False,
            "is_fedramp_compliant_workspace": account.fedramp,
            "can_access_with_session": True,
        }
        return Answer(200, {"accounts": [entry], "account_ordering": [account.account_id]})

    def _responses(self, request: Request) -> Answer | Stream:
        account = self._signed_in(request)
        body = request.body
        if not isinstance(body, dict):
            return Answer(400, {"detail": "Invalid JSON"})
        self._check_body(body, account, request)
        session = request.headers.get("session-id") or request.headers.get("session_id")
        return Stream(
            self._grouped(self._answer_frames(body, account, session)),
            headers=self._stream_headers(account),
        )

    def _stream_headers(self, account: Account) -> dict[str, str]:
        state = "ts_" + secrets.token_hex(450)
        self._turn_states.add(state)
        now = int(self.clock())
        headers = {
            "x-oai-request-id": str(uuid.uuid4()),
            "CF-RAY": f"{secrets.token_hex(8)}-FRA",
            "x-models-etag": self.models_etag,
            "x-codex-turn-state": state,
            "x-codex-plan-type": account.plan or "unknown",
            "x-codex-active-limit": "premium",
            "x-codex-primary-over-secondary-limit-percent": "100",
            "x-codex-credits-has-credits": "False",
            "x-codex-credits-unlimited": "False",
            "x-codex-credits-balance": "0",
        }
        for name, minutes in (("primary", 300), ("secondary", 10080)):
            self.used_percent[name] += 0.1
            headers |= {
                f"x-codex-{name}-used-percent": f"{self.used_percent[name]:.1f}",
                f"x-codex-{name}-window-minutes": str(minutes),
                f"x-codex-{name}-reset-after-seconds": str(minutes * 30),
                f"x-codex-{name}-reset-at": str(now + minutes * 30),
            }
        return {**headers, **self.response_headers}

    def _check_body(self, body: dict[str, Any], account: Account, request: Request) -> None:
        """The order of responses.md 14.1."""
        if body.get("store") is not False:
            raise refuse(400, "Store must be set to false")
        if body.get("stream") is not True:
            raise refuse(400, "Stream must be set to true")
        for name in body:
            if name in UNSUPPORTED_PARAMETERS or name not in KNOWN_PARAMETERS:
                raise refuse(400, f"Unsupported parameter: {name}")
        tier = body.get("service_tier")
        if tier not in (None, "priority", "default", "ultrafast"):
            raise refuse(400, f"Unsupported service_tier: {tier}")
        items = body.get("input")
        if not isinstance(items, list):
            raise refuse(400, "Input must be a list")
        # 0.169.0 sends its own instructions as the first developer message instead.
        begins = items[0].get("role") if items else None
        if not body.get("instructions") and begins != "developer":
            raise refuse(400, "Instructions are required")
        if any(item.get("role") == "system" for item in items):
            raise refuse(400, "System messages are not allowed")
        self._check_model(body, account)
        self._check_format(body)
        self._check_items(items, account)
        state = request.headers.get("x-codex-turn-state")
        if state is not None and state not in self._turn_states:
            raise refuse(400, "Invalid turn state")

    def _check_model(self, body: dict[str, Any], account: Account) -> None:
        slug = body.get("model")
        entry = next((m for m in self.models if m["slug"] == slug), None)
        if entry is None and slug not in account.extra_models:
            if isinstance(slug, str) and self.retired.fullmatch(slug):
                raise refuse(
                    400,
                    f"The '{slug}' model is not supported when using Codex with a ChatGPT account.",
                )
            raise Refusal(error_answer(404, None, f"Model not found {slug}", param="model"))
        reasoning = body.get("reasoning") or {}
        if not set(reasoning) <= {"effort", "summary", "context"}:
            raise refuse(400, "Unsupported parameter: reasoning.mode")
        if "summary" in reasoning:
            if slug in self.refuses_summary:
                raise Refusal(
                    error_answer(
                        400,
                        "unsupported_parameter",
                        "Unsupported parameter: 'reasoning.summary' is not supported with the "
                        f"'{slug}' model.",
                        param="reasoning.summary",
                    )
                )
            if reasoning["summary"] not in ("auto", "concise", "detailed"):
                raise Refusal(error_answer(400, "invalid_value", "Invalid value for summary"))
        effort = reasoning.get("effort")
        if effort is not None:
            levels = (
                [level["effort"] for level in entry["supported_reasoning_levels"]] if entry else []
            )
            allowed = {"none", *(level for level in levels if level != "ultra")}
            if (entry and effort not in allowed) or effort not in EFFORTS:
                values = ", ".join(f"'{e}'" for e in levels if e != "ultra")
                raise Refusal(
                    error_answer(
                        400,
                        "unsupported_value",
                        f"Unsupported value: '{effort}' is not supported with the '{slug}' model. "
                        f"Supported values are: {values}.",
                        param="reasoning.effort",
                    )
                )

    def _check_format(self, body: dict[str, Any]) -> None:
        for name in body.get("include") or []:
            if name not in ("reasoning.encrypted_content", "web_search_call.action.sources"):
                raise Refusal(error_answer(400, "invalid_value", f"Invalid include: {name}"))
        text = body.get("text") or {}
        if text.get("verbosity") not in (None, "low", "medium", "high"):
            raise Refusal(error_answer(400, "invalid_value", "Invalid verbosity"))
        form = text.get("format") or {}
        if form.get("type") == "json_schema":
            if not form.get("name") or not isinstance(form.get("schema"), dict):
                raise Refusal(error_answer(400, "invalid_json_schema", "Schema is missing"))
            if form.get("strict") and not _strict(form["schema"]):
                raise Refusal(
                    error_answer(
                        400,
                        "invalid_json_schema",
                        "Invalid schema for response_format 'output': In context=(), "
                        "'additionalProperties' is required to be supplied and to be false.",
                        param="text.format.schema",
                    )
                )
        for tool in body.get("tools") or []:
            kind = tool.get("type")
            if kind == "function":
                if not re.fullmatch(r"[a-zA-Z0-9_-]+", tool.get("name") or ""):
                    raise Refusal(error_answer(400, "invalid_value", "Invalid 'tools[0].name'"))
                if not isinstance(tool.get("parameters"), dict) or "strict" not in tool:
                    raise Refusal(error_answer(400, "missing_required_parameter", "parameters"))
            elif kind == "web_search":
                known = [
                    "type",
                    "external_web_access",
                    "indexed_web_access",
                    "filters",
                    "user_location",
                    "search_context_size",
                    "search_content_types",
                ]
                extra = sorted(set(tool) - set(known))
                extra += sorted(set(tool.get("filters") or {}) - {"allowed_domains"})
                if extra:
                    raise Refusal(error_answer(400, "unknown_parameter", f"Unknown: {extra[0]}"))
            elif kind not in ("image_generation", "custom", "namespace", "tool_search"):
                raise Refusal(error_answer(400, "invalid_value", f"Invalid tool type {kind}"))

    def _check_items(self, items: list[dict[str, Any]], account: Account) -> None:
        calls: list[str] = []
        for number, item in enumerate(items):
            kind = item.get("type", "message")
            if kind == "message":
                self._check_message(item, number)
            elif kind == "function_call":
                if not isinstance(item.get("arguments"), str) or not item.get("name"):
                    raise Refusal(error_answer(400, "invalid_value", f"Invalid input[{number}]"))
                if not item.get("call_id") or len(item["call_id"]) > 64:
                    raise Refusal(
                        error_answer(400, "string_above_max_length", f"input[{number}].call_id")
                    )
                calls.append(item["call_id"])
            elif kind == "function_call_output":
                output = item.get("output")
                if not isinstance(output, (str, list)) or set(item) - {
                    *("type", "call_id", "output", "id", "status")
                }:
                    raise Refusal(error_answer(400, "invalid_value", f"Invalid input[{number}]"))
                if item.get("call_id") not in calls:
                    raise Refusal(
                        error_answer(
                            400,
                            None,
                            "No tool call found for function call output with call_id "
                            f"{item.get('call_id')}.",
                            param="input",
                        )
                    )
                if isinstance(output, list):
                    self._check_message({"role": "user", "content": output}, number)
                calls.remove(item["call_id"])
            elif kind == "reasoning":
                self._check_reasoning(item, account)
            elif kind == "web_search_call":
                action = item.get("action") or {}
                if action.get("type") not in ("search", "open_page", "find_in_page"):
                    raise Refusal(error_answer(400, "invalid_value", f"input[{number}].action"))
                if "sources" in action:
                    raise Refusal(error_answer(400, "unknown_parameter", "action.sources"))
            elif kind not in ("image_generation_call", "custom_tool_call", "additional_tools"):
                raise Refusal(error_answer(400, "invalid_value", f"Invalid input[{number}].type"))
        if calls:
            raise Refusal(
                error_answer(
                    400, None, f"No tool output found for function call {calls[0]}.", param="input"
                )
            )

    def _check_message(self, item: dict[str, Any], number: int) -> None:
        role, content = item.get("role"), item.get("content")
        if role not in ("user", "assistant", "developer"):
            raise Refusal(error_answer(400, "invalid_value", f"Invalid input[{number}].role"))
        if isinstance(content, str):
            return
        if not isinstance(content, list) or not content:
            raise Refusal(
                error_answer(400, None, f"Missing required parameter: 'input[{number}].content'")
            )
        for part in content:
            kind = part.get("type")
            fine = kind in (("output_text", "refusal") if role == "assistant" else ("input_text",))
            if kind == "input_image" and role != "assistant":
                fine = part.get("detail") in (None, "auto", "low", "high", "original")
                url = part.get("image_url") or ""
                if url.startswith("data:"):
                    fine = fine and bool(
                        re.match(r"data:image/(png|jpeg|webp|gif);base64,[A-Za-z0-9+/]", url)
                    )
                elif not url.startswith("https://"):
                    fine = False
            elif fine and not isinstance(part.get("text"), str):
                fine = False
            if not fine:
                raise Refusal(
                    error_answer(
                        400, "invalid_value", f"Invalid value: '{kind}' in input[{number}].content"
                    )
                )

    def _check_reasoning(self, item: dict[str, Any], account: Account) -> None:
        encrypted = item.get("encrypted_content")
        if not encrypted and item.get("id"):
            raise Refusal(
                error_answer(
                    404,
                    None,
                    f"Item with id '{item['id']}' not found. Items are not persisted when 'store' "
                    "is set to false. Try again with `store` set to true, or remove this item from "
                    "your input.",
                    param="input",
                )
            )
        if self._reasoning.get(encrypted or "") != account.account_id:
            raise Refusal(
                error_answer(
                    400,
                    "invalid_encrypted_content",
                    "The encrypted content could not be verified. Reason: Encrypted content could "
                    "not be decrypted or parsed.",
                )
            )
        if not isinstance(item.get("summary"), list):
            raise Refusal(error_answer(400, None, "Missing required parameter: 'summary'"))

    # The stream

    def _grouped(self, frames: Iterator[bytes]) -> Iterator[bytes]:
        if self.frames_per_write == 1:
            yield from frames
            return
        group: list[bytes] = []
        for frame in frames:
            group.append(frame)
            if len(group) == self.frames_per_write:
                yield b"".join(group)
                group.clear()
        if group:
            yield b"".join(group)

    def _answer_frames(
        self, body: dict[str, Any], account: Account, session: str | None
    ) -> Iterator[bytes]:
        with self.lock:
            items = self._answers.popleft() if self._answers else self._default_answer(body)
        return self.frames(items, body, account, session)

    def frames(
        self,
        items: list[Any],
        body: dict[str, Any] | None = None,
        account: Account | None = None,
        session: str | None = None,
        terminal: str = "completed",
        **changes: Any,
    ) -> Iterator[bytes]:
        """An answer's frames in the order of responses.md 6."""
        body = body if body is not None else {"model": "gpt-6-luna", "input": []}
        account = account or self.account
        numbers = iter(range(10**9))

        def event(kind: str, **fields: Any) -> bytes:
            return sse({"type": kind, "sequence_number": next(numbers), **fields})

        response = self._response_object(body, session)
        yield event("response.created", response=response)
        yield event("response.in_progress", response=response)
        reasoning_tokens = output_tokens = 0
        for index, item in enumerate(items):
            frames, tokens = self._item_frames(item, index, event, body, account)
            yield from frames
            output_tokens += tokens
            if isinstance(item, Think):
                reasoning_tokens += tokens
        usage = self._count_usage(body, session, output_tokens, reasoning_tokens)
        final = {
            **response,
            "status": terminal,
            "completed_at": int(self.clock()),
            "usage": usage,
            **changes,
        }
        yield event(f"response.{terminal}", response=final)

    def _response_object(self, body: dict[str, Any], session: str | None) -> dict[str, Any]:
        reasoning = body.get("reasoning") or {}
        text = body.get("text") or {}
        return {
            "id": f"resp_{secrets.token_hex(24)}",
            "object": "response",
            "created_at": int(self.clock()),
            "status": "in_progress",
            "background": False,
            "completed_at": None,
            "error": None,
            "incomplete_details": None,
            "instructions": body.get("instructions"),
            "model": self.served_model or body["model"],
            # Empty even at the end (responses.md 7).
            "output": [],
            "parallel_tool_calls": body.get("parallel_tool_calls", True),
            "previous_response_id": None,
            "prompt_cache_key": session or str(uuid.uuid4()),
            "reasoning": {
                "context": "all_turns",
                "effort": reasoning.get("effort", "medium"),
                "summary": reasoning.get("summary"),
            },
            "safety_identifier": "user-simulated-identifier",
            "service_tier": "default",
            "store": False,
            "temperature": 1.0,
            "text": {
                "format": text.get("format") or {"type": "text"},
                "verbosity": text.get("verbosity", "medium"),
            },
            "tool_choice": "auto",
            "tools": body.get("tools") or [],
            "tool_usage": {
                "image_gen": {
                    "input_tokens": 0,
                    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
                    "output_tokens": 0,
                    "output_tokens_details": {"image_tokens": 0, "text_tokens": 0},
                    "total_tokens": 0,
                },
                "web_search": {"num_requests": 0},
            },
            "top_logprobs": 0,
            "top_p": 0.98,
            "truncation": "disabled",
            "usage": None,
            "user": None,
            "metadata": {},
        }

    def _count_usage(
        self, body: dict[str, Any], session: str | None, output: int, reasoning: int
    ) -> dict[str, Any]:
        """Cached only what the same session header has sent before (responses.md 12)."""
        head = json.dumps([body.get("instructions"), body.get("tools")])
        texts = [head, *(json.dumps(item) for item in body.get("input", []))]
        with self.lock:
            before = self._sessions.get(session or "", [])
            common = 0
            for old, new in zip(before, texts, strict=False):
                if old != new:
                    break
                common += len(new) // 4
            if session:
                self._sessions[session] = texts
        total = sum(len(text) // 4 for text in texts) + 1
        return {
            "input_tokens": total,
            "input_tokens_details": {"cached_tokens": common, "cache_write_tokens": 0},
            "output_tokens": output,
            "output_tokens_details": {"reasoning_tokens": reasoning},
            "total_tokens": total + output,
            "attribution": {"item_ids": ["internal"]},
        }

    def _item_frames(
        self, item: Any, index: int, event: Callable[..., bytes], body: Any, account: Account
    ) -> tuple[Iterator[bytes], int]:
        if isinstance(item, (Say, Refuse)):
            return self._message_frames(item, index, event), max(1, len(item.text) // 4)
        if isinstance(item, Think):
            return self._thinking_frames(item, index, event, body, account), 64
        if isinstance(item, Call):
            return self._call_frames(item, index, event), 20
        if isinstance(item, Search):
            return self._search_frames(item, index, event, body), 5
        return self._drawing_frames(item, index, event), 5

    def _message_frames(
        self, item: Say | Refuse, index: int, event: Callable[..., bytes]
    ) -> Iterator[bytes]:
        identifier = f"msg_{secrets.token_hex(24)}"
        place = {"item_id": identifier, "output_index": index, "content_index": 0}
        started = {
            "id": identifier,
            "type": "message",
            "status": "in_progress",
            "content": [],
            "role": "assistant",
            "phase": "final_answer",
        }
        yield event("response.output_item.added", output_index=index, item=started)
        if isinstance(item, Refuse):
            part: dict[str, Any] = {"type": "refusal", "refusal": ""}
            yield event("response.content_part.added", **place, part=part)
            yield event("response.refusal.delta", **place, delta=item.text)
            yield event("response.refusal.done", **place, refusal=item.text)
            part = {"type": "refusal", "refusal": item.text}
        else:
            part = {"type": "output_text", "annotations": [], "logprobs": [], "text": ""}
            yield event("response.content_part.added", **place, part=part)
            for delta in item.deltas or _pieces(item.text):
                yield event(
                    "response.output_text.delta",
                    **place,
                    delta=delta,
                    logprobs=[],
                    obfuscation=secrets.token_hex(4),
                )
            for number, annotation in enumerate(item.annotations):
                yield event(
                    "response.output_text.annotation.added",
                    **place,
                    annotation_index=number,
                    annotation=annotation,
                )
            yield event("response.output_text.done", **place, text=item.text, logprobs=[])
            part = {**part, "text": item.text, "annotations": item.annotations}
        yield event("response.content_part.done", **place, part=part)
        done = {**started, "status": "completed", "content": [part]}
        yield event("response.output_item.done", output_index=index, item=done)

    def _thinking_frames(
        self,
        item: Think,
        index: int,
        event: Callable[..., bytes],
        body: dict[str, Any],
        account: Account,
    ) -> Iterator[bytes]:
        identifier = f"rs_{secrets.token_hex(24)}"
        wanted = "reasoning.encrypted_content" in (body.get("include") or [])

        def state(summary: list[Any]) -> dict[str, Any]:
            fields: dict[str, Any] = {"id": identifier, "type": "reasoning", "summary": summary}
            if wanted:
                # Another string each time; only that of the last event can be sent back.
                fields["encrypted_content"] = f"gAAAA{secrets.token_hex(60)}"
            return fields

        yield event("response.output_item.added", output_index=index, item=state([]))
        summary = []
        # Summaries come only when asked for.
        for number, text in enumerate(
            item.summary if (body.get("reasoning") or {}).get("summary") else []
        ):
            place = {"item_id": identifier, "output_index": index, "summary_index": number}
            part = {"type": "summary_text", "text": ""}
            yield event("response.reasoning_summary_part.added", **place, part=part)
            for delta in _pieces(text):
                yield event("response.reasoning_summary_text.delta", **place, delta=delta)
            yield event("response.reasoning_summary_text.done", **place, text=text)
            part = {"type": "summary_text", "text": text}
            yield event("response.reasoning_summary_part.done", **place, part=part)
            summary.append(part)
        done = state(summary)
        if wanted:
            self._reasoning[done["encrypted_content"]] = account.account_id or ""
        yield event("response.output_item.done", output_index=index, item=done)

    def _call_frames(self, item: Call, index: int, event: Callable[..., bytes]) -> Iterator[bytes]:
        identifier = f"fc_{secrets.token_hex(24)}"
        arguments = (
            item.arguments if isinstance(item.arguments, str) else json.dumps(item.arguments)
        )
        started = {
            "id": identifier,
            "type": "function_call",
            "status": "in_progress",
            "arguments": "",
            "call_id": item.call_id or f"call_{secrets.token_hex(12)}",
            "name": item.name,
        }
        place = {"item_id": identifier, "output_index": index}
        yield event("response.output_item.added", output_index=index, item=started)
        for delta in _pieces(arguments, 7):
            yield event("response.function_call_arguments.delta", **place, delta=delta)
        yield event(
            "response.function_call_arguments.done", **place, arguments=arguments, name=item.name
        )
        done = {**started, "status": "completed", "arguments": arguments}
        yield event("response.output_item.done", output_index=index, item=done)

    def _search_frames(
        self, item: Search, index: int, event: Callable[..., bytes], body: dict[str, Any]
    ) -> Iterator[bytes]:
        identifier = f"ws_{secrets.token_hex(24)}"
        place = {"item_id": identifier, "output_index": index}
        action: dict[str, Any] = {"type": "search", "query": item.query, "queries": [item.query]}
        started = {
            "id": identifier,
            "type": "web_search_call",
            "status": "in_progress",
            "action": action,
        }
        yield event("response.output_item.added", output_index=index, item=started)
        for step in ("in_progress", "searching", "completed"):
            yield event(f"response.web_search_call.{step}", **place)
        if "web_search_call.action.sources" in (body.get("include") or []):
            action = {**action, "sources": [{"type": "url", "url": url} for url in item.sources]}
        done = {**started, "status": "completed", "action": action}
        yield event("response.output_item.done", output_index=index, item=done)

    def _drawing_frames(
        self, item: Draw, index: int, event: Callable[..., bytes]
    ) -> Iterator[bytes]:
        identifier = f"ig_{secrets.token_hex(24)}"
        place = {"item_id": identifier, "output_index": index}
        started = {
            "id": identifier,
            "type": "image_generation_call",
            "status": "in_progress",
            "result": None,
        }
        yield event("response.output_item.added", output_index=index, item=started)
        for step in ("in_progress", "generating"):
            yield event(f"response.image_generation_call.{step}", **place)
        picture = base64.b64encode(item.picture).decode()
        yield event(
            "response.image_generation_call.partial_image",
            **place,
            partial_image_index=0,
            partial_image_b64=picture,
        )
        yield event("response.image_generation_call.completed", **place)
        done = {
            **started,
            "status": "completed",
            "result": picture,
            "revised_prompt": item.prompt,
            "output_format": item.output_format,
        }
        yield event("response.output_item.done", output_index=index, item=done)

    def _default_answer(self, body: dict[str, Any]) -> list[Any]:
        """Something sensible for a person who tries things out by hand."""
        thought = Think(["**Reading the prompt**\n\nIt is short.", "**Answering**"])
        last = body["input"][-1] if body["input"] else {}
        if last.get("type") == "function_call_output":
            output = last["output"] if isinstance(last["output"], str) else "a picture"
            return [thought, Say(f"The tool returned: {output}")]
        form = (body.get("text") or {}).get("format") or {}
        if form.get("type") == "json_schema":
            return [thought, Say(json.dumps(_example(form["schema"], form["schema"])))]
        text, pictures = _spoken(last)
        for tool in body.get("tools") or []:
            if tool["type"] == "function" and tool["name"] in text:
                given = re.search(r"\{.*\}", text)
                parameters = tool["parameters"]
                arguments = given[0] if given else json.dumps(_example(parameters, parameters))
                return [thought, Call(tool["name"], arguments)]
            if tool["type"] == "web_search" and "search" in text:
                return [thought, Search(text, ["https://example.com/"]), Say("Found it.")]
            if tool["type"] == "image_generation" and "draw" in text:
                return [thought, Draw(text), Say("Here it is.")]
        turn = sum(1 for item in body["input"] if item.get("role") == "user")
        seen = f" (with {pictures} picture{'s' * (pictures > 1)})" if pictures else ""
        return [thought, Say(f"This is answer {turn}. You said{seen}: {text}")]


# Helpers ---------------------------------------------------------------------------


def _pieces(text: str, size: int = 12) -> list[str]:
    return [text[i : i + size] for i in range(0, len(text), size)]


def _version(value: Any) -> tuple[int, ...]:
    if isinstance(value, list):
        return tuple(value)
    return tuple(int(number) for number in re.findall(r"\d+", str(value))[:3])


def _strict(schema: Any) -> bool:
    if not isinstance(schema, dict):
        return True
    if schema.get("type") == "object" or "properties" in schema:
        properties = schema.get("properties", {})
        if schema.get("additionalProperties") is not False:
            return False
        if set(schema.get("required", [])) != set(properties):
            return False
    values = [*schema.get("properties", {}).values(), *schema.get("$defs", {}).values()]
    values += [schema.get("items"), *schema.get("anyOf", [])]
    return all(_strict(value) for value in values)


def _spoken(item: dict[str, Any]) -> tuple[str, int]:
    content = item.get("content")
    if isinstance(content, str):
        return content, 0
    parts = content or []
    text = " ".join(part["text"] for part in parts if "text" in part)
    return text, sum(1 for part in parts if part["type"] == "input_image")


def _example(schema: dict[str, Any], root: dict[str, Any]) -> Any:
    """Some value that fits a JSON schema, as far as llm's own schemas go."""
    if "$ref" in schema:
        return _example(root["$defs"][schema["$ref"].rsplit("/", 1)[-1]], root)
    if "enum" in schema:
        return schema["enum"][0]
    if "anyOf" in schema:
        return _example(schema["anyOf"][0], root)
    kind = schema.get("type")
    if kind == "object":
        return {k: _example(v, root) for k, v in schema.get("properties", {}).items()}
    if kind == "array":
        return [_example(schema.get("items", {}), root)]
    return {"integer": 7, "number": 1.5, "boolean": True, "null": None}.get(kind, "Pelican")


def _decompressed(raw: bytes, encoding: str) -> bytes:
    if encoding == "zstd":
        import zstandard

        return zstandard.ZstdDecompressor().stream_reader(io.BytesIO(raw)).read()
    if encoding == "gzip":
        import gzip

        return gzip.decompress(raw)
    return raw


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that went away is not worth a traceback.
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    simulator: Simulator
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server_version = "simulator"

    ROUTES: ClassVar[dict[tuple[str, str], str]] = {
        ("POST", "/api/accounts/deviceauth/usercode"): "usercode",
        ("POST", "/api/accounts/deviceauth/token"): "device_token",
        ("GET", "/oauth/authorize"): "authorize",
        ("POST", "/oauth/token"): "token",
        ("POST", "/oauth/revoke"): "revoke",
        ("GET", "/api/accounts/v1/user-auth-credential/whoami"): "whoami",
        ("POST", "/backend-api/codex/responses"): "responses",
        ("GET", "/backend-api/codex/models"): "models",
        ("GET", "/backend-api/wham/usage"): "usage",
        ("GET", "/backend-api/wham/accounts/check"): "accounts",
    }

    def log_message(self, *_: Any) -> None:
        pass

    def date_time_string(self, timestamp: float | None = None) -> str:
        now = self.simulator.clock() if timestamp is None else timestamp
        return super().date_time_string(int(now))

    def do_GET(self) -> None:
        self._handle()

    do_POST = do_GET

    def _handle(self) -> None:
        request = self._read()
        simulator = self.simulator
        with simulator.lock:
            simulator.requests.append(request)
        endpoint = self.ROUTES.get((request.method, request.path))
        if endpoint is None:
            if request.path == "/codex/device":
                page = f"<h1>Enter the code</h1><p>{html.escape(simulator.issuer)}</p>"
                self._send(Answer(200, page, {"Content-Type": "text/html"}))
            else:
                self._send(Answer(404, {"detail": "Not Found"}))
            return
        scripted = simulator._scripts.get(endpoint)
        answer: Any = None
        with simulator.lock:
            if scripted:
                answer = scripted.popleft()
        if callable(answer):
            answer = answer(request)
        if answer is None:
            try:
                answer = getattr(simulator, f"_{endpoint}")(request)
            except Refusal as refusal:
                answer = refusal.answer
        if isinstance(answer, Stream):
            self._stream(answer)
        else:
            self._send(answer)

    def _read(self) -> Request:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        parts = urllib.parse.urlsplit(self.path)
        body: Any = None
        plain = _decompressed(raw, headers.get("content-encoding", ""))
        kind = headers.get("content-type", "")
        if "json" in kind:
            with contextlib.suppress(ValueError):
                body = json.loads(plain)
        elif "x-www-form-urlencoded" in kind:
            body = dict(urllib.parse.parse_qsl(plain.decode()))
        return Request(
            self.command,
            parts.path,
            dict(urllib.parse.parse_qsl(parts.query)),
            headers,
            plain,
            body,
            self.client_address[1],
            time.monotonic(),
        )

    def _send(self, answer: Answer) -> None:
        if answer.delay:
            time.sleep(answer.delay)
        if answer.drop:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            return
        headers = {"x-request-id": str(uuid.uuid4())} if answer.status >= 400 else {}
        if isinstance(answer.body, bytes):
            data = answer.body
        elif isinstance(answer.body, str):
            data = answer.body.encode()
        else:
            data = b"" if answer.body is None else json.dumps(answer.body).encode()
            headers["Content-Type"] = "application/json"
        self.send_response(answer.status)
        for name, value in {**headers, **answer.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, stream: Stream) -> None:
        self.send_response(200)
        # No Content-Type, as on the live service (responses.md 6).
        for name, value in stream.headers.items():
            self.send_header(name, value)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in stream.pieces:
            if isinstance(piece, float):
                time.sleep(piece)
                continue
            self.wfile.write(piece if stream.chunked else b"%x\r\n%s\r\n" % (len(piece), piece))
        if stream.end == "finish":
            self.wfile.write(b"0\r\n\r\n")
        elif stream.end == "cut":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        else:
            # Until the client goes away.
            with contextlib.suppress(OSError):
                self.connection.recv(1)
            self.close_connection = True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--polls", type=int, default=2, help="approve a code after this many polls")
    arguments = parser.parse_args()
    simulator = Simulator(arguments.port)
    simulator.interval = "1"
    simulator.approve_after_polls = arguments.polls
    with simulator:
        for name, value in simulator.environment.items():
            print(f"export {name}={value}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
