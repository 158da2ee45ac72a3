"""When a prompt is sent again: decisions only, nothing is sent or waited for here.

The rule in words is in docs/protocol.md, "Sending again". It applies only while nothing of the
answer has been shown.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Literal, NamedTuple

from llm_chatgpt import config
from llm_chatgpt.backend import refusals
from llm_chatgpt.errors import ChatGPTError, StreamFailed, UsageLimitReached
from llm_chatgpt.login.tokens import Tokens

# A stream that ends with one of these would end with it again.
_FINAL_CODES = refusals.POLICY_CODES | {
    "context_length_exceeded",
    "invalid_encrypted_content",
    "stalled",
}


class OptionalPart(NamedTuple):
    """A part that a request can do without: the next one leaves it out if the service refuses it.

    `refused` tells whether an error is about that part, after the attempt before. It stays out
    for the rest of the turn, or of every request that this process sends to the same model, or
    to any model.
    """

    name: str
    refused: Callable[[ChatGPTError, Attempt], bool]
    stays_out_for: Literal["turn", "model", "process"] = "turn"


# The parts by name; `Exchange.request` leaves out those in `Attempt.without`.
REASONING = "reasoning"
SUMMARY = "reasoning.summary"
COMPRESSION = "compression"
OPTIONAL_PARTS = (
    OptionalPart(REASONING, lambda error, sent: error.code == "invalid_encrypted_content"),
    OptionalPart(
        SUMMARY,
        lambda error, sent: error.status == 400 and error.param == "reasoning.summary",
        stays_out_for="model",
    ),
    OptionalPart(
        COMPRESSION,
        # How the service refuses compressed requests, if it does, is not known.
        lambda error, sent: (
            sent.compressed
            and error.status in (400, 415)
            and error.param is None
            and error.code not in _FINAL_CODES
        ),
        stays_out_for="process",
    ),
)


class Attempt(NamedTuple):
    """How a prompt is sent this time, and what the attempts before have used up.

    `pause` is the seconds to wait first, `waited` those of all attempts. `other_tokens` says
    to leave the tokens that got a 401; that happened `unauthorized` times, at `refused_at`.
    `without` names the parts to leave out. `compressed` says that the body went out compressed.
    """

    pause: float = 0.0
    resends: int = 0
    waited: float = 0.0
    other_tokens: bool = False
    unauthorized: int = 0
    refused_at: float = 0.0
    without: frozenset[str] = frozenset()
    compressed: bool = False


def lasting(without: frozenset[str], scope: Literal["model", "process"]) -> frozenset[str]:
    """Those of these parts that later turns should leave out, too: with the same model, or all."""
    return without & {part.name for part in OPTIONAL_PARTS if part.stays_out_for == scope}


def resends_allowed(error: ChatGPTError, tokens: Tokens) -> int:
    """How often a prompt may be sent again, unchanged, after this error."""
    if isinstance(error, UsageLimitReached) or error.code in _FINAL_CODES:
        return 0
    if (error.status, error.code) in ((403, refusals.WEB_PAGE), (404, refusals.MODEL_NOT_FOUND)):
        return 1
    too_many = error.status == 429 and error.retry_after is not None
    if isinstance(error, StreamFailed) or too_many or (error.status or 0) >= 500:
        return min(config.MAX_RESENDS, tokens.route.max_resends)
    return 0


def next_attempt(last: Attempt, error: ChatGPTError, tokens: Tokens, now: float) -> Attempt | None:
    """How to send the prompt after this error; None if the error is final.

    `tokens` are those that it was sent with.
    """
    last = last._replace(pause=0.0, other_tokens=False)
    if error.tokens_refused:
        # Another program may have stored other tokens meanwhile. If those fail as well, or
        # there are none, a refresh brings new ones; it would not help a second time.
        renewed = last.unauthorized and tokens.refreshed_at >= last.refused_at
        if renewed or last.unauthorized == 2:
            return None
        again = last.unauthorized + 1
        return last._replace(other_tokens=True, unauthorized=again, refused_at=now)
    for part in OPTIONAL_PARTS:
        if part.name not in last.without and part.refused(error, last):
            return last._replace(without=last.without | {part.name})
    if last.resends >= resends_allowed(error, tokens):
        return None
    pause = error.retry_after
    if pause is None:
        pause = config.FIRST_RESEND_PAUSE_SECONDS * 2**last.resends * random.uniform(0.9, 1.1)
    waited = last.waited + pause
    if pause > config.MAX_RETRY_AFTER_SECONDS or waited > config.MAX_RESEND_WAIT_SECONDS:
        return None
    return last._replace(pause=pause, resends=last.resends + 1, waited=waited)
