"""Sign in with a code."""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Callable
from typing import NamedTuple

from llm_chatgpt import config, http
from llm_chatgpt.errors import DeviceLoginDisabled, LoginDenied, LoginExpired, LoginFailed, SlowDown
from llm_chatgpt.login.oauth import (
    AuthorizationCode,
    auth_host,
    auth_post,
    exchange_authorization_code,
    unexpected,
)
from llm_chatgpt.login.tokens import Tokens, without_secrets
from llm_chatgpt.login.workspace import keep_login
from llm_chatgpt.text import in_words, notice
from llm_chatgpt.values import as_mapping, as_number


class DeviceCode(NamedTuple):
    """A login that waits for the person. `interval` and `expires_in` are seconds."""

    user_code: str
    device_auth_id: str
    interval: float = config.POLL_INTERVAL_SECONDS
    expires_in: float = config.DEVICE_CODE_SECONDS
    verification_url: str = f"{config.DEFAULT_ISSUER}/codex/device"

    def __repr__(self) -> str:
        return without_secrets(self, "user_code", "interval", "expires_in", "verification_url")


def request_device_code() -> DeviceCode:
    """Start a device login: the code to show, and where to enter it (auth.md 2).

    Raises DeviceLoginDisabled, LoginFailed.
    """
    library = http.http_library()
    try:
        reply = auth_post(
            "/api/accounts/deviceauth/usercode", json_body={"client_id": config.CLIENT_ID}
        )
    except library.TransportError as error:
        raise LoginFailed(
            f"No sign-in was started: {auth_host()}: {http.transport_reason(error)}. "
            "Check the network and try again."
        ) from error
    data = as_mapping(reply.data)
    user_code = data.get("user_code") or data.get("usercode")
    device_auth_id = data.get("device_auth_id")
    if reply.status == 200 and isinstance(user_code, str) and isinstance(device_auth_id, str):
        return DeviceCode(
            user_code=user_code,
            device_auth_id=device_auth_id,
            interval=_poll_interval(data.get("interval")),
            expires_in=_code_lifetime(data.get("expires_at"), reply.headers.get("date")),
            verification_url=f"{config.issuer()}/codex/device",
        )
    if reply.is_web_page and reply.status != 404:
        raise LoginFailed(http.web_page_message(reply))
    if reply.status == 404:
        raise DeviceLoginDisabled(
            f"{auth_host()} offers no device codes here. Sign in with 'llm chatgpt login "
            "--browser'; or switch on device code sign-in in ChatGPT's security settings (in a "
            "workspace the admin does) and try again."
        )
    if reply.status == 429 or reply.status >= 500:
        raise LoginFailed(
            f"{auth_host()} is too busy to start a sign-in (status {reply.status}). "
            "Try again in a minute."
        )
    raise LoginFailed(unexpected(reply, "start a sign-in"))


def _poll_interval(value: object) -> float:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            value = None
    number = as_number(value)
    if number is None or number != number:
        number = config.POLL_INTERVAL_SECONDS
    low, high = config.POLL_INTERVAL_LIMITS
    return min(max(number, low), high)


def _code_lifetime(expires_at: object, date: str | None) -> float:
    """Seconds the code lasts, by the server's own clock where it tells it."""
    from email.utils import parsedate_to_datetime

    try:
        text = str(expires_at).replace("Z", "+00:00")
        # Python 3.10 reads fractions of three or six digits only.
        end = datetime.datetime.fromisoformat(re.sub(r"\.\d+", "", text))
        start = parsedate_to_datetime(date or "")
        seconds = (end - start).total_seconds()
    except (TypeError, ValueError):
        return config.DEVICE_CODE_SECONDS
    return seconds if 0 < seconds < config.DEVICE_CODE_SECONDS else config.DEVICE_CODE_SECONDS


PENDING_CODES = frozenset(
    {
        "deviceauth_authorization_pending",
        "deviceauth_authorization_unknown",
        "authorization_pending",
    }
)
SLOW_DOWN_CODES = frozenset({"slow_down", "deviceauth_slow_down"})


