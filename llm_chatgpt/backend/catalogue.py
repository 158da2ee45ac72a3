"""Built-in models, and the model lists that were fetched last, one for each account.

endpoints.py fetches the lists. Nothing here sends a request.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from llm_chatgpt import config
from llm_chatgpt.files import read_file, user_dir, write_whole
from llm_chatgpt.login.tokens import Tokens
from llm_chatgpt.text import printable
from llm_chatgpt.values import as_list, as_mapping, as_number, as_text


class ModelInfo(NamedTuple):
    """Properties of a model. `efforts` is empty if the list does not name any."""

    slug: str
    display_name: str = ""
    description: str = ""
    priority: float = 1000
    hidden: bool = False
    context_window: int | None = None
    default_effort: str | None = None
    efforts: tuple[str, ...] = ()
    service_tiers: tuple[str, ...] = ()
    takes_images: bool = True
    # Whether requests may ask for summaries of the reasoning.
    summaries: bool = True
    # Whether the effort can change within a conversation without losing its cache (P214).
    effort_updates: bool = False
    # The slug of the model's successor.
    upgrade: str | None = None

    @property
    def model_id(self) -> str:
        """llm's name for the model."""
        return f"chatgpt-{self.slug}"

    @property
    def makes_images(self) -> bool:
        """Whether the model answers with an image file instead of text."""
        return self.slug.startswith("gpt-image-")


# The models that Codex CLI 0.171.0 lists, in its order, except that gpt-6.1-sol comes
# first because gpt-6.2 is not in every plan (P201). After them come models that may have been
# retired for an account (P200).
BUILT_IN_MODELS = {
    slug: ModelInfo(slug, upgrade=upgrade)
    for slug, upgrade in {
        "gpt-6.1-sol": None,
        "gpt-6.2-sol": None,
        "gpt-6.2-astra": None,
        "gpt-6.1-terra": None,
        "gpt-6-astra": None,
        "gpt-6-sol": None,
        "gpt-6-luna": None,
        "gpt-5.6-sol": "gpt-6-sol",
        "gpt-5.6-terra": "gpt-6-sol",
        "gpt-5.6-luna": "gpt-6-luna",
        "gpt-5.5": "gpt-6-sol",
        "gpt-5.3-codex": None,
        "gpt-5.2-codex": None,
        "gpt-5.2": None,
        "gpt-5.1-codex-max": None,
        "gpt-5.1-codex": None,
        "gpt-5.1-codex-mini": None,
    }.items()
}
# The model that uses Luna Reserve (P204).
RESERVE = ModelInfo("gpt-reserve", "Luna Reserve", hidden=True)
# Models of the image endpoint, which no list names (P146).
IMAGE_MODELS = ("gpt-image-2", "gpt-image-2.5-flare", "gpt-image-2.5-sunburst")
# Stands for the first model of the account's list, which is looked up when a prompt runs.
DEFAULT = ModelInfo("default", "The first model of your account's list")
# The fields of a fetched entry that `parse_model` reads. The others are not stored, because they
# can be large (such as the base instructions).
STORED_MODEL_FIELDS = {"slug", "display_name", "description", "visibility", "priority", "upgrade"}
STORED_MODEL_FIELDS |= {"context_window", "default_reasoning_level", "supported_reasoning_levels"}
STORED_MODEL_FIELDS |= {"supports_reasoning_summary_parameter"}
STORED_MODEL_FIELDS |= {"service_tiers", "input_modalities", "supports_reasoning_effort_updates"}


def parse_model(entry: object) -> ModelInfo | None:
    """Parse an entry of the service's list; None if it has no usable slug.

    All other fields are optional (P198, P199).
    """
    fields = as_mapping(entry)
    slug = fields.get("slug")
    if not isinstance(slug, str) or not slug or slug != printable(slug, 100):
        return None

    def strings(field: str, key: str) -> tuple[str, ...]:
        entries = as_list(fields.get(field))
        values = [item.get(key) if isinstance(item, dict) else item for item in entries]
        return tuple(value for value in values if isinstance(value, str))

    upgrade = fields.get("upgrade")
    priority = as_number(fields.get("priority"))
    modalities = strings("input_modalities", "type")
    return ModelInfo(
        slug=slug,
        display_name=as_text(fields.get("display_name")) or slug,
        description=as_text(fields.get("description")) or "",
        priority=1000 if priority is None else priority,
        hidden=as_text(fields.get("visibility")) not in ("list", None),
        context_window=int(as_number(fields.get("context_window")) or 0) or None,
        default_effort=as_text(fields.get("default_reasoning_level")),
        efforts=strings("supported_reasoning_levels", "effort"),
        service_tiers=strings("service_tiers", "id"),
        takes_images=not modalities or "image" in modalities,
        summaries=fields.get("supports_reasoning_summary_parameter") is not False,
        effort_updates=fields.get("supports_reasoning_effort_updates") is True,
        upgrade=upgrade if isinstance(upgrade, str) else as_mapping(upgrade).get("model"),
    )


