"""Prepare text for a terminal: printable text, wrapped lines, notices, times in words."""

from __future__ import annotations

import datetime
import logging
import os
import re
import sys
import textwrap
import time
from typing import TextIO

import click

from llm_chatgpt.waiting import in_command, is_terminal, line_erased, width

log = logging.getLogger("llm_chatgpt_oauth")


def printable(text: object, limit: int = 500) -> str:
    """Make text from elsewhere safe for a terminal: one line, no control characters."""
    line = " ".join(str(text)[: limit * 4].split())
    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)
    return line if len(line) <= limit else line[: limit - 1] + "\N{HORIZONTAL ELLIPSIS}"


def as_sentence(text: str) -> str:
    """Add a full stop, unless the text already ends in one or in ! or ?."""
    return text if text.endswith((".", "!", "?")) else f"{text}."


def fitted(text: str, stream: TextIO | None, indent: int = 0) -> str:
    """Break long lines between words if `stream` is a terminal; indent the continuation lines.

    A command in quotes and an image's path stay on one line, so that they can be copied.
    """
    if not is_terminal(stream):
        return text
    whole = re.sub(r"'llm [^']+'|^Picture: .*", lambda m: m[0].replace(" ", "\0"), text, flags=re.M)
    wrapper = textwrap.TextWrapper(
        width() - 1,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    # A single word, such as an address, keeps its indentation.
    lines = [wrapper.fill(line) if " " in line.strip() else line for line in whole.split("\n")]
    return "\n".join(lines).replace("\0", " ")


def notice(text: str) -> None:
    """Print a notice on stderr, on lines of its own, if a command runs; otherwise log it."""
    if not in_command():
        log.warning("%s", text)
        return
    with line_erased():
        click.echo(fitted(text, sys.stderr), err=True)


def short_path(path: object) -> str:
    """Return a path with ~ instead of the home folder, which may contain the user's name."""
    text, home = str(path), os.path.expanduser("~")
    return "~" + text[len(home) :] if text.startswith(home + os.sep) else text


def in_words(seconds: float) -> str:
    """Return a length of time in words: '4 minutes', '2 hours 10 minutes'."""
    if seconds < 60:
        count = max(0.0, seconds if seconds < 1 else round(seconds))
        return f"{count:g} second{'s' * (count != 1)}"
    minutes = round(seconds / 60)
    words = []
    for name, size in (("day", 24 * 60), ("hour", 60), ("minute", 1)):
        count, minutes = divmod(minutes, size)
        if count:
            words.append(f"{count} {name}{'s' * (count != 1)}")
    return " ".join(words[:2])


def local_time(epoch: float) -> str:
    """Return a moment in local time: '17:30' if it is today, else '2026-11-25 17:30'."""
    try:
        moment = datetime.datetime.fromtimestamp(epoch)
    except (OverflowError, OSError, ValueError):
        return "an unknown time"
    today = moment.date() == datetime.date.today()
    return moment.strftime("%H:%M" if today else "%Y-%m-%d %H:%M")


def from_now(epoch: float) -> str:
    """Return a moment as relative and local time: 'in 4 hours 10 minutes (17:30)'."""
    left = epoch - time.time()
    words = f"in {in_words(left)}" if left >= 0 else f"{in_words(-left)} ago"
    return f"{words} ({local_time(epoch)})"
