"""The official route's sign-in: registration, later logins, refresh and revocation.

Its tokens are no use on the Codex route, and the Codex login's are no use here.
"""

from __future__ import annotations

import dataclasses
import datetime
import re
import secrets
import urllib.parse
import uuid
from typing import Any

from .backend import Backend
from .issuer import AUTH_CLAIM, Account, make_jwt, pkce_challenge
from .replies import Answer, Refusal, Request, error_page
from .signing import base64url, public_key

# The client id of an app that is not registered yet.
REGISTRATION = "dynamic_agent_client"
RESOURCE = "https://api.openai.com/v1"
PLAN_SCOPE = "chatgpt.tokens.use.direct"
OFFICIAL_SCOPE = f"openid profile email offline_access resource.invoke {PLAN_SCOPE}"
REFRESH_TOKEN_SECONDS = 30 * 24 * 3600

# Patterns of an authorize address's parameters (docs/protocol.md). `fault` also checks `scope`.
REQUIRED = {
    "client_id": rf"{REGISTRATION}|oaiapp_[0-9a-f]+",
    "ext_agent_host_id": (
        r"urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
        r"|urn:ietf:params:oauth:jwk-thumbprint:\S+|did:key:\S+"
    ),
    "response_type": r"code",
    "redirect_uri": r"http://127\.0\.0\.1:[1-9]\d{0,4}/auth/callback",
    "scope": r".+",
    "resource": re.escape(RESOURCE),
    "state": r"[A-Za-z0-9_-]{22,}",
    "nonce": r"[A-Za-z0-9_-]{22,}",
    "code_challenge": r"[A-Za-z0-9_-]{43}",
    "code_challenge_method": r"S256",
}
OPTIONAL = {
    "agent_name_hint": r"(?i)(?!.*(codex|openai)).*\S.*",
    "id_token_hint": r"[\w-]+\.[\w-]+\.[\w-]+",
    "login_hint": r"\S+@\S+",
    "prompt": r"consent",
}


@dataclasses.dataclass
class OfficialSettings:
    """How the official route behaves: the attributes of `simulator.official`."""

    # Whether the user declines.
    declined: bool = False
    # Parameters of the callback that are added or replaced; a list repeats one, None leaves
    # it out. The callback of a later login has no client_id unless one is given here.
    callback: dict[str, Any] = dataclasses.field(default_factory=dict)
    # The scope that the user grants; without PLAN_SCOPE, the plan cannot be used.
    scope: str = OFFICIAL_SCOPE
    # Whether a login without PLAN_SCOPE gets neither access nor refresh token.
    withholds_tokens: bool = False
    # Claims of the ID token that are replaced: a value, a function of the right one, or None
    # to leave it out.
    id_token: dict[str, Any] = dataclasses.field(default_factory=dict)
    access_token_seconds: int = 3600
    # A refresh is allowed this many seconds before the access token expires, or later. The reply
    # has the time as a "number" or "text" (ISO 8601); with "null" or "absent" there is no limit.
    earliest_refresh_seconds: int = 360
    earliest_refresh_form: str = "number"
    # Whether a refresh that comes too early spends the refresh token.
    early_refresh_spends: bool = False
    # The code with which every refresh is refused.
    refresh_error: str | None = None
    # Whether errors are {"error": {"code": ...}} instead of {"error": "..."}.
    nested_errors: bool = False
    # Fields that the reply to a refresh lacks, such as scope or id_token.
    refresh_omits: tuple[str, ...] = ()
    # The Content-Type of a stream.
    content_type: str | None = None
    # Whether functions may also stand in `tools`; undocumented, but seen to work.
    flat_tools: bool = True
    # Headers that are refused although other clients send them, such as session-id.
    refused_headers: set[str] = dataclasses.field(default_factory=set)
    # Capabilities that are refused: "input_image", "input_file", "web_search", "text.format".
    refused_capabilities: set[str] = dataclasses.field(default_factory=set)


@dataclasses.dataclass(frozen=True)
class Login:
    """One sign-in of a user, which all its tokens share."""

    client_id: str
    account: Account
    scope: str
    nonce: str

    @property
    def subject(self) -> str:
        return f"auth0|{self.account.user_id}"

    @property
    def owner(self) -> Account:
        """The account, with an id made up from the login: this route's tokens name no account."""
        return dataclasses.replace(self.account, account_id=f"{self.client_id} {self.subject}")


def fault(query: dict[str, str]) -> str | None:
    """Return the first parameter of an authorize address that is missing, wrong or unknown."""
    for name, pattern in REQUIRED.items():
        if not re.fullmatch(pattern, query.get(name, "")):
            return name
    for name in query.keys() - REQUIRED.keys():
        if name not in OPTIONAL or not re.fullmatch(OPTIONAL[name], query[name]):
            return name
    if sorted(query["scope"].split(" ")) != sorted(OFFICIAL_SCOPE.split(" ")):
        return "scope"
    if query["nonce"] == query["state"]:
        return "nonce"
    registering = query["client_id"] == REGISTRATION
    if registering != ("agent_name_hint" in query):
        return "agent_name_hint"
    return "id_token_hint" if registering and "id_token_hint" in query else None


