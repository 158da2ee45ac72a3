"""Runs checks: their shared state, and their lines in the report."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import llm

from llm_chatgpt.backend import optional_parts, refusals
from llm_chatgpt.backend.catalogue import BUILT_IN_MODELS, ModelInfo, remembered_models
from llm_chatgpt.errors import ChatGPTError
from llm_chatgpt.live import facts
from llm_chatgpt.live.recording import Exchange
from llm_chatgpt.live.scrub import harmless
from llm_chatgpt.login.routes import CODEX
from llm_chatgpt.login.tokens import Tokens
from llm_chatgpt.text import printable
from llm_chatgpt.values import as_list


@dataclasses.dataclass(frozen=True)
class Difference:
    """A fact of docs/protocol.md that does not hold, and what the service did instead."""

    fact: str
    text: str


@dataclasses.dataclass(frozen=True)
class Line:
    """The result of a check. `state` is "ok", "differs" or "failed".

    `facts` are confirmed if it is "ok".
    """

    name: str
    state: str
    text: str
    facts: list[str]
    differences: list[Difference]


class Live:
    """The login, the model, the conversations, the recording and the results of one run."""

    def __init__(self, key: str | None, tokens: Tokens, exchanges: list[Exchange]):
        self.key, self.tokens, self.exchanges = key, tokens, exchanges
        self.use(remembered_models(tokens).listed)
        self.lines: list[Line] = []
        # All differences, including those that the line of a later check will report.
        self.differences: list[Difference] = []
        # Facts of the current check that this run has not tested.
        self.unsettled: set[str] = set()
        # Seconds until each answer's first text.
        self.first_texts: list[float] = []

    def use(self, listed: Sequence[ModelInfo]) -> None:
        """Choose the cheapest of these models, and begin the conversations that checks share.

        It is the first one that is called luna, nano or mini; without one, the last of the list.
        """
        self.listed = listed or list(BUILT_IN_MODELS.values())
        small = (m for m in self.listed if any(n in m.slug for n in ("luna", "nano", "mini")))
        self.info = next(small, self.listed[-1])
        # Once for all checks: older versions of llm need a second for it.
        self.model = llm.get_model(self.info.model_id)
        self.short = llm.Conversation(self.model)
        self.thoughtful = llm.Conversation(self.model)

    def ask(self, prompt: str, conversation: Any = None, **arguments: Any) -> str:
        """Send a prompt and return the text. Raises ChatGPTError if it is empty."""
        begin = time.monotonic()
        conversation = conversation or llm.Conversation(self.model)
        answer = conversation.prompt(prompt, key=self.key, **arguments)
        for number, _ in enumerate(answer):
            if not number:
                self.first_texts.append(time.monotonic() - begin)
        text = str(answer.text())
        if not text.strip() and self.last.response.get("status") != "incomplete":
            raise ChatGPTError("The answer was empty.")
        return text

    def differs(self, fact: str, text: str) -> None:
        """Note a difference, unless an earlier exchange had the same one."""
        difference = Difference(fact, harmless(text, self.tokens))
        if difference not in self.differences:
            self.differences.append(difference)

    @property
    def prompts(self) -> list[Exchange]:
        """The recorded prompts, oldest first."""
        path = self.tokens.route.responses_path
        return [exchange for exchange in self.exchanges if exchange.url.endswith(path)]

    @property
    def last(self) -> Exchange:
        return self.prompts[-1]


class Check(NamedTuple):
    """A line of the report, and the ids of the facts that it settles on each route.

    A route without facts has no such line. `optional` checks belong to --all.
    """

    name: str
    run: Callable[[Live], str]
    codex: str
    official: str
    requests: int = 1
    optional: bool = False

    @property
    def facts(self) -> list[str]:
        """The facts that it settles on either route."""
        return f"{self.codex} {self.official}".split()

    def facts_on(self, tokens: Tokens) -> list[str]:
        """Return the facts that it settles on a login's route."""
        return (self.codex if tokens.route is CODEX else self.official).split()


