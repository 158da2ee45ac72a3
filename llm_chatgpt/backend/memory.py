"""What this process remembers from one request to the next.

Two things outlast a prompt: the state of a turn, which is all requests that a chain of tools
makes for one message of the user (docs/protocol.md), and what the service has refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from llm_chatgpt.backend.attachments import Encoded
from llm_chatgpt.backend.resend import OPTIONAL_PARTS

TURNS_KEPT = 256


class Turn:
    """What the requests of one turn share.

    `states` are the server's turn states by the `account_key` of the account that got them.
    `without` is what the server has refused in this turn, as in `resend.Attempt`. `encoded` are
    the attachments that were sent.
    """

    def __init__(self) -> None:
        self.states: dict[str, str] = {}
        self.without: frozenset[str] = frozenset()
        self.encoded: list[Encoded] = []
        self._told: set[str] = set()

    def news(self, notes: Iterable[tuple[str, str]]) -> list[str]:
        """The lines of those notes, pairs of a subject and a line, that are new in this turn."""
        lines = []
        for subject, line in notes:
            if subject not in self._told:
                self._told.add(subject)
                lines.append(line)
        return lines


class Memory:
    """Turns whose tools are running, and what the service has refused.

    It has no lock, which a fork could leave locked forever: each step on a dict or a set is
    atomic, and a lost entry costs one more request.
    """

    def __init__(self) -> None:
        # By the id of each tool call that waits for its result, newest last.
        self._turns: dict[str, Turn] = {}
        # Names of parts, each with its scope and the scope's value.
        self._refused: set[tuple[str, str, str]] = set()

    def turn_of(self, call_ids: Iterable[object]) -> Turn:
        """The turn that made one of these tool calls, or a new one."""
        known = (self._turns.get(call_id) for call_id in call_ids if isinstance(call_id, str))
        return next(filter(None, known), None) or Turn()

    def calls_made(self, turn: Turn, call_ids: Iterable[str | None]) -> None:
        """Remember the turn for the request that brings the results of these tool calls."""
        waiting = list(filter(None, call_ids))
        for call_id in waiting:
            self._turns.pop(call_id, None)
            self._turns[call_id] = turn
        for oldest in list(self._turns)[:-TURNS_KEPT]:
            self._turns.pop(oldest, None)
        # Attachments are large: only the turn that goes on keeps them.
        for other in {turn, *self._turns.values()}:
            if other is not turn or not waiting:
                other.encoded = []

    def refused(self, scopes: Mapping[str, str]) -> frozenset[str]:
        """Names of the parts that the service has refused in these scopes. `scopes` maps a scope
        to its value, such as "model" to a slug."""
        refused = self._refused.copy()
        return frozenset(name for name, scope, value in refused if scopes.get(scope) == value)

    def remember(self, without: frozenset[str], scopes: Mapping[str, str]) -> None:
        """Leave these parts out of every later request in the same scope."""
        for part in OPTIONAL_PARTS:
            if part.name in without and part.scope in scopes:
                self._refused.add((part.name, part.scope, scopes[part.scope]))


memory = Memory()