def poll_device_code(code: DeviceCode) -> AuthorizationCode | None:
    """Ask once whether the person has approved the login; None while they have not.

    The caller waits between calls. Raises LoginDenied, LoginExpired, SlowDown (also for a
    server or a network in trouble), LoginFailed. `error.code` decides before the status.
    """
    library = http.http_library()
    try:
        reply = auth_post(
            "/api/accounts/deviceauth/token",
            json_body={"device_auth_id": code.device_auth_id, "user_code": code.user_code},
        )
    except library.TransportError as error:
        raise SlowDown(f"{auth_host()}: {http.transport_reason(error)}; still trying.") from error
    data = as_mapping(reply.data)
    if reply.status == 200:
        authorization_code, verifier = data.get("authorization_code"), data.get("code_verifier")
        if isinstance(authorization_code, str) and isinstance(verifier, str):
            return AuthorizationCode(authorization_code, verifier)
        raise LoginFailed(unexpected(reply, "hand over the approved sign-in"))
    error_code = reply.error_code or ""
    if error_code in PENDING_CODES:
        return None
    if "expired" in error_code or error_code == "deviceauth_not_found":
        raise LoginExpired(
            "The code has expired or was used already. Run 'llm chatgpt login' again."
        )
    if "denied" in error_code or "declined" in error_code:
        raise LoginDenied(
            "The sign-in was declined in the browser. Nothing has changed; run 'llm chatgpt "
            "login' again if that was a mistake."
        )
    if error_code in SLOW_DOWN_CODES or reply.status == 429:
        raise SlowDown("")
    if reply.is_web_page and reply.status < 500 and reply.status != 404:
        raise LoginFailed(http.web_page_message(reply))
    if reply.status >= 500:
        raise SlowDown(f"{auth_host()} is in trouble (status {reply.status}); still trying.")
    if reply.status in (403, 404) and not error_code:
        return None
    raise LoginFailed(unexpected(reply, "accept the sign-in"))


def poll_for_token(
    code: DeviceCode,
    *,
    wait: Callable[[float, float], None] | None = None,
    notify: Callable[[str], None] = notice,
    clock: Callable[[], float] = time.monotonic,
) -> Tokens:
    """Wait until the person has approved the login, and return its tokens. Stores nothing.

    `wait(seconds, left)` sleeps between two questions; `left` is how long the code still
    lasts. `notify` hears once of a server in trouble. Raises LoginFailed and its kinds.
    """
    wait = wait or (lambda seconds, left: time.sleep(seconds))
    end = clock() + code.expires_in
    interval = code.interval
    told = False
    while True:
        try:
            approved = poll_device_code(code)
        except SlowDown as trouble:
            approved = None
            interval = min(interval + config.SLOW_DOWN_SECONDS, config.POLL_INTERVAL_LIMITS[1])
            if trouble.message and not told:
                notify(trouble.message)
                told = True
        if approved is not None:
            return exchange_authorization_code(approved)
        left = end - clock()
        if left <= 0:
            raise LoginExpired(
                f"Nobody entered the code within {in_words(code.expires_in)}. "
                "Run 'llm chatgpt login' again."
            )
        wait(min(interval, left), left)


def login(
    account: str | None = None,
    *,
    show: Callable[[DeviceCode], None],
    wait: Callable[[float, float], None] | None = None,
    notify: Callable[[str], None] = notice,
    replace: Callable[[Tokens, Tokens], bool] | None = None,
) -> Tokens:
    """Sign in by device code and store the login under `account` (None: the default).

    `show` presents the code to the person. What was stored before is replaced at the end,
    and only by a success; `replace(old, new)` is asked first where it is somebody else's.
    Raises LoginFailed and its kinds, StoreError.
    """
    code = request_device_code()
    show(code)
    tokens = poll_for_token(code, wait=wait, notify=notify)
    return keep_login(tokens, account, replace)
