"""What the checks of one run share."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import llm

from llm_chatgpt.backend.catalogue import BUILT_IN_MODELS, ModelInfo, remembered_models
from llm_chatgpt.errors import ChatGPTError
from llm_chatgpt.live.recording import Recorded
from llm_chatgpt.login.tokens import Tokens
from llm_chatgpt.values import as_mapping, as_number


class Difference(NamedTuple):
    """A fact of docs/protocol.md that does not hold, and what the service did instead."""

    fact: str
    text: str


class Line(NamedTuple):
    """The result of a check. `state` is "ok", "differs" or "failed", `facts` what it is about."""

    name: str
    state: str
    text: str
    facts: tuple[str, ...]
    differences: tuple[Difference, ...]


class Live:
    """What the checks of one run share: the login, the model, conversations, the recording."""

    def __init__(self, key: str | None, tokens: Tokens, recorded: list[Recorded]):
        self.key, self.tokens = key, tokens
        self.models = remembered_models(tokens)
        self.use(cheapest(self.models.listed if self.models else []))
        self.differences: list[Difference] = []
        # What was found for the line of another check, by its name.
        self.postponed: dict[str, list[Difference]] = {}
        # Seconds until each answer's first text.
        self.first_texts: list[float] = []
        self.short_at = time.monotonic()
        self.recorded = recorded
        self._told: set[Difference] = set()
        # Facts of the current check that did not come into play.
        self.unsettled: set[str] = set()

    def use(self, info: ModelInfo) -> None:
        """Go on with this model, in new conversations."""
        # Once for all checks: older versions of llm take a second for it.
        self.info, self.model = info, llm.get_model(info.model_id)
        # Those that several checks go on with.
        self.short, self.thoughtful = self.conversation(), self.conversation()

    def conversation(self) -> llm.Conversation:
        return llm.Conversation(self.model)

    def ask(self, prompt: str, conversation: Any = None, **arguments: Any) -> str:
        """The text of the answer. Raises ChatGPTError if it is empty."""
        begin = time.monotonic()
        answer = (conversation or self.conversation()).prompt(prompt, key=self.key, **arguments)
        for number, _ in enumerate(answer):
            if not number:
                self.first_texts.append(time.monotonic() - begin)
        if not answer.text().strip() and self.last.response.get("status") != "incomplete":
            raise ChatGPTError("The answer was empty.")
        return str(answer.text())

    def differs(self, fact: str, text: str) -> None:
        self.differences.append(Difference(fact, text))

    def differs_once(self, fact: str, text: str, found: list[Difference] | None = None) -> None:
        """Note what may recur in every answer only where it comes first; in `found` if it belongs
        to another check."""
        if (difference := Difference(fact, text)) not in self._told:
            self._told.add(difference)
            (self.differences if found is None else found).append(difference)

    @property
    def prompts(self) -> list[Recorded]:
        """The recorded prompts, oldest first."""
        path = self.tokens.route.responses_path
        return [one for one in self.recorded if one.method == "POST" and one.url.endswith(path)]

    @property
    def last(self) -> Recorded:
        return self.prompts[-1]

    @property
    def usage(self) -> Mapping[str, Any]:
        """The last answer's usage, its details included."""
        usage = as_mapping(self.last.response.get("usage"))
        details = (as_mapping(usage.get(f"{side}_tokens_details")) for side in ("input", "output"))
        return {**usage, **{k: v for detail in details for k, v in detail.items()}}

    def count(self, name: str) -> int:
        return int(as_number(self.usage.get(name)) or 0)


def cheapest(models: Sequence[ModelInfo]) -> ModelInfo:
    """The model that the checks use: the first one that is called luna, nano or mini, else the
    last one of the list."""
    listed = models or list(BUILT_IN_MODELS.values())
    small = (m for m in listed if any(word in m.slug for word in ("luna", "nano", "mini")))
    return next(small, listed[-1])
