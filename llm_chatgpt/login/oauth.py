"""OAuth at the issuer: the authorize address and its redirect, and the token endpoint.

`ask_issuer` sends this package's requests to the issuer. Errors name the command to run next.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from llm_chatgpt import config, errors, http
from llm_chatgpt.errors import ChatGPTError, LoginFailed, RefreshFailed
from llm_chatgpt.login.routes import CODEX, FINAL_REFUSALS, Route
from llm_chatgpt.login.tokens import (
    Tokens,
    parse_jwt_claims,
    seconds_until_refresh,
    tokens_from_reply,
)
from llm_chatgpt.text import from_now, notice, printable
from llm_chatgpt.threads import start_in_thread, wait_for
from llm_chatgpt.values import as_mapping, as_text


class AuthorizationCode(NamedTuple):
    """The approval of a sign-in, to exchange for a login. It is secret and works once.

    `login_command` starts the sign-in again. The official route adds the client id that OpenAI has
    issued, the nonce that the ID token must repeat, and the scope that the redirect names.
    """

    authorization_code: str
    code_verifier: str
    redirect_uri: str
    route: Route = CODEX
    login_command: str = "llm chatgpt login"
    client_id: str = config.CLIENT_ID
    nonce: str = ""
    scope: str = ""

    def __repr__(self) -> str:
        return "AuthorizationCode()"


# Reads pasted lines in a thread: calls the function with each line until the event is set.
ReadLines = Callable[[Callable[[str], None], threading.Event], None]
# Builds the error to raise if a request fails: `error_class(reason, advice)`.
ErrorClass = Callable[[str, str], ChatGPTError]
# The query parameters of a redirect, each with all its values.
Fields = Mapping[str, list[str]]
REGISTRATION_LOST = "OpenAI no longer knows this installation's registration (invalid_client)."
# The only suffix that the issuer is known to append to the state (P34).
STATE_SUFFIX = ".onboarding_entrypoint=life_sciences"


class AuthorizeRequest:
    """An authorization request whose answer is a redirect to this machine (RFC 6749, RFC 7636).

    `url` is the address to open in a browser, and `login_command` starts the sign-in again. `extra`
    holds the route's other parameters. The state and the verifier are secret.
    """

    # Whether the user may paste the code alone. PKCE ties it to this sign-in without the state.
    takes_code = True
    # The parameters of an approval. An address without them was cut off.
    expected = frozenset({"code"})

    def __init__(
        self, route: Route, host: str, port: int, login_command: str, extra: Mapping[str, str]
    ):
        self.route = route
        self.redirect_uri = f"http://{host}:{port}/auth/callback"
        self.login_command = login_command
        self.state = secrets.token_urlsafe(32)
        self.code_verifier = secrets.token_urlsafe(64)
        challenge = hashlib.sha256(self.code_verifier.encode()).digest()
        query = {
            "response_type": "code",
            "redirect_uri": self.redirect_uri,
            "scope": route.scope,
            "code_challenge": base64.urlsafe_b64encode(challenge).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
            "state": self.state,
            **extra,
        }
        self.url = f"{config.issuer()}{route.authorize_path}?{urlencode(query, quote_via=quote)}"

    def owns(self, fields: Fields) -> bool:
        """Check whether a redirect has the state of this sign-in (P34, P223)."""
        states = fields.get("state", [])
        state = states[0].removesuffix(STATE_SUFFIX) if len(states) == 1 else ""
        # Compare bytes, because compare_digest refuses text that is not ASCII.
        return secrets.compare_digest(state.encode(), self.state.encode())

    def approval(self, fields: Fields) -> AuthorizationCode:
        """Read the approval in a redirect of this sign-in (P35 to P37). Raises LoginFailed."""
        codes = fields.get("code", [])
        if fields.get("error"):
            raise self._refusal(fields["error"][0], fields.get("error_description", [""])[0])
        if len(codes) != 1 or not codes[0]:
            raise self.failure("The browser came back with an incomplete address, without a code.")
        return AuthorizationCode(
            codes[0], self.code_verifier, self.redirect_uri, self.route, self.login_command
        )

    def read_pasted(self, line: str) -> Fields | str:
        """Read a pasted address or code. For anything else, return a message that says so."""
        text = line.strip().strip("'\"<>").partition("#")[0]
        if self.takes_code and re.fullmatch(r"ac_[\w.~+/=-]{8,2000}", text):
            return {"code": [text]}
        # An address with a space was broken into two lines: do not read it.
        address, _, query = ("" if re.search(r"\s", text) else text).partition("?")
        fields = parse_qs(query)
        complete = "error" in fields or self.expected <= fields.keys()
        if address == self.redirect_uri and complete and self.owns(fields):
            return fields
        # An address that was cut off may have only the beginning of this state.
        if not self.state.startswith(fields.get("state", [""])[0]):
            return (
                "That isn't the right address: it is from an earlier attempt. Open the\n"
                "address above, sign in, and paste the address of the last page."
            )
        root = self.redirect_uri.removesuffix("auth/callback")
        return f"That isn't the right address. Copy the whole address,\nstarting with {root}."

    def _refusal(self, error: str, description: str) -> LoginFailed:
        """Build the error for a redirect with an `error` (P35; RFC 6749, section 4.1.2.1)."""
        if "missing_codex_entitlement" in description:
            return errors.LoginDenied(
                "Codex is not enabled for this workspace.",
                "Ask its admin, or sign in to another one.",
            )
        if error == "access_denied":
            return sign_in_declined(self.login_command)
        return self.failure(f"OpenAI ended the sign-in ({printable(description or error, 200)}).")

    def failure(self, reason: str) -> LoginFailed:
        """Build an error whose advice is to start the sign-in again."""
        return LoginFailed(reason, f"Run '{self.login_command}' again.")


def ask_issuer(
    method: str,
    path: str,
    error_class: ErrorClass,
    next_step: str | None = None,
    *,
    headers: dict[str, str] | None = None,
    **request: Any,
) -> http.Reply:
    """Send one request to the issuer. Raises an error of `error_class` if no answer comes.

    `next_step` replaces the usual advice for a connection that failed.
    """
    headers = {"User-Agent": config.user_agent(), "Accept": "*/*", **(headers or {})}
    try:
        return http.send(method, config.issuer() + path, headers=headers, **request)
    except errors.ConnectionFailed as error:
        advice = error.advice if next_step is None else next_step
        raise error_class(f"{error.reason}.", advice) from error


def _post(
    route: Route, path: str, error_class: ErrorClass, body: dict[str, str], **options: Any
) -> http.Reply:
    """Send a refresh or a revocation (P14, P50, P62, P238, P244)."""
    headers = {"originator": config.originator()} if route.names_account else {}
    encoded: dict[str, Any] = {"data" if route.sends_forms else "json": body}
    return ask_issuer("POST", path, error_class, headers=headers, **encoded, **options)


def explain(reply: http.Reply, expected: str) -> tuple[str, str]:
    """Return the reason and the advice for an unexpected answer. `expected` follows "did not"."""
    if reply.is_web_page:
        return reply.web_page_error
    if reply.error_code == "unsupported_country_region_territory":
        return "OpenAI does not offer this service in your country or region.", ""
    if reply.status >= 500:
        return f"OpenAI server error ({reply.status}).", "Try again in a few minutes."
    if reply.status == 429:
        return "OpenAI is receiving too many requests (429).", "Try again in a minute."
    code = f", {printable(reply.error_code, 80)}" if reply.error_code else ""
    return (
        f"{urlsplit(config.issuer()).netloc} did not {expected} "
        f"(status {reply.status}{code}{_description(reply)}).",
        "Try again, or update with 'llm install -U llm-chatgpt-oauth'.",
    )


def _description(reply: http.Reply) -> str:
    """Quote the issuer's message after a colon, without long words, which may be secrets."""
    data = reply.data
    message = as_mapping(data.get("error")).get("message")
    text = as_text(data.get("error_description")) or as_text(message) or ""
    quoted = printable(re.sub(r"[!-~]{20,}", "...", text), 200).rstrip(".")
    return f": {quoted}" if text else ""


