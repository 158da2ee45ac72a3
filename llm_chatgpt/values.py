"""Small readers for JSON from elsewhere: what has another type counts as missing."""

from __future__ import annotations

import datetime
import email.utils
import re
from collections.abc import Mapping
from typing import Any


def as_mapping(value: object) -> Mapping[str, Any]:
    """An object; empty for anything else."""
    return value if isinstance(value, dict) else {}


def as_list(value: object) -> list[Any]:
    """An array; empty for anything else."""
    return value if isinstance(value, list) else []


def first_mapping(value: object) -> Mapping[str, Any]:
    """The object that an array begins with; empty for anything else."""
    return as_mapping(next(iter(as_list(value)), None))


def as_text(value: object) -> str | None:
    """A string that is not empty, and that can be encoded: half a character (a lone surrogate,
    which JSON may hold) is replaced."""
    if not isinstance(value, str) or not value:
        return None
    return re.sub("[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", value)


def as_number(value: object) -> float | None:
    """A finite number of ordinary size; a boolean is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if abs(value) < 1e15 else None


def as_moment(value: object) -> float | None:
    """A moment in Unix seconds, from such a number or from an ISO text (UTC if it says no
    zone)."""
    if not isinstance(value, str):
        return as_number(value)
    try:
        # Python 3.10 reads neither a Z nor fractions of any other length than three or six.
        text = re.sub(r"\.\d+", "", value.strip()).replace("Z", "+00:00")
        moment = datetime.datetime.fromisoformat(text)
        return moment.replace(tzinfo=moment.tzinfo or datetime.timezone.utc).timestamp()
    except (ValueError, OverflowError):
        return None


def as_http_date(value: object) -> float | None:
    """A moment in Unix seconds, from the text of an HTTP header such as Date."""
    try:
        return email.utils.parsedate_to_datetime(str(value)).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
