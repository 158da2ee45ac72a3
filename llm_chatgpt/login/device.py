"""Sign in with a device code: show it, and poll until the user has entered it.

This is OpenAI's own flow (P15 to P30), not RFC 8628.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import NamedTuple

from llm_chatgpt import config
from llm_chatgpt.errors import DeviceLoginDisabled, LoginExpired, LoginFailed, SlowDown
from llm_chatgpt.login import oauth
from llm_chatgpt.login.login_file import check_writable
from llm_chatgpt.login.new_login import store_new_login
from llm_chatgpt.login.routes import CODEX
from llm_chatgpt.login.tokens import Tokens, without_secrets
from llm_chatgpt.text import notice
from llm_chatgpt.values import as_http_date, as_moment, as_text
from llm_chatgpt.waiting import Waiting


class DeviceCode(NamedTuple):
    """A code for the user to enter. `interval` (between polls) and `expires_in` are in seconds.

    `login_command` starts the sign-in again, for error messages.
    """

    user_code: str
    device_auth_id: str
    interval: float = config.POLL_INTERVAL_SECONDS
    expires_in: float = config.DEVICE_CODE_SECONDS
    verification_url: str = f"{config.DEFAULT_ISSUER}/codex/device"
    login_command: str = "llm chatgpt login"

    def __repr__(self) -> str:
        return without_secrets(self, "user_code", "interval", "expires_in", "verification_url")


def request_device_code() -> DeviceCode:
    """Request a code and the address of the page where the user enters it (P15 to P20).

    Raises DeviceLoginDisabled, LoginFailed.
    """
    body = {"client_id": config.CLIENT_ID}
    reply = oauth.ask_issuer("POST", "/api/accounts/deviceauth/usercode", LoginFailed, json=body)
    data = reply.data
    user_code = as_text(data.get("user_code")) or as_text(data.get("usercode"))
    device_auth_id = as_text(data.get("device_auth_id"))
    if reply.status == 404:
        raise DeviceLoginDisabled(
            "OpenAI did not offer a device code.", "Use --browser to sign in without one."
        )
    if reply.status != 200 or user_code is None or device_auth_id is None:
        raise LoginFailed(*oauth.explain(reply, "start a sign-in"))
    return DeviceCode(
        user_code=user_code,
        device_auth_id=device_auth_id,
        interval=_poll_interval(data.get("interval")),
        expires_in=_code_lifetime(data.get("expires_at"), reply.headers.get("date")),
        verification_url=f"{config.issuer()}/codex/device",
    )


def _poll_interval(value: object) -> float:
    """Parse the seconds between two polls, a number or text (P18), and keep them within limits."""
    text = str(value)
    number = re.fullmatch(r"\d+(\.\d+)?", text)
    low, high = config.POLL_INTERVAL_LIMITS
    return min(high, max(low, float(text) if number else config.POLL_INTERVAL_SECONDS))


def _code_lifetime(expires_at: object, date: str | None) -> float:
    """Return the code's lifetime in seconds by the server's clock, at most 900 (P19)."""
    seconds = (as_moment(expires_at) or 0.0) - (as_http_date(date) or 0.0)
    return seconds if 0 < seconds < config.DEVICE_CODE_SECONDS else config.DEVICE_CODE_SECONDS


def poll_device_code(code: DeviceCode) -> oauth.AuthorizationCode | None:
    """Ask once whether the user has approved the sign-in. Returns None if not yet (P21 to P30).

    Raises LoginDenied, LoginExpired, LoginFailed. Raises SlowDown if the caller should wait longer:
    with the code "slow_down" if the server asks for it, without a code if the server fails or
    cannot be reached. An error code in the reply takes precedence over a status other than 200.
    """
    path = "/api/accounts/deviceauth/token"
    body = {"device_auth_id": code.device_auth_id, "user_code": code.user_code}
    reply = oauth.ask_issuer("POST", path, SlowDown, "Still trying.", json=body)
    data, error = reply.data, reply.error_code or ""
    if reply.status == 200:
        authorization_code, verifier = data.get("authorization_code"), data.get("code_verifier")
        if isinstance(authorization_code, str) and isinstance(verifier, str):
            # The issuer compares this address; nothing opens it (P7).
            uri = f"{config.issuer()}/deviceauth/callback"
            command = code.login_command
            return oauth.AuthorizationCode(authorization_code, verifier, uri, CODEX, command)
        raise LoginFailed(*oauth.explain(reply, "hand over the approved sign-in"))
    if "pending" in error or error == "deviceauth_authorization_unknown":
        return None
    if "expired" in error or error == "deviceauth_not_found":
        raise _code_expired(code)
    if "denied" in error or "declined" in error:
        raise oauth.sign_in_declined(code.login_command)
    if "slow_down" in error or reply.status == 429:
        raise SlowDown("OpenAI asks for longer pauses.", code="slow_down")
    if reply.status >= 500:
        raise SlowDown(f"OpenAI server error ({reply.status}).", "Still trying.")
    # A 403 or 404 without a code means that the user has not approved yet (P26).
    if not error and (reply.status == 404 or (reply.status == 403 and not reply.is_web_page)):
        return None
    raise LoginFailed(*oauth.explain(reply, "accept the sign-in"))


def _code_expired(code: DeviceCode) -> LoginExpired:
    return LoginExpired("The code expired.", f"Run '{code.login_command}' for a new one.")


def poll_for_token(
    code: DeviceCode,
    *,
    wait: Callable[[float, float], None] | None = None,
    notify: Callable[[str], None] = notice,
    clock: Callable[[], float] = time.monotonic,
) -> Tokens:
    """Wait until the user has approved the sign-in, and return the tokens. Stores nothing.

    `wait(seconds, left)` sleeps between two requests; the code expires in `left` seconds. An
    exception raised by `wait` ends the sign-in and reaches the caller. `notify` is called once,
    with a message, if the server fails or cannot be reached. Raises LoginFailed and its subclasses.
    """
    wait = wait or (lambda seconds, left: time.sleep(seconds))
    end = clock() + code.expires_in
    interval = code.interval
    notified = False
    while True:
        try:
            if approval := poll_device_code(code):
                return oauth.exchange_for_login(approval)
        except SlowDown as trouble:
            interval = min(interval + config.SLOW_DOWN_SECONDS, config.POLL_INTERVAL_LIMITS[1])
            if trouble.code != "slow_down" and not notified:
                notify(trouble.message)
                notified = True
        left = end - clock()
        if left <= 0:
            raise _code_expired(code)
        # Add a margin: a clock that runs fast, as in WSL, would poll too early (P21).
        wait(min(interval * config.POLL_MARGIN, left), left)


def login(
    account: str | None = None,
    *,
    show: Callable[[DeviceCode], None],
    wait: Callable[[float, float], None] | None = None,
    notify: Callable[[str], None] = notice,
    replace: Callable[[Tokens, Tokens], bool] | None = None,
    workspace: str | None = None,
) -> Tokens:
    """Sign in with a device code and store the login under `account` (None: `default`).

    `show` presents the code to the user; `wait` and `notify` are as for `poll_for_token`. A stored
    login is replaced only after a successful sign-in. If it is for another user, workspace or
    route, `replace(old, new)` decides (None: replace it). If `workspace`, an id, is given, a login
    for another workspace is not stored. Raises LoginFailed and its subclasses, StoreError.
    """
    check_writable()
    code = request_device_code()._replace(login_command=CODEX.login_command(account))
    show(code)
    with Waiting("Waiting for you to enter the code", seconds=code.expires_in):
        tokens = poll_for_token(code, wait=wait, notify=notify)
    return store_new_login(tokens, account, replace, workspace)