def sign_in_declined(login_command: str) -> errors.LoginDenied:
    advice = f"If that was a mistake, run '{login_command}' again."
    return errors.LoginDenied("The sign-in was declined in the browser.", advice)


def exchange(approval: AuthorizationCode) -> http.Reply:
    """Exchange an approval for tokens, and return the answer with them (P40, P232).

    Sent only once: after a lost answer, the code may be spent (P42). Raises LoginFailed.
    """
    route, login_command = approval.route, approval.login_command
    reply = ask_issuer(
        "POST",
        route.token_path,
        LoginFailed,
        f"You approved the sign-in, but it did not finish: run '{login_command}' again.",
        data={
            "grant_type": "authorization_code",
            "client_id": approval.client_id,
            "code": approval.authorization_code,
            "redirect_uri": approval.redirect_uri,
            "code_verifier": approval.code_verifier,
            **route.token_fields,
        },
    )
    if reply.status == 200:
        return reply
    reason, advice = explain(reply, "complete the sign-in")
    if reply.error_code in ("token_exchange_user_error", "invalid_grant"):
        reason = (
            f"OpenAI did not accept the code of this sign-in ({reply.error_code}): it was "
            "used before, or is from an earlier attempt."
        )
        advice = f"Run '{login_command}' again."
    elif reply.error_code == "invalid_client" and route is not CODEX:
        reason, advice = REGISTRATION_LOST, f"Run '{login_command}' to register again."
    raise LoginFailed(reason, advice, code=reply.error_code)


