"""Usage limits and when they reset."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import NamedTuple

from llm_chatgpt.text import in_words, local_time
from llm_chatgpt.values import as_mapping, as_number


class UsageWindow(NamedTuple):
    """How much of an allowance is used. `seconds` is its length, `resets_at` Unix seconds."""

    seconds: float
    used_percent: float
    resets_at: float | None = None

    @property
    def name(self) -> str:
        """By its length, because its place in the reply varies by plan (responses.md 11)."""
        days = self.seconds / 86400
        if 6.5 <= days <= 7.5:
            return "weekly"
        if days >= 1:
            return f"{round(days)}-day"
        return f"{max(1, round(self.seconds / 3600))}-hour"

    @property
    def left_percent(self) -> float:
        return min(100.0, max(0.0, 100.0 - self.used_percent))

    @property
    def reset_words(self) -> str:
        if self.resets_at is None:
            return ""
        left = in_words(self.resets_at - time.time())
        return f", resets {local_time(self.resets_at)} (in {left})"


def windows_of_headers(headers: Mapping[str, str]) -> list[UsageWindow]:
    """The windows that an answer's x-codex-* headers tell of (responses.md 6)."""

    def number(name: str) -> float | None:
        try:
            return as_number(float(headers[name]))
        except (KeyError, ValueError):
            return None

    windows = []
    for place in ("primary", "secondary"):
        used = number(f"x-codex-{place}-used-percent")
        minutes = number(f"x-codex-{place}-window-minutes")
        resets_at = number(f"x-codex-{place}-reset-at")
        if used is not None and minutes and used == used:
            windows.append(UsageWindow(minutes * 60, used, resets_at))
    return windows


def windows_of_usage(rate_limit: object) -> list[UsageWindow]:
    """The windows of one limit in the usage endpoint's reply (responses.md 11)."""
    limit = as_mapping(rate_limit)
    windows = []
    for place in ("primary_window", "secondary_window"):
        fields = as_mapping(limit.get(place))
        used = as_number(fields.get("used_percent"))
        seconds = as_number(fields.get("limit_window_seconds"))
        if used is not None and seconds:
            windows.append(UsageWindow(seconds, used, as_number(fields.get("reset_at"))))
    return windows
