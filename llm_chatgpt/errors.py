"""The errors that a login or a prompt can end in."""

from __future__ import annotations

import os
import sys
from typing import Any

import click
import llm


class ChatGPTError(llm.ModelError, click.ClickException):
    """Anything that stops a login or a prompt: one sentence, with the next step.

    Both of llm's kinds at once, because `llm prompt` shows a ModelError as one line while
    `llm chat` shows only click's own errors so.
    """

    def __init__(self, message: str, *, code: str | None = None, status: int | None = None):
        super().__init__(message)
        self.code = code
        self.status = status

    def show(self, file: Any = None) -> None:
        if os.environ.get("LLM_RAISE_ERRORS"):
            import traceback

            traceback.print_exception(type(self), self, self.__traceback__, file=sys.stderr)
            return
        super().show(file)


class NotSignedIn(ChatGPTError, llm.NeedsKeyException):
    """There is no login that could be used."""


class LoginFailed(ChatGPTError):
    """The sign-in did not end in a login; what was stored before is untouched."""


class LoginExpired(LoginFailed):
    """The code was not entered in time, or is not known any more."""


class LoginDenied(LoginFailed):
    """The person, or their workspace, said no."""


class DeviceLoginDisabled(LoginFailed):
    """The issuer offers no device codes (404 at the start)."""


class AccountTaken(LoginFailed):
    """Somebody else is signed in under that account's name, and stays so."""


class StoreError(ChatGPTError):
    """The login file cannot be read, written or locked."""


class RefreshFailed(ChatGPTError):
    """No new tokens. `permanent` means that only a new login helps."""

    def __init__(self, message: str, *, permanent: bool, code: str | None = None):
        super().__init__(message, code=code)
        self.permanent = permanent


class RequestRefused(ChatGPTError):
    """The backend answered a prompt with an error status."""


class UsageLimitReached(RequestRefused):
    """The plan's allowance is used up; sending again does not help."""


class StreamFailed(ChatGPTError):
    """An answer that broke off or was reported as failed."""


class SlowDown(LoginFailed):
    """Not an answer yet, and the next question should come later."""
