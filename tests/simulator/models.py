"""The list of models that an account sees, and checks that a model accepts a request."""

from __future__ import annotations

import hashlib
import json
import pathlib
import re
from typing import Any

from .images import Images
from .issuer import Account
from .replies import Answer, Refusal, Request, error_answer, invalid, refuse
from .wham import RESERVE

CATALOGUE = json.loads((pathlib.Path(__file__).parent / "catalogue.json").read_text())["models"]
# Refused for ChatGPT accounts, even if a list still contains them (docs/protocol.md).
RETIRED = re.compile(
    r"gpt-5|gpt-5\.1.*|gpt-5-codex.*|gpt-5\.2(-codex)?|gpt-5\.3-codex(-spark)?|gpt-5\.4(-mini)?"
    r"|gpt-5\.5(-pro)?|gpt-5\.6|codex-mini-latest"
)
# Models before gpt-5.6. They require instructions.
OLDER = re.compile(r"gpt-5(\.[0-5])?(-.+)?")
# Models whose effort can change within a conversation without losing the cache.
EFFORT_UPDATES = {"gpt-6.2-sol", "gpt-6.2-astra", "gpt-6.1-sol", "gpt-6.1-terra", "gpt-6-astra"}
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
LITE = "x-openai-internal-codex-responses-lite"


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
        # Codex CLI reads no list without these.
        "description": f"{model['display_name']} of the simulator",
        "base_instructions": "You are a coding agent. " * 50,
        "supported_in_api": True,
        "shell_type": "shell_command",
        "apply_patch_tool_type": "freeform",
        "supports_reasoning_summaries": True,
        "supports_parallel_tool_calls": True,
        # Codex CLI sends these models their tools as the first input item.
        "use_responses_lite": not OLDER.fullmatch(model["slug"]),
        "supports_reasoning_effort_updates": model["slug"] in EFFORT_UPDATES,
        "comp_hash": "2911" if OLDER.fullmatch(model["slug"]) else "3000",
        "truncation_policy": {"mode": "tokens", "limit": 10000},
        "experimental_supported_tools": [],
        "an_unknown_field": {"deep": [1, 2]},
    }


def hidden_entry(slug: str, name: str) -> dict[str, Any]:
    """A model that Codex CLI does not offer in its menu."""
    luna = next(model for model in CATALOGUE if model["slug"] == "gpt-5.6-luna")
    changes = {"slug": slug, "display_name": name, "visibility": "hide", "priority": 50}
    return catalogue_entry({**luna, **changes, "upgrade": None})


def version(value: Any) -> tuple[int, ...]:
    """A version from "0.62.0" or, as older lists write it, [0, 62, 0]."""
    if isinstance(value, list):
        return tuple(value)
    return tuple(int(number) for number in re.findall(r"\d+", str(value))[:3])


