"""The token endpoint: exchange, refresh, revoke."""

from __future__ import annotations

import time
from collections.abc import Mapping
from urllib.parse import urlsplit

from llm_chatgpt import config, http
from llm_chatgpt.errors import LoginFailed, RefreshFailed
from llm_chatgpt.login.tokens import Tokens, tokens_from_reply
from llm_chatgpt.text import printable
from llm_chatgpt.values import as_mapping


class AuthorizationCode:
    """What an approved sign-in turns into. All of it is secret, and works once.

    `redirect_uri` is the one that the sign-in went by; None means the device code's.
    """

    def __init__(
        self, authorization_code: str, code_verifier: str, redirect_uri: str | None = None
    ):
        self.authorization_code = authorization_code
        self.code_verifier = code_verifier
        self.redirect_uri = redirect_uri


def auth_post(
    path: str,
    *,
    json_body: Mapping[str, str] | None = None,
    form: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = config.AUTH_TIMEOUT_SECONDS,
) -> http.Reply:
    url = config.issuer() + path
    response = http.sync_client(url).post(
        url,
        json=json_body,
        data=form,
        headers={"User-Agent": config.user_agent(), "Accept": "*/*", **(headers or {})},
        timeout=timeout,
    )
    return http.Reply.of(response)


def auth_host() -> str:
    return urlsplit(config.issuer()).netloc


def unexpected(reply: http.Reply, what: str) -> str:
    code = f", {printable(reply.error_code, 80)}" if reply.error_code else ""
    return (
        f"{auth_host()} did not {what} (status {reply.status}{code}). Try again; if it stays "
        "so, look for a newer version with 'llm install -U llm-chatgpt-oauth'."
    )


def exchange_authorization_code(approved: AuthorizationCode) -> Tokens:
    """Trade an approved code for tokens (auth.md 2 and 3.4: same request, other verifier).

    Sent once: after a lost answer the code may be spent. Raises LoginFailed.
    """
    library = http.http_library()
    try:
        reply = auth_post(
            "/oauth/token",
            form={
                "grant_type": "authorization_code",
                "client_id": config.CLIENT_ID,
                "code": approved.authorization_code,
                "redirect_uri": approved.redirect_uri or f"{config.issuer()}/deviceauth/callback",
                "code_verifier": approved.code_verifier,
            },
        )
    except library.TransportError as error:
        raise LoginFailed(
            f"The sign-in was approved, but {auth_host()}: {http.transport_reason(error)}. "
            "Run 'llm chatgpt login' again."
        ) from error
    if reply.status == 200:
        tokens = tokens_from_reply(as_mapping(reply.data), now=time.time())
        if tokens is None or tokens.refresh_token is None:
            raise LoginFailed(unexpected(reply, "send the tokens"))
        return tokens
    if reply.is_web_page:
        raise LoginFailed(http.web_page_message(reply))
    if reply.error_code == "unsupported_country_region_territory":
        raise LoginFailed("OpenAI does not offer this service in your country or region.")
    raise LoginFailed(unexpected(reply, "complete the sign-in"))


def revoke(tokens: Tokens) -> None:
    """End a login's session at OpenAI (auth.md 6). Raises LoginFailed if that is not sure."""
    library = http.http_library()
    body = {"token": tokens.access_token, "token_type_hint": "access_token"}
    if tokens.refresh_token:
        body = {
            "token": tokens.refresh_token,
            "token_type_hint": "refresh_token",
            "client_id": config.CLIENT_ID,
        }
    try:
        reply = auth_post(
            "/oauth/revoke",
            json_body=body,
            headers={"originator": config.setting("ORIGINATOR") or config.ORIGINATOR},
            timeout=config.REVOKE_TIMEOUT_SECONDS,
        )
    except library.TransportError as error:
        raise LoginFailed(f"{auth_host()}: {http.transport_reason(error)}") from error
    if not 200 <= reply.status < 300:
        raise LoginFailed(f"{auth_host()} answered with status {reply.status}")


# auth.md 5: what no repetition mends.
PERMANENT_REFRESH_CODES = {
    "refresh_token_expired": "has expired",
    "refresh_token_reused": "was used by another program",
    "refresh_token_invalidated": "was ended by OpenAI",
}


def refresh_tokens(tokens: Tokens) -> Tokens:
    """Trade a refresh token, which works once, for a new pair. Stores nothing.

    For a token that is stored and fresh use `get_tokens`. Raises RefreshFailed.
    """
    library = http.http_library()
    if not tokens.refresh_token:
        raise RefreshFailed(
            "This login cannot be renewed. Run 'llm chatgpt login' to sign in again.",
            permanent=True,
        )
    try:
        reply = auth_post(
            "/oauth/token",
            json_body={
                "client_id": config.CLIENT_ID,
                "grant_type": "refresh_token",
                "refresh_token": tokens.refresh_token,
            },
            headers={"originator": config.setting("ORIGINATOR") or config.ORIGINATOR},
        )
    except library.TransportError as error:
        raise RefreshFailed(
            f"The login could not be renewed: {auth_host()}: {http.transport_reason(error)}. "
            "Check the network and try again.",
            permanent=False,
        ) from error
    code = reply.error_code
    if reply.status == 200:
        new = tokens_from_reply(as_mapping(reply.data), old=tokens, now=time.time())
        if new is not None and isinstance(reply.data, dict):
            return new
    reason = PERMANENT_REFRESH_CODES.get(code or "")
    if reason or reply.status == 401 or (reply.status == 400 and code == "invalid_grant"):
        raise RefreshFailed(
            f"Your ChatGPT login {reason or 'is no longer accepted'}. "
            "Run 'llm chatgpt login' to sign in again.",
            permanent=True,
            code=code,
        )
    if reply.is_web_page:
        raise RefreshFailed(http.web_page_message(reply), permanent=False)
    raise RefreshFailed(unexpected(reply, "renew the login"), permanent=False, code=code)
