"""A login as a value, and the claims in its JWTs.

Nothing here reads a file, the network or the clock: the time is an argument, in Unix seconds.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from llm_chatgpt import config
from llm_chatgpt.login.routes import CODEX, OFFICIAL, Route
from llm_chatgpt.values import as_mapping, as_moment, as_number, as_text, first_mapping

# Names of the objects with OpenAI's own claims in a JWT, and of one such claim (P45 to P48).
AUTH_CLAIM = "https://api.openai.com/auth"
PROFILE_CLAIM = "https://api.openai.com/profile"
FEDRAMP_CLAIM = "chatgpt_account_is_fedramp"
# A login of each route, an access token imported from Codex CLI, and a personal access token.
KINDS = (CODEX.kind, OFFICIAL.kind, "codex", "access_token")


def without_secrets(value: Any, *names: str) -> str:
    """Build a repr that shows only these fields of a value with secrets."""
    fields = ", ".join(f"{name}={getattr(value, name)!r}" for name in names)
    return f"{type(value).__name__}({fields})"


class Tokens(NamedTuple):
    """One login, as stored in the login file. Its repr shows no secret.

    Times are by this machine's clock, unless a field says otherwise.
    """

    # Empty after OpenAI has ended the login.
    access_token: str
    refresh_token: str | None = None
    id_token: str | None = None
    # When the access token expires; None if it has no expiry date.
    expires_at: float | None = None
    # When the tokens were received: by a sign-in, an import or a refresh.
    refreshed_at: float = 0.0
    # The id of the account, which is a workspace.
    account_id: str | None = None
    email: str | None = None
    plan: str | None = None
    fedramp: bool = False
    # The host and the name of the workspace; None if unknown.
    origin: str | None = None
    workspace: str | None = None
    # One of KINDS.
    kind: str = "login"
    # The issuer of the tokens, and the id of the client that they were issued to; None if unknown.
    issuer: str | None = None
    client_id: str | None = None
    # The user's id at the issuer; only the official route has one.
    subject: str | None = None
    # When OpenAI first allows a refresh, by its own clock.
    earliest_refresh_at: float | None = None
    # The message that says why the login cannot be renewed; None if nothing was refused.
    refusal: str | None = None

    def __repr__(self) -> str:
        return without_secrets(
            self, "kind", "plan", "expires_at", "refreshed_at", "fedramp", "origin"
        )

    @property
    def account_key(self) -> str:
        """Hash that identifies the account without showing its id or email."""
        if self.route is OFFICIAL:
            identity = f"{self.issuer} {self.client_id} {self.subject}"
        else:
            # The last resort is the token, which changes with every refresh.
            identity = self.account_id or self.email or self.access_token
        return token_hash(identity)[:12]

    @property
    def route(self) -> Route:
        return OFFICIAL if self.kind == OFFICIAL.kind else CODEX

    def ended(self) -> Tokens:
        """Drop all tokens, which OpenAI no longer accepts, and keep the user's details."""
        return self._replace(access_token="", refresh_token=None, id_token=None, expires_at=0.0)

    @property
    def renewable(self) -> bool:
        """Whether this plugin signed in, so that it may renew and end the session."""
        return self.kind == self.route.kind


def parse_jwt_claims(token: object) -> dict[str, Any] | None:
    """Return the claims of a JWT without checking its signature; None if it is not a JWT.

    A JWT has three non-empty base64url parts, and the second one is a JSON object.
    """
    parts = token.split(".") if isinstance(token, str) else []
    if len(parts) != 3 or not all(parts):
        return None
    try:
        payload = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        claims = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    return claims if isinstance(claims, dict) else None


def extract_account_id(id_token: object, access_token: object = None) -> str | None:
    """Find the account id in the tokens' claims; None if they have none.

    Looks for `chatgpt_account_id` at the top level, then in OpenAI's claims (P46), then for the
    id of the first organization; each of these in the id_token first. An organization's id
    (`org-...`) identifies the login but is never sent (P49).
    """
    holders = _claim_holders(id_token, access_token)
    organizations = [first_mapping(holder.get("organizations")) for holder in holders]
    return first_text(holders, "chatgpt_account_id") or first_text(organizations, "id")


def _claim_holders(*tokens: object) -> list[Mapping[str, Any]]:
    """Return the objects to search for claims: the JWTs' payloads, and OpenAI's objects in them."""
    payloads = [parse_jwt_claims(token) or {} for token in tokens]
    names = (AUTH_CLAIM, PROFILE_CLAIM)
    return [*payloads, *(as_mapping(payload.get(name)) for name in names for payload in payloads)]


def first_text(holders: Sequence[Mapping[str, Any]], *names: str) -> str | None:
    """Search all objects for the first name, then for the next; return the first text found."""
    texts = (as_text(holder.get(name)) for name in names for holder in holders)
    return next(filter(None, texts), None)


def header_safe(value: object) -> str | None:
    """Return a token or an id if it fits into an HTTP header, otherwise None."""
    return value if isinstance(value, str) and re.fullmatch(r"[!-~]+", value) else None


