"""Run checks, hold their shared state, and collect the lines of the report."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import llm

from llm_chatgpt.backend import optional_parts, refusals
from llm_chatgpt.backend.catalogue import BUILT_IN_MODELS, ModelInfo, stored_models
from llm_chatgpt.errors import ChatGPTError
from llm_chatgpt.live import known_names
from llm_chatgpt.live.recording import Exchange
from llm_chatgpt.live.scrub import remove_secrets
from llm_chatgpt.login.routes import CODEX
from llm_chatgpt.login.tokens import Tokens
from llm_chatgpt.text import printable
from llm_chatgpt.values import as_list


@dataclasses.dataclass(frozen=True)
class Difference:
    """A difference between a fact in docs/protocol.md and the service's behaviour."""

    fact: str
    text: str


@dataclasses.dataclass(frozen=True)
class Line:
    """The result of a check. `state` is "ok", "differs" or "failed".

    `facts` are confirmed if `state` is "ok".
    """

    name: str
    state: str
    text: str
    facts: list[str]
    differences: list[Difference]


class LiveRun:
    """The login, the model, the conversations, the recording and the results of one run."""

    def __init__(self, key: str | None, tokens: Tokens, exchanges: list[Exchange]):
        self.key, self.tokens, self.exchanges = key, tokens, exchanges
        self.choose_model(stored_models(tokens).listed)
        self.lines: list[Line] = []
        # All differences so far, including some that a later check will report.
        self.differences: list[Difference] = []
        # Facts of the current check that this run has not tested.
        self.unsettled: set[str] = set()
        # Seconds from each prompt to the first text of its answer.
        self.first_text_seconds: list[float] = []

    def choose_model(self, listed: Sequence[ModelInfo]) -> None:
        """Choose a small model from a list, and begin the conversations that checks share.

        Chooses the first model with luna, nano or mini in its name, otherwise the last model.
        """
        self.listed = listed or list(BUILT_IN_MODELS.values())
        small = (m for m in self.listed if any(n in m.slug for n in ("luna", "nano", "mini")))
        self.info = next(small, self.listed[-1])
        # Loaded once for all checks: older versions of llm take a second to load a model.
        self.model = llm.get_model(self.info.model_id)
        self.short_chat = llm.Conversation(self.model)
        self.reasoning_chat = llm.Conversation(self.model)

    def ask(self, prompt: str, conversation: Any = None, **arguments: Any) -> str:
        """Send a prompt and return the text. Raises ChatGPTError if a complete answer has none."""
        begin = time.monotonic()
        conversation = conversation or llm.Conversation(self.model)
        answer = conversation.prompt(prompt, key=self.key, **arguments)
        for number, _ in enumerate(answer):
            if not number:
                self.first_text_seconds.append(time.monotonic() - begin)
        text = str(answer.text())
        if not text.strip() and self.last.response.get("status") != "incomplete":
            raise ChatGPTError("The answer was empty.")
        return text

    def add_difference(self, fact: str, text: str) -> None:
        """Add a difference to `differences`, unless it is there already."""
        difference = Difference(fact, remove_secrets(text, self.tokens))
        if difference not in self.differences:
            self.differences.append(difference)

    @property
    def prompts(self) -> list[Exchange]:
        """The recorded prompts, oldest first."""
        path = self.tokens.route.responses_path
        return [exchange for exchange in self.exchanges if exchange.url.endswith(path)]

    @property
    def last(self) -> Exchange:
        """The last recorded prompt."""
        return self.prompts[-1]


class Check(NamedTuple):
    """A check, with the ids of the facts that it settles on each route.

    On a route without facts the check is skipped. `optional` checks run only with --all.
    """

    name: str
    run: Callable[[LiveRun], str]
    codex_facts: str
    official_facts: str
    requests: int = 1
    optional: bool = False

    @property
    def facts(self) -> list[str]:
        """The facts that the check settles on either route."""
        return f"{self.codex_facts} {self.official_facts}".split()

    def facts_on(self, tokens: Tokens) -> list[str]:
        """Return the facts that the check settles on a login's route."""
        return (self.codex_facts if tokens.route is CODEX else self.official_facts).split()


# For each part of a request, the fact that is wrong if the service refuses the part.
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


def run_check(live: LiveRun, check: Check, later: Iterable[Check]) -> Line:
    """Run a check and return its line, even if the check fails.

    A difference is reported on the line of the check that settles its fact. So this line can
    include differences that earlier checks have found, and leaves others to the `later` checks.
    """
    start = len(live.exchanges)
    live.unsettled = set()
    try:
        text, state = check.run(live), "ok"
    except Exception as error:
        text, state = _describe_error(error), "failed"
    for exchange in live.exchanges[start:]:
        if exchange.status != 200:
            _examine_refusal(live, exchange)
        elif exchange in live.prompts:
            _examine_names(live, exchange)
    reported = [difference for line in live.lines for difference in line.differences]
    later_facts = {fact for later_check in later for fact in later_check.facts} - set(check.facts)
    new = [d for d in live.differences if d not in reported and d.fact not in later_facts]
    if new and state == "ok":
        state = "differs"
    settled = [fact for fact in check.facts_on(live.tokens) if fact not in live.unsettled]
    return Line(check.name, state, remove_secrets(text, live.tokens), settled, new)


def _describe_error(error: Exception) -> str:
    """Describe an error in one line, with the service's status, code and parameter."""
    if not isinstance(error, ChatGPTError):
        # A bug in the plugin that the service's answer has revealed.
        return f"{type(error).__name__}: {printable(error, 200)}"
    details = filter(None, (error.status, error.code, error.param))
    suffix = ", ".join(printable(detail, 100) for detail in details)
    return f"{error.reason} ({suffix})" if suffix else error.reason


def _examine_refusal(live: LiveRun, exchange: Exchange) -> None:
    """Record differences: an error of unknown form, or a refused part that can be left out."""
    reply = exchange.reply
    message = refusals.error_message(reply)
    has_known_form = message or reply.error_code or reply.is_web_page or not reply.content.strip()
    if not has_known_form:
        text = printable(reply.content.decode(errors="replace"), 200)
        live.add_difference("P174", f"an error of unknown form ({exchange.status}): {text}")
    error = refusals.explain_refusal(reply, refusals.RefusedRequest(live.tokens))
    parts = optional_parts.refused_parts(
        error,
        as_list(exchange.request_body.get("input")),
        live.tokens,
        is_compressed="content-encoding" in exchange.request_headers,
    )
    for part in parts & _FACTS_OF_PARTS.keys():
        text = f"{part} was refused ({exchange.status}): {message}"
        live.add_difference(_FACTS_OF_PARTS[part], text)


def _examine_names(live: LiveRun, exchange: Exchange) -> None:
    """Record a difference for each name in an answer that docs/protocol.md does not list."""
    event_types = [str(event.get("type")) for event in exchange.events]
    for fact, kind, names, listed in (
        ("P273", "event", event_types, known_names.EVENTS),
        ("P274", "header", exchange.headers, known_names.HEADERS),
        ("P275", "field of the final event", exchange.final_event, known_names.EVENT_FIELDS),
        ("P275", "field of the response", exchange.response, known_names.RESPONSE_FIELDS),
        ("P275", "field of the usage", exchange.usage, known_names.USAGE_FIELDS),
    ):
        for name in known_names.unlisted(names, listed):
            live.add_difference(fact, f"unknown {kind}: {printable(name, 100)}")
