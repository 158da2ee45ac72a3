"""A login, and what its JWTs say."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from llm_chatgpt import config
from llm_chatgpt.values import as_mapping, as_number, as_text, first_mapping

# auth.md 4: where OpenAI puts its own claims.
AUTH_CLAIM = "https://api.openai.com/auth"
PROFILE_CLAIM = "https://api.openai.com/profile"


def without_secrets(value: Any, *shown: str) -> str:
    """The repr of a value that holds secrets: only these fields of it."""
    fields = ", ".join(f"{name}={getattr(value, name)!r}" for name in shown)
    return f"{type(value).__name__}({fields})"


class Tokens(NamedTuple):
    """One login. No secret shows in its repr.

    `expires_at` and `refreshed_at` are Unix seconds by this machine's clock, `expires_at`
    None when the access token does not say. `account_id` and what follows it is what the
    tokens' claims said. `origin` is where the account's workspace is served (None: unknown).
    `kind` is "login" for one of our own, "codex" for an access token taken from Codex CLI,
    "access_token" for a personal one (at-...); only the first can be refreshed or revoked.
    """

    access_token: str
    refresh_token: str | None = None
    id_token: str | None = None
    expires_at: float | None = None
    refreshed_at: float = 0.0
    account_id: str | None = None
    email: str | None = None
    plan: str | None = None
    fedramp: bool = False
    origin: str | None = None
    kind: str = "login"

    def __repr__(self) -> str:
        return without_secrets(
            self, "kind", "plan", "expires_at", "refreshed_at", "fedramp", "origin"
        )

    @property
    def account_key(self) -> str:
        """A short hash that names the account where its id should not stand."""
        return hashlib.sha256((self.account_id or "").encode()).hexdigest()[:12]


def parse_jwt_claims(token: object) -> dict[str, Any] | None:
    """The claims of a JWT, unverified; None for what is no JWT.

    Three non-empty base64url parts, the second a JSON object (auth.md 4).
    """
    if not isinstance(token, str):
        return None
    parts = token.split(".")
    if len(parts) != 3 or not all(parts):
        return None
    try:
        payload = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        claims = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    return claims if isinstance(claims, dict) else None


def extract_account_id(id_token: object, access_token: object = None) -> str | None:
    """The account to name in requests, from the tokens' claims.

    Each place is looked for in both tokens, id_token first, before the next place:
    `chatgpt_account_id` at the top, the same in the auth object, the first organization's
    id. An organization's id (`org-...`) identifies the login but is never sent.
    """
    both = [parse_jwt_claims(token) or {} for token in (id_token, access_token)]
    auths = [as_mapping(claims.get(AUTH_CLAIM)) for claims in both]
    organizations = [
        first_mapping(holder.get("organizations"))
        for pair in zip(both, auths, strict=True)
        for holder in pair
    ]
    places = (
        [claims.get("chatgpt_account_id") for claims in both]
        + [auth.get("chatgpt_account_id") for auth in auths]
        + [organization.get("id") for organization in organizations]
    )
    return next((value for value in places if isinstance(value, str) and value), None)


def tokens_from_reply(
    reply: Mapping[str, Any], *, old: Tokens | None = None, now: float
) -> Tokens | None:
    """The login that a token reply describes; None if it holds no access token.

    What a refresh leaves out keeps its old value (auth.md 5). The end is counted from
    `now` by the token's own length, so that a wrong clock here costs nothing.
    """

    def text(name: str) -> str | None:
        return as_text(reply.get(name)) or getattr(old, name, None)

    access_token = text("access_token")
    if access_token is None:
        return None
    id_token = text("id_token")
    claims = parse_jwt_claims(access_token) or {}
    id_claims = parse_jwt_claims(id_token) or {}
    exp, iat = as_number(claims.get("exp")), as_number(claims.get("iat"))
    expires_in = as_number(reply.get("expires_in"))
    expires_at: float | None
    if old and access_token == old.access_token:
        expires_at = old.expires_at
    elif exp is not None and iat is not None:
        expires_at = now + (exp - iat)
    elif expires_in is not None:
        expires_at = now + expires_in
    else:
        expires_at = exp

    def claim(name: str) -> Any:
        for holder in (id_claims, claims):
            value = as_mapping(holder.get(AUTH_CLAIM)).get(name)
            if value is not None:
                return value
        return None

    email = (
        id_claims.get("email")
        or as_mapping(id_claims.get(PROFILE_CLAIM)).get("email")
        or claims.get("email")
        or as_mapping(claims.get(PROFILE_CLAIM)).get("email")
    )
    plan = claim("chatgpt_plan_type")
    return Tokens(
        access_token=access_token,
        refresh_token=text("refresh_token"),
        id_token=id_token,
        expires_at=expires_at,
        refreshed_at=now,
        # auth.md 4: a refresh does not rewrite the account.
        account_id=getattr(old, "account_id", None) or extract_account_id(id_token, access_token),
        email=as_text(email) or getattr(old, "email", None),
        plan=as_text(plan) or getattr(old, "plan", None),
        fedramp=claim("chatgpt_account_is_fedramp") is True,
        origin=getattr(old, "origin", None),
    )


def needs_refresh(tokens: Tokens, now: float) -> bool:
    """Whether the access token ends within five minutes, or is old and says no end.

    Never so for what cannot be refreshed.
    """
    if tokens.kind != "login":
        return False
    if tokens.expires_at is None:
        return tokens.refreshed_at + config.REFRESH_AFTER_SECONDS <= now
    return tokens.expires_at - config.REFRESH_LEEWAY_SECONDS <= now


def still_works(tokens: Tokens, now: float) -> bool:
    """Whether the access token has not ended yet, as far as this machine can tell."""
    return tokens.expires_at is None or now < tokens.expires_at


def token_hash(token: str) -> str:
    """Names a token where it must not stand itself."""
    return hashlib.sha256(token.encode()).hexdigest()[:32]


def is_workspace_origin(value: object) -> bool:
    """Whether tokens may be sent there: a bare https origin, chatgpt.com or below it."""
    return isinstance(value, str) and bool(
        re.fullmatch(r"https://([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)*chatgpt\.com", value)
    )


def is_somebody_else(old: Tokens, new: Tokens) -> bool:
    """Whether two logins belong to different people or workspaces, as far as they tell."""
    pairs = ((old.account_id, new.account_id), (old.email, new.email))
    return any(one and other and one != other for one, other in pairs)


def backend_headers(tokens: Tokens) -> dict[str, str]:
    """What every request to the backend carries (responses.md 1)."""
    headers = {
        "Authorization": f"Bearer {tokens.access_token}",
        "User-Agent": config.user_agent(),
        "originator": config.setting("ORIGINATOR") or config.ORIGINATOR,
    }
    # An organization's id is a platform id, which this backend refuses.
    if tokens.account_id and not tokens.account_id.startswith("org-"):
        headers["ChatGPT-Account-ID"] = tokens.account_id
    if tokens.fedramp:
        headers["X-OpenAI-Fedramp"] = "true"
    version = config.setting("CLIENT_VERSION")
    if version:
        headers["version"] = version
    return headers
