"""When a prompt is sent again: decisions only, nothing is sent or waited for here.

The rule in words is in docs/protocol.md, "Sending again". It applies only while nothing of the
answer has been shown.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from llm_chatgpt import config
from llm_chatgpt.backend import refusable, refusals
from llm_chatgpt.errors import ChatGPTError, StreamFailed, UsageLimitReached
from llm_chatgpt.login.tokens import Tokens, residencies

# A stream that ends with one of these would end with it again.
_FINAL_CODES = refusals.POLICY_CODES | {
    "context_length_exceeded",
    "invalid_encrypted_content",
    "stalled",
}


class OptionalPart(NamedTuple):
    """A part that a request can do without: the next one leaves it out if the service refuses it.

    `refused` tells whether an error is about that part, given the tokens that were sent. `scope`
    tells for how long it stays out: the rest of the "turn", or every request of this process to
    the same "model", for the same "account", or to the "service".
    """

    name: str
    refused: Callable[[ChatGPTError, Tokens], bool]
    scope: str = "turn"


def _names(param: str) -> Callable[[ChatGPTError, Tokens], bool]:
    return lambda error, tokens: error.status == 400 and error.param == param


def _has_other_region(error: ChatGPTError, tokens: Tokens) -> bool:
    return error.code == refusals.WRONG_REGION and len(residencies(tokens)) > 1


# Names of the parts. `Composer` leaves out those in `Attempt.without`. The parts of the input are
# in refusable.py.
SUMMARY = "reasoning.summary"
# The guarantee of strict mode that the answer fits the schema.
STRICT = "text.format.strict"
OUTPUT_LIMIT = "max_output_tokens"
# The system prompt as a message, without `instructions`.
SYSTEM_MESSAGE = "system message"
# The first region that the login names; there may be a second one.
FIRST_RESIDENCY = "first residency"
SESSION_HEADER = "session-id"
COMPRESSION = "compression"
OPTIONAL_PARTS = (
    OptionalPart(SUMMARY, _names(SUMMARY), "model"),
    OptionalPart(STRICT, lambda error, tokens: error.code == refusals.SCHEMA),
    OptionalPart(OUTPUT_LIMIT, _names(OUTPUT_LIMIT), "service"),
    OptionalPart(SYSTEM_MESSAGE, _names("instructions"), "model"),
    OptionalPart(FIRST_RESIDENCY, _has_other_region, "account"),
    OptionalPart(SESSION_HEADER, _names(SESSION_HEADER), "account"),
    OptionalPart(COMPRESSION, lambda error, tokens: error.param == COMPRESSION, "service"),
)


class Attempt(NamedTuple):
    """How to send a prompt this time, and what earlier attempts have used up.

    `pause` is the number of seconds to wait first, `waited` the sum over all attempts.
    `other_tokens` says not to use the tokens that got a 401; that happened `unauthorized` times,
    the last time at `refused_at`. `without` names the parts to leave out.
    """

    pause: float = 0.0
    resends: int = 0
    waited: float = 0.0
    other_tokens: bool = False
    unauthorized: int = 0
    refused_at: float = 0.0
    without: frozenset[str] = frozenset()


def gives_no_reason(error: ChatGPTError) -> bool:
    """Whether the service refused a request without naming a parameter or a known reason."""
    return error.status in (400, 415) and error.param is None and error.code not in _FINAL_CODES


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


def next_attempt(
    last: Attempt,
    error: ChatGPTError,
    items: Sequence[Mapping[str, Any]],
    tokens: Tokens,
    now: float,
) -> Attempt | None:
    """How to send the prompt after this error; None if the error is final.

    `items` and `tokens` are the input and the tokens that it was sent with.
    """
    last = last._replace(pause=0.0, other_tokens=False)
    if isinstance(error, UsageLimitReached) and error.resets_at is not None:
        wait = error.resets_at - now
        if 0 < wait <= config.longest_limit_wait():
            return last._replace(pause=wait + config.AFTER_RESET_SECONDS)
    if error.tokens_refused:
        # Another program may have stored other tokens meanwhile. If those fail as well, or
        # there are none, a refresh brings new ones; it would not help a second time.
        renewed = last.unauthorized and tokens.refreshed_at >= last.refused_at
        if renewed or last.unauthorized == 2:
            return None
        again = last.unauthorized + 1
        return last._replace(other_tokens=True, unauthorized=again, refused_at=now)
    refused = {part.name for part in OPTIONAL_PARTS if part.refused(error, tokens)}
    refused |= refusable.refused_parts(error, items)
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
