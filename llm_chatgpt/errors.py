"""The errors that a login or a prompt can end in."""

from __future__ import annotations

import os
import sys
from typing import Any

import click
import llm


class ChatGPTError(llm.ModelError, click.ClickException):
    """Anything that stops a login or a prompt: one sentence with the next step.

    It is an llm and a click error at once: `llm prompt` shows the first in one line, `llm
    chat` only the second. `retry_after` is how many seconds the server asks to wait.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        status: int | None = None,
        retry_after: float | None = None,
    ):
        super().__init__(message)
        self.code = code
        self.status = status
        self.retry_after = retry_after

    @property
    def reason(self) -> str:
        """What happened, without the next step and the full stop."""
        return self.message.split(". ")[0].rstrip(".")

    def show(self, file: Any = None) -> None:
        if os.environ.get("LLM_RAISE_ERRORS"):
            import traceback

            traceback.print_exception(type(self), self, self.__traceback__, file=sys.stderr)
            return
        super().show(file)


class ConnectionFailed(ChatGPTError):
    """No readable answer came. The message is one sentence, without a next step.

    `stalled` says that the server kept the connection open and sent nothing in time.
    """

    def __init__(self, message: str, *, stalled: bool = False):
        super().__init__(message, code="connection")
        self.stalled = stalled


class NotSignedIn(ChatGPTError, llm.NeedsKeyException):
    """There is no login to use."""


class LoginFailed(ChatGPTError):
    """The sign-in failed; what was stored before is untouched."""


class LoginExpired(LoginFailed):
    """The code was not entered in time, or is no longer known."""


class LoginDenied(LoginFailed):
    """The user or their workspace declined."""


class DeviceLoginDisabled(LoginFailed):
    """The issuer offers no device codes (404 at the start)."""


class AccountTaken(LoginFailed):
    """Another user is signed in under that account name; their login is kept."""


class StoreError(ChatGPTError):
    """The login file cannot be read, written or locked."""


class RefreshFailed(ChatGPTError):
    """No new tokens. `permanent` means that only a new login helps."""

    def __init__(self, message: str, *, permanent: bool = False, code: str | None = None):
        super().__init__(message, code=code)
        self.permanent = permanent


class RequestRefused(ChatGPTError):
    """The backend answered a prompt with an error status."""


class UsageLimitReached(RequestRefused):
    """A usage limit of the plan is reached; sending again does not help."""


class StreamFailed(ChatGPTError):
    """The answer broke off, or the service reported that it failed."""


class SlowDown(LoginFailed):
    """No decision yet; ask again later than planned."""
