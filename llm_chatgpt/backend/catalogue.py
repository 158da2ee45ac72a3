"""The models: built in, parsed, remembered."""

from __future__ import annotations

import contextlib
import json
import pathlib
import secrets
from collections.abc import Mapping
from typing import Any, NamedTuple

from llm_chatgpt.files import replace_file, user_dir
from llm_chatgpt.login.tokens import Tokens
from llm_chatgpt.text import printable
from llm_chatgpt.values import as_mapping, as_number, as_text


class ModelInfo(NamedTuple):
    """What is known of a model. `efforts` is None when nobody has said which it takes."""

    slug: str
    display_name: str = ""
    priority: float = 1000
    hidden: bool = False
    context_window: int | None = None
    default_effort: str | None = None
    efforts: tuple[str, ...] | None = None
    service_tiers: tuple[str, ...] = ()
    takes_images: bool = True
    original_detail: bool | None = None
    summaries: bool = True
    upgrade: str | None = None


_EFFORTS = ("low", "medium", "high", "xhigh", "max", "ultra")
# catalogue.json: what the official client 0.169.0 lists, first choice first; after it,
# slugs that the service has retired for many accounts but still serves to some.
BUILT_IN_MODELS: dict[str, ModelInfo] = {
    slug: ModelInfo(
        slug,
        name,
        priority,
        context_window=context_window,
        default_effort=effort,
        efforts=_EFFORTS[: _EFFORTS.index(highest) + 1],
        service_tiers=("priority",),
        original_detail=True,
        upgrade=upgrade,
    )
    for slug, name, priority, context_window, effort, highest, upgrade in (
        ("gpt-6.1-sol", "GPT-6.1-Sol", 1, 272000, "low", "ultra", None),
        ("gpt-6-astra", "GPT-6-Astra", 2, 272000, "low", "ultra", None),
        ("gpt-6-sol", "GPT-6-Sol", 3, 272000, "medium", "ultra", None),
        ("gpt-6-luna", "GPT-6-Luna", 4, 272000, "medium", "max", None),
        ("gpt-5.6-sol", "GPT-5.6-Sol", 5, 272000, "low", "ultra", "gpt-6-sol"),
        ("gpt-6.1-terra", "GPT-6.1 Terra", 7, 500000, "low", "ultra", None),
        ("gpt-5.6-terra", "GPT-5.6-Terra", 8, 272000, "medium", "ultra", "gpt-6-sol"),
        ("gpt-5.6-luna", "GPT-5.6-Luna", 9, 272000, "medium", "max", "gpt-6-luna"),
        ("gpt-5.5", "GPT-5.5", 13, 272000, "medium", "xhigh", "gpt-6-sol"),
    )
} | {
    slug: ModelInfo(slug)
    for slug in (
        "gpt-5.3-codex",
        "gpt-5.2-codex",
        "gpt-5.2",
        "gpt-5.1-codex-max",
        "gpt-5.1-codex",
        "gpt-5.1-codex-mini",
    )
}
# The fields of a fetched entry that are kept; the rest (base instructions...) is large.
KEPT_MODEL_FIELDS = (
    "slug",
    "display_name",
    "visibility",
    "priority",
    "default_reasoning_level",
    "supported_reasoning_levels",
    "context_window",
    "input_modalities",
    "supports_image_detail_original",
    "service_tiers",
    "supports_reasoning_summary_parameter",
    "upgrade",
)


