"""Pass an answer's events to llm, and keep the waiting line and the notes apart from its output.

llm prints each event, on stdout or stderr, before it asks for the next one. So the waiting line is
hidden while llm prints events.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click
from llm.parts import StreamEvent

from llm_chatgpt import config
from llm_chatgpt.text import notice
from llm_chatgpt.waiting import Waiting, line, line_erased


class Display:
    """Context manager for the answer to `prompt`; `pass_on` passes its events to llm.

    `activity` returns the text of the waiting line.
    """

    def __init__(self, prompt: Any, stream: bool, activity: Callable[[], str]):
        context = click.get_current_context(silent=True)
        command = context.command.name if context else None
        # Other commands may print at any time, so they get no waiting line.
        self._context = context if command in ("prompt", "chat") else None
        self._waiting = Waiting(activity)
        # Contains `_waiting` while the waiting line is shown; closing it hides the line.
        self._shown_waiting = contextlib.ExitStack()
        # `llm chat` prints an answer as it arrives even with --no-stream.
        self._streams = stream or command == "chat"
        # The types of the events that llm prints.
        self._printed_types = {"text"} if self._streams else set()
        if self._streams and not prompt.hide_reasoning:
            self._printed_types.add("reasoning")
        self._has_one_output = bool(self._context) and _has_one_output()
        self._follows_tools = bool(prompt.tool_results)

    def __enter__(self) -> None:
        if self._context:
            # llm ends the line after the last answer of a tool chain, not after earlier ones.
            if not self._follows_tools:
                line.mid_line = False
            self._shown_waiting.enter_context(self._waiting)

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        self._shown_waiting.close()
        # llm prints the error next, so a new line begins here. For Ctrl-C, click begins one.
        if isinstance(error, Exception):
            with line_erased():
                pass

    def pass_on(self, events: Sequence[StreamEvent]) -> Iterator[StreamEvent]:
        """Yield events for llm, which may print them."""
        printed = [event for event in events if event.chunk and event.type in self._printed_types]
        if printed and self._context:
            self._shown_waiting.close()
        for event in events:
            if event.type == "reasoning" and not event.chunk and self._context:
                # Hide the type while llm displays the event, because llm would begin a new line
                # before the next text. llm records the restored type.
                event.type = ""
                yield event
                event.type = "reasoning"
            else:
                yield event
        if printed and self._context:
            last = printed[-1]
            on_stderr = last.type == "reasoning" or self._has_one_output
            line.mid_line = on_stderr and not last.chunk.endswith("\n")
            self._shown_waiting.enter_context(self._waiting)

    def note(self, text: str) -> None:
        """Print a note below the answer.

        Without streaming, the note waits until the command ends, because llm prints the answer
        only then.
        """
        if self._streams or not self._context:
            notice(text)
            return
        notes = self._context.meta.setdefault(__name__, [])
        if not notes:
            self._context.call_on_close(lambda: notice("\n".join(notes)))
        notes.append(text)


def _has_one_output() -> bool:
    """Check whether stdout and stderr are the same terminal, file or pipe."""
    # A stream may be closed, or may not be a file.
    with contextlib.suppress(AttributeError, OSError, ValueError):
        if config.WINDOWS:
            return sys.stdout.isatty() and sys.stderr.isatty()
        return os.path.sameopenfile(sys.stdout.fileno(), sys.stderr.fileno())
    return False