def tokens_from_reply(
    reply: Mapping[str, Any], *, old: Tokens | None = None, now: float
) -> Tokens | None:
    """Read a login from a token reply; None if the reply has no access token.

    Fields that a refresh leaves out keep their old values (P51), except `earliest_refresh_at`. A
    refresh never changes the account (P49).
    """
    old = old or Tokens("")
    access_token = header_safe(reply.get("access_token") or old.access_token)
    if access_token is None:
        return None
    id_token = as_text(reply.get("id_token")) or old.id_token
    holders = _claim_holders(id_token, access_token)
    expires_at = old.expires_at
    if access_token != old.access_token:
        expires_at = _expiry(parse_jwt_claims(access_token) or {}, reply.get("expires_in"), now)
    account_id = old.account_id
    # The official route has no account ids (P233).
    if old.route.names_account:
        account_id = account_id or extract_account_id(id_token, access_token)
    return old._replace(
        access_token=access_token,
        refresh_token=as_text(reply.get("refresh_token")) or old.refresh_token,
        id_token=id_token,
        expires_at=expires_at,
        refreshed_at=now,
        account_id=account_id,
        email=first_text(holders, "email") or old.email,
        plan=first_text(holders, "chatgpt_plan_type") or old.plan,
        fedramp=any(holder.get(FEDRAMP_CLAIM) is True for holder in holders),
        earliest_refresh_at=as_moment(reply.get("earliest_refresh_at")),
        refusal=None,
    )


def _expiry(claims: Mapping[str, Any], expires_in: object, now: float) -> float | None:
    """Return when a new access token expires; None if the reply does not say.

    Adds the token's lifetime to `now`, so that a wrong clock on this machine does no harm (P44).
    """
    exp, iat = as_number(claims.get("exp")), as_number(claims.get("iat"))
    lifetime = exp - iat if exp is not None and iat is not None else as_number(expires_in)
    return exp if lifetime is None else now + lifetime


def needs_refresh(tokens: Tokens, now: float) -> bool:
    """Check whether to renew a login before OpenAI rejects its access token (P52): it expires
    within five minutes, or has no expiry date and is eight days old.

    False for a login that cannot be renewed, and for an official login (P239).
    """
    if not tokens.renewable or tokens.route.refresh_leeway is None:
        return False
    if tokens.expires_at is None:
        return tokens.refreshed_at + config.REFRESH_AFTER_SECONDS <= now
    return tokens.expires_at - tokens.route.refresh_leeway <= now


def seconds_until_refresh(tokens: Tokens, now: float) -> float:
    """Return the seconds until OpenAI allows an official login to be renewed.

    `now` is by OpenAI's clock. An `earliest_refresh_at` after the access token's expiry is ignored
    (P239).
    """
    claims = parse_jwt_claims(tokens.access_token) or {}
    earliest = tokens.earliest_refresh_at or 0.0
    expiry = as_number(claims.get("exp", tokens.expires_at))
    return 0.0 if expiry is not None and earliest > expiry else max(0.0, earliest - now)


def still_works(tokens: Tokens, now: float) -> bool:
    """Check whether the access token is still valid, as far as this machine can tell.

    An official one counts as valid until the API refuses it, whatever the clock says (P239).
    """
    if tokens.expires_at is None or tokens.route.refresh_leeway is None:
        return bool(tokens.access_token)
    return now < tokens.expires_at


def token_hash(token: str) -> str:
    """Build a hash that identifies a token without revealing it."""
    return hashlib.sha256(token.encode()).hexdigest()[:32]


def is_other_identity(old: Tokens, new: Tokens) -> bool:
    """Check whether two logins differ in user, workspace or route. Unknown values do not count."""
    # OpenAI may give one user a different `subject` for each client.
    names = ["account_id", "email", *(["subject"] if old.client_id == new.client_id else [])]
    pairs = [(getattr(old, name), getattr(new, name)) for name in names]
    return old.route is not new.route or any(a and b and a != b for a, b in pairs)


def sent_account_id(tokens: Tokens) -> str | None:
    """Return the account id to send; None if there is none that the backend accepts (P49)."""
    account_id = header_safe(tokens.account_id)
    return None if account_id is None or account_id.startswith("org-") else account_id


def residencies(tokens: Tokens) -> list[str]:
    """Return the regions to name for a workspace with data residency, the likeliest first (P78).

    Empty for other workspaces, unless LLM_CHATGPT_RESIDENCY names a region.
    """
    setting = config.setting("RESIDENCY")
    if not tokens.route.names_account or setting == "off":
        return []
    if setting:
        return [setting]
    auth = as_mapping((parse_jwt_claims(tokens.access_token) or {}).get(AUTH_CLAIM))
    claims = (auth.get("chatgpt_compute_residency"), auth.get("chatgpt_data_residency"))
    regions = (claim for claim in map(header_safe, claims) if claim not in (None, "no_constraint"))
    return list(dict.fromkeys(regions))


def backend_headers(tokens: Tokens, *, second_residency: bool = False) -> dict[str, str]:
    """Build the headers that every request to the backend has (P73 to P78, P82, P245).

    `second_residency` says that the service has refused the first of the `residencies`.
    """
    headers = {
        "Authorization": f"Bearer {tokens.access_token}",
        "User-Agent": config.user_agent(),
    }
    if not tokens.route.names_account:
        return headers
    headers["originator"] = config.originator()
    if account_id := sent_account_id(tokens):
        headers["ChatGPT-Account-ID"] = account_id
    if tokens.fedramp:
        headers["X-OpenAI-Fedramp"] = "true"
    if regions := residencies(tokens)[second_residency:]:
        headers["x-openai-internal-codex-residency"] = regions[0]
    if version := config.setting("CLIENT_VERSION"):
        headers["version"] = version
    return headers