def effort_updates(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The `reasoning` of each item that changes it within the conversation."""
    items = [item for item in body["input"] if item.get("type") == "configuration_update"]
    return [item["reasoning"] for item in items if "reasoning" in item]


class Models(Images):
    """Lists the models, and checks that a model accepts a request."""

    def __init__(self) -> None:
        super().__init__()
        # A retired model may stand in this list: being listed does not make it usable.
        self.models = [catalogue_entry(m) for m in CATALOGUE if not RETIRED.fullmatch(m["slug"])]
        self.retired = RETIRED
        # Models that refuse `reasoning.summary`.
        self.refuses_summary: set[str] = set()
        # Models that demand the field `instructions`, whatever their input begins with.
        self.demands_instructions: set[str] = set()

    def models_of(self, account: Account) -> list[dict[str, Any]]:
        """Return the models that an account sees."""
        newest = re.compile(r"gpt-6\.2-.*" if account.plan == "free" else "(?!)")
        listed = [model for model in self.models if not newest.fullmatch(model["slug"])]
        listed += [hidden_entry(slug, slug.upper()) for slug in account.extra_models]
        if self.reserve_used is not None:
            listed.append(hidden_entry(RESERVE, "Luna Reserve"))
        return listed

    def serve_models(self, request: Request) -> Answer:
        account = self.signed_in(request)
        client = request.query.get("client_version")
        if not client:
            return Answer(400, {"detail": [{"loc": ["query", "client_version"], "msg": "missing"}]})
        models = self.models_of(account)
        listed = [m for m in models if version(m["minimal_client_version"]) <= version(client)]
        return Answer(200, {"models": listed}, {"ETag": self.etag_of(account)})

    @property
    def models_etag(self) -> str:
        return self.etag_of(self.account)

    def etag_of(self, account: Account) -> str:
        listed = json.dumps(self.models_of(account)).encode()
        return 'W/"' + hashlib.sha256(listed).hexdigest()[:16] + '"'

    # Checks of a request to a model

    def check_instructions(self, body: dict[str, Any]) -> None:
        slug = str(body.get("model"))
        if body.get("instructions"):
            return
        # Codex CLI sends its instructions as a developer message instead.
        begins = next((i for i in body["input"] if i.get("type") != "additional_tools"), {})
        needed = OLDER.fullmatch(slug) and begins.get("role") != "developer"
        if needed or slug in self.demands_instructions:
            raise refuse(400, "Instructions are required")

    def check_model(self, body: dict[str, Any], account: Account) -> None:
        slug = body.get("model")
        if not isinstance(slug, str) or not slug:
            raise invalid(
                "missing_required_parameter",
                "Missing required parameter: 'model'.",
                param="model",
            )
        entry = next((m for m in self.models_of(account) if m["slug"] == slug), None)
        exists = entry or any(model["slug"] == slug for model in self.models)
        if slug not in account.extra_models and (self.retired.fullmatch(slug) or not entry):
            if exists or self.retired.fullmatch(slug):
                words = "model is not supported when using Codex with a ChatGPT account."
                raise refuse(400, f"The '{slug}' {words}")
            raise Refusal(error_answer(404, None, f"Model not found {slug}", param="model"))
        self._check_reasoning(body.get("reasoning") or {}, slug)
        for update in effort_updates(body):
            # A guess: other models refuse the change. No client sends it to them.
            if not entry or not entry["supports_reasoning_effort_updates"]:
                raise invalid("invalid_value", f"'{slug}' accepts no change of the effort.")
            self._check_effort(update.get("effort"), slug, entry)
        self._check_effort((body.get("reasoning") or {}).get("effort"), slug, entry)

    def _check_reasoning(self, reasoning: dict[str, Any], slug: str) -> None:
        if not set(reasoning) <= {"effort", "summary", "context"}:
            raise refuse(400, "Unsupported parameter: reasoning.mode")
        if "summary" not in reasoning:
            return
        if slug in self.refuses_summary:
            raise invalid(
                "unsupported_parameter",
                "Unsupported parameter: 'reasoning.summary' is not supported with the "
                f"'{slug}' model.",
                param="reasoning.summary",
            )
        if reasoning["summary"] not in ("auto", "concise", "detailed"):
            raise invalid("invalid_value", "Invalid value for summary")

    def _check_effort(self, effort: Any, slug: str, entry: dict[str, Any] | None) -> None:
        if effort is None:
            return
        listed = entry["supported_reasoning_levels"] if entry else []
        # Codex CLI sends "max" for its own "ultra". "none" is accepted though not listed,
        # except by the newest models.
        levels = [level["effort"] for level in listed if level["effort"] != "ultra"]
        unlisted = () if slug.startswith("gpt-6.2") else ("none",)
        if effort not in EFFORTS or (entry and effort not in (*unlisted, *levels)):
            values = ", ".join(f"'{level}'" for level in levels)
            raise invalid(
                "unsupported_value",
                f"Unsupported value: '{effort}' is not supported with the '{slug}' model. "
                f"Supported values are: {values}.",
                param="reasoning.effort",
            )

    def check_lite(self, body: dict[str, Any], headers: dict[str, str]) -> None:
        """Check the body if the header LITE says that the request has Codex CLI's own form."""
        if headers.get(LITE) != "true":
            return
        if (body.get("reasoning") or {}).get("context") != "all_turns":
            raise invalid(
                "unsupported_value",
                "X-OpenAI-Internal-Codex-Responses-Lite requires `reasoning.context` to be "
                "`all_turns`.",
                param="reasoning.context",
            )
        for number, item in enumerate(body["input"]):
            if item.get("type") == "reasoning" and item.get("content"):
                message = f"Invalid 'input[{number}].content': expected maximum length 0."
                raise invalid("array_above_max_length", message, param=f"input[{number}].content")
