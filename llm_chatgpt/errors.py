"""The errors that end a login or a prompt."""

from __future__ import annotations

import os
import sys
from typing import Any

import click
import llm


class ChatGPTError(llm.ModelError, click.ClickException):
    """Stops a login or a prompt.

    `reason` says what happened, without a full stop, and `advice` is the next step; the
    message is both. `code`, `param`, `status` and `request_id` are the server's error code,
    the part of the request that it refused, the HTTP status (None inside a stream), and its
    name for the request. `retry_after` is how many seconds the server asks to wait, `date` when
    it answered, in Unix seconds by its own clock.
    `tokens_refused` says that the server no longer accepts the access token: a renewed one
    or a new login may help.

    It is an llm and a click error at once: `llm prompt` shows the first in one line, `llm
    chat` only the second.
    """

    def __init__(
        self,
        reason: str,
        advice: str = "",
        *,
        code: str | None = None,
        param: str | None = None,
        status: int | None = None,
        retry_after: float | None = None,
        date: float | None = None,
        request_id: str | None = None,
        tokens_refused: bool = False,
    ):
        request = f"[request {request_id}]" if request_id else ""
        super().__init__(" ".join(filter(None, (reason, advice, request))))
        self.reason = reason.rstrip(".")
        self.advice = advice
        self.code = code
        self.param = param
        self.status = status
        self.retry_after = retry_after
        self.date = date
        self.request_id = request_id
        self.tokens_refused = tokens_refused

    def show(self, file: Any = None) -> None:
        if os.environ.get("LLM_RAISE_ERRORS"):
            import traceback

            traceback.print_exception(type(self), self, self.__traceback__, file=sys.stderr)
            return
        super().show(file)


class ConnectionFailed(ChatGPTError):
    """No readable answer came.

    `stalled` says that the server kept the connection open and sent nothing in time.
    """

    def __init__(
        self,
        reason: str,
        advice: str = "Check the network and try again.",
        *,
        stalled: bool = False,
    ):
        super().__init__(reason, advice, code="connection")
        self.stalled = stalled


class NotSignedIn(ChatGPTError, llm.NeedsKeyException):
    """There is no login to use."""


class LoginFailed(ChatGPTError):
    """The sign-in failed; the stored login is unchanged."""


class LoginExpired(LoginFailed):
    """The code was not entered in time, or OpenAI no longer knows it."""


class LoginDenied(LoginFailed):
    """The user or their workspace declined."""


class DeviceLoginDisabled(LoginFailed):
    """The issuer offers no device codes (404 at the start)."""


class AccountTaken(LoginFailed):
    """Another user is signed in under that account name; their login is kept."""


class StoreError(ChatGPTError):
    """The login file cannot be read, written or locked."""


class RefreshFailed(ChatGPTError):
    """The tokens were not renewed. `permanent` means that only a new login helps."""

    def __init__(
        self,
        reason: str,
        advice: str = "",
        *,
        permanent: bool = False,
        code: str | None = None,
    ):
        super().__init__(reason, advice, code=code)
        self.permanent = permanent


class RequestRefused(ChatGPTError):
    """The backend answered a prompt with an error status."""


class UsageLimitReached(RequestRefused):
    """A usage limit of the plan is reached; sending again does not help.

    `resets_at` is when it ends, in Unix seconds (None: the server did not say). `resettable`
    says that a banked reset would clear it.
    """

    resettable = False
    resets_at: float | None = None

    def add_advice(self, *steps: str) -> None:
        """Put these sentences before the advice."""
        advice = f"{' '.join(steps)} Or {self.advice[0].lower()}{self.advice[1:]}"
        self.message = self.message.replace(self.advice, advice)  # type: ignore[misc]
        self.advice = advice


class StreamFailed(ChatGPTError):
    """The answer broke off, or the service reported that it failed."""


class SlowDown(LoginFailed):
    """No decision yet; ask again later than planned."""