def parse_model(entry: object) -> ModelInfo | None:
    """One entry of the server's list; None if it has no slug. Only the slug is sure."""
    fields = as_mapping(entry)
    slug = fields.get("slug")
    if not isinstance(slug, str) or not slug or slug != printable(slug, 100):
        return None

    def names(name: str, key: str) -> tuple[str, ...] | None:
        value = fields.get(name)
        if not isinstance(value, list):
            return None
        found = [item.get(key) if isinstance(item, dict) else item for item in value]
        return tuple(item for item in found if isinstance(item, str))

    upgrade = fields.get("upgrade")
    priority = as_number(fields.get("priority"))
    context_window = as_number(fields.get("context_window"))
    modalities = names("input_modalities", "type")
    detail = fields.get("supports_image_detail_original")
    return ModelInfo(
        slug=slug,
        display_name=as_text(fields.get("display_name")) or slug,
        priority=1000 if priority is None else priority,
        hidden=as_text(fields.get("visibility")) not in ("list", None),
        context_window=None if context_window is None else int(context_window),
        default_effort=as_text(fields.get("default_reasoning_level")),
        efforts=names("supported_reasoning_levels", "effort") or None,
        service_tiers=names("service_tiers", "id") or (),
        takes_images=modalities is None or "image" in modalities,
        original_detail=detail if isinstance(detail, bool) else None,
        summaries=fields.get("supports_reasoning_summary_parameter") is not False,
        upgrade=upgrade if isinstance(upgrade, str) else as_mapping(upgrade).get("model"),
    )


class ModelList(NamedTuple):
    """What one account was last told, and when it was last asked for (Unix seconds)."""

    models: tuple[ModelInfo, ...]
    fetched_at: float
    tried_at: float = 0.0
    etag: str | None = None

    def find(self, slug: str) -> ModelInfo | None:
        return next((model for model in self.models if model.slug == slug), None)

    @property
    def by_rank(self) -> list[ModelInfo]:
        """All of them: first choice first, those not meant for people last."""
        return sorted(self.models, key=lambda model: (model.hidden, model.priority))

    @property
    def listed(self) -> list[ModelInfo]:
        """Those meant for people, first choice first."""
        return [model for model in self.by_rank if not model.hidden]


def models_path() -> pathlib.Path:
    """The remembered model lists, beside the login."""
    return user_dir() / "chatgpt-models.json"


def read_models_file() -> Mapping[str, Any]:
    """The file's content; {} if it is missing or damaged, because start-up must not break."""
    try:
        return as_mapping(json.loads(models_path().read_bytes()))
    except (OSError, ValueError, RecursionError):
        return {}


def parse_model_list(value: object) -> ModelList | None:
    fields = as_mapping(value)
    if not isinstance(fields.get("models"), list):
        return None
    models = [model for model in map(parse_model, fields["models"]) if model]
    etag = fields.get("etag")
    return ModelList(
        tuple(models),
        as_number(fields.get("fetched_at")) or 0.0,
        as_number(fields.get("tried_at")) or 0.0,
        etag if isinstance(etag, str) else None,
    )


def remembered_models(tokens: Tokens) -> ModelList | None:
    """The list last fetched for this account, None if there is none. Sends nothing."""
    return parse_model_list(as_mapping(read_models_file().get("accounts")).get(tokens.account_key))


def known_models() -> dict[str, ModelInfo]:
    """Every model to register, by slug: fetched ones first, then the built-in ones, then
    those that a list once had, so that old conversations go on. Sends nothing."""
    data = read_models_file()
    lists = [parse_model_list(value) for value in as_mapping(data.get("accounts")).values()]
    known: dict[str, ModelInfo] = {}
    for models in filter(None, lists):
        known |= {model.slug: model for model in models.by_rank if model.slug not in known}
    known = known | {s: m for s, m in BUILT_IN_MODELS.items() if s not in known}
    seen = data.get("seen")
    for slug in seen if isinstance(seen, list) else ():
        model = parse_model({"slug": slug})
        if model and slug not in known:
            known[slug] = model
    return known


def remember_models(tokens: Tokens, record: Mapping[str, Any]) -> None:
    """Write chatgpt-models.json. Losing a race or a write only costs another fetch.

    Raises OSError.
    """
    data = read_models_file()
    slugs = [model.slug for model in map(parse_model, record["models"]) if model]
    old = data.get("seen")
    seen = [slug for slug in old if isinstance(slug, str)] if isinstance(old, list) else []
    data = {
        "version": 1,
        "accounts": {**as_mapping(data.get("accounts")), tokens.account_key: record},
        "seen": list(dict.fromkeys([*seen, *slugs])),
    }
    path = models_path()
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        temporary.write_text(json.dumps(data, indent=1), encoding="utf-8")
        replace_file(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
