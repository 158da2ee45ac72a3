"""Runs a check, and says whether what came back is what docs/protocol.md knows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from llm_chatgpt.backend import optional_parts, refusals
from llm_chatgpt.errors import ChatGPTError
from llm_chatgpt.live import facts
from llm_chatgpt.live.checks import CHECKS, Check
from llm_chatgpt.live.recording import Recorded
from llm_chatgpt.live.scrub import harmless
from llm_chatgpt.live.session import Difference, Line, Live
from llm_chatgpt.text import printable
from llm_chatgpt.values import as_list, as_mapping

# The check that a refused part of a request belongs to, whichever prompt came upon it, and the
# fact that the refusal contradicts.
_OWNERS = {
    optional_parts.SUMMARY: ("reasoning sent back", "P100"),
    optional_parts.REASONING: ("reasoning sent back", "P116"),
    optional_parts.STRICT: ("strict schema", "P133"),
    optional_parts.OUTPUT_LIMIT: ("output limit", "P95"),
    optional_parts.SYSTEM_MESSAGE: ("system prompt", "P84"),
    optional_parts.SESSION_HEADER: ("second turn", "P79"),
    optional_parts.EFFORT_UPDATES: ("changed effort", "P122"),
    optional_parts.COMPRESSION: ("", "P83"),
    optional_parts.FIRST_RESIDENCY: ("", "P78"),
}


def run_check(live: Live, check: Check) -> Line:
    """Run a check. Raises nothing but KeyboardInterrupt and the like."""
    before = len(live.recorded)
    live.differences, live.unsettled = live.postponed.pop(check.name, []), set()
    try:
        text, failed = check.run(live), False
    except Exception as error:
        text, failed = _words(error), True
    _judge(live, check, live.recorded[before:], failed)
    found = tuple(
        Difference(fact, harmless(words, live.tokens)) for fact, words in live.differences
    )
    state = "failed" if failed else "differs" if found else "ok"
    settled = tuple(f for f in check.facts(live.tokens) if f not in live.unsettled)
    return Line(check.name, state, harmless(text, live.tokens), settled, found)


def _words(error: Exception) -> str:
    """An error in one line: the plugin's words for it, and the service's code and parameter."""
    if not isinstance(error, ChatGPTError):
        # An error of the plugin's own: what the service sent has led to it.
        return f"{type(error).__name__}: {printable(error, 200)}"
    details = (error.status, error.code, error.param)
    known = ", ".join(printable(detail, 100) for detail in details if detail)
    return f"{error.reason} ({known})" if known else error.reason


def _judge(live: Live, check: Check, recorded: Iterable[Recorded], failed: bool) -> None:
    """Note what the exchanges of a check have that docs/protocol.md does not know."""
    done = {c.name for c in CHECKS[: CHECKS.index(check) + 1]}
    for one in recorded:
        if one.status == 200:
            for fact, kind, name in _unknown(one) if one in live.prompts else ():
                live.differs_once(fact, f"unknown {kind}: {printable(name, 100)}")
            continue
        reply = one.reply
        error = refusals.explain_refusal(reply, refusals.RefusedRequest(live.tokens))
        said = refusals.error_message(reply)
        if said is None and not reply.is_web_page and reply.content.strip():
            text = printable(reply.content.decode(errors="replace"), 200)
            live.differs_once(facts.ERROR_FORMS, f"an error of unknown form ({one.status}): {text}")
        parts = optional_parts.refused_parts(
            error,
            as_list(one.body.get("input")),
            live.tokens,
            is_compressed="content-encoding" in one.request_headers,
        )
        for part in parts if not failed else ():
            owner, fact = _OWNERS.get(part, ("", facts.ERROR_FORMS))
            later = owner and owner not in done
            lines = live.postponed.setdefault(owner, []) if later else live.differences
            live.differs_once(fact, f"{part} was refused ({one.status}): {said}", lines)


def _unknown(one: Recorded) -> Iterator[tuple[str, str, str]]:
    """What of an answer docs/protocol.md does not know: the fact that lists its kind, the kind
    and the name."""
    final = one.final_event
    usage = as_mapping(one.response.get("usage"))
    details = [as_mapping(usage.get(f"{side}_tokens_details")) for side in ("input", "output")]
    kinds: tuple[tuple[str, str, Iterable[Any], Iterable[str]], ...] = (
        (facts.EVENTS, "event", (e.get("type") for e in one.events), facts.KNOWN_EVENTS),
        (facts.HEADERS, "header", one.headers, filter(facts.is_known_header, one.headers)),
        (facts.FIELDS, "field of the final event", final, facts.KNOWN_EVENT_FIELDS),
        (facts.FIELDS, "field of the response", one.response, facts.KNOWN_FIELDS),
        (facts.FIELDS, "field of the usage", [*usage, *details[0], *details[1]], facts.KNOWN_USAGE),
    )
    for fact, kind, names, known in kinds:
        for name in sorted({str(name) for name in names} - set(known)):
            yield fact, kind, name