# The facts that are wrong if the service refuses these parts of a request.
_FACTS_OF_PARTS = {
    optional_parts.SUMMARY: "P89",
    optional_parts.REASONING: "P116",
    optional_parts.STRICT: "P133",
    optional_parts.OUTPUT_LIMIT: "P95",
    optional_parts.SYSTEM_MESSAGE: "P84",
    optional_parts.SESSION_HEADER: "P79",
    optional_parts.EFFORT_UPDATES: "P122",
    optional_parts.COMPRESSION: "P83",
    optional_parts.FIRST_RESIDENCY: "P78",
}


def run_check(live: Live, check: Check, later: Iterable[Check]) -> Line:
    """Run a check and return its line. Raises nothing but KeyboardInterrupt and the like.

    A difference is reported by the check that settles its fact. So the line includes differences
    that earlier checks have found, and leaves some to the `later` checks.
    """
    before = len(live.exchanges)
    live.unsettled = set()
    try:
        text, state = check.run(live), "ok"
    except Exception as error:
        text, state = _error_words(error), "failed"
    for exchange in live.exchanges[before:]:
        if exchange.status != 200:
            _examine_refusal(live, exchange)
        elif exchange in live.prompts:
            _examine_names(live, exchange)
    reported = [difference for line in live.lines for difference in line.differences]
    left_to_others = {fact for other in later for fact in other.facts} - set(check.facts)
    found = [d for d in live.differences if d not in reported and d.fact not in left_to_others]
    if found and state == "ok":
        state = "differs"
    settled = [fact for fact in check.facts_on(live.tokens) if fact not in live.unsettled]
    return Line(check.name, state, harmless(text, live.tokens), settled, found)


def _error_words(error: Exception) -> str:
    """Say in one line what failed, with the service's status, code and parameter."""
    if not isinstance(error, ChatGPTError):
        # A fault of the plugin, which this answer of the service has brought to light.
        return f"{type(error).__name__}: {printable(error, 200)}"
    details = filter(None, (error.status, error.code, error.param))
    words = ", ".join(printable(detail, 100) for detail in details)
    return f"{error.reason} ({words})" if words else error.reason


def _examine_refusal(live: Live, exchange: Exchange) -> None:
    """Note an error of an unknown form, and a refused part that the plugin can leave out."""
    reply = exchange.reply
    message = refusals.error_message(reply)
    known_form = message or reply.error_code or reply.is_web_page or not reply.content.strip()
    if not known_form:
        text = printable(reply.content.decode(errors="replace"), 200)
        live.differs("P174", f"an error of unknown form ({exchange.status}): {text}")
    error = refusals.explain_refusal(reply, refusals.RefusedRequest(live.tokens))
    parts = optional_parts.refused_parts(
        error,
        as_list(exchange.body.get("input")),
        live.tokens,
        is_compressed="content-encoding" in exchange.request_headers,
    )
    for part in parts & _FACTS_OF_PARTS.keys():
        live.differs(_FACTS_OF_PARTS[part], f"{part} was refused ({exchange.status}): {message}")


def _examine_names(live: Live, exchange: Exchange) -> None:
    """Note the names in an answer that docs/protocol.md does not list."""
    event_types = [str(event.get("type")) for event in exchange.events]
    for fact, kind, names, known in (
        ("P273", "event", event_types, facts.EVENTS),
        ("P274", "header", exchange.headers, facts.SERVICE_HEADERS + facts.TRANSPORT_HEADERS),
        ("P275", "field of the final event", exchange.final_event, facts.EVENT_FIELDS),
        ("P275", "field of the response", exchange.response, facts.RESPONSE_FIELDS),
        ("P275", "field of the usage", exchange.usage, facts.USAGE_FIELDS),
    ):
        for name in facts.unknown(names, known):
            live.differs(fact, f"unknown {kind}: {printable(name, 100)}")
