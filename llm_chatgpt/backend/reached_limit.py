"""Describe a reached limit: which one it is, when it resets, and what the user can do."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from llm_chatgpt.backend.catalogue import RESERVE
from llm_chatgpt.backend.usage import (
    UsageWindow,
    reserve_is_left,
    reset_moment,
    resets_of_usage,
    windows_of_headers,
)
from llm_chatgpt.login.imported import access_token_in
from llm_chatgpt.text import from_now, printable

# The user's options on each plan, besides waiting.
_ASK_ADMIN = ("ask your workspace's admin for more",)
_OPTIONS: dict[str, tuple[str, ...]] = {
    "plus": ("upgrade to Pro", "buy credits"),
    **dict.fromkeys(("pro", "prolite", "promax"), ("buy credits",)),
    **dict.fromkeys(("free", "go", "guest"), ("upgrade to Plus",)),
    **dict.fromkeys(("team", "business", "ent26"), _ASK_ADMIN),
}
# Names of plans that are not their id in other words; the beginning of an id is enough.
_PLAN_NAMES = {
    "prolite": "Pro Lite",
    "promax": "Pro Max",
    "self_serve_business": "Business",
    "enterprise": "Enterprise",
    "ent26": "Enterprise",
    "k12": "K-12",
}
PERSONAL_PLANS = frozenset(plan for plan, options in _OPTIONS.items() if options is not _ASK_ADMIN)


def plan_name(plan: object) -> str:
    """The plan's name, such as 'Plus' for `plus`; '?' if there is none."""
    text = printable(plan or "?", 40).lower()
    known = (name for start, name in _PLAN_NAMES.items() if text.startswith(start))
    return next(known, " ".join(word.capitalize() for word in text.split("_")))


def of_workspace(headers: Mapping[str, str]) -> bool:
    """Check whether only the workspace's owner can raise the limit."""
    return headers.get("x-codex-rate-limit-reached-type", "").startswith("workspace_")


def moment_of_reset(error: Mapping[str, Any], headers: Mapping[str, str]) -> float | None:
    """Return when a limit resets, in Unix seconds; None if neither error nor headers tell."""
    moments = [window.resets_at for window in _full_windows(headers)]
    moment = reset_moment(error.get("resets_at"), error.get("resets_in_seconds"))
    return moments[-1] if moment is None and moments else moment


def _full_windows(headers: Mapping[str, str]) -> list[UsageWindow]:
    return [window for window in windows_of_headers(headers) if window.used_percent >= 100]


def describe(
    headers: Mapping[str, str], error: Mapping[str, Any], message: str, resets_at: float | None
) -> dict[str, str]:
    """Return the facts that the text of a reached limit needs."""
    plan = str(error.get("plan_type") or headers.get("x-codex-plan-type") or "").lower()
    full = _full_windows(headers)
    options = _OPTIONS.get(plan, ())
    if plan.startswith(("self_serve_business", "enterprise_cbp")):
        options = _ASK_ADMIN
    if of_workspace(headers):
        options = ("ask your workspace's owner to raise the limit or add credits",)
    if headers.get("x-codex-limit-name", "codex").lower() != "codex":
        options = ("try another model", *options)
    steps = ["Wait for the reset", *options]
    comma = "," if len(steps) > 2 else ""
    advice = f"{', '.join(steps[:-1])}{comma} or {steps[-1]}:" if options else f"{steps[0]}, or see"
    facts = {
        "window": f"{full[-1].name} " if full else "",
        "plan": f"{plan_name(plan)} " if plan else "",
        "reset": f" It resets {from_now(resets_at)}." if resets_at is not None else "",
        "options": advice,
    }
    # The service's usual message says no more than the text.
    usual = message.startswith("The usage limit has been reached")
    return facts | ({"words": "."} if usual else {})


def login_option(name: str, key: str | None) -> str:
    """Return the option that makes a command use the login that `key` names.

    Empty without a key, and for an access token, which no message may show.
    """
    return f" {name} {shlex.quote(printable(key, 60))}" if key and not access_token_in(key) else ""


def what_is_left(usage: Mapping[str, Any], slug: str, key: str | None) -> list[str]:
    """Name the banked resets and Luna Reserve that are left when `slug` has reached a limit.

    `usage` is the usage endpoint's answer, `key` names the login.
    """
    sentences = []
    resets = resets_of_usage(usage)
    if resets and resets.available:
        count = f"{resets.available} banked reset{'s' * (resets.available != 1)}"
        command = f"llm chatgpt reset{login_option('--account', key)}"
        sentences.append(f"You have {count}: run '{command}'.")
    if reserve_is_left(usage) and slug != RESERVE.slug:
        command = f'llm -m {RESERVE.model_id}{login_option("--key", key)} "prompt"'
        sentences.append(f"You have Luna Reserve left: run '{command}'.")
    return sentences
