"""Parse usage limits and banked resets.

They come from the headers of an answer, from the usage endpoint (P203) or from the list of banked
resets (P209). A value of the wrong type counts as missing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from llm_chatgpt.text import from_now
from llm_chatgpt.values import as_list, as_mapping, as_moment, as_number


class UsageWindow(NamedTuple):
    """One window of a limit. It is `seconds` long and resets at `resets_at` (Unix seconds)."""

    seconds: float
    used_percent: float
    resets_at: float | None = None

    @property
    def name(self) -> str:
        """Named by length, such as '5-hour', because the order of windows varies by plan (P205)."""
        days = self.seconds / 86400
        if 6.5 <= days <= 7.5:
            return "weekly"
        if days >= 1:
            return f"{round(days)}-day"
        return f"{max(1, round(self.seconds / 3600))}-hour"

    @property
    def left_percent(self) -> float:
        return min(100.0, max(0.0, 100.0 - self.used_percent))


def reset_words(resets_at: float | None) -> str:
    """Return a phrase such as ', resets in 4 hours 10 minutes (17:30)'; empty if unknown."""
    return "" if resets_at is None else f", resets {from_now(resets_at)}"


def reset_moment(limit: Mapping[str, Any]) -> float | None:
    """Return the time of a reset in Unix seconds; None if it is not in the future.

    `limit` has the fields of a window, of a spending limit (P203) or of an error (P188). The
    number of seconds until then is preferred, because this machine's clock may be wrong.
    """
    now = time.time()
    moment = as_number(limit.get("reset_at", limit.get("resets_at")))
    seconds = as_number(limit.get("reset_after_seconds", limit.get("resets_in_seconds")))
    if seconds is not None and seconds > 0:
        return now + seconds
    return moment if moment is not None and moment > now else None


def windows_of_headers(headers: Mapping[str, str]) -> list[UsageWindow]:
    """Read the windows in an answer's x-codex-* headers (P203)."""

    def number(name: str) -> float | None:
        try:
            return float(headers.get(f"x-codex-{name}", ""))
        except ValueError:
            return None

    return windows_of_usage(
        {
            f"{place}_window": {
                "used_percent": number(f"{place}-used-percent"),
                "limit_window_seconds": 60 * (number(f"{place}-window-minutes") or 0),
                "reset_at": number(f"{place}-reset-at"),
                "reset_after_seconds": number(f"{place}-reset-after-seconds"),
            }
            for place in ("primary", "secondary")
        }
    )


def windows_of_usage(rate_limit: object) -> list[UsageWindow]:
    """Read the windows of one limit in the usage endpoint's answer (P203)."""
    windows = []
    for place in ("primary_window", "secondary_window"):
        fields = as_mapping(as_mapping(rate_limit).get(place))
        used = as_number(fields.get("used_percent"))
        seconds = as_number(fields.get("limit_window_seconds"))
        if used is not None and seconds:
            windows.append(UsageWindow(seconds, used, reset_moment(fields)))
    return windows


# The name of Luna Reserve's limit (P204).
RESERVE_LIMIT = "gpt-reserve"


class Limit(NamedTuple):
    """One limit in the usage endpoint's answer. The plan's own limit has no name."""

    name: str
    windows: list[UsageWindow]
    reached: bool

    @property
    def left_percent(self) -> float:
        """The lowest percentage left in a window; 0 if the limit is reached."""
        return 0.0 if self.reached else min((w.left_percent for w in self.windows), default=100.0)


def limits_of_usage(usage: Mapping[str, Any]) -> list[Limit]:
    """Return the plan's limit, then the limits of single models and Luna Reserve."""
    additional = map(as_mapping, as_list(usage.get("additional_rate_limits")))
    named = [(str(entry.get("limit_name") or "another limit"), entry) for entry in additional]
    limits = []
    for name, entry in [("", usage), *named]:
        rate_limit = as_mapping(entry.get("rate_limit"))
        reached = rate_limit.get("limit_reached") is True or rate_limit.get("allowed") is False
        limits.append(Limit(name, windows_of_usage(rate_limit), reached))
    return limits


def reserve_is_left(usage: Mapping[str, Any]) -> bool:
    """Check whether some of the account's Luna Reserve is left."""
    limits = limits_of_usage(usage)
    return any(limit.left_percent > 0 for limit in limits if limit.name == RESERVE_LIMIT)


def spending_left(usage: Mapping[str, Any]) -> float:
    """Return the percentage left of a spending limit; 100 if there is none."""
    control = as_mapping(usage.get("spend_control"))
    if control.get("reached") is True:
        return 0.0
    limit = as_mapping(control.get("individual_limit"))
    try:
        used, allowed = float(limit.get("used", 0)), float(limit.get("limit", 0))
    except (TypeError, ValueError):
        return 100.0
    return max(0.0, 100 - 100 * used / allowed) if allowed > 0 else 100.0


def banked_resets(usage: Mapping[str, Any]) -> int | None:
    """Read the number of banked resets from the usage endpoint's answer (P208); None if unknown."""
    count = as_number(as_mapping(usage.get("rate_limit_reset_credits")).get("available_count"))
    return None if count is None else int(count)


def first_expiry(answer: Mapping[str, Any]) -> float | None:
    """Read the earliest expiry from the list of banked resets, in Unix seconds (P209)."""
    resets = map(as_mapping, as_list(answer.get("credits")))
    moments = (as_moment(r.get("expires_at")) for r in resets if r.get("status") == "available")
    return min((moment for moment in moments if moment is not None), default=None)
