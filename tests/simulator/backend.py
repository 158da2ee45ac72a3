"""The half of the service that answers prompts and lists the models."""

from __future__ import annotations

import hashlib
import itertools
import json
import pathlib
import re
import secrets
import uuid
from collections import defaultdict, deque
from collections.abc import Iterator
from typing import Any

from .answers import Item, Message, Think, Turn, default_answer, response_object
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
from .pictures import Pictures
from .replies import Answer, Refusal, Request, Stream, error_answer, invalid, refuse

CATALOGUE = json.loads((pathlib.Path(__file__).parent / "catalogue.json").read_text())["models"]
# Refused for ChatGPT accounts in 2026 (docs/protocol.md).
RETIRED = re.compile(
    r"gpt-5|gpt-5\.1.*|gpt-5-codex.*|gpt-5\.2-codex|codex-mini-latest|gpt-5\.5-pro"
)
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


def catalogue_entry(model: dict[str, Any]) -> dict[str, Any]:
    """A model as the service lists it, with fields that the catalogue file leaves out."""
    levels = model["supported_reasoning_levels"]
    return {
        **model,
        "supported_reasoning_levels": [{"effort": e, "description": e} for e in levels],
        "service_tiers": [
            {"id": tier, "name": "Fast", "description": "Faster"} for tier in model["service_tiers"]
        ],
        "upgrade": {"model": model["upgrade"], "migration_markdown": "Try it."}
        if model["upgrade"]
        else None,
        # Codex CLI 0.169.0 reads no list without these.
        "description": f"{model['display_name']}, as far as it goes",
        "base_instructions": "You are a coding agent. " * 50,
        "supported_in_api": True,
        "shell_type": "shell_command",
        "apply_patch_tool_type": "freeform",
        "supports_reasoning_summaries": True,
        "supports_parallel_tool_calls": True,
        # Codex CLI sends these models their tools as the first input item.
        "use_responses_lite": bool(re.match(r"gpt-(5\.6|6)\b", model["slug"])),
        "truncation_policy": {"mode": "tokens", "limit": 10000},
        "experimental_supported_tools": [],
        "an_unknown_field": {"deep": [1, 2]},
    }


def version(value: Any) -> tuple[int, ...]:
    """A version from "0.62.0" or, as older lists write it, [0, 62, 0]."""
    if isinstance(value, list):
        return tuple(value)
    return tuple(int(number) for number in re.findall(r"\d+", str(value))[:3])