class ModelList(NamedTuple):
    """An account's model list as last fetched; empty if it was never fetched.

    `fetched_at` is the time of the last success, `tried_at` of the last attempt, in Unix seconds.
    """

    models: tuple[ModelInfo, ...] = ()
    fetched_at: float = 0.0
    tried_at: float = 0.0
    etag: str | None = None

    def find(self, slug: str) -> ModelInfo | None:
        return next((model for model in self.models if model.slug == slug), None)

    @property
    def by_rank(self) -> list[ModelInfo]:
        """All models, first choice first, hidden ones last."""
        return sorted(self.models, key=lambda model: (model.hidden, model.priority))

    @property
    def listed(self) -> list[ModelInfo]:
        """The models that ChatGPT's apps offer, first choice first."""
        return [model for model in self.by_rank if not model.hidden]


def models_file() -> pathlib.Path:
    """Return the path of the file that stores the fetched lists."""
    return user_dir() / "chatgpt-models.json"


def read_models_file() -> Mapping[str, Any]:
    """Read the file of lists; {} if it is missing or damaged, because llm must start anyway."""
    try:
        return as_mapping(json.loads(read_file(models_file())))
    except (OSError, ValueError, RecursionError):
        return {}


def parse_model_list(value: object) -> ModelList:
    """Parse a stored list."""
    fields = as_mapping(value)
    return ModelList(
        tuple(filter(None, map(parse_model, as_list(fields.get("models"))))),
        as_number(fields.get("fetched_at")) or 0.0,
        as_number(fields.get("tried_at")) or 0.0,
        as_text(fields.get("etag")),
    )


def stored_models(tokens: Tokens) -> ModelList:
    """Return the list last fetched for this account."""
    return parse_model_list(as_mapping(read_models_file().get("accounts")).get(tokens.account_key))


def models_to_register() -> dict[str, ModelInfo]:
    """Return every model to register, by slug.

    Fetched models come first, then built-in ones, then models of earlier lists (old conversations
    may need them) and the models in LLM_CHATGPT_MODELS. A model is `hidden` if every list that has
    it hides it.
    """
    data = read_models_file()
    lists = map(parse_model_list, as_mapping(data.get("accounts")).values())
    models = [model for fetched in lists for model in fetched.by_rank]
    models += BUILT_IN_MODELS.values()
    slugs = [*as_list(data.get("seen")), *config.named_models()]
    models += filter(None, (parse_model({"slug": slug}) for slug in slugs))
    models += [DEFAULT, *map(ModelInfo, IMAGE_MODELS), RESERVE]
    visible = {model.slug for model in models if not model.hidden}
    by_slug: dict[str, ModelInfo] = {}
    for model in models:
        by_slug.setdefault(model.slug, model._replace(hidden=model.slug not in visible))
    return by_slug


def model_to_use(requested: ModelInfo, models: ModelList) -> ModelInfo:
    """Return the requested model, with its properties from the account's list if it is there.

    DEFAULT stands for the first model of the list, or without a list for the first built-in one.
    """
    if requested.slug == DEFAULT.slug:
        return [*models.listed, *BUILT_IN_MODELS.values()][0]
    return models.find(requested.slug) or requested


def sent_effort(effort: str | None) -> str | None:
    """Return the effort to send: `max` in place of `ultra`, as in Codex CLI (P89)."""
    return "max" if effort == "ultra" else effort


def successor(slug: str, models: ModelList) -> str:
    """Choose another model to try: the successor that a list names, otherwise the first model.

    Chooses from the account's list, or without one from the built-in models.
    """
    available = [model.slug for model in models.listed] or list(BUILT_IN_MODELS)
    entries = [models.find(slug), BUILT_IN_MODELS.get(slug)]
    upgrades = [entry.upgrade for entry in entries if entry and entry.upgrade in available]
    candidates = [*upgrades, *available, *BUILT_IN_MODELS]
    return next(printable(c, 100) for c in candidates if c and c != slug)


def store_models(tokens: Tokens, changes: Mapping[str, Any]) -> None:
    """Store changed fields of an account's list. Raises OSError.

    There is no lock: a lost write only costs another fetch.
    """
    data = read_models_file()
    accounts = as_mapping(data.get("accounts"))
    record = {"models": [], **as_mapping(accounts.get(tokens.account_key)), **changes}
    seen = [slug for slug in as_list(data.get("seen")) if isinstance(slug, str)]
    seen += [model.slug for model in parse_model_list(record).models if not model.hidden]
    data = {
        "version": 1,
        "accounts": {**accounts, tokens.account_key: record},
        "seen": list(dict.fromkeys(seen)),
    }
    write_whole(models_file(), json.dumps(data, indent=1).encode())
