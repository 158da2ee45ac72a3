"""What llm prints of an answer: the line that counts until then, and the notes after it.

llm prints each event that it gets, some on stdout and some on stderr, before it takes the next
one. So the line is away from the moment that llm gets an event until it comes back for more.
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
from llm_chatgpt.waiting import Waiting, beside_line


class Display:
    """Around the answer to `prompt`, whose events reach llm through `pass_on`.

    `doing` says what is awaited while no event comes.
    """

    def __init__(self, prompt: Any, stream: bool, doing: Callable[[], str]):
        self._waiting = Waiting(doing)
        context = click.get_current_context(silent=True)
        command = context.command.name if context else None
        # Of other commands, nobody knows what they print when.
        self._context = context if command in ("prompt", "chat") else None
        # `llm chat` prints an answer as it arrives even with --no-stream.
        self._streams = stream or command == "chat"
        self._shows_reasoning = self._streams and not prompt.hide_reasoning
        self._has_one_output = bool(self._context) and _has_one_output()
        self._follows_tools = bool(prompt.tool_results)
        # Events of which llm prints nothing, kept back so that the line stays where it is.
        self._held: list[StreamEvent] = []

    def __enter__(self) -> None:
        if self._context:
            self._waiting.__enter__()
            # llm ends the line of an answer, but not before its tools run.
            if not self._follows_tools:
                self._waiting.restart(mid_line=False)

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        self._waiting.__exit__()
        # The error is printed next, on a line of its own. For Ctrl-C click itself begins one.
        if isinstance(error, Exception):
            with beside_line():
                pass

    def pass_on(
        self, events: Sequence[StreamEvent], *, all_: bool = False
    ) -> Iterator[StreamEvent]:
        """Yield events for llm, which may print then. Without `all_`, events of which nothing is
        printed may come later."""
        if not self._context:
            yield from events
            return
        events, self._held = [*self._held, *events], []
        printed = [event for event in events if self._is_printed(event)]
        if self._waiting.shown and not printed and not all_:
            self._held = events
            return
        self._waiting.pause()
        for event in events:
            # llm would begin a new line after reasoning, even if nothing of it was printed.
            is_empty = event.type == "reasoning" and not event.chunk
            event.type = "" if is_empty else event.type
            yield event
            event.type = "reasoning" if is_empty else event.type
        if printed:
            last = printed[-1]
            on_stderr = last.type == "reasoning" or self._has_one_output
            self._waiting.restart(mid_line=on_stderr and not last.chunk.endswith("\n"))
        self._waiting.go_on()

    def _is_printed(self, event: StreamEvent) -> bool:
        kinds = {"text": self._streams, "reasoning": self._shows_reasoning}
        return bool(event.chunk) and kinds.get(event.type, False)

    def note(self, text: str) -> None:
        """Say something below the answer, which llm prints at the end if it does not stream."""
        if self._streams or not self._context:
            notice(text)
            return
        notes = self._context.meta.setdefault(__name__, [])
        if not notes:
            self._context.call_on_close(lambda: notice("\n".join(notes)))
        notes.append(text)


def _has_one_output() -> bool:
    """Whether stdout and stderr are the same terminal, file or pipe."""
    # A stream may be closed, or no file.
    with contextlib.suppress(AttributeError, OSError, ValueError):
        if config.WINDOWS:
            return sys.stdout.isatty() and sys.stderr.isatty()
        return os.path.sameopenfile(sys.stdout.fileno(), sys.stderr.fileno())
    return False
