"""Decide whether and how to send a prompt again. Nothing here sends or waits.

The plugin's rules are the list below P196 in docs/protocol.md, "Sending again". They apply only
while nothing of the answer has been shown.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from llm_chatgpt import config
from llm_chatgpt.backend import refusals
from llm_chatgpt.errors import ChatGPTError, StreamFailed, UsageLimitReached
from llm_chatgpt.login.tokens import Tokens

# Codes of errors after which the same request is not sent again, even if their class or status
# would allow it (P196).
_FINAL_CODES = ("invalid_encrypted_content", "stalled")


class Attempt(NamedTuple):
    """One attempt to send a prompt, and counts of the failures before it.

    `pause` is the number of seconds to wait first, `waited` the sum of the pauses before resends.
    `resends` counts the attempts that repeated the previous one unchanged, whatever the error,
    except after the reset of a limit. `unauthorized` counts the attempts whose tokens were refused,
    the last of them at `refused_at`. `without` names the parts to leave out (optional_parts.py).
    """

    pause: float = 0.0
    resends: int = 0
    waited: float = 0.0
    unauthorized: int = 0
    refused_at: float = 0.0
    without: frozenset[str] = frozenset()


def resends_allowed(error: ChatGPTError, tokens: Tokens) -> int:
    """Return how many resends this error allows. Resends after earlier errors use them up, too."""
    if isinstance(error, UsageLimitReached) or error.code in _FINAL_CODES:
        return 0
    if (error.status, error.code) in ((403, refusals.WEB_PAGE), (404, refusals.MODEL_NOT_FOUND)):
        return 1
    is_rate_limited = error.status == 429 and error.retry_after is not None
    if isinstance(error, StreamFailed) or is_rate_limited or (error.status or 0) >= 500:
        return min(config.MAX_RESENDS, tokens.route.max_resends)
    return 0


def next_attempt(
    last: Attempt, error: ChatGPTError, refused: frozenset[str], tokens: Tokens, now: float
) -> Attempt | None:
    """Plan the next attempt after an error; None if the error is final.

    `refused` names the parts that the error is about (optional_parts.py). `tokens` were sent with
    the failed attempt.
    """
    last = last._replace(pause=0.0)
    if isinstance(error, UsageLimitReached) and error.resets_at is not None:
        wait = error.resets_at - now
        if 0 < wait <= config.longest_limit_wait():
            return last._replace(pause=wait + config.AFTER_RESET_SECONDS)
    if error.tokens_refused:
        # Another program may have stored other tokens meanwhile. If those fail, too, or there are
        # none, the login is refreshed. A second refresh would not help (P61).
        renewed = last.unauthorized and tokens.refreshed_at >= last.refused_at
        if renewed or last.unauthorized == 2:
            return None
        return last._replace(unauthorized=last.unauthorized + 1, refused_at=now)
    if refused - last.without:
        return last._replace(without=last.without | refused)
    if last.resends >= resends_allowed(error, tokens):
        return None
    pause = error.retry_after
    if pause is None:
        pause = config.FIRST_RESEND_PAUSE_SECONDS * 2**last.resends * random.uniform(0.9, 1.1)
    waited = last.waited + pause
    if pause > config.MAX_RETRY_AFTER_SECONDS or waited > config.MAX_RESEND_WAIT_SECONDS:
        return None
    return last._replace(pause=pause, resends=last.resends + 1, waited=waited)
