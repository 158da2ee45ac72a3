"""The part of the service that answers prompts."""

from __future__ import annotations

import itertools
import secrets
import uuid
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from typing import Any

from .answers import (
    Compact,
    EventWriter,
    Item,
    Message,
    Think,
    cut_to_limit,
    default_answer,
    response_object,
)
from .cache import PromptCache, Reasoning
from .checks import (
    check_addresses,
    check_format,
    check_items,
    check_parameters,
    check_phases,
    check_search_ids,
    check_tools,
    refuse_files,
    refuse_searches,
)
from .issuer import Account
from .models import Models
from .replies import Answer, Request, Stream, refuse


class Backend(Models):
    """Answers the prompts of signed-in users."""

    def __init__(self) -> None:
        super().__init__()
        # The model named in answers, if it differs from the requested one.
        self.served_model: str | None = None
        # Parameters that this account may not send, such as max_output_tokens.
        self.refused_parameters: set[str] = set()
        # The status that refuses compressed prompts, which the service may do (docs/protocol.md).
        self.refuses_compressed: int | None = None
        # Added to the headers of every answer to a prompt.
        self.response_headers: dict[str, str] = {}
        self.frames_per_write = 1
        # Whether `input_file` is accepted; no recording shows that this login may send it.
        self.accepts_files = True
        # The answers to the next prompts, each with fields for its last event.
        self.answers: deque[tuple[list[Item], dict[str, Any]]] = deque()
        # Whether unscripted answers use every tool that a prompt offers.
        self.uses_tools = False
        # Whether the messages of a session must be sent back with their phases.
        self.demands_phases = False
        # The text and phase of each message, by session.
        self.sent_messages: dict[str, list[tuple[str, str | None]]] = defaultdict(list)
        # Whether web searches of earlier answers are accepted, and whether only with their ids.
        self.accepts_searches = True
        self.demands_search_ids = False
        # Addresses from which no image can be downloaded.
        self.dead_addresses: set[str] = set()
        self.reasoning = Reasoning()
        # Whether to remove reasoning that does not fit, and report it, instead of refusing it.
        self.removes_reasoning = False
        self.turn_states: set[str] = set()
        self.cache = PromptCache()

    def answer(self, *items: Item, **changes: Any) -> None:
        """Set the answer to the next prompt: Say, Think, Call, Search, Draw, Refuse.

        `changes` are more fields of `response.completed`, such as end_turn=False.
        """
        self.answers.append((list(items), changes))

    # A prompt

    def serve_responses(self, request: Request) -> Answer | Stream:
        account = self.signed_in(request)
        body = request.body
        if self.refuses_compressed and "content-encoding" in request.headers:
            raise refuse(self.refuses_compressed, "Unsupported content encoding")
        if not isinstance(body, dict):
            raise refuse(400, "Invalid JSON")
        self._check(body, account, request.headers)
        self.check_limit(body["model"], account)
        session = request.headers.get("session-id") or request.headers.get("session_id")
        if self.demands_phases:
            check_phases(body["input"], self.sent_messages[session or ""])
        frames = self.answer_frames(body, account, session)
        return Stream(self._grouped(frames), headers=self.stream_headers(account))

    def _check(self, body: dict[str, Any], account: Account, headers: dict[str, str]) -> None:
        """Raise Refusal for the first fault."""
        check_parameters(body, self.refused_parameters)
        self.check_instructions(body)
        self.check_model(body, account)
        self.check_lite(body, headers)
        check_format(body)
        check_tools(body.get("tools") or [])
        if not self.accepts_files:
            refuse_files(body["input"])
        self.check_history(body, account)
        turn_state = headers.get("x-codex-turn-state")
        if turn_state is not None and turn_state not in self.turn_states:
            raise refuse(400, "Invalid turn state")

    def check_history(self, body: dict[str, Any], account: Account) -> None:
        items = body["input"]
        check_items(items, self.readable_by(account, body["model"]))
        if self.demands_search_ids:
            check_search_ids(items)
        if not self.accepts_searches:
            refuse_searches(items)
        check_addresses(items, self.dead_addresses)

    def readable_by(self, account: Account, model: str) -> Callable[[Any], bool]:
        """Return a function that checks whether this model accepts a piece of reasoning."""
        if self.removes_reasoning:
            return lambda content: True
        return self.reasoning.belongs_to(account.account_id, model)

    def stream_headers(self, account: Account) -> dict[str, str]:
        """Build the headers of an answer. The used percentages grow with each."""
        state = "ts_" + secrets.token_hex(450)
        self.turn_states.add(state)
        now = int(self.clock())
        headers = {
            "x-oai-request-id": str(uuid.uuid4()),
            "CF-RAY": f"{secrets.token_hex(8)}-FRA",
            "x-models-etag": self.etag_of(account),
            "x-codex-turn-state": state,
            "x-codex-plan-type": account.plan or "unknown",
            "x-codex-active-limit": "premium",
            "x-codex-primary-over-secondary-limit-percent": "100",
            "x-codex-credits-has-credits": "False",
            "x-codex-credits-unlimited": "False",
            "x-codex-credits-balance": "0",
        }
        for name, minutes in (("primary", 300), ("secondary", 10080)):
            self.used_percent[name] += 0.1
            headers |= {
                f"x-codex-{name}-used-percent": f"{self.used_percent[name]:.1f}",
                f"x-codex-{name}-window-minutes": str(minutes),
                f"x-codex-{name}-reset-after-seconds": str(minutes * 30),
                f"x-codex-{name}-reset-at": str(now + minutes * 30),
            }
        return {**headers, **self.response_headers}

    def _grouped(self, frames: Iterator[bytes]) -> Iterator[bytes]:
        while group := list(itertools.islice(frames, self.frames_per_write)):
            yield b"".join(group)

    def answer_frames(
        self, body: dict[str, Any], account: Account, session: str | None
    ) -> Iterator[bytes]:
        """Return the frames of the scripted answer, or of one that fits the prompt."""
        if body["input"] and body["input"][-1].get("type") == "compaction_trigger":
            return self.frames([Compact()], body, account, session)
        with self.lock:
            scripted = self.answers.popleft() if self.answers else None
        items, changes = scripted or (default_answer(body, self.uses_tools), {})
        within = cut_to_limit(items, body.get("max_output_tokens"))
        if within != items:
            reason = {"incomplete_details": {"reason": "max_output_tokens"}}
            changes = {"terminal": "incomplete", **reason, **changes}
        if self.removes_reasoning:
            removals = self.reasoning.removals(body, account.account_id)
            changes = {"input_transformations": removals, **changes}
        return self.frames(within, body, account, session, **changes)

    def frames(
        self,
        items: list[Item],
        body: dict[str, Any] | None = None,
        account: Account | None = None,
        session: str | None = None,
        terminal: str = "completed",
        **changes: Any,
    ) -> Iterator[bytes]:
        """Build an answer's frames; the last event is of kind `terminal`, with `changes` added."""
        body = body if body is not None else {"model": "gpt-6-luna", "input": []}
        owner = (account or self.account).account_id
        writer = EventWriter(body, self.reasoning.remember(body, owner))
        model = self.served_model or body["model"]
        response = response_object(body, model, session, int(self.clock()))
        yield writer.event("created", response=response)
        yield writer.event("in_progress", response=response)
        for index, item in enumerate(items):
            yield from item.frames(writer, index)
            if session and isinstance(item, Message) and item.text:
                self.sent_messages[session].append((item.text, item.phase))
        final = {
            **response,
            "status": terminal,
            "completed_at": int(self.clock()),
            "usage": self._usage(body, session, items),
            **changes,
        }
        yield writer.event(terminal, response=final)

    def _usage(
        self, body: dict[str, Any], session: str | None, items: list[Item]
    ) -> dict[str, Any]:
        """Count the tokens. Only those that the same session has sent before count as cached."""
        total, cached = self.cache.count(body, session)
        output = sum(item.tokens for item in items)
        thought = sum(item.tokens for item in items if isinstance(item, Think))
        return {
            "input_tokens": total,
            "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
            "output_tokens": output,
            "output_tokens_details": {"reasoning_tokens": thought},
            "total_tokens": total + output,
            "attribution": {"item_ids": ["internal"]},
        }
