"""Describe a reached limit: its window, the time of its reset, and the user's options."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from llm_chatgpt import config
from llm_chatgpt.backend.catalogue import RESERVE
from llm_chatgpt.backend.usage import (
    UsageWindow,
    banked_resets,
    reserve_is_left,
    reset_moment,
    windows_of_headers,
)
from llm_chatgpt.login.imported import access_token_in
from llm_chatgpt.text import as_sentence, from_now, printable

# The options of personal plans at a limit, besides waiting (P206).
_PERSONAL_OPTIONS = {
    "plus": ("upgrade to Pro", "buy credits"),
    **dict.fromkeys(("pro", "prolite", "promax"), ("buy credits",)),
    **dict.fromkeys(("free", "go", "guest"), ("upgrade to Plus",)),
}
# The beginnings of the ids of plans that have an admin (P206).
_WITH_ADMIN = ("team", "business", "ent26", "self_serve_business", "enterprise_cbp")
# Names of plans that differ from the plan's id, by the beginning of the id.
_PLAN_NAMES = {
    "prolite": "Pro Lite",
    "promax": "Pro Max",
    "self_serve_business": "Business",
    "enterprise": "Enterprise",
    "ent26": "Enterprise",
    "k12": "K-12",
}


def is_personal(plan: str | None) -> bool:
    """Check whether a plan belongs to one user and has no admin; False if it is unknown."""
    return plan in _PERSONAL_OPTIONS


def plan_name(plan: object) -> str:
    """Return the plan's name, such as 'Plus' for `plus`; '?' if there is none."""
    plan_id = printable(plan or "?", 40).lower()
    names = (name for start, name in _PLAN_NAMES.items() if plan_id.startswith(start))
    return next(names, " ".join(word.capitalize() for word in plan_id.split("_")))


def is_workspace_limit(headers: Mapping[str, str]) -> bool:
    """Check whether only the workspace's owner can raise the limit (P206)."""
    return headers.get("x-codex-rate-limit-reached-type", "").startswith("workspace_")


def _longest_full_window(headers: Mapping[str, str]) -> UsageWindow | None:
    full = (window for window in windows_of_headers(headers) if window.used_percent >= 100)
    return max(full, key=lambda window: window.seconds, default=None)


def limit_resets_at(error: Mapping[str, Any], headers: Mapping[str, str]) -> float | None:
    """Return the time of a limit's reset in Unix seconds; None if it is unknown (P188, P203)."""
    moment, window = reset_moment(error), _longest_full_window(headers)
    return window.resets_at if moment is None and window else moment


def explain(
    headers: Mapping[str, str], error: Mapping[str, Any], message: str, resets_at: float | None
) -> tuple[str, str]:
    """Return the reason and the advice for a reached limit of the plan (P188)."""
    plan = str(error.get("plan_type") or headers.get("x-codex-plan-type") or "").lower()
    window = _longest_full_window(headers)
    length, name = f"{window.name} " if window else "", f"{plan_name(plan)} " if plan else ""
    reason = f"The {length}usage limit of your ChatGPT {name}plan is reached"
    # The service's usual message adds nothing.
    if message and not message.startswith("The usage limit has been reached"):
        reason += f": {message}"
    if resets_at is not None:
        reason = f"{as_sentence(reason)} It resets {from_now(resets_at)}"
    steps = ["Wait for the reset", *_options(plan, headers)]
    if len(steps) == 1:
        return reason, f"{steps[0]}, or see {config.USAGE_PAGE}"
    comma = "," if len(steps) > 2 else ""
    return reason, f"{', '.join(steps[:-1])}{comma} or {steps[-1]}: {config.USAGE_PAGE}"


def _options(plan: str, headers: Mapping[str, str]) -> tuple[str, ...]:
    """Return the user's options besides waiting (P206)."""
    options = _PERSONAL_OPTIONS.get(plan, ())
    if is_workspace_limit(headers):
        options = ("ask your workspace's owner to raise the limit or add credits",)
    elif plan.startswith(_WITH_ADMIN):
        options = ("ask your workspace's admin for more",)
    model_has_own_limit = headers.get("x-codex-limit-name", "codex").lower() != "codex"
    return ("try another model", *options) if model_has_own_limit else options


def option_for_key(name: str, key: str | None) -> str:
    """Return the option that makes a command use the login that `key` names.

    Empty without a key, and for an access token, which no message may show.
    """
    return f" {name} {shlex.quote(printable(key, 60))}" if key and not access_token_in(key) else ""


def resets_and_reserve(usage: Mapping[str, Any], slug: str, key: str | None) -> list[str]:
    """Return sentences about the banked resets and the Luna Reserve that the user has left.

    `usage` is the usage endpoint's answer, `slug` the model that has reached a limit; `key` names
    the login.
    """
    sentences = []
    if available := banked_resets(usage):
        resets = "1 banked reset" if available == 1 else f"{available} banked resets"
        command = f"llm chatgpt reset{option_for_key('--account', key)}"
        sentences.append(f"You have {resets}: run '{command}'.")
    if reserve_is_left(usage) and slug != RESERVE.slug:
        command = f'llm -m {RESERVE.model_id}{option_for_key("--key", key)} "prompt"'
        sentences.append(f"You have Luna Reserve left: run '{command}'.")
    return sentences
