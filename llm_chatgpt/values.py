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
    """A string that is not empty, `without_halves`."""
    return without_halves(value) if isinstance(value, str) and value else None


def without_halves(text: str) -> str:
    """Text with U+FFFD for each half of a surrogate pair, which JSON can hold (`\\ud83d`) and
    no terminal, file or database takes."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def cleaned(value: Any, levels: int = 50) -> Any:
    """JSON that can be shown and stored: `without_halves`, and with arrays and objects emptied
    that are nested deeper than `levels`: llm's own code that logs JSON fails at some hundred."""
    if isinstance(value, str):
        return without_halves(value)
    if isinstance(value, dict):
        pairs = value.items() if levels else ()
        return {without_halves(name): cleaned(inner, levels - 1) for name, inner in pairs}
    if isinstance(value, list):
        return [cleaned(inner, levels - 1) for inner in value if levels]
    return value


def depth(value: object) -> int:
    """How many levels of arrays and objects there are. Raises RecursionError beyond hundreds."""
    if isinstance(value, (dict, list)):
        return 1 + max(map(depth, value.values() if isinstance(value, dict) else value), default=0)
    return 0


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
