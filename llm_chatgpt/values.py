"""Read and clean JSON from elsewhere. A value of the wrong type counts as missing."""

from __future__ import annotations

import datetime
import email.utils
import json
import re
from collections.abc import Mapping
from typing import Any


def json_object(data: bytes | str) -> Mapping[str, Any]:
    """Parse a JSON object; empty for anything else, and if it is nested too deeply."""
    try:
        return as_mapping(json.loads(data))
    except (ValueError, RecursionError):
        return {}


def as_mapping(value: object) -> Mapping[str, Any]:
    """Return a JSON object; empty for anything else."""
    return value if isinstance(value, dict) else {}


def as_list(value: object) -> list[Any]:
    """Return a JSON array; empty for anything else."""
    return value if isinstance(value, list) else []


def first_mapping(value: object) -> Mapping[str, Any]:
    """Return the first element of an array if it is an object; empty for anything else."""
    return as_mapping(next(iter(as_list(value)), None))


def as_text(value: object) -> str | None:
    """Return a non-empty string after `without_surrogates`; None for anything else."""
    return without_surrogates(value) if isinstance(value, str) and value else None


def without_surrogates(text: str) -> str:
    """Join surrogate pairs, and replace unpaired surrogates by U+FFFD.

    JSON can hold unpaired ones (`\\ud83d`), but no terminal, file or database can.
    """
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def cleaned(value: Any, levels: int = 50) -> Any:
    """Copy JSON so that it can be printed and logged.

    Strings go through `without_surrogates`. Arrays and objects below `levels` are emptied, because
    llm cannot log JSON with several hundred levels.
    """
    if isinstance(value, str):
        return without_surrogates(value)
    if isinstance(value, dict):
        pairs = value.items() if levels else ()
        return {without_surrogates(name): cleaned(inner, levels - 1) for name, inner in pairs}
    if isinstance(value, list):
        return [cleaned(inner, levels - 1) for inner in value if levels]
    return value


def depth(value: object) -> int:
    """Count the levels of arrays and objects. Raises RecursionError beyond several hundred."""
    if isinstance(value, (dict, list)):
        return 1 + max(map(depth, value.values() if isinstance(value, dict) else value), default=0)
    return 0


def as_number(value: object) -> float | None:
    """Return a number below 1e15; None for anything else. bool does not count."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if abs(value) < 1e15 else None


def as_moment(value: object) -> float | None:
    """Return a moment in Unix seconds, from a number or ISO text (without a zone it is UTC)."""
    if not isinstance(value, str):
        return as_number(value)
    try:
        # Python 3.10 cannot parse a Z, or a fraction unless it has three or six digits.
        text = re.sub(r"\.\d+", "", value.strip()).replace("Z", "+00:00")
        moment = datetime.datetime.fromisoformat(text)
        return moment.replace(tzinfo=moment.tzinfo or datetime.timezone.utc).timestamp()
    except (ValueError, OverflowError):
        return None


def as_http_date(value: object) -> float | None:
    """Return a moment in Unix seconds, from the text of an HTTP header such as Date."""
    try:
        return email.utils.parsedate_to_datetime(str(value)).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
