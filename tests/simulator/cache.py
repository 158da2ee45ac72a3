"""State that the service keeps between requests: the prompt cache, and reasoning.

Both compare the beginning of a conversation with earlier requests, so a client that changes the
beginning loses them.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from .models import OLDER


class PromptCache:
    """Counts the tokens of a prompt, and how many of them the session has sent before."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # The last request of each session.
        self._sessions: dict[str, list[str]] = {}

    def count(self, body: dict[str, Any], session: str | None) -> tuple[int, int]:
        """Return the tokens, and the cached ones: none after another effort or instructions."""
        model, instructions = body["model"], body.get("instructions") or ""
        effort = (body.get("reasoning") or {}).get("effort")
        head = json.dumps([model, effort, instructions, body.get("tools")])
        texts = [head, *(json.dumps(item) for item in body.get("input", []))]
        with self._lock:
            before = self._sessions.get(session or "", [])
            if session:
                self._sessions[session] = texts
        pairs = zip(before, texts, strict=False)
        same = [text for text, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)]
        cached = sum(map(_tokens, same))
        if same and not is_older(model):
            # Newer models cache a system prompt only as a message (docs/protocol.md).
            cached -= _tokens(instructions)
        return sum(map(_tokens, texts)) + 1, cached


def _tokens(text: str) -> int:
    return len(text) // 4


def is_older(model: str) -> bool:
    """Whether a model is of the family before gpt-5.6, whose reasoning newer ones cannot read.

    A guess: Codex CLI resends the reasoning of models with the same `comp_hash`.
    """
    return bool(OLDER.fullmatch(model))


class Origin(NamedTuple):
    """Origin of encrypted reasoning: account, model, and the input before it."""

    owner: str | None
    model: str
    input: list[dict[str, Any]]


class Reasoning:
    """All encrypted reasoning that the service has sent."""

    def __init__(self) -> None:
        self.origins: dict[str, Origin] = {}

    def remember(self, body: dict[str, Any], owner: str | None) -> Callable[[str], None]:
        """Return a function to call with each piece of reasoning in the answer to `body`."""
        origin = Origin(owner, body["model"], body["input"])
        return lambda content: self.origins.update({content: origin})

    def belongs_to(self, owner: str | None, model: str) -> Callable[[Any], bool]:
        """Return a function that checks whether a piece was sent to this account, by a model of
        the same family."""

        def belongs(content: Any) -> bool:
            origin = self.origins.get(content)
            if origin is None or origin.owner != owner:
                return False
            return is_older(origin.model) == is_older(model)

        return belongs

    def removals(self, body: dict[str, Any], owner: str | None) -> list[dict[str, str]]:
        """Return the pieces that the service removes from a prompt, with the reason for each."""
        reasons = []
        for number, item in enumerate(body["input"]):
            if item.get("type") == "reasoning":
                origin = self.origins.get(item.get("encrypted_content"))
                if origin is None or origin.owner != owner:
                    reasons.append("end_user_mismatch")
                elif is_older(origin.model) != is_older(body["model"]):
                    reasons.append("model_mismatch")
                elif body["input"][:number][: len(origin.input)] != origin.input:
                    reasons.append("prefix_mismatch")
        return [{"type": "reasoning", "action": "removed", "reason": r} for r in reasons]
