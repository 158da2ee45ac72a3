"""The plugin's errors.

Each has a reason and advice for the user, and fields for the code that handles it, which never
parses the message.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import click
import llm


class ChatGPTError(llm.ModelError, click.ClickException):
    """Base class of the plugin's errors.

    `reason` says what happened, and `advice` is the next step. The message is both, with the
    request's id after them. The attribute `reason` has no full stop.

    It is both an llm and a click error: `llm prompt` shows an llm error on one line, `llm chat`
    shows only click errors.
    """

    # The part of the request that the server refused.
    param: str | None = None
    # The HTTP status; None inside a stream.
    status: int | None = None
    # How many seconds the server asks the client to wait.
    retry_after: float | None = None
    # When the server answered, in Unix seconds by its own clock.
    date: float | None = None
    # Whether the server no longer accepts the access token: a renewed one or a new login may help.
    tokens_refused = False

    def __init__(
        self,
        reason: str,
        advice: str = "",
        *,
        code: str | None = None,
        request_id: str | None = None,
    ):
        self.reason = reason.rstrip(".")
        self.advice = advice
        # The server's error code, and its id for the request.
        self.code = code
        self.request_id = request_id
        self._sentence = reason
        super().__init__(self._composed())

    def _composed(self) -> str:
        request = f"[request {self.request_id}]" if self.request_id else ""
        return " ".join(filter(None, (self._sentence, self.advice, request)))

    def replace_advice(self, advice: str) -> None:
        """Replace the next step, also in the message."""
        self.advice = advice
        self.message = self._composed()  # type: ignore[misc]

    def show(self, file: Any = None) -> None:
        """Print the message; print the traceback instead if LLM_RAISE_ERRORS is set.

        llm raises the error again for this setting, but click would print only the message.
        """
        if os.environ.get("LLM_RAISE_ERRORS"):
            import traceback

            traceback.print_exception(type(self), self, self.__traceback__, file=sys.stderr)
            return
        super().show(file)


class ConnectionFailed(ChatGPTError):
    """The server sent no readable answer.

    `stalled` says that it kept the connection open, but sent no data in time.
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
    """There is no login to use, for example because the account is signed out."""


class LoginFailed(ChatGPTError):
    """The sign-in failed. The stored login is unchanged, except in one case (see LoginDenied)."""


class LoginExpired(LoginFailed):
    """The sign-in took too long, or OpenAI no longer knows the device code (P24, P25)."""


class LoginDenied(LoginFailed):
    """The user or their workspace declined the sign-in.

    On the official route, if the user declined the use of the plan, the stored login ends, too.
    """


class DeviceLoginDisabled(LoginFailed):
    """The issuer offers no device codes (P20)."""


class AccountTaken(LoginFailed):
    """The account name already has another login, which was kept."""


class StoreError(ChatGPTError):
    """The login file cannot be read, written or locked."""


class RefreshFailed(ChatGPTError):
    """The tokens could not be renewed. `permanent` says that only a new login helps."""

    def __init__(
        self, reason: str, advice: str = "", *, permanent: bool = False, code: str | None = None
    ):
        super().__init__(reason, advice, code=code)
        self.permanent = permanent


class RequestRefused(ChatGPTError):
    """The service refused the request, with an error status or inside a stream."""


class UsageLimitReached(RequestRefused):
    """A usage limit of the plan is reached; sending again does not help.

    `resets_at` is the time of the reset in Unix seconds (None: the server did not say).
    `resettable` says that a banked reset would clear the limit.
    """

    resettable = False
    resets_at: float | None = None


class StreamFailed(ChatGPTError):
    """The answer broke off, or the service reported that it failed."""


class SlowDown(LoginFailed):
    """The sign-in goes on: poll again, but more slowly from now on (P29, P30)."""
