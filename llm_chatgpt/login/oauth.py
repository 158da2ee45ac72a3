"""The token endpoint: exchange, refresh, revoke. Every request to the issuer goes out here."""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from llm_chatgpt import config, errors, http
from llm_chatgpt.errors import ChatGPTError, LoginFailed, RefreshFailed
from llm_chatgpt.login.routes import CODEX, Route
from llm_chatgpt.login.tokens import Tokens, parse_jwt_claims, tokens_from_reply
from llm_chatgpt.text import printable
from llm_chatgpt.values import as_mapping, as_text


class AuthorizationCode(NamedTuple):
    """What an approved sign-in turns into. All of it is secret, and works once.

    `redirect_uri` is where the browser came back to; None means the device code's.
    """

    authorization_code: str
    code_verifier: str
    redirect_uri: str | None = None

    def __repr__(self) -> str:
        return "AuthorizationCode()"


def ask_issuer(
    method: str,
    path: str,
    failed: Callable[[str], ChatGPTError],
    next_step: str = "Check the network and try again.",
    *,
    headers: dict[str, str] | None = None,
    **request: Any,
) -> http.Reply:
    """One request to the issuer. Raises `failed(sentence)` when no answer comes."""
    headers = {"User-Agent": config.user_agent(), "Accept": "*/*", **(headers or {})}
    try:
        return http.send(method, config.issuer() + path, headers=headers, **request)
    except errors.ConnectionFailed as error:
        raise failed(f"{error.message} {next_step}") from error


def _post(
    route: Route,
    path: str,
    failed: Callable[[str], ChatGPTError],
    body: dict[str, str],
    **more: Any,
) -> http.Reply:
    """A refresh or a revocation, as a form or as JSON."""
    headers = {"originator": config.originator()} if route.names_account else {}
    encoded: dict[str, Any] = {"data" if route.form else "json": body}
    return ask_issuer("POST", path, failed, headers=headers, **encoded, **more)


def explain(reply: http.Reply, expected: str) -> str:
    """Why the issuer did not do what was expected, and what to do."""
    if reply.is_web_page:
        return reply.web_page_message
    if reply.error_code == "unsupported_country_region_territory":
        return "OpenAI does not offer this service in your country or region."
    if reply.status >= 500:
        return f"OpenAI server error ({reply.status}). Try again in a few minutes."
    if reply.status == 429:
        return "OpenAI is receiving too many requests (429). Try again in a minute."
    code = f", {printable(reply.error_code, 80)}" if reply.error_code else ""
    return (
        f"{urlsplit(config.issuer()).netloc} did not {expected} "
        f"(status {reply.status}{code}{_description(reply)}). "
        "Try again, or update with 'llm install -U llm-chatgpt-oauth'."
    )


def _description(reply: http.Reply) -> str:
    """The issuer's own words after a colon, without the long words that may be secrets."""
    data = as_mapping(reply.data)
    words = as_text(data.get("error_description")) or as_text(
        as_mapping(data.get("error")).get("message")
    )
    if not words:
        return ""
    return f": {printable(re.sub(r'[!-~]{20,}', '...', words), 200).rstrip('.')}"


def sign_in_declined(command: str = "llm chatgpt login") -> errors.LoginDenied:
    return errors.LoginDenied(
        f"The sign-in was declined in the browser. If that was a mistake, run '{command}' again."
    )


def exchange(
    approved: AuthorizationCode,
    route: Route = CODEX,
    client_id: str = config.CLIENT_ID,
    login_command: str = "llm chatgpt login",
) -> http.Reply:
    """Trade an approved code for a token reply (docs/protocol.md).

    Sent once: after a lost answer the code may be spent. Raises LoginFailed.
    """
    reply = ask_issuer(
        "POST",
        route.token_path,
        LoginFailed,
        f"You approved the sign-in, but it did not finish: run '{login_command}' again.",
        data={
            "grant_type": "authorization_code",
            "client_id": client_id,
            "code": approved.authorization_code,
            "redirect_uri": approved.redirect_uri or f"{config.issuer()}/deviceauth/callback",
            "code_verifier": approved.code_verifier,
            **route.token_fields,
        },
    )
    if reply.status != 200:
        raise LoginFailed(explain(reply, "complete the sign-in"))
    return reply


def exchange_authorization_code(approved: AuthorizationCode) -> Tokens:
    """The login that an approved code of the Codex route brings. Raises LoginFailed."""
    reply = exchange(approved)
    tokens = tokens_from_reply(as_mapping(reply.data), now=time.time())
    if tokens is None or tokens.refresh_token is None:
        raise LoginFailed(explain(reply, "send the tokens"))
    return tokens


def revoke(tokens: Tokens) -> None:
    """End a login's session at OpenAI (docs/protocol.md). Raises LoginFailed if OpenAI has
    not confirmed it."""
    body = {"token": tokens.access_token, "token_type_hint": "access_token"}
    if tokens.refresh_token:
        body = {
            "token": tokens.refresh_token,
            "token_type_hint": "refresh_token",
            "client_id": tokens.client_id or config.CLIENT_ID,
        }
    route, seconds = tokens.route, config.REVOKE_TIMEOUT_SECONDS
    # A session that is this plugin's alone is worth a second attempt.
    for last in (False, True) if route.own_session else (True,):
        try:
            reply = _post(
                route, route.revoke_path, LoginFailed, body, next_step="", seconds=seconds
            )
        except ChatGPTError as error:
            if last:
                raise LoginFailed(error.message.rstrip(". ")) from error
            continue
        if 200 <= reply.status < 300:
            return
        if last or reply.status < 500:
            raise LoginFailed(explain(reply, "end the session").rstrip("."))


def sign_in_again(reason: str, command: str, code: str | None = None) -> RefreshFailed:
    """The failure that only a new login, by this command, can end."""
    message = f"Your ChatGPT login {reason}. Run '{command}' to sign in again."
    return RefreshFailed(message, permanent=True, code=code)


def refresh_tokens(tokens: Tokens, *, login_command: str = "llm chatgpt login") -> Tokens:
    """Trade a refresh token, which works once, for a new pair. Stores nothing.

    For a token that is stored and fresh use `get_tokens`. Raises RefreshFailed, which names
    `login_command` where only a new login helps.
    """
    if not tokens.refresh_token:
        raise sign_in_again("cannot be renewed", login_command)
    route = tokens.route
    body = {
        "client_id": tokens.client_id or config.CLIENT_ID,
        "grant_type": "refresh_token",
        "refresh_token": tokens.refresh_token,
        **route.token_fields,
    }
    failed = functools.partial(RefreshFailed, permanent=False)
    seconds = config.REFRESH_TIMEOUT_SECONDS
    reply = _post(route, route.token_path, failed, body, seconds=seconds)
    if reply.status == 200 and isinstance(reply.data, dict):
        new = tokens_from_reply(reply.data, old=tokens, now=time.time())
        claims = parse_jwt_claims(reply.data.get("id_token")) or {}
        if tokens.subject not in (None, claims.get("sub", tokens.subject)):
            raise sign_in_again("came back as another user's", login_command)
        if new is not None:
            return new
    code = reply.error_code
    reason = route.final_refusals.get(code or "") or route.final_refusals.get(reply.status)
    if reason and reply.status < 500:
        raise sign_in_again(reason, login_command, code)
    raise RefreshFailed(explain(reply, "renew the login"), permanent=False, code=code)