class Backend(Pictures):
    """Answers the users whom the issuer has signed in."""

    def __init__(self) -> None:
        super().__init__()
        self.models: list[dict[str, Any]] = [catalogue_entry(m) for m in CATALOGUE]
        self.retired = RETIRED
        # The model that answers say they come from, if not the one that was asked for.
        self.served_model: str | None = None
        # Models that refuse `reasoning.summary`.
        self.refuses_summary: set[str] = set()
        # Added to the headers of every answer to a prompt.
        self.response_headers: dict[str, str] = {}
        self.frames_per_write = 1
        # Whether `input_file` is taken; no recording shows that this login may send it.
        self.accepts_files = True
        # What the model says to the next prompts, and what the last event of each adds.
        self.answers: deque[tuple[list[Item], dict[str, Any]]] = deque()
        # Whether the messages of a session must come back with the phases that it was given.
        self.demands_phases = False
        # The text and phase of each message, by session.
        self.given: dict[str, list[tuple[str, str | None]]] = defaultdict(list)
        # Whether web searches are taken back, and if so, whether only with their ids.
        self.accepts_searches = True
        self.demands_search_ids = False
        # Addresses from which no image can be downloaded.
        self.dead_addresses: set[str] = set()
        # Encrypted reasoning that may come back, with the id of its account and its model.
        self.encrypted_contents: set[tuple[str, str | None, str]] = set()
        self.turn_states: set[str] = set()
        # What each session has sent last, for the cached tokens.
        self.sessions: dict[str, list[str]] = {}

    def answer(self, *items: Item, **changes: Any) -> None:
        """What the model says to the next prompt: Say, Think, Call, Search, Draw, Refuse.

        `changes` is what `response.completed` also says, such as end_turn=False.
        """
        self.answers.append((list(items), changes))

    # The models

    def serve_models(self, request: Request) -> Answer:
        self.signed_in(request)
        client = request.query.get("client_version")
        if not client:
            return Answer(400, {"detail": [{"loc": ["query", "client_version"], "msg": "missing"}]})
        shown = [m for m in self.models if version(m["minimal_client_version"]) <= version(client)]
        return Answer(200, {"models": shown}, {"ETag": self.models_etag})

    @property
    def models_etag(self) -> str:
        return 'W/"' + hashlib.sha256(json.dumps(self.models).encode()).hexdigest()[:16] + '"'

    # A prompt

    def serve_responses(self, request: Request) -> Answer | Stream:
        account = self.signed_in(request)
        body = request.body
        if not isinstance(body, dict):
            raise refuse(400, "Invalid JSON")
        self._check(body, account, request.headers.get("x-codex-turn-state"))
        session = request.headers.get("session-id") or request.headers.get("session_id")
        if self.demands_phases:
            check_phases(body["input"], self.given[session or ""])
        frames = self.answer_frames(body, account, session)
        return Stream(self._grouped(frames), headers=self.stream_headers(account))

    def _check(self, body: dict[str, Any], account: Account, turn_state: str | None) -> None:
        """Raises Refusal for the first fault, in the service's order (docs/protocol.md)."""
        check_parameters(body)
        self._check_model(body, account)
        check_format(body)
        check_tools(body.get("tools") or [])
        if not self.accepts_files:
            refuse_files(body["input"])
        self.check_history(body, account)
        if turn_state is not None and turn_state not in self.turn_states:
            raise refuse(400, "Invalid turn state")

    def check_history(self, body: dict[str, Any], account: Account) -> None:
        items, owner, model = body["input"], account.account_id, body["model"]
        check_items(items, lambda content: (content, owner, model) in self.encrypted_contents)
        if self.demands_search_ids:
            check_search_ids(items)
        if not self.accepts_searches:
            refuse_searches(items)
        check_addresses(items, self.dead_addresses)

    def _check_model(self, body: dict[str, Any], account: Account) -> None:
        slug = body.get("model")
        if not isinstance(slug, str) or not slug:
            raise invalid(
                "missing_required_parameter",
                "Missing required parameter: 'model'.",
                param="model",
            )
        entry = next((m for m in self.models if m["slug"] == slug), None)
        if entry is None and slug not in account.extra_models:
            if self.retired.fullmatch(slug):
                words = "model is not supported when using Codex with a ChatGPT account."
                raise refuse(400, f"The '{slug}' {words}")
            raise Refusal(error_answer(404, None, f"Model not found {slug}", param="model"))
        reasoning = body.get("reasoning") or {}
        if not set(reasoning) <= {"effort", "summary", "context"}:
            raise refuse(400, "Unsupported parameter: reasoning.mode")
        if "summary" in reasoning:
            if slug in self.refuses_summary:
                raise invalid(
                    "unsupported_parameter",
                    "Unsupported parameter: 'reasoning.summary' is not supported with the "
                    f"'{slug}' model.",
                    param="reasoning.summary",
                )
            if reasoning["summary"] not in ("auto", "concise", "detailed"):
                raise invalid("invalid_value", "Invalid value for summary")
        effort = reasoning.get("effort")
        if effort is None:
            return
        listed = entry["supported_reasoning_levels"] if entry else []
        # Codex CLI sends "max" for its own "ultra".
        levels = [level["effort"] for level in listed if level["effort"] != "ultra"]
        if effort not in EFFORTS or (entry and effort not in ("none", *levels)):
            values = ", ".join(f"'{level}'" for level in levels)
            raise invalid(
                "unsupported_value",
                f"Unsupported value: '{effort}' is not supported with the '{slug}' model. "
                f"Supported values are: {values}.",
                param="reasoning.effort",
            )

    def stream_headers(self, account: Account) -> dict[str, str]:
        """The headers of an answer to a prompt; the used percentages grow with each."""
        state = "ts_" + secrets.token_hex(450)
        self.turn_states.add(state)
        now = int(self.clock())
        headers = {
            "x-oai-request-id": str(uuid.uuid4()),
            "CF-RAY": f"{secrets.token_hex(8)}-FRA",
            "x-models-etag": self.models_etag,
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
        """The frames of the scripted answer, or of one that fits the prompt."""
        with self.lock:
            scripted = self.answers.popleft() if self.answers else (default_answer(body), {})
        items, changes = scripted
        return self.frames(items, body, account, session, **changes)

    def frames(
        self,
        items: list[Item],
        body: dict[str, Any] | None = None,
        account: Account | None = None,
        session: str | None = None,
        terminal: str = "completed",
        **changes: Any,
    ) -> Iterator[bytes]:
        """An answer's frames. `terminal` is how it ends, `changes` what its end also says."""
        body = body if body is not None else {"model": "gpt-6-luna", "input": []}
        owner = (account or self.account).account_id
        binding = (owner, body["model"])
        turn = Turn(body, lambda content: self.encrypted_contents.add((content, *binding)))
        model = self.served_model or body["model"]
        response = response_object(body, model, session, int(self.clock()))
        yield turn.event("created", response=response)
        yield turn.event("in_progress", response=response)
        for index, item in enumerate(items):
            yield from item.frames(turn, index)
            if session and isinstance(item, Message) and item.text:
                self.given[session].append((item.text, item.phase))
        final = {
            **response,
            "status": terminal,
            "completed_at": int(self.clock()),
            "usage": self._usage(body, session, items),
            **changes,
        }
        yield turn.event(terminal, response=final)

    def _usage(
        self, body: dict[str, Any], session: str | None, items: list[Item]
    ) -> dict[str, Any]:
        """The tokens; cached are only those that the same session has sent before."""
        head = json.dumps([body.get("instructions"), body.get("tools")])
        texts = [head, *(json.dumps(item) for item in body.get("input", []))]
        with self.lock:
            before = self.sessions.get(session or "", [])
            pairs = zip(before, texts, strict=False)
            common = itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)
            cached = sum(len(text) // 4 for text, _ in common)
            if session:
                self.sessions[session] = texts
        total = sum(len(text) // 4 for text in texts) + 1
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
