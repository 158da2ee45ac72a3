"""What a terminal may be shown, and how lengths of time are told."""

from __future__ import annotations

import datetime
import logging
import sys

import click

log = logging.getLogger("llm_chatgpt_oauth")


def printable(text: object, limit: int = 500) -> str:
    """Text from elsewhere, made harmless for a terminal: one line, no control characters."""
    line = " ".join(str(text)[: limit * 4].split())
    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)
    return line if len(line) <= limit else line[: limit - 1] + "\N{HORIZONTAL ELLIPSIS}"


def notice(text: str, *, mid_line: bool = False) -> None:
    """Tell the person something beside the answer.

    On stderr while a command is running, else to `logging`. `mid_line` says that the
    terminal's cursor stands behind unfinished output.
    """
    if click.get_current_context(silent=True) is None:
        log.warning("%s", text)
        return
    if mid_line and sys.stderr.isatty():
        click.echo("", err=True)
    click.echo(text, err=True)


def in_words(seconds: float) -> str:
    """A length of time as a person would say it: '4 minutes', '2 hours 10 minutes'."""
    minutes = max(0, round(seconds / 60))
    if seconds < 60:
        return f"{max(0.0, seconds if seconds < 1 else round(seconds)):g} seconds"
    words = []
    for name, size in (("day", 24 * 60), ("hour", 60), ("minute", 1)):
        count, minutes = divmod(minutes, size)
        if count:
            words.append(f"{count} {name}{'s' if count > 1 else ''}")
    return " ".join(words[:2])


def local_time(epoch: float) -> str:
    """A moment in this machine's time zone, without seconds."""
    try:
        return datetime.datetime.fromtimestamp(epoch).astimezone().strftime("%Y-%m-%d %H:%M %Z")
    except (OverflowError, OSError, ValueError):
        return "an unknown time"
