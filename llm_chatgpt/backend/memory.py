"""Remember, for this process, the turns whose tools are running, and refused parts of requests.

A turn comprises all requests for one message of the user, such as those of a tool chain (P80).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

_MAX_TURNS = 256


class Turn:
    """The state that the requests of one turn share.

    `states` maps the `account_key` of an account to the turn state that the server sent to it.
    `without` names the parts that its requests leave out, as in `retry.Attempt`.
    """

    def __init__(self) -> None:
        self.states: dict[str, str] = {}
        self.without: frozenset[str] = frozenset()
        self._noted_subjects: set[str] = set()

    def new_notes(self, notes: Mapping[str, str]) -> list[str]:
        """Return the notes on new subjects. `notes` maps subjects to notes."""
        lines = [line for subject, line in notes.items() if subject not in self._noted_subjects]
        self._noted_subjects.update(notes)
        return lines


class Memory:
    """The turns whose tools are running, and the parts that the service has refused.

    There is no lock, because a fork could leave it locked forever. None is needed: each operation
    on the dict or the set is atomic, and a lost entry costs only one more request.
    """

    def __init__(self) -> None:
        # By the id of each tool call that waits for its result, newest last.
        self._turns: dict[str, Turn] = {}
        # Names of parts, each with the value of its scope.
        self._refused: set[tuple[str, str]] = set()

    def turn_of(self, call_ids: Iterable[object]) -> Turn:
        """Find the turn that made one of these tool calls, or begin a new one."""
        turns = (self._turns.get(call_id) for call_id in call_ids if isinstance(call_id, str))
        return next(filter(None, turns), None) or Turn()

    def remember_turn(self, turn: Turn, call_ids: Iterable[str | None]) -> None:
        """Remember the turn for the request that will send the results of these tool calls."""
        for call_id in filter(None, call_ids):
            self._turns.pop(call_id, None)
            self._turns[call_id] = turn
        for oldest in list(self._turns)[:-_MAX_TURNS]:
            self._turns.pop(oldest, None)

    def refused(self, scopes: Mapping[str, str]) -> frozenset[str]:
        """Return the names of the parts that the service has refused in these scopes.

        `scopes` maps each name to the value of its scope, such as a service's address.
        """
        return frozenset(name for name, value in scopes.items() if (name, value) in self._refused)

    def remember_refused(self, without: frozenset[str], scopes: Mapping[str, str]) -> None:
        """Leave these parts out of every later request in the same scope."""
        self._refused.update((name, scopes[name]) for name in without & scopes.keys())


memory = Memory()