class OfficialSignIn(Backend):
    """Registers apps, signs their users in, and knows every token it has issued."""

    def __init__(self) -> None:
        super().__init__()
        self.official = OfficialSettings()
        # The names of the registered apps, by the client id that each was issued.
        self.clients: dict[str, str] = {}
        self.official_codes: dict[str, dict[str, Any]] = {}
        # Each with its login and the time it expires.
        self.official_access_tokens: dict[str, dict[str, Any]] = {}
        # Each with its login, its state ("fresh", or the error code of the next use), the
        # time before which it is refused, and the time it expires.
        self.official_refresh_tokens: dict[str, dict[str, Any]] = {}

    def register(self, name: str = "llm-chatgpt-oauth") -> str:
        """Register an app, as its user's first sign-in does, and return its client id."""
        client_id = f"oaiapp_{secrets.token_hex(16)}"
        self.clients[client_id] = name
        return client_id

    def sign_in_officially(
        self, account: Account | None = None, client_id: str | None = None, ago: float = 0.0
    ) -> dict[str, Any]:
        """Return a token reply, as after a sign-in `ago` seconds before now.

        Its ID token names the client.
        """
        client = client_id or self.register()
        self.clients.setdefault(client, "llm-chatgpt-oauth")
        login = Login(client, account or self.account, self.official.scope, base64url(b"n" * 32))
        return self._official_reply(login, int(self.clock() - ago))

    def expire_access_tokens(self) -> None:
        super().expire_access_tokens()
        for entry in self.official_access_tokens.values():
            entry["expires_at"] = 0.0

    def end_official_logins(self, code: str = "refresh_token_invalidated") -> None:
        """Disconnect the app, as the user can: every refresh is answered with `code`."""
        for entry in self.official_refresh_tokens.values():
            entry["state"] = code

    # Discovery, and the public key

    def serve_discovery(self, request: Request) -> Answer:
        root = self.public_issuer
        return Answer(
            200,
            {
                "issuer": root,
                "authorization_endpoint": f"{root}/api/accounts/authorize",
                "token_endpoint": f"{root}/api/accounts/oauth/token",
                "revocation_endpoint": f"{root}/api/accounts/oauth/revoke",
                "jwks_uri": f"{root}/.well-known/jwks.json",
                # There is no device code.
                "grant_types_supported": ["authorization_code", "refresh_token"],
                "response_types_supported": ["code"],
                "code_challenge_methods_supported": ["S256"],
                "scopes_supported": OFFICIAL_SCOPE.split(),
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256"],
                "token_endpoint_auth_methods_supported": ["none"],
            },
        )

    def serve_jwks(self, request: Request) -> Answer:
        """The key that signs the simulator's tokens, as a set of JSON Web Keys."""
        return Answer(200, {"keys": [public_key()]})

    # The browser, and the exchange of codes for tokens

    def serve_official_authorize(self, request: Request) -> Answer:
        query = request.query
        wrong = fault(query)
        if wrong is not None:
            return error_page(f"invalid_request: {wrong}")
        client_id, registering = query["client_id"], query["client_id"] == REGISTRATION
        if not registering and client_id not in self.clients:
            return error_page("invalid_client")
        back: dict[str, Any] = {"state": query["state"]}
        if self.official.declined:
            back |= {"error": "access_denied", "error_description": "The user declined."}
        else:
            if registering:
                client_id = back["client_id"] = self.register(query["agent_name_hint"])
            code = f"ac_{secrets.token_hex(24)}"
            self.official_codes[code] = {
                "login": Login(client_id, self.account, self.official.scope, query["nonce"]),
                "challenge": query["code_challenge"],
                "redirect_uri": query["redirect_uri"],
            }
            back |= {"code": code, "scope": self.official.scope}
        back = {k: v for k, v in {**back, **self.official.callback}.items() if v is not None}
        target = urllib.parse.urlencode(back, doseq=True)
        return Answer(302, "", {"Location": f"{query['redirect_uri']}?{target}"})

    def serve_official_token(self, request: Request) -> Answer:
        body = self._form(request)
        serve = {"authorization_code": self._exchange_officially, "refresh_token": self._renew}
        grant = body.get("grant_type", "")
        if grant not in serve:
            raise self._denied("unsupported_grant_type")
        return Answer(200, serve[grant](body))

    def _form(self, request: Request) -> dict[str, str]:
        """The fields of a form from a registered app; raises Refusal."""
        if not isinstance(request.body, dict) or request.is_json:
            raise self._denied("invalid_request")
        body: dict[str, str] = request.body
        if body.get("client_id") not in self.clients:
            raise self._denied("invalid_client", 401)
        return body

    def _denied(self, code: str, status: int = 400) -> Refusal:
        error = {"code": code, "message": "No."} if self.official.nested_errors else code
        return Refusal(Answer(status, {"error": error}))

    def _check_fields(self, body: dict[str, str], *names: str) -> None:
        if set(body) != {"grant_type", "client_id", "resource", *names}:
            raise self._denied("invalid_request")
        if body["resource"] != RESOURCE:
            raise self._denied("invalid_target")

    def _exchange_officially(self, body: dict[str, str]) -> dict[str, Any]:
        self._check_fields(body, "code", "code_verifier", "redirect_uri")
        # A code works once.
        entry = self.official_codes.pop(body["code"], None)
        if (
            entry is None
            or entry["login"].client_id != body["client_id"]
            or entry["redirect_uri"] != body["redirect_uri"]
            or entry["challenge"] != pkce_challenge(body["code_verifier"])
        ):
            raise self._denied("invalid_grant")
        reply = self._official_reply(entry["login"], int(self.clock()))
        if self.official.withholds_tokens and PLAN_SCOPE not in reply["scope"]:
            for name in ("access_token", "refresh_token", "expires_in"):
                del reply[name]
        return reply

    def _renew(self, body: dict[str, str]) -> dict[str, Any]:
        self._check_fields(body, "refresh_token")
        if self.official.refresh_error:
            raise self._denied(self.official.refresh_error)
        with self.lock:
            entry = self.official_refresh_tokens.get(body["refresh_token"])
            if entry is None or entry["login"].client_id != body["client_id"]:
                raise self._denied("invalid_grant")
            if entry["state"] != "fresh":
                raise self._denied(entry["state"])
            if self.clock() >= entry["expires_at"]:
                raise self._denied("refresh_token_expired")
            early = self.clock() < entry["earliest"]
            if not early or self.official.early_refresh_spends:
                entry["state"] = "refresh_token_reused"
            if early:
                raise self._denied("invalid_grant")
            reply = self._official_reply(entry["login"], int(self.clock()))
        return {k: v for k, v in reply.items() if k not in self.official.refresh_omits}

    def _official_reply(self, login: Login, now: int) -> dict[str, Any]:
        """Issue new tokens, as for a sign-in or a refresh at `now`."""
        settings, form = self.official, self.official.earliest_refresh_form
        end = now + settings.access_token_seconds
        earliest = end - settings.earliest_refresh_seconds
        access_token = make_jwt(self._official_access_claims(login, now, end))
        refresh_token = f"rt_{secrets.token_hex(32)}"
        self.official_access_tokens[access_token] = {"login": login, "expires_at": end}
        self.official_refresh_tokens[refresh_token] = {
            "login": login,
            "state": "fresh",
            "earliest": 0 if form in ("null", "absent") else earliest,
            "expires_at": now + REFRESH_TOKEN_SECONDS,
        }
        reply = {
            "access_token": access_token,
            "refresh_token": refresh_token,
            "id_token": make_jwt(self._official_id_claims(login, now)),
            "token_type": "Bearer",
            "expires_in": settings.access_token_seconds,
            "scope": login.scope,
        }
        moment = datetime.datetime.fromtimestamp(earliest, datetime.timezone.utc).isoformat()
        if form != "absent":
            reply["earliest_refresh_at"] = {"number": earliest, "text": moment, "null": None}[form]
        return reply

    def _official_access_claims(self, login: Login, now: int, end: int) -> dict[str, Any]:
        return {
            "iss": self.public_issuer,
            "aud": [RESOURCE],
            "sub": login.subject,
            "client_id": login.client_id,
            "scope": login.scope,
            "iat": now,
            "nbf": now,
            "exp": end,
            "jti": str(uuid.uuid4()),
            AUTH_CLAIM: {
                "per_user_salt": secrets.token_hex(16),
                "encrypted_auth_metadata": base64url(secrets.token_bytes(60)),
            },
        }

    def _official_id_claims(self, login: Login, now: int) -> dict[str, Any]:
        claims: dict[str, Any] = {
            "iss": self.public_issuer,
            "aud": [login.client_id],
            "azp": login.client_id,
            "sub": login.subject,
            "nonce": login.nonce,
            "iat": now,
            "exp": now + 3600,
            "email": login.account.email,
            "email_verified": True,
            "name": login.account.user_id.removeprefix("user-").title(),
        }
        for name, value in self.official.id_token.items():
            claims[name] = value(claims[name]) if callable(value) else value
        return {name: value for name, value in claims.items() if value is not None}

    # Revocation

    def serve_official_revoke(self, request: Request) -> Answer:
        body = self._form(request)
        if set(body) != {"token", "token_type_hint", "client_id"}:
            raise self._denied("invalid_request")
        if body["token_type_hint"] != "refresh_token":
            raise self._denied("unsupported_token_type")
        entry = self.official_refresh_tokens.get(body["token"])
        # A token that is unknown or has ended gets the same answer.
        if entry is not None:
            entry["state"] = "refresh_token_invalidated"
        return Answer(200, "")

    def serve_revoke(self, request: Request) -> Answer:
        if request.is_json and request.body.get("token") in self.official_refresh_tokens:
            raise self._denied("invalid_client", 401)
        return super().serve_revoke(request)