def read_login(reply: http.Reply, approval: AuthorizationCode) -> Tokens:
    """Read the login in the answer to an exchange. Raises LoginFailed if it lacks a token."""
    kind, client_id = approval.route.kind, approval.client_id
    empty = Tokens("", kind=kind, issuer=config.issuer(), client_id=client_id)
    tokens = tokens_from_reply(reply.data, old=empty, now=time.time())
    if tokens is None or tokens.refresh_token is None:
        raise LoginFailed(*explain(reply, "send the tokens"))
    return tokens


def exchange_for_login(approval: AuthorizationCode) -> Tokens:
    """Exchange an approval of the Codex route for a login. Raises LoginFailed."""
    return read_login(exchange(approval), approval)


def check_issuer(tokens: Tokens, login_command: str) -> None:
    """Raise RefreshFailed unless the tokens come from the issuer in use (P59).

    `login_command` signs in again.
    """
    issuer = tokens.issuer or config.DEFAULT_ISSUER
    if issuer != config.issuer():
        raise RefreshFailed(
            f"This login comes from {urlsplit(issuer).netloc}, not from "
            f"{urlsplit(config.issuer()).netloc}.",
            f"Correct LLM_CHATGPT_ISSUER, or run '{login_command}'.",
        )


def revoke(tokens: Tokens) -> None:
    """End a login's session at OpenAI (P62, P244), within 10 seconds.

    Raises ChatGPTError if OpenAI has not confirmed it.
    """
    route = tokens.route
    check_issuer(tokens, route.login_command())
    name = "refresh_token" if tokens.refresh_token else "access_token"
    body = {"token": getattr(tokens, name), "token_type_hint": name}
    if tokens.refresh_token:
        body["client_id"] = tokens.client_id or config.CLIENT_ID
    end = time.monotonic() + config.REVOKE_TIMEOUT_SECONDS
    # On the official route, OpenAI asks programs to retry after a network or server failure.
    for _ in range(2 if route.own_session else 1):
        left = end - time.monotonic()
        try:
            reply = _post(route, route.revoke_path, LoginFailed, body, next_step="", seconds=left)
        except ChatGPTError as error:
            failure = error
            continue
        if reply.status < 300:
            return
        failure = LoginFailed(*explain(reply, "end the session"))
        if reply.status < 500:
            break
    raise failure


def revoke_all(logins: Iterable[Tokens]) -> None:
    """End several sessions at the same time, within 10 seconds. Warn about each failure."""

    def end(tokens: Tokens) -> None:
        try:
            revoke(tokens)
        except ChatGPTError as error:
            notice(
                f"Warning: Could not end the session at OpenAI ({error.message.rstrip('.')}). End "
                "it in ChatGPT under Settings > Security."
            )

    for future in [start_in_thread(functools.partial(end, tokens)) for tokens in logins]:
        wait_for(future)


def new_login_needed(reason: str, login_command: str, code: str | None = None) -> RefreshFailed:
    """Build the error for a login that only a new sign-in with `login_command` can replace.

    `reason` completes the sentence "Your ChatGPT login ...".
    """
    return RefreshFailed(
        f"Your ChatGPT login {reason}.",
        f"Run '{login_command}' to sign in again.",
        permanent=True,
        code=code,
    )


def access_token_rejected() -> RefreshFailed:
    return RefreshFailed(
        "OpenAI rejected this access token.",
        "Create a new one in your workspace's settings and run 'llm keys set chatgpt'.",
        permanent=True,
    )


def check_renewable(tokens: Tokens, login_command: str, now: float | None = None) -> None:
    """Raise RefreshFailed for a login whose renewal is known to fail.

    `login_command` signs in again. `now` is the time by OpenAI's clock; None skips the check
    whether it is too early.
    """
    if tokens.refusal:
        raise RefreshFailed(tokens.refusal, permanent=True)
    if tokens.kind == "access_token":
        raise access_token_rejected()
    if tokens.kind == "codex":
        raise RefreshFailed(
            "The login imported from Codex CLI has expired.",
            "Renew it with Codex CLI, then run 'llm chatgpt import'; or run 'llm chatgpt login'.",
            permanent=True,
        )
    if not tokens.refresh_token:
        raise new_login_needed("cannot be renewed", login_command)
    check_issuer(tokens, login_command)
    if now is not None and (delay := seconds_until_refresh(tokens, now)):
        raise RefreshFailed(
            f"OpenAI renews this login {from_now(time.time() + delay)} at the earliest.",
            f"Try again then, or run '{login_command}'.",
        )


def refresh_tokens(tokens: Tokens, *, login_command: str = "llm chatgpt login") -> Tokens:
    """Exchange a refresh token, which works once, for new tokens (P50, P238). Stores nothing.

    To use the stored login, call `get_tokens` instead. Raises RefreshFailed, whose advice is to run
    `login_command` if only a new login helps.
    """
    check_renewable(tokens, login_command)
    route = tokens.route
    body = {
        "client_id": tokens.client_id or config.CLIENT_ID,
        "grant_type": "refresh_token",
        "refresh_token": tokens.refresh_token or "",
        **route.token_fields,
    }
    seconds = config.REFRESH_TIMEOUT_SECONDS
    reply = _post(route, route.token_path, RefreshFailed, body, seconds=seconds, limit_total=False)
    if reply.status == 200 and reply.data:
        old = tokens._replace(issuer=config.issuer())
        new = tokens_from_reply(reply.data, old=old, now=time.time())
        claims = parse_jwt_claims(reply.data.get("id_token")) or {}
        if tokens.subject not in (None, claims.get("sub", tokens.subject)):
            raise new_login_needed("was renewed for another user", login_command)
        if new is not None:
            return new
    code = reply.error_code
    if code == "invalid_client" and route is not CODEX:
        # --new, because the registration may still be stored.
        advice = f"Run '{login_command} --new' to sign in again."
        raise RefreshFailed(REGISTRATION_LOST, advice, code=code)
    # A web page or a 401 without a code comes from a proxy, and says nothing about the login (P57).
    final = code in FINAL_REFUSALS or reply.status == route.final_status
    if code and final and reply.status < 500:
        reason = FINAL_REFUSALS.get(code, "is no longer accepted")
        raise new_login_needed(reason, login_command, code)
    raise RefreshFailed(*explain(reply, "renew the login"), code=code)
