"""Use OpenAI's models from llm with a ChatGPT subscription, without an API key.

The module reads from top to bottom; each section builds on those above it:

 1. constants and settings     addresses, times, limits, each with its source
 2. errors                     one plain sentence each, with the next step
 3. talking to a person        notices on stderr, harmless text
 4. tokens                     what a login is, and what its JWTs say
 5. the store                  chatgpt-oauth.json: read, lock, write whole
 6. HTTP                       one client per process or event loop
 7. signing in                 device code, browser, access token, import, refresh, revoke
 8. the current login          a token that is good now; refreshed once by all
 9. the model list             built in, fetched, remembered
10. refusals                   what the server's errors mean
11. the request                messages, tools, options -> JSON
12. the stream                 bytes -> server-sent events -> llm's StreamEvents
13. one exchange               send, read, decide whether to send again
14. models                     the sync and the async class
15. commands                   llm chatgpt ...
16. hooks                      what llm calls

Facts of the service are marked "auth.md" or "responses.md": the project's protocol
notes, which record how sure each one is. Nothing here touches the network, takes a lock
or imports an HTTP client while llm loads it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime
import functools
import hashlib
import importlib
import json
import logging
import os
import pathlib
import random
import re
import secrets
import sys
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, Literal, NamedTuple, cast
from urllib.parse import urlsplit

import click
import llm
from llm.parts import (
    AttachmentPart,
    Message,
    ReasoningPart,
    StreamEvent,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from pydantic import Field, field_validator, model_validator

from llm_chatgpt import config, http
from llm_chatgpt.errors import (
    AccountTaken,
    ChatGPTError,
    DeviceLoginDisabled,
    LoginDenied,
    LoginExpired,
    LoginFailed,
    NotSignedIn,
    RefreshFailed,
    RequestRefused,
    SlowDown,
    StoreError,
    StreamFailed,
    UsageLimitReached,
)
from llm_chatgpt.files import os_reason, replace_file, user_dir
from llm_chatgpt.login.borrowed import check_borrowed, codex_auth_path, read_codex_login
from llm_chatgpt.login.browser import BrowserLogin, login_with_browser
from llm_chatgpt.login.current import (
    Credential,
    choose_credential,
    get_tokens,
    get_tokens_async,
    name_list,
    present_tokens,
)
from llm_chatgpt.login.device import DeviceCode, login, poll_for_token, request_device_code
from llm_chatgpt.login.oauth import refresh_tokens, revoke
from llm_chatgpt.login.store import (
    CODEX_ACCOUNT,
    delete_tokens,
    load_tokens,
    locked_store,
    read_store,
    store_path,
    store_tokens,
)
from llm_chatgpt.login.tokens import (
    Tokens,
    backend_headers,
    extract_account_id,
    parse_jwt_claims,
    still_works,
)
from llm_chatgpt.login.workspace import keep_login
from llm_chatgpt.text import in_words, local_time, notice, printable
from llm_chatgpt.values import as_list, as_mapping, as_number, as_text

__all__ = [
    "BUILT_IN_MODELS",
    "KEPT_MODEL_FIELDS",
    "POLICY_CODES",
    "REGION_CODE",
    "SOURCES",
    "TURN_STATES_KEPT",
    "AccountTaken",
    "AsyncChatGPT",
    "BrowserLogin",
    "ChatGPT",
    "ChatGPTError",
    "DeviceCode",
    "DeviceLoginDisabled",
    "EventTranslator",
    "Exchange",
    "Finding",
    "ImageGeneration",
    "InputBuilder",
    "LoginDenied",
    "LoginExpired",
    "LoginFailed",
    "ModelInfo",
    "ModelList",
    "NotSignedIn",
    "Options",
    "RefreshFailed",
    "RequestRefused",
    "Resend",
    "SSEDecoder",
    "SlowDown",
    "StoreError",
    "StreamFailed",
    "Tokens",
    "UsageLimitReached",
    "UsageWindow",
    "account_option",
    "accounts",
    "ask_to_replace",
    "build_body",
    "build_tools",
    "chatgpt",
    "credential_words",
    "doctor",
    "echo_table",
    "encode",
    "error_message",
    "explain_refusal",
    "extract_account_id",
    "fetch_models",
    "fetch_usage",
    "get_backend",
    "get_tokens",
    "get_tokens_async",
    "import_command",
    "known_models",
    "lifetime_words",
    "load_tokens",
    "login",
    "login_command",
    "login_with_browser",
    "logout",
    "models_command",
    "models_path",
    "parse_jwt_claims",
    "parse_model",
    "parse_model_list",
    "poll_for_token",
    "present_login",
    "read_models_file",
    "refresh",
    "refresh_tokens",
    "register_commands",
    "register_models",
    "remember_models",
    "remembered_models",
    "request_device_code",
    "retry_after",
    "save_image",
    "schema_is_strict",
    "sentence",
    "session_id",
    "status",
    "store_tokens",
    "tool_name",
    "turn_states",
    "update_models",
    "usage",
    "use",
    "who_is",
    "windows_of_headers",
    "windows_of_usage",
    "with_login",
]


log = logging.getLogger("llm_chatgpt_oauth")


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


def fetch_models(tokens: Tokens, *, timeout: float = config.AUTH_TIMEOUT_SECONDS) -> ModelList:
    """Ask the server which models this account has, and remember the answer.

    `timeout` is seconds. Raises ChatGPTError (RequestRefused for an error status).
    """
    version = config.setting("CLIENT_VERSION") or config.MODELS_CLIENT_VERSION
    reply = get_backend("/codex/models", tokens, {"client_version": version}, timeout)
    entries = as_mapping(reply.data).get("models")
    if not isinstance(entries, list):
        raise ChatGPTError("The server's model list was not readable. Try again later.")
    kept = [
        {name: entry[name] for name in KEPT_MODEL_FIELDS if name in entry}
        for entry in entries
        if parse_model(entry)
    ]
    now = time.time()
    record = {
        "fetched_at": now,
        "tried_at": now,
        "etag": reply.headers.get("etag"),
        "models": kept,
    }
    try:
        remember_models(tokens, record)
    except OSError as error:
        path = models_path()
        notice(f"Warning: the model list could not be kept in {path} ({os_reason(error)}).")
    return cast(ModelList, parse_model_list(record))


def update_models(tokens: Tokens, known: ModelList | None, etag: str | None) -> None:
    """Bring the list up to date when the server says that it has changed.

    At most once an hour and for two seconds, and whatever fails is passed over: the next
    prompt of a later hour tries again.
    """
    if etag is None or (known and known.etag == etag):
        return
    if known and 0 <= time.time() - known.tried_at < config.MODELS_UPDATE_SECONDS:
        return
    try:
        fetch_models(tokens, timeout=config.MODELS_UPDATE_TIMEOUT_SECONDS)
    except ChatGPTError as error:
        log.info("The model list was not brought up to date: %s", error)
        accounts = as_mapping(read_models_file().get("accounts"))
        record = {"models": [], **as_mapping(accounts.get(tokens.account_key))}
        with contextlib.suppress(OSError):
            remember_models(tokens, {**record, "tried_at": time.time()})


def get_backend(
    path: str, tokens: Tokens, params: Mapping[str, str] | None = None, timeout: float | None = None
) -> http.Reply:
    """A GET to the backend that succeeded. Raises ChatGPTError, RequestRefused."""
    library = http.http_library()
    url = config.base_url(tokens.origin) + path
    try:
        response = http.sync_client(url).get(
            url,
            params=params,
            headers=backend_headers(tokens),
            timeout=timeout or config.AUTH_TIMEOUT_SECONDS,
        )
    except library.TransportError as error:
        raise ChatGPTError(
            f"{urlsplit(url).netloc} was asked in vain: {http.transport_reason(error)}. "
            "Check the network and try again."
        ) from error
    reply = http.Reply.of(response)
    if reply.status != 200:
        raise explain_refusal(reply)
    return reply


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


# responses.md 9: what each plan can do at its limit.
_LIMIT_ADVICE = (
    (("plus",), "upgrade to Pro or buy credits"),
    (("pro", "prolite", "promax"), "buy credits"),
    (("free", "go", "guest"), "upgrade to Plus"),
    (("team", "business", "ent26"), "ask your workspace's admin for more"),
)
POLICY_CODES = frozenset(
    {"cyber_policy", "bio_policy", "misalignment_policy_violation", "invalid_prompt"}
)
# Ours, for a 401 that a renewed login would get as well.
REGION_CODE = "not_in_this_region"
_CAPACITY_CODES = frozenset({"server_is_overloaded", "slow_down"})
# Each of them lasts longer than anybody would wait.
_LIMIT_CODES = frozenset(
    {"usage_limit_reached", "insufficient_quota", "organization_spend_limit_exceeded"}
)
_OWNER_LIMITS = (
    "workspace_owner_credits_depleted",
    "workspace_member_credits_depleted",
    "workspace_owner_usage_limit_reached",
    "workspace_member_usage_limit_reached",
)


def error_message(reply: http.Reply) -> str | None:
    """The server's own words: `error.message`, `error`, `detail` in its three forms."""
    data = as_mapping(reply.data)
    error, detail = data.get("error"), data.get("detail")
    entries = detail if isinstance(detail, list) else []
    words = "; ".join(
        f"{'.'.join(map(str, entry.get('loc') or []))}: {entry.get('msg')}"
        for entry in entries
        if isinstance(entry, dict)
    )
    for text in (
        as_mapping(error).get("message"),
        data.get("error_description"),
        error,
        detail,
        as_mapping(detail).get("message"),
        words,
        data.get("message"),
    ):
        if isinstance(text, str) and text.strip():
            return printable(text)
    return None


def sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def explain_refusal(
    reply: http.Reply, *, slug: str | None = None, models: ModelList | None = None
) -> RequestRefused:
    """One plain sentence with the next step for any error the backend answers with.

    `models` is what the account has, to name another model. Facts: responses.md 8 and 9.
    """
    error = as_mapping(as_mapping(reply.data).get("error"))
    code = reply.error_code
    kind = error.get("type") if isinstance(error.get("type"), str) else None
    words = error_message(reply)
    said = f" ({sentence(words)[:-1]})" if words else ""
    limit_type = reply.headers.get("x-codex-rate-limit-reached-type")
    refused = functools.partial(_refusal, reply, code or kind)

    if code in _LIMIT_CODES or kind == "usage_limit_reached" or limit_type in _OWNER_LIMITS:
        return _refusal(reply, code or kind, _limit_message(reply, error), UsageLimitReached)
    if "usage_not_included" in (code, kind):
        return _refusal(
            reply,
            "usage_not_included",
            "Your ChatGPT plan does not include Codex, which this login needs. Upgrade at "
            "https://chatgpt.com/#pricing, or sign in with another account: 'llm chatgpt login'.",
            UsageLimitReached,
        )
    if "deactivated_workspace" in (code, kind):
        return refused(
            "The ChatGPT workspace of this login was deactivated. Sign in with another "
            "account: 'llm chatgpt login'."
        )
    if reply.is_web_page and reply.status < 500:
        return refused(http.web_page_message(reply))
    if words and ("is not supported when using Codex" in words or "Model not found" in words):
        return refused(_model_message(words, slug, models))
    if words and "requires a newer version" in words:
        return refused(
            f"{sentence(words)} For this plugin that means: set LLM_CHATGPT_CLIENT_VERSION to "
            "the version that is asked for, and look for a newer llm-chatgpt-oauth."
        )
    if code == "context_length_exceeded":
        return refused(_context_message(words, models.find(slug) if models and slug else None))
    if code in POLICY_CODES:
        return refused(f"OpenAI's policies refuse this prompt{said}. Rephrase it.")
    if code in _CAPACITY_CODES:
        return refused(
            f"The model is at capacity{said}. Try again in a minute, or choose another model."
        )
    if reply.status == 401:
        if words and "region" in words:
            message = f"{sentence(words)} Ask your workspace's admin."
            return _refusal(reply, REGION_CODE, message)
        return refused(
            f"OpenAI does not accept this login any more{said}. Run 'llm chatgpt login' to "
            "sign in again."
        )
    if reply.status == 403:
        return refused(
            f"OpenAI refuses this account's request{said}. Ask your workspace's admin, or sign "
            "in with another account: 'llm chatgpt login'."
        )
    if reply.status == 413:
        return refused("The prompt is too large for the server. Send less text or smaller images.")
    if reply.status == 429:
        return refused(f"OpenAI asks for fewer requests{said}. Wait a minute and try again.")
    if reply.status >= 500:
        return refused(
            f"OpenAI's server is in trouble (status {reply.status}){said}. Try again in a minute."
        )
    param = error.get("param")
    if reply.status == 400 and param == "reasoning.effort" and words:
        return refused(f"{sentence(words)} Choose one with -o reasoning_effort.")
    if words:
        return refused(f"OpenAI refused the request: {sentence(words)}")
    return refused(f"OpenAI refused the request (status {reply.status}). Try again later.")


def _refusal(
    reply: http.Reply,
    code: str | None,
    message: str,
    kind: type[RequestRefused] = RequestRefused,
) -> RequestRefused:
    for name in ("x-request-id", "x-oai-request-id"):
        if reply.headers.get(name):
            message += f" [request {printable(reply.headers[name], 80)}]"
            break
    return kind(message, code=code, status=reply.status)


def _limit_message(reply: http.Reply, error: Mapping[str, Any]) -> str:
    plan = error.get("plan_type") or reply.headers.get("x-codex-plan-type")
    plan = plan.lower() if isinstance(plan, str) else ""
    name = reply.headers.get("x-codex-limit-name")
    window = _full_window(reply.headers)
    message = f"The {window}usage limit of your ChatGPT plan is reached"
    if plan:
        message = f"The {window}usage limit of your ChatGPT {printable(plan, 40)} plan is reached"
    now = time.time()
    resets_in = as_number(error.get("resets_in_seconds"))
    resets_at = as_number(error.get("resets_at"))
    if resets_at is None and resets_in is not None:
        resets_at = now + resets_in
    if resets_at is not None:
        left = resets_in if resets_in is not None else resets_at - now
        message += f"; it resets on {local_time(resets_at)}, in {in_words(left)}"
    advice = next((text for plans, text in _LIMIT_ADVICE if plan in plans), None)
    if advice is None and plan.startswith(("self_serve_business", "enterprise_cbp")):
        advice = _LIMIT_ADVICE[-1][1]
    if reply.headers.get("x-codex-rate-limit-reached-type") in _OWNER_LIMITS:
        advice = "ask your workspace's owner to raise the limit or add credits"
    if name and name.lower() != "codex":
        advice = "another model may still work" + (f", or {advice}" if advice else "")
    return f"{message}. Wait{', or ' + advice if advice else ''}. See {config.USAGE_PAGE}"


def _full_window(headers: Mapping[str, str]) -> str:
    """'5-hour ', 'weekly ' or '': the window whose allowance is used up."""
    full = [window.name for window in windows_of_headers(headers) if window.used_percent >= 100]
    return f"{full[-1]} " if full else ""


class UsageWindow(NamedTuple):
    """How much of an allowance is used. `seconds` is its length, `resets_at` Unix seconds."""

    seconds: float
    used_percent: float
    resets_at: float | None = None

    @property
    def name(self) -> str:
        """By its length, because its place in the reply varies by plan (responses.md 11)."""
        days = self.seconds / 86400
        if 6.5 <= days <= 7.5:
            return "weekly"
        if days >= 1:
            return f"{round(days)}-day"
        return f"{max(1, round(self.seconds / 3600))}-hour"

    @property
    def left_percent(self) -> float:
        return min(100.0, max(0.0, 100.0 - self.used_percent))

    @property
    def reset_words(self) -> str:
        if self.resets_at is None:
            return ""
        left = in_words(self.resets_at - time.time())
        return f", resets {local_time(self.resets_at)} (in {left})"


def windows_of_headers(headers: Mapping[str, str]) -> list[UsageWindow]:
    """The windows that an answer's x-codex-* headers tell of (responses.md 6)."""

    def number(name: str) -> float | None:
        try:
            return as_number(float(headers[name]))
        except (KeyError, ValueError):
            return None

    windows = []
    for place in ("primary", "secondary"):
        used = number(f"x-codex-{place}-used-percent")
        minutes = number(f"x-codex-{place}-window-minutes")
        resets_at = number(f"x-codex-{place}-reset-at")
        if used is not None and minutes and used == used:
            windows.append(UsageWindow(minutes * 60, used, resets_at))
    return windows


def windows_of_usage(rate_limit: object) -> list[UsageWindow]:
    """The windows of one limit in the usage endpoint's reply (responses.md 11)."""
    limit = as_mapping(rate_limit)
    windows = []
    for place in ("primary_window", "secondary_window"):
        fields = as_mapping(limit.get(place))
        used = as_number(fields.get("used_percent"))
        seconds = as_number(fields.get("limit_window_seconds"))
        if used is not None and seconds:
            windows.append(UsageWindow(seconds, used, as_number(fields.get("reset_at"))))
    return windows


def fetch_usage(tokens: Tokens) -> Mapping[str, Any]:
    """What the account has used of its allowances, as the server tells it.

    Raises ChatGPTError, RequestRefused.
    """
    return as_mapping(get_backend("/wham/usage", tokens).data)


def _model_message(words: str, slug: str | None, models: ModelList | None) -> str:
    listed = models.listed if models else []
    named = next((m for m in (models.models if models else ()) if m.slug == slug), None)
    candidates = [
        named and named.upgrade,
        slug in BUILT_IN_MODELS and BUILT_IN_MODELS[slug].upgrade if slug else None,
        *[model.slug for model in listed],
        *([] if listed else BUILT_IN_MODELS),
    ]
    successor = next((c for c in candidates if c and c != slug), None)
    message = f"{sentence(words)} "
    if listed:
        message += f"Your login has: {', '.join(model.slug for model in listed)}. "
    return f'{message}Run: llm -m chatgpt-{successor} "prompt"'


def _context_message(words: str | None, model: ModelInfo | None) -> str:
    limit = ""
    if model and model.context_window:
        limit = f" of {model.context_window:,} tokens"
    said = f" ({sentence(words)[:-1]})" if words else ""
    return (
        f"The conversation is longer than the model's context{limit}{said}. Start a new one, "
        "or send less."
    )


class Options(llm.Options):
    """The options that the backend accepts; it refuses sampling and token limits."""

    reasoning_effort: str | None = Field(
        description=(
            "How much the model thinks before it answers: none, low, medium, high, xhigh, max "
            "or ultra, as far as the model has them ('llm chatgpt models')."
        ),
        default=None,
    )
    reasoning_summary: Literal["auto", "concise", "detailed", "none"] | None = Field(
        description="Which summary of its reasoning the model shows; auto unless said otherwise.",
        default=None,
    )
    verbosity: Literal["low", "medium", "high"] | None = Field(
        description="How wordy the answer is: low, medium or high.", default=None
    )
    service_tier: Literal["fast", "priority", "ultrafast", "default"] | None = Field(
        description=(
            "The processing tier. fast and priority are the same: faster, and counted more "
            "against the plan's limits."
        ),
        default=None,
    )
    image_detail: Literal["auto", "low", "high", "original"] | None = Field(
        description="How closely images are looked at: auto, low, high, or original.",
        default=None,
    )
    json_object: bool | None = Field(
        description="Output a valid JSON object {...}. Prompt must mention JSON.", default=None
    )
    parallel_tool_calls: bool | None = Field(
        description="Whether the model may ask for several tool calls at once.", default=None
    )
    prompt_cache_key: str | None = Field(
        description=(
            "A name of at most 64 characters that routes requests with the same beginning to "
            "the same cache. Each conversation has its own unless this is given."
        ),
        default=None,
        min_length=1,
        max_length=64,
    )

    @model_validator(mode="before")
    @classmethod
    def _known_options(cls, values: Any) -> Any:
        unknown = [name for name in values if name not in cls.model_fields]
        if unknown:
            raise ValueError(
                f"a ChatGPT login does not take the option {', '.join(unknown)}; "
                f"it takes {', '.join(cls.model_fields)}"
            )
        return values

    @field_validator("reasoning_effort")
    @classmethod
    def _one_word(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[a-z0-9_-]{1,20}", value):
            raise ValueError("must be one word such as low, medium or high")
        return value


class ImageGeneration(llm.ServerSideTool):
    """Let the model draw. The picture is written to a file, whose path is the result.

    ``folder`` is where files go (default: ``chatgpt-images`` in llm's user directory),
    ``output_format`` is png, jpeg or webp.
    """

    name = "image_generation"
    plugin = "llm-chatgpt-oauth"

    def __init__(self, folder: str | None = None, output_format: str | None = None):
        super().__init__()
        if output_format not in (None, "png", "jpeg", "webp"):
            raise ValueError("output_format must be one of: png, jpeg or webp")
        self.folder = folder
        self.output_format = output_format

    def tool_spec(self, model: Any) -> dict[str, Any]:
        spec = {"type": "image_generation"}
        if self.output_format:
            spec["output_format"] = self.output_format
        return spec


SOURCES = "web_search_call.action.sources"
# responses.md 5: what web_search takes; llm's own class knows more than the backend.
_WEB_SEARCH_FIELDS = frozenset(
    {
        "type",
        "external_web_access",
        "indexed_web_access",
        "filters",
        "user_location",
        "search_context_size",
        "search_content_types",
    }
)


class InputBuilder:
    """llm's messages as the request's `instructions` and `input` (responses.md 4).

    Earlier messages always give the same items, so that earlier input is a prefix of later
    input. Reasoning goes back only to the account that it came from, ids never.
    """

    def __init__(
        self, *, account_key: str, image_detail: str | None = None, takes_images: bool = True
    ):
        self.account_key = account_key
        self.image_detail = image_detail
        self.takes_images = takes_images
        self.instructions = ""
        self.items: list[dict[str, Any]] = []
        # What stands in the items for the base64 of an image, and the base64: see `encode`.
        self.images: dict[str, bytes] = {}
        self.lost_attachments: list[str] = []
        self._system_texts: list[str] = []
        self._content: list[dict[str, Any]] = []

    def build(self, messages: Iterable[Message], system: str) -> None:
        for message in messages:
            if message.role == "system":
                self._add_system("".join(_texts(message)))
            else:
                self._add(message)
        # `llm -c -s` and messages= with system= leave the system prompt out of the messages.
        if system and system not in self._system_texts:
            if self.instructions:
                self.items.append(_message_item("developer", system))
            else:
                self.instructions = system
        self.items = _paired(self.items)
        self.instructions = self.instructions or config.DEFAULT_INSTRUCTIONS

    def _add_system(self, text: str) -> None:
        if not text:
            return
        self._system_texts.append(text)
        if not self.items:
            self.instructions = f"{self.instructions}\n\n{text}" if self.instructions else text
        else:
            # The backend refuses the role system (responses.md 3).
            self.items.append(_message_item("developer", text))

    def _add(self, message: Message) -> None:
        role = message.role if message.role in ("user", "assistant", "developer") else "user"
        text_type = "output_text" if role == "assistant" else "input_text"
        for part in message.parts:
            if isinstance(part, TextPart):
                if part.text:
                    self._content.append({"type": text_type, "text": part.text})
                continue
            if isinstance(part, AttachmentPart) and role != "assistant":
                self._content.append(self._attachment(part.attachment))
                continue
            self._close_message(role)
            if isinstance(part, AttachmentPart):
                self._content.append(self._attachment(part.attachment))
                self._close_message("user")
            elif isinstance(part, ReasoningPart):
                self._add_reasoning(part)
            elif isinstance(part, ToolCallPart):
                self._add_tool_call(part)
            elif isinstance(part, ToolResultPart):
                self._add_tool_result(part)
        self._close_message(role)

    def _close_message(self, role: str) -> None:
        if self._content:
            self.items.append({"type": "message", "role": role, "content": self._content})
            self._content = []

    def _add_reasoning(self, part: ReasoningPart) -> None:
        ours = _our_metadata(part)
        encrypted = ours.get("encrypted_content")
        if isinstance(encrypted, str) and ours.get("account") == self.account_key:
            summary = ours.get("summary")
            self.items.append(
                {
                    "type": "reasoning",
                    "summary": summary if isinstance(summary, list) else [],
                    "encrypted_content": encrypted,
                }
            )

    def _add_tool_call(self, part: ToolCallPart) -> None:
        if not part.server_executed:
            arguments = part.arguments
            raw = arguments.get("_raw") if isinstance(arguments, dict) else None
            text = raw if isinstance(raw, str) and len(arguments) == 1 else json.dumps(arguments)
            self.items.append(
                {
                    "type": "function_call",
                    "call_id": part.tool_call_id,
                    "name": tool_name(part.name),
                    "arguments": text,
                }
            )
            return
        kind = _our_metadata(part).get("type")
        if kind == "web_search_call":
            action = {k: v for k, v in as_mapping(part.arguments).items() if k != "sources"}
            self.items.append({"type": kind, "status": "completed", "action": action})
        elif kind == "image_generation_call":
            prompt = as_mapping(part.arguments).get("prompt")
            text = f"[drew an image: {prompt}]" if prompt else "[drew an image]"
            self.items.append(_message_item("assistant", text))

    def _add_tool_result(self, part: ToolResultPart) -> None:
        if part.server_executed:
            return
        output: Any = part.output
        if part.attachments:
            output = [{"type": "input_text", "text": part.output}] if part.output else []
            output += [self._attachment(attachment) for attachment in part.attachments]
        self.items.append(
            {
                "type": "function_call_output",
                "call_id": part.tool_call_id,
                "output": output,
                # Taken off again when calls and outputs are paired.
                "name": tool_name(part.name),
            }
        )

    def _attachment(self, attachment: llm.Attachment | None) -> dict[str, Any]:
        if attachment is None:
            return {"type": "input_text", "text": "[an attachment that was not kept]"}
        url = attachment.url or ""
        # What llm's own reading and fetching of attachments can raise.
        libraries = filter(None, map(sys.modules.get, ("httpx", "httpx2")))
        gone: tuple[type[Exception], ...] = (OSError, *(http.HTTPError for http in libraries))
        try:
            # Asking llm for the type of an address would fetch it at every turn.
            kind = attachment.type or ("image/*" if url else attachment.resolve_type())
            if not self.takes_images or not kind or not kind.startswith("image/"):
                left_out = f"[attachment left out, because it is {printable(kind, 60)}]"
                return {"type": "input_text", "text": left_out}
            if not url.startswith("https://"):
                kind = attachment.resolve_type() if kind == "image/*" else kind
                stand_in = f"<<image {attachment.id()}>>"
                self.images[stand_in] = base64.b64encode(attachment.content_bytes())
                url = f"data:{kind};base64,{stand_in}"
        except gone:
            name = attachment.url or os.path.basename(attachment.path or "") or "attachment"
            self.lost_attachments.append(printable(name, 100))
            return {"type": "input_text", "text": "[an attachment that is gone]"}
        part = {"type": "input_image", "image_url": url}
        if self.image_detail:
            part["detail"] = self.image_detail
        return part


def encode(body: Mapping[str, Any], images: Mapping[str, bytes]) -> bytes:
    """The request's bytes, with the images put in last: an image of 10 MB passes through
    JSON's encoder as a few letters and is copied once (a benchmark's row)."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    pieces = [text.encode("utf-8", "replace")]
    for stand_in, image in images.items():
        pieces = [
            part for piece in pieces for part in _separated(piece.split(stand_in.encode()), image)
        ]
    return b"".join(pieces)


def _separated(pieces: list[bytes], separator: bytes) -> Iterator[bytes]:
    for number, piece in enumerate(pieces):
        if number:
            yield separator
        yield piece


def _texts(message: Message) -> list[str]:
    return [part.text for part in message.parts if isinstance(part, TextPart)]


def _our_metadata(part: Any) -> Mapping[str, Any]:
    return as_mapping((part.provider_metadata or {}).get(config.METADATA_KEY))


def _message_item(role: str, text: str) -> dict[str, Any]:
    kind = "output_text" if role == "assistant" else "input_text"
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text}]}


def tool_name(name: str) -> str:
    """A name that the backend accepts; other models' tools may be called anything."""
    return re.sub(r"[^a-zA-Z0-9_-]", "_", name or "")[:128] or "tool"


def _call_id(call_id: object, fallback: str) -> str:
    if not isinstance(call_id, str) or not call_id:
        return fallback
    if len(call_id) <= 64:
        return call_id
    return f"call_{hashlib.sha256(call_id.encode()).hexdigest()[:40]}"


def _paired(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The items with an output for every call and a call for every output.

    The backend refuses either alone, and a history may have both: an answer that was cut
    short, another model's ids (or none), ids that begin anew in every turn.
    """
    paired: list[dict[str, Any]] = []
    # Calls that wait for their output, oldest first: original id -> the one that is sent.
    waiting: list[tuple[object, str]] = []
    used: set[str] = set()

    def settle() -> None:
        for _, call_id in waiting:
            paired.append(
                {
                    "type": "function_call_output",
                    "call_id": call_id,
                    "output": "[this call was not carried out]",
                }
            )
        waiting.clear()

    def unused(call_id: object) -> str:
        fitting = _call_id(call_id, f"call_{len(used) + 1}")
        while fitting in used:
            fitting = f"call_{len(used) + 1}_{fitting}"[:64]
        used.add(fitting)
        return fitting

    for item in items:
        if item["type"] == "function_call":
            call_id = unused(item["call_id"])
            waiting.append((item["call_id"], call_id))
            paired.append({**item, "call_id": call_id})
        elif item["type"] == "function_call_output":
            match = next((pair for pair in waiting if pair[0] == item["call_id"]), None)
            if match is None:
                match = (item["call_id"], unused(item["call_id"]))
                paired.append(
                    {
                        "type": "function_call",
                        "call_id": match[1],
                        "name": item["name"],
                        "arguments": "{}",
                    }
                )
            else:
                waiting.remove(match)
            paired.append({"type": item["type"], "call_id": match[1], "output": item["output"]})
        else:
            if item["type"] == "message" and item["role"] != "assistant":
                settle()
            paired.append(item)
    settle()
    return paired


# Keywords that strict schemas surely allow.
_STRICT_KEYWORDS = frozenset(
    {
        "type",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "enum",
        "const",
        "anyOf",
        "$ref",
        "$defs",
        "title",
        "description",
    }
)


def schema_is_strict(schema: object, *, root: bool = True) -> bool:
    """Whether a JSON schema meets the strict rules (responses.md 3): every object is closed
    and requires all its properties, and no keyword is used that strict may not allow."""
    if not isinstance(schema, dict) or not _STRICT_KEYWORDS.issuperset(schema):
        return False
    if root and schema.get("type") != "object":
        return False
    properties = schema.get("properties", {})
    kinds = schema.get("type")
    if "properties" in schema or kinds == "object" or isinstance(kinds, list):
        if isinstance(kinds, list) and "object" not in kinds and not properties:
            pass
        elif (
            schema.get("additionalProperties") is not False
            or not isinstance(properties, dict)
            or set(schema.get("required") or ()) != set(properties)
        ):
            return False
    inner = [*properties.values(), *schema.get("$defs", {}).values(), *schema.get("anyOf", [])]
    if "items" in schema:
        inner.append(schema["items"])
    return all(schema_is_strict(part, root=False) for part in inner)


def build_tools(model: Any, tools: Iterable[Any]) -> list[dict[str, Any]]:
    """llm's tools as the request's (responses.md 5)."""
    specs = []
    for tool in tools:
        if isinstance(tool, llm.ServerSideTool):
            spec = tool.tool_spec(model)
            if spec.get("type") == "web_search" and type(tool) is not llm.ServerSideTool:
                refused = sorted(set(spec) - _WEB_SEARCH_FIELDS)
                refused += ["blocked_domains"] * ("blocked_domains" in spec.get("filters", {}))
                refused += ["include_results"] * bool(getattr(tool, "include_results", False))
                if refused:
                    raise ChatGPTError(
                        "Web search with a ChatGPT login does not take "
                        f"{', '.join(refused)}. Leave it out."
                    )
            specs.append(spec)
            continue
        schema = tool.input_schema or {}
        specs.append(
            {
                "type": "function",
                "name": tool.name,
                "description": tool.description or "",
                "strict": False,
                "parameters": {"type": "object", "properties": {}, **schema},
            }
        )
    return specs


def session_id(conversation: Any, instructions: str, items: list[dict[str, Any]]) -> str:
    """The UUID that routes a conversation's requests to one cache (responses.md 12).

    The same in every later process; without a conversation, from how the input begins.
    """
    if conversation is not None:
        return str(uuid.uuid5(config.SESSION_NAMESPACE, conversation.id))
    beginning = json.dumps([instructions, items[:1]])
    return str(uuid.uuid5(config.SESSION_NAMESPACE, hashlib.sha256(beginning.encode()).hexdigest()))


def build_body(
    model: Any,
    prompt: llm.Prompt,
    builder: InputBuilder,
    info: ModelInfo,
    cache_key: str,
) -> dict[str, Any]:
    """The request's JSON, `input` last so that what stays the same comes first."""
    options: Any = prompt.options
    body: dict[str, Any] = {
        "model": model.slug,
        "instructions": builder.instructions,
        "store": False,
        "stream": True,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": options.prompt_cache_key or cache_key,
    }
    reasoning: dict[str, Any] = {}
    if options.reasoning_effort:
        # The official client sends its highest step under the older name.
        effort = options.reasoning_effort
        reasoning["effort"] = "max" if effort == "ultra" else effort
    summary = options.reasoning_summary or "auto"
    if summary != "none" and info.summaries and not prompt.hide_reasoning:
        reasoning["summary"] = summary
    if reasoning:
        body["reasoning"] = reasoning
    text: dict[str, Any] = {}
    if options.verbosity:
        text["verbosity"] = options.verbosity
    if prompt.schema:
        text["format"] = {
            "type": "json_schema",
            "name": "output",
            "schema": prompt.schema,
            "strict": schema_is_strict(prompt.schema),
        }
    elif options.json_object:
        text["format"] = {"type": "json_object"}
    if text:
        body["text"] = text
    if options.service_tier:
        tier = options.service_tier
        body["service_tier"] = "priority" if tier == "fast" else tier
    if options.parallel_tool_calls is not None:
        body["parallel_tool_calls"] = options.parallel_tool_calls
    if prompt.tools:
        body["tools"] = build_tools(model, prompt.tools)
        for tool in prompt.tools:
            if isinstance(tool, llm.ServerSideTool):
                tool.prepare_request(model, body)
        searches = any(spec.get("type") == "web_search" for spec in body["tools"])
        if searches and SOURCES not in body["include"]:
            body["include"].append(SOURCES)
    body["input"] = builder.items
    return body


class SSEDecoder:
    """Bytes in any pieces -> the data of each complete server-sent event.

    Works on bytes, so that neither a character cut in two nor U+2028 can split a line.
    Line ends are LF, CR and CRLF; comments and other fields are passed over. Nothing else
    of the response is looked at: the service sends no Content-Type (responses.md 6).
    https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        # Up to here the buffer holds no end of an event; keeps long events linear.
        self._searched = 0
        self._after_cr = False
        self._at_start = True

    def feed(self, chunk: bytes) -> list[bytes]:
        if self._after_cr or b"\r" in chunk:
            chunk = self._with_lf(chunk)
        buffer = self._buffer
        buffer += chunk
        end = buffer.rfind(b"\n\n", self._searched)
        if end < 0:
            self._searched = max(0, len(buffer) - 1)
            return []
        events = bytes(buffer[:end])
        del buffer[: end + 2]
        self._searched = 0
        return self._data_of(events)

    def flush(self) -> list[bytes]:
        """What stands at the end without a blank line behind it."""
        events = bytes(self._buffer)
        self._buffer.clear()
        return self._data_of(events)

    def _with_lf(self, chunk: bytes) -> bytes:
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
            self._after_cr = False
        if chunk:
            self._after_cr = chunk.endswith(b"\r")
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _data_of(self, events: bytes) -> list[bytes]:
        if self._at_start:
            events = events.removeprefix(b"\xef\xbb\xbf")
            self._at_start = False
        found = []
        for event in events.split(b"\n\n"):
            # Nearly all are one line with a name and one with data (a benchmark's row).
            name, separator, data = event.partition(b"\ndata: ")
            if separator and b"\n" not in data and b"\n" not in name and name[:5] != b"data:":
                found.append(data)
                continue
            lines = [line[5:] for line in event.split(b"\n") if line.startswith(b"data:")]
            if lines:
                found.append(b"\n".join(line.removeprefix(b" ") for line in lines))
        return found


class _Item:
    """One item of the answer while it arrives."""

    def __init__(self, part_index: int, message_index: int, call_id: str | None = None):
        self.part_index = part_index
        self.message_index = message_index
        self.call_id = call_id
        self.named = False
        self.done = False
        # Which pieces (content or summary indexes) have arrived as deltas.
        self.pieces: set[object] = set()
        self.arguments: list[StreamEvent] = []


class EventTranslator:
    """The service's events -> llm's StreamEvents, and what is known at the end.

    Pure: bytes in, events out. Each item of the answer becomes one part. Unknown events,
    junk and wrong types are passed over; `output_item.done` has the last word.
    """

    def __init__(
        self,
        *,
        account_key: str = "",
        save_image: Callable[[bytes, str], str] | None = None,
    ) -> None:
        self.account_key = account_key
        self.save_image = save_image
        # "completed", "incomplete", "failed" or "error" once the answer has ended.
        self.ended: str | None = None
        self.response: dict[str, Any] = {}
        self.error: Mapping[str, Any] = {}
        self.tool_calls: list[llm.ToolCall] = []
        self.started = False
        self.mid_line = False
        self.had_reasoning = False
        self._decoder = SSEDecoder()
        self._items: dict[object, _Item] = {}
        self._output: dict[object, dict[str, Any]] = {}
        self._parts = 0
        self._messages = 0
        self._open_reasoning: _Item | None = None
        self._half_character = ""
        self._events: list[StreamEvent] = []

    def feed(self, chunk: bytes) -> Iterator[StreamEvent]:
        """The events of a chunk, the first of them before the last of it is looked at."""
        for start in range(0, len(chunk), config.FEED_BYTES):
            yield from self._translate(self._decoder.feed(chunk[start : start + config.FEED_BYTES]))

    def finish(self) -> list[StreamEvent]:
        return self._translate(self._decoder.flush())

    @property
    def output(self) -> list[dict[str, Any]]:
        """The finished items in their order; the final event's list is empty."""
        order = sorted(self._output, key=lambda key: (not isinstance(key, int), str(key).zfill(9)))
        return [self._output[key] for key in order]

    def _translate(self, frames: list[bytes]) -> list[StreamEvent]:
        self._events = []
        for frame in frames:
            if self.ended:
                break
            try:
                event = json.loads(frame.decode())
                kind = event["type"]
            except (ValueError, RecursionError, KeyError, TypeError):
                continue
            handler = self._HANDLERS.get(kind) if isinstance(kind, str) else None
            if handler is not None:
                handler(self, event)
        return self._events

    # Text

    def _text_delta(self, event: dict[str, Any]) -> None:
        item = self._item(event, "message")
        item.pieces.add(_hashable(event.get("content_index")))
        self._emit_text(item, event.get("delta"))

    def _text_done(self, event: dict[str, Any]) -> None:
        item = self._item(event, "message")
        piece = _hashable(event.get("content_index"))
        if piece not in item.pieces:
            item.pieces.add(piece)
            self._emit_text(item, event.get("text", event.get("refusal")))

    def _emit_text(self, item: _Item, text: object) -> None:
        if not isinstance(text, str) or not text:
            return
        text = self._whole_characters(text)
        if not text:
            return
        self.started = True
        self.mid_line = not text.endswith("\n")
        self._open_reasoning = None
        last = self._events[-1] if self._events else None
        # What has arrived together leaves together.
        if last and last.type == "text" and last.part_index == item.part_index:
            last.chunk += text
        else:
            self._emit("text", text, item)

    def _whole_characters(self, text: str) -> str:
        """Text without half characters, which JSON's \\u escapes can hold and no terminal."""
        text = self._half_character + text
        self._half_character = ""
        if text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text):
            return text
        if "\ud800" <= text[-1] <= "\udbff":
            text, self._half_character = text[:-1], text[-1]
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    # Reasoning

    def _reasoning_part(self, event: dict[str, Any]) -> None:
        item = self._item(event, "reasoning")
        if item.pieces:
            self._emit("reasoning", "\n\n", item)

    def _reasoning_delta(self, event: dict[str, Any]) -> None:
        item = self._item(event, "reasoning")
        self._emit_reasoning(item, event.get("delta"))
        item.pieces.add(_piece(event))

    def _reasoning_done(self, event: dict[str, Any]) -> None:
        item = self._item(event, "reasoning")
        if _piece(event) not in item.pieces:
            self._emit_reasoning(item, event.get("text"))
            item.pieces.add(_piece(event))

    def _emit_reasoning(self, item: _Item, text: object) -> None:
        if not isinstance(text, str) or not text:
            return
        if self._open_reasoning is not item:
            self._close_reasoning()
        self._open_reasoning = item
        self.started = self.mid_line = True
        self._emit("reasoning", self._whole_characters(text), item)

    def _close_reasoning(self) -> None:
        """Two summaries in a row would run into each other on the person's screen."""
        if self._open_reasoning is not None:
            self._emit("reasoning", "\n\n", self._open_reasoning)
            self._open_reasoning = None

    # Tool calls

    def _arguments_delta(self, event: dict[str, Any]) -> None:
        item = self._item(event, "function_call")
        delta = event.get("delta")
        if item.named and isinstance(delta, str) and delta:
            item.arguments.append(self._emit("tool_call_args", delta, item))

    def _name_call(self, item: _Item, fields: Mapping[str, Any]) -> None:
        call_id, name = fields.get("call_id"), fields.get("name")
        if not item.named and isinstance(call_id, str) and isinstance(name, str) and name:
            item.named = self.started = True
            item.call_id = call_id
            self._close_reasoning()
            self._emit("tool_call_name", name, item)

    def _call_done(self, item: _Item, fields: Mapping[str, Any]) -> None:
        self._name_call(item, fields)
        arguments = fields.get("arguments")
        if not item.named or not isinstance(arguments, str):
            return
        if "".join(event.chunk for event in item.arguments) != arguments:
            # llm keeps the events themselves, so a wrong one can still be put right.
            for event in item.arguments:
                event.chunk = ""
            self._emit("tool_call_args", arguments, item)
        if fields.get("status") == "incomplete":
            return
        try:
            parsed = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            parsed = None
        self.tool_calls.append(
            llm.ToolCall(
                name=fields["name"] if isinstance(fields.get("name"), str) else "",
                arguments=parsed if isinstance(parsed, dict) else {"_raw": arguments},
                tool_call_id=item.call_id,
            )
        )

    # Items

    def _item(self, event: Mapping[str, Any], kind: str) -> _Item:
        """The item that an event belongs to, made on first sight."""
        fields = as_mapping(event.get("item"))
        key = _hashable(event.get("output_index"))
        if key is None:
            key = _hashable(event.get("item_id") or fields.get("id"))
        item = self._items.get((key, kind))
        if item is None:
            if kind == "message":
                self._messages += 1
            item = _Item(self._parts, max(0, self._messages - 1))
            self._parts += 1
            self._items[(key, kind)] = item
        return item

    def _item_added(self, event: dict[str, Any]) -> None:
        fields = as_mapping(event.get("item"))
        kind = fields.get("type")
        if kind == "function_call":
            self._name_call(self._item(event, kind), fields)
        elif kind in ("message", "reasoning"):
            self._item(event, kind)

    def _item_done(self, event: dict[str, Any]) -> None:
        fields = event.get("item")
        if not isinstance(fields, dict) or not isinstance(fields.get("type"), str):
            return
        kind = fields["type"]
        item = self._item(event, kind)
        if item.done:
            return
        item.done = True
        kept = {k: v for k, v in fields.items() if k not in ("encrypted_content", "result")}
        key = _hashable(event.get("output_index"))
        self._output[len(self._output) if key is None else key] = kept
        if kind == "message":
            self._message_done(item, fields)
        elif kind == "reasoning":
            self._reasoning_item_done(item, fields)
        elif kind == "function_call":
            self._call_done(item, fields)
        elif kind == "web_search_call":
            self._search_done(item, fields)
        elif kind == "image_generation_call":
            self._image_done(item, fields)

    def _message_done(self, item: _Item, fields: Mapping[str, Any]) -> None:
        parts = [p for p in as_list(fields.get("content")) if isinstance(p, dict)]
        if not item.pieces:
            for part in parts:
                self._emit_text(item, part.get("text", part.get("refusal")))
        annotations = [a for part in parts for a in as_list(part.get("annotations"))]
        if annotations:
            self._emit("text", "", item, metadata={"annotations": annotations})

    def _reasoning_item_done(self, item: _Item, fields: Mapping[str, Any]) -> None:
        self.had_reasoning = True
        summary = [p for p in as_list(fields.get("summary")) if isinstance(p, dict)]
        if not item.pieces:
            texts = [p.get("text") for p in [*summary, *as_list(fields.get("content"))] if p]
            self._emit_reasoning(item, "\n\n".join(t for t in texts if isinstance(t, str)))
        metadata: dict[str, Any] = {}
        encrypted = fields.get("encrypted_content")
        if isinstance(encrypted, str) and encrypted:
            metadata = {"encrypted_content": encrypted, "account": self.account_key}
            if summary:
                metadata["summary"] = summary
        if metadata:
            self._emit("reasoning", "", item, metadata=metadata)

    def _search_done(self, item: _Item, fields: Mapping[str, Any]) -> None:
        action = as_mapping(fields.get("action"))
        status = fields.get("status")
        result = json.dumps(action["sources"]) if action.get("sources") else status
        self._server_call(item, fields, "web_search", dict(action), result)

    def _image_done(self, item: _Item, fields: Mapping[str, Any]) -> None:
        try:
            picture = base64.b64decode(fields.get("result") or "", validate=True)
        except (ValueError, TypeError):
            picture = b""
        output_format = fields.get("output_format")
        result = "no picture came"
        if picture and self.save_image:
            suffix = output_format if output_format in ("png", "jpeg", "webp") else "png"
            result = self.save_image(picture, suffix)
        prompt = fields.get("revised_prompt")
        arguments = {"prompt": prompt} if isinstance(prompt, str) else {}
        self._server_call(item, fields, "image_generation", arguments, result)

    def _server_call(
        self, item: _Item, fields: Mapping[str, Any], name: str, arguments: object, result: object
    ) -> None:
        """A call that the server carried out itself, with its result in a part of its own."""
        identifier = fields.get("id")
        item.call_id = identifier if isinstance(identifier, str) else f"{name}_{item.part_index}"
        self.started = True
        self._emit("tool_call_name", name, item, server=True, metadata={"type": fields.get("type")})
        self._emit("tool_call_args", json.dumps(arguments), item, server=True)
        outcome = _Item(self._parts, item.message_index, call_id=item.call_id)
        self._parts += 1
        text = result if isinstance(result, str) else "completed"
        self._emit("tool_result", text, outcome, server=True, tool_name=name)

    def _emit(
        self,
        kind: str,
        chunk: str,
        item: _Item,
        *,
        server: bool = False,
        tool_name: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> StreamEvent:
        event = StreamEvent(
            type=kind,
            chunk=chunk,
            part_index=item.part_index,
            tool_call_id=item.call_id,
            server_executed=server,
            tool_name=tool_name,
            provider_metadata={config.METADATA_KEY: metadata} if metadata else None,
            message_index=item.message_index,
        )
        self._events.append(event)
        return event

    # The end

    def _completed(self, event: dict[str, Any]) -> None:
        self.ended = "completed"
        self.response = dict(as_mapping(event.get("response")))

    def _incomplete(self, event: dict[str, Any]) -> None:
        self.ended = "incomplete"
        self.response = dict(as_mapping(event.get("response")))

    def _failed(self, event: dict[str, Any]) -> None:
        self.ended = "failed"
        self.error = as_mapping(as_mapping(event.get("response")).get("error"))

    def _error(self, event: dict[str, Any]) -> None:
        # In an object of its own, or flat in the event.
        self.ended = "error"
        error = event.get("error")
        self.error = error if isinstance(error, dict) else event

    _HANDLERS: ClassVar[dict[str, Callable[[EventTranslator, dict[str, Any]], None]]] = {
        "response.output_item.added": _item_added,
        "response.output_item.done": _item_done,
        "response.output_text.delta": _text_delta,
        "response.output_text.done": _text_done,
        "response.refusal.delta": _text_delta,
        "response.refusal.done": _text_done,
        "response.reasoning_summary_part.added": _reasoning_part,
        "response.reasoning_summary_text.delta": _reasoning_delta,
        "response.reasoning_summary_text.done": _reasoning_done,
        "response.reasoning_text.delta": _reasoning_delta,
        "response.reasoning_text.done": _reasoning_done,
        "response.function_call_arguments.delta": _arguments_delta,
        "response.completed": _completed,
        "response.incomplete": _incomplete,
        "response.failed": _failed,
        "error": _error,
    }


def _hashable(value: object) -> object:
    return value if isinstance(value, (int, str)) else None


def _piece(event: Mapping[str, Any]) -> object:
    return (event.get("type", "")[:26], _hashable(event.get("summary_index")))


# Turn states to send back while a tool loop goes on (responses.md 1), newest last.
turn_states: OrderedDict[str, str] = OrderedDict()
TURN_STATES_KEPT = 256
# Kept out of the logs: what the request said already, and who asked.
_NOT_LOGGED = ("instructions", "tools", "safety_identifier", "user", "output")


class Resend(NamedTuple):
    """Send once more: after `delay` seconds, with tokens other than `rejected` if given."""

    delay: float = 0.0
    rejected: str | None = None


class Exchange:
    """One prompt and its answer: what to send, what came back, whether to send again.

    No I/O; the model's two `execute` methods do that. Sent again only while nothing was
    shown and no tool was named (responses.md 9).
    """

    def __init__(self, model: Any, prompt: llm.Prompt, response: Any, conversation: Any):
        self.model = model
        self.prompt = prompt
        self.response = response
        self.conversation = conversation
        self.translator = EventTranslator()
        self.failure: ChatGPTError | None = None
        self.headers: Mapping[str, str] = {}
        self._resends = 0
        self._waited = 0.0
        self._retry_after: float | None = None
        self._passing = False
        self._refreshed = False
        self._without_summary = False
        self._without_reasoning = False
        self._told_of_lost: set[str] = set()

    # Before

    def request(self, tokens: Tokens) -> dict[str, Any]:
        """The arguments of the client's `stream` call, for a (new) attempt."""
        self.tokens = tokens
        self.url = f"{config.base_url(tokens.origin)}/codex/responses"
        self.models = remembered_models(tokens)
        info = (self.models and self.models.find(self.model.slug)) or self.model.info
        self._check_options(info)
        if self._without_summary:
            info = info._replace(summaries=False)
        options: Any = self.prompt.options
        builder = InputBuilder(
            # Nobody's reasoning goes along once the server could not read it.
            account_key="" if self._without_reasoning else tokens.account_key,
            image_detail=options.image_detail,
            takes_images=info.takes_images,
        )
        builder.build(self.prompt.messages, self.prompt.system)
        for name in builder.lost_attachments:
            if name not in self._told_of_lost:
                self._told_of_lost.add(name)
                notice(f"Warning: the attachment {name} is gone; the model is told so instead.")
        session = session_id(self.conversation, builder.instructions, builder.items)
        body = build_body(self.model, self.prompt, builder, info, session)
        self._turn = _turn_key(session, tokens, builder.items)
        headers = backend_headers(tokens) | {
            "Accept": "text/event-stream",
            "Content-Type": "application/json",
            "session-id": session,
        }
        turn_state = turn_states.get(self._turn)
        if turn_state and builder.items and builder.items[-1]["type"] == "function_call_output":
            headers["x-codex-turn-state"] = turn_state
        self.failure = None
        self.translator = EventTranslator(
            account_key=tokens.account_key, save_image=functools.partial(save_image, self.prompt)
        )
        library = http.http_library()
        return {
            "method": "POST",
            "url": self.url,
            "content": encode(body, builder.images),
            "headers": headers,
            "timeout": library.Timeout(
                config.idle_timeout(), connect=config.CONNECT_TIMEOUT_SECONDS, pool=None
            ),
        }

    def _check_options(self, info: ModelInfo) -> None:
        """Refuse here what the model is known not to take."""
        options: Any = self.prompt.options
        if options.image_detail == "original" and info.original_detail is False:
            raise ChatGPTError(
                f"{self.model.model_id} has no image_detail original. Choose auto, low or high."
            )
        effort = options.reasoning_effort
        # Only the list that this login was given counts; the built-in one may be old.
        fetched = self.models.find(self.model.slug) if self.models else None
        if not effort or not fetched or not fetched.efforts or effort == "none":
            return
        if effort not in fetched.efforts and not (effort == "ultra" and "max" in fetched.efforts):
            raise ChatGPTError(
                f"{self.model.model_id} has no reasoning effort '{effort}'. Choose one of: "
                f"{', '.join(map(printable, fetched.efforts))}."
            )

    # What comes back

    def opened(self, headers: Any) -> None:
        self.headers = http.lower_names(headers)
        turn_state = self.headers.get("x-codex-turn-state")
        if turn_state:
            turn_states[self._turn] = turn_state
            turn_states.move_to_end(self._turn)
            while len(turn_states) > TURN_STATES_KEPT:
                turn_states.popitem(last=False)

    def refused(self, status: int, headers: Any, content: bytes) -> None:
        """An answer that is no stream: note the failure, and whether it may pass."""
        reply = http.Reply(status, http.lower_names(headers), content, urlsplit(self.url).netloc)
        error = explain_refusal(reply, slug=self.model.slug, models=self.models)
        self.failure = error
        self._retry_after = retry_after(reply.headers.get("retry-after"), error_message(reply))
        limit = isinstance(error, UsageLimitReached)
        self._passing = (status == 429 and not limit) or status >= 500

    def broke_off(self, error: BaseException) -> None:
        """No answer, or one that stopped in the middle."""
        host = urlsplit(self.url).netloc
        reason = http.transport_reason(error)
        stalled = isinstance(error, http.http_library().ReadTimeout)
        if stalled:
            reason = f"nothing came for {in_words(config.idle_timeout())}"
        self.failure = StreamFailed(
            f"The answer was cut off: {host}: {reason}. Send the prompt again."
            if self.translator.started
            else f"No answer from {host}: {reason}. Check the network and try again.",
            code="connection",
        )
        # Who has waited for minutes should not do so four times more.
        self._passing, self._retry_after = not stalled, None

    def closed(self) -> None:
        """The stream ended without saying how the answer ended."""
        self.failure = StreamFailed(
            "The answer was cut off: the server closed the connection before the end. "
            "Send the prompt again.",
            code="closed",
        )
        self._passing, self._retry_after = True, None

    def ended(self) -> None:
        """The stream's last event is in: good, or a failure to report."""
        translator = self.translator
        if translator.ended not in ("failed", "error"):
            return
        code = translator.error.get("code") or translator.error.get("type")
        error = {k: v for k, v in translator.error.items() if k != "type" or v != "error"}
        reply = http.Reply(
            200,
            self.headers,
            json.dumps({"error": {"code": code, **error}}).encode(),
        )
        refusal = explain_refusal(reply, slug=self.model.slug, models=self.models)
        message = refusal.message
        code = reply.error_code or ""
        if code == "rate_limit_exceeded":
            message = f"OpenAI asks for fewer requests ({error_message(reply)}). Try again later."
        kind = type(refusal) if isinstance(refusal, UsageLimitReached) else StreamFailed
        self.failure = kind(message, code=code)
        self._retry_after = retry_after(None, error_message(reply))
        self._passing = (
            code not in POLICY_CODES
            and code not in ("context_length_exceeded", "invalid_encrypted_content")
            and not isinstance(refusal, UsageLimitReached)
        )

    # Afterwards

    def next_step(self) -> Resend | None:
        """None when the answer is good, how to send again, or the failure raised."""
        failure = self.failure
        if failure is None:
            return None
        if self.translator.started:
            raise failure
        if failure.status == 401 and failure.code != REGION_CODE and not self._refreshed:
            self._refreshed = True
            return Resend(rejected=self.tokens.access_token)
        words = failure.message
        if failure.status == 400 and "reasoning.summary" in words and not self._without_summary:
            self._without_summary = True
            return Resend()
        if failure.code == "invalid_encrypted_content" and not self._without_reasoning:
            self._without_reasoning = True
            return Resend()
        if not self._passing or self._resends >= config.MAX_RESENDS:
            raise failure
        delay = self._retry_after
        if delay is None:
            pause = config.FIRST_RESEND_PAUSE_SECONDS * 2**self._resends
            delay = pause * random.uniform(0.9, 1.1)
        if self._waited + delay > config.MAX_RESEND_WAIT_SECONDS:
            asked = f"{words} OpenAI asks to wait {in_words(delay)}."
            raise type(failure)(asked, code=failure.code, status=failure.status) from failure
        self._resends += 1
        self._waited += delay
        if self._resends > 1:
            reason = words.split(". ")[0].rstrip(".")
            notice(f"{reason}; trying again ({self._resends} of {config.MAX_RESENDS})...")
        return Resend(delay=delay)

    def finish(self) -> list[StreamEvent]:
        """Record usage, the model and the raw answer; the events that come last."""
        translator, response = self.translator, self.response
        for call in translator.tool_calls:
            response.add_tool_call(call)
        answer = {k: v for k, v in translator.response.items() if k not in _NOT_LOGGED}
        usage = dict(as_mapping(answer.get("usage")))
        usage.pop("attribution", None)
        if usage:
            answer["usage"] = usage
            details = {
                name: usage[name]
                for name in ("input_tokens_details", "output_tokens_details")
                if usage.get(name)
            }
            response.set_usage(
                input=usage.get("input_tokens") or 0,
                output=usage.get("output_tokens") or 0,
                details=details or None,
            )
        answer["output"] = translator.output
        response.response_json = _without_none(answer)
        self._record_model(answer.get("model"))
        self._tell_of_allowance()
        if translator.ended == "incomplete":
            reason = as_mapping(answer.get("incomplete_details")).get("reason")
            notice(
                f"The answer is incomplete: {printable(reason or 'no reason given', 100)}.",
                mid_line=translator.mid_line,
            )
        thought = as_mapping(usage.get("output_tokens_details")).get("reasoning_tokens")
        if thought and not translator.had_reasoning:
            return [StreamEvent(type="reasoning", chunk="", redacted=True)]
        return []

    def update_models(self) -> None:
        """Fetch the model list if the answer says that it has changed. Blocks up to 2 s."""
        update_models(self.tokens, self.models, self.headers.get("x-models-etag"))

    @property
    def models_changed(self) -> bool:
        etag = self.headers.get("x-models-etag")
        return bool(etag) and not (self.models and self.models.etag == etag)

    def _tell_of_allowance(self) -> None:
        if config.setting("USAGE_NOTE") in ("0", "no", "off", "false"):
            return
        for window in windows_of_headers(self.headers):
            if window.left_percent < config.LOW_ALLOWANCE_PERCENT:
                notice(
                    f"Note: {window.left_percent:.0f} % of the {window.name} allowance is left"
                    f"{window.reset_words}.",
                    mid_line=self.translator.mid_line,
                )

    def _record_model(self, said: object) -> None:
        served = self.headers.get("openai-model") or said
        if not isinstance(served, str) or not served:
            return
        served = printable(served, 100)
        self.response.set_resolved_model(served)
        # A dated snapshot of the model is the model.
        if not re.fullmatch(re.escape(self.model.slug) + r"(-\d{4}-\d{2}-\d{2})?", served):
            notice(
                f"Note: {served} answered instead of {self.model.slug}.",
                mid_line=self.translator.mid_line,
            )


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_without_none(item) for item in value]
    return value


def _turn_key(session: str, tokens: Tokens, items: list[dict[str, Any]]) -> str:
    """Names a turn: all that was said up to the person's last message."""
    end = max(
        (i for i, item in enumerate(items) if item.get("role") in ("user", "developer")), default=-1
    )
    digest = hashlib.sha256(f"{session} {tokens.account_key} {end} ".encode())
    if end >= 0:
        digest.update(json.dumps(items[end]).encode())
    return digest.hexdigest()


def retry_after(header: str | None, words: str | None) -> float | None:
    """The seconds that the server asks to wait: its header, or "try again in N s"."""
    try:
        return max(0.0, float(header or ""))
    except ValueError:
        pass
    match = re.search(r"try again in ([\d.]+) ?(ms|s\b|seconds?)", words or "", re.IGNORECASE)
    if match:
        try:
            number = float(match[1])
        except ValueError:
            return None
        return number / 1000 if match[2] == "ms" else number
    return None


def save_image(prompt: llm.Prompt, picture: bytes, suffix: str) -> str:
    """Write a drawn picture to a new file and return its path."""
    tool = next((tool for tool in prompt.tools if isinstance(tool, ImageGeneration)), None)
    chosen = pathlib.Path(tool.folder).expanduser() if tool and tool.folder else None
    folder = chosen or user_dir() / "chatgpt-images"
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    path = folder / f"{stamp}-{secrets.token_hex(4)}.{suffix}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture)
    except OSError as error:
        message = f"The picture could not be written to {path} ({os_reason(error)})."
        notice(f"Warning: {message}", mid_line=True)
        return message
    notice(f"Picture: {path}", mid_line=True)
    return str(path)


class _ChatGPTModel:
    """What the sync and the async model have in common."""

    can_stream = True
    supports_schema = True
    supports_tools = True
    # `--key` names an account, so llm must not look for an API key.
    needs_key = None
    key: str | None = None
    Options = Options

    # What recurs in every logged answer. NEVER change or remove an entry, only add:
    # stored logs refer to them by name.
    json_replacements: ClassVar[dict[str, Any]] = {
        "chatgpt_envelope_0": {
            "object": "response",
            "background": False,
            "parallel_tool_calls": True,
            "service_tier": "default",
            "status": "completed",
            "store": False,
            "temperature": 1.0,
            "tool_choice": "auto",
            "top_logprobs": 0,
            "top_p": 0.98,
            "truncation": "disabled",
        },
        "chatgpt_tool_usage_0": {
            "image_gen": {
                "input_tokens": 0,
                "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
                "output_tokens": 0,
                "output_tokens_details": {"image_tokens": 0, "text_tokens": 0},
                "total_tokens": 0,
            },
            "web_search": {"num_requests": 0},
        },
        "chatgpt_text_0": {"format": {"type": "text"}, "verbosity": "medium"},
        "chatgpt_text_1": {"format": {"type": "text"}, "verbosity": "low"},
    }

    def __init__(self, info: ModelInfo):
        self.info = info
        self.slug = info.slug
        self.model_id = f"chatgpt-{info.slug}"
        self.attachment_types = config.IMAGE_TYPES if info.takes_images else frozenset()

    @property
    def supported_server_side_tools(self) -> tuple[type, ...]:
        from llm.default_plugins.openai_models import WebSearch

        return (WebSearch, ImageGeneration, llm.ServerSideTool)

    def get_key(self, explicit_key: str | None = None) -> str | None:
        return explicit_key or self.key

    def __str__(self) -> str:
        return f"ChatGPT: {self.model_id}"


class ChatGPT(_ChatGPTModel, llm.KeyModel):  # type: ignore[misc]
    """A model that answers through a ChatGPT login."""

    def execute(
        self,
        prompt: llm.Prompt,
        stream: bool,
        response: llm.Response,
        conversation: llm.Conversation | None = None,
        key: str | None = None,
    ) -> Iterator[StreamEvent]:
        library = http.http_library()
        exchange = Exchange(self, prompt, response, conversation)
        step: Resend | None = Resend()
        while step is not None:
            if step.delay:
                time.sleep(step.delay)
            request = exchange.request(get_tokens(key, rejected=step.rejected))
            try:
                with http.sync_client(exchange.url).stream(**request) as reply:
                    if reply.status_code != 200:
                        exchange.refused(reply.status_code, reply.headers, reply.read())
                    else:
                        exchange.opened(reply.headers)
                        chunks = reply.iter_bytes()
                        for chunk in chunks:
                            yield from exchange.translator.feed(chunk)
                            if exchange.translator.ended:
                                http.drain(reply, chunks)
                                break
                        else:
                            yield from exchange.translator.finish()
                        if exchange.translator.ended:
                            exchange.ended()
                        else:
                            exchange.closed()
            except library.TransportError as error:
                exchange.broke_off(error)
            step = exchange.next_step()
        yield from exchange.finish()
        if exchange.models_changed:
            exchange.update_models()


class AsyncChatGPT(_ChatGPTModel, llm.AsyncKeyModel):  # type: ignore[misc]
    """The same for an event loop, which it never blocks."""

    async def execute(
        self,
        prompt: llm.Prompt,
        stream: bool,
        response: llm.AsyncResponse,
        conversation: llm.AsyncConversation | None = None,
        key: str | None = None,
    ) -> AsyncGenerator[str | StreamEvent, None]:
        library = http.http_library()
        exchange = Exchange(self, prompt, response, conversation)
        step: Resend | None = Resend()
        while step is not None:
            if step.delay:
                await asyncio.sleep(step.delay)
            request = exchange.request(await get_tokens_async(key, rejected=step.rejected))
            client = await http.async_client(exchange.url)
            try:
                async with client.stream(**request) as reply:
                    if reply.status_code != 200:
                        exchange.refused(reply.status_code, reply.headers, await reply.aread())
                    else:
                        exchange.opened(reply.headers)
                        chunks = reply.aiter_bytes()
                        async for chunk in chunks:
                            for event in exchange.translator.feed(chunk):
                                yield event
                            if exchange.translator.ended:
                                await http.drain_async(chunks)
                                break
                        else:
                            for event in exchange.translator.finish():
                                yield event
                        if exchange.translator.ended:
                            exchange.ended()
                        else:
                            exchange.closed()
            except library.TransportError as error:
                exchange.broke_off(error)
            step = exchange.next_step()
        for event in exchange.finish():
            yield event
        if exchange.models_changed:
            await asyncio.to_thread(exchange.update_models)


@click.group()
def chatgpt() -> None:
    """Sign in with a ChatGPT subscription and use its models"""


def account_option(function: Any) -> Any:
    return click.option(
        "--account", metavar="NAME", help="Which account; without it the one in use"
    )(function)


def _new_account_name(name: str | None) -> str | None:
    """The name to sign in under: as given, else LLM_CHATGPT_ACCOUNT's if that is a name."""
    chosen = config.setting("ACCOUNT") if name is None else name
    if chosen is None or re.fullmatch(r"(?!at-)[A-Za-z0-9][\w.@+-]{0,47}", chosen):
        return chosen
    if name is None:
        return None
    raise click.UsageError(
        "An account's name has up to 48 letters, digits and . _ @ + -, and does not begin with at-."
    )


@chatgpt.command(name="login")
@click.option("--account", metavar="NAME", help="Sign in beside others, under this name")
@click.option("--browser", is_flag=True, help="With a browser on this machine, or a pasted address")
@click.option("--device", is_flag=True, help="With a code, and with nothing else")
@click.option("--no-open", is_flag=True, help="Print the browser's address, but open nothing")
@click.option("--yes", is_flag=True, help="Replace a login of somebody else without asking")
def login_command(
    account: str | None, browser: bool, device: bool, no_open: bool, yes: bool
) -> None:
    """Sign in with a code that you enter in a browser, or with the browser itself

    \b
        llm chatgpt login
        llm chatgpt login --browser
        llm chatgpt login --account work
    """
    if browser and device:
        raise click.UsageError("--browser and --device are two ways to sign in; choose one.")
    account = _new_account_name(account)
    replace = ask_to_replace(yes)
    if browser:
        tokens = _login_in_browser(account, no_open, replace)
    else:
        try:
            tokens = login(account, show=_show_device_code, wait=_waiting(), replace=replace)
        except DeviceLoginDisabled as error:
            if device or not sys.stdin.isatty():
                raise
            notice(error.message)
            click.confirm("Sign in with a browser now?", default=True, abort=True, err=True)
            tokens = _login_in_browser(account, no_open, replace)
    click.echo(f"Signed in to ChatGPT as {who_is(tokens)}.")
    store = read_store()
    name = store.login_name(account)
    key = ""
    if name != store.default:
        key = f" --key {name}"
        click.echo(f"'llm chatgpt use {name}' makes this account the default one.")
    models: list[ModelInfo] = []
    try:
        models = fetch_models(tokens).listed
    except ChatGPTError as error:
        notice(f"Warning: the sign-in worked, but not the model list. {error.message}")
    slug = models[0].slug if models else next(iter(BUILT_IN_MODELS))
    click.echo(f'Try:\n  llm -m chatgpt-{slug}{key} "Three names for a pet pelican"')
    click.echo("  llm models list -q chatgpt-")


def ask_to_replace(yes: bool) -> Callable[[Tokens, Tokens], bool]:
    def replace(old: Tokens, new: Tokens) -> bool:
        if yes:
            return True
        notice(f"Signed in under that name is {who_is(old)}.\nThe new login is {who_is(new)}.")
        return sys.stdin.isatty() and click.confirm("Replace the old login?", err=True)

    return replace


def _login_in_browser(
    account: str | None, no_open: bool, replace: Callable[[Tokens, Tokens], bool]
) -> Tokens:
    paste = sys.stdin.isatty()

    def show(request: BrowserLogin) -> None:
        opened = not no_open and _open_browser(request.url)
        said = "Your browser is asked to open" if opened else "Open in a browser"
        click.echo(
            f"{said}:\n\n  {request.url}\n\nWaiting {in_words(config.BROWSER_LOGIN_SECONDS)} for "
            f"it to come back to {request.redirect_uri.removesuffix('/auth/callback')}.",
            err=True,
        )
        if paste:
            click.echo(
                "Is the browser on another machine? Sign in there all the same; it ends on a "
                "page that\ncannot be shown. Paste that page's address here, and press Enter.",
                err=True,
            )

    return login_with_browser(
        account, show=show, read_lines=_read_terminal if paste else None, replace=replace
    )


def _open_browser(url: str) -> bool:
    """Ask for the person's browser, apart from this terminal; False where there is none."""
    import subprocess

    names = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    # Without a display, what is found would be a text browser, in this very terminal.
    if sys.platform not in ("darwin", "win32") and not any(map(os.environ.get, names)):
        return False
    try:
        # In a process of its own: browsers write to stdout, and some end with Ctrl-C.
        subprocess.Popen(  # noqa: S603 - our own interpreter, and an address of our own
            [sys.executable, "-m", "webbrowser", url],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        return False
    return True


def _read_terminal(line: Callable[[str], None], stop: threading.Event) -> None:
    """Hand over the lines that are typed, until `stop` is set. Never blocks for long."""
    try:
        (_read_windows_console if config.WINDOWS else _read_posix_terminal)(line, stop)
    except (OSError, ValueError):
        message = "Pasting does not work in this console; the browser can still come back."
        click.echo(message, err=True)


def _read_posix_terminal(line: Callable[[str], None], stop: threading.Event) -> None:
    import select

    # Not through sys.stdin: a thread that waits in there hangs the program's end.
    terminal = sys.stdin.fileno()
    while not stop.is_set():
        if select.select([terminal], [], [], 0.1)[0]:
            data = os.read(terminal, 65536)
            if not data:
                return
            line(data.decode(errors="replace"))


def _read_windows_console(line: Callable[[str], None], stop: threading.Event) -> None:
    msvcrt: Any = importlib.import_module("msvcrt")
    typed = ""
    while not stop.is_set():
        if not msvcrt.kbhit():
            stop.wait(0.05)
            continue
        key = msvcrt.getwche()
        if key in "\r\n":
            line(typed)
            typed = ""
        elif key == "\b":
            typed = typed[:-1]
        else:
            typed += key


def _show_device_code(code: DeviceCode) -> None:
    click.echo(
        "Device codes must first be switched on in ChatGPT (Settings > Security), in\n"
        "workspaces by the admin. If the page refuses, use 'llm chatgpt login --browser'.\n\n"
        f"  1. Open  {printable(code.verification_url)}\n"
        f"  2. Enter {printable(code.user_code, 40)}\n\n"
        f"The code lasts {in_words(code.expires_in)}. Enter it only if you started this "
        "sign-in yourself:\nwhoever sends you a code wants to use your account.",
        err=True,
    )


def _waiting() -> Callable[[float, float], None]:
    """How `login` waits: a countdown on a terminal, one plain line elsewhere."""
    told = False

    def wait_quietly(seconds: float, left: float) -> None:
        nonlocal told
        if not told:
            click.echo("Waiting for the code to be entered...", err=True)
            told = True
        time.sleep(seconds)

    if not sys.stderr.isatty():
        return wait_quietly

    def count_down(seconds: float, left: float) -> None:
        end = time.monotonic() + seconds
        try:
            while (rest := end - time.monotonic()) > 0:
                minutes, second = divmod(round(left - seconds + rest), 60)
                click.echo(
                    f"\rWaiting for the code to be entered, {minutes}:{second:02} left ",
                    nl=False,
                    err=True,
                )
                time.sleep(min(1.0, rest))
        finally:
            click.echo(f"\r{' ' * 60}\r", nl=False, err=True)

    return count_down


def who_is(tokens: Tokens) -> str:
    email = printable(tokens.email, 100) if tokens.email else "an account without an email"
    plan = f"plan {printable(tokens.plan, 40)}" if tokens.plan else "plan unknown"
    account = f"account {printable(tokens.account_id, 60)}" if tokens.account_id else "no account"
    return f"{email} ({plan}, {account})"


@chatgpt.command()
@account_option
@click.option("--all", "all_", is_flag=True, help="All accounts")
@click.option("--revoke", "revoke_", is_flag=True, help="Also end the session at OpenAI")
def logout(account: str | None, all_: bool, revoke_: bool) -> None:
    """Forget a login on this machine; with --revoke at OpenAI, too

    \b
        llm chatgpt logout
        llm chatgpt logout --account work --revoke
        llm chatgpt logout --all
    """
    if account is not None and all_:
        raise click.UsageError("--account and --all exclude each other.")
    store = read_store()
    named = config.setting("ACCOUNT") if account is None else account
    if all_:
        names = list(store.accounts)
    elif named is not None:
        name = choose_credential(named, store).account
        if name is None:
            raise ChatGPTError(
                "That is an access token, which is not signed in here. Take it out of where it "
                "is set: llm's keys.json, LLM_CHATGPT_ACCOUNT or CODEX_ACCESS_TOKEN."
            )
        names = [name]
    else:
        names = [store.default]
    if revoke_:
        notice(
            "Warning: other programs that are signed in with the same session may be signed "
            "out, too."
        )

    def end_session(tokens: Tokens) -> None:
        if tokens.kind != "login":
            notice("Not ended at OpenAI: this login belongs to Codex CLI.")
            return
        try:
            revoke(tokens)
        except LoginFailed as error:
            notice(
                f"Warning: the session at OpenAI may go on ({error.message}). You can end it in "
                "ChatGPT's settings under Security."
            )

    before = end_session if revoke_ else None
    deleted = [name for name in names if delete_tokens(name, before=before)]
    if not deleted:
        click.echo("Not signed in; there was nothing to delete.")
    for name in deleted:
        who = "" if [name] == list(store.accounts) else f" {printable(name, 60)}"
        click.echo(f"Signed out{who}: the login in {store_path()} was deleted.")
    if deleted:
        try:
            left = choose_credential(None, read_store())
        except NotSignedIn as error:
            if read_store().accounts:
                click.echo(error.message)
        else:
            click.echo(f"Prompts use {credential_words(left)}.")


def credential_words(credential: Credential) -> str:
    what = f"the account {credential.account}" if credential.account else "an access token"
    return f"{printable(what)} ({credential.reason})"


@chatgpt.command()
@account_option
@click.option("json_", "--json", is_flag=True, help="Output as JSON")
def status(account: str | None, json_: bool) -> None:
    """Show which login is used, why, and until when; sends nothing, changes nothing

    Exits with 1 when there is none.

    \b
        llm chatgpt status
        llm chatgpt status --account work --json
    """
    store = read_store()
    path = store_path()
    credential: Credential | None = None
    missing = ""
    try:
        credential = choose_credential(account, store)
    except NotSignedIn as error:
        missing = error.message
    tokens = present_tokens(credential, store) if credential else None
    if json_:
        report: dict[str, Any] = {"signed_in": credential is not None, "path": str(path)}
        if credential:
            report |= {"account": credential.account, "reason": credential.reason}
            report["kind"] = tokens.kind if tokens else "access_token"
        if tokens:
            report |= _account_json(tokens)
        click.echo(json.dumps(report, indent=2))
    elif credential is None:
        click.echo(missing)
    else:
        # Whose an access token is, the first prompt asks.
        who = who_is(tokens) if tokens else "the owner of an access token, not yet asked for"
        click.echo(f"Signed in as {who}")
        click.echo(f"In use:       {credential_words(credential)}")
        click.echo(f"Access token: {lifetime_words(tokens)}")
        if credential.account:
            click.echo(f"Kept in:      {path}")
    if credential is None:
        sys.exit(1)


def _account_json(tokens: Tokens) -> dict[str, Any]:
    return {
        "kind": tokens.kind,
        "account_id": tokens.account_id,
        "email": tokens.email,
        "plan": tokens.plan,
        "expires_at": tokens.expires_at,
        "expired": not still_works(tokens, time.time()),
    }


@chatgpt.command()
@click.option("json_", "--json", is_flag=True, help="Output as JSON")
def accounts(json_: bool) -> None:
    """List the accounts that are signed in; * marks the default one

    \b
        llm chatgpt accounts
        llm chatgpt accounts --json
    """
    store = read_store()
    if json_:
        report = [
            {"name": name, "default": name == store.default, **_account_json(tokens)}
            for name, tokens in store.accounts.items()
        ]
        click.echo(json.dumps(report, indent=2))
        return
    if not store.accounts:
        notice("No account is signed in. Run 'llm chatgpt login' first.")
        return
    rows: list[tuple[str, ...]]
    rows = [("", "NAME", "EMAIL", "PLAN", "ACCESS TOKEN")]
    for name, tokens in store.accounts.items():
        mark = "*" if name == store.default else ""
        rows.append((mark, name, tokens.email or "?", tokens.plan or "?", lifetime_words(tokens)))
    echo_table(rows)
    if store.get() is None:
        notice("None of them is the default one; choose it with 'llm chatgpt use NAME'.")


def echo_table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(printable(cell)) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (printable(cell).ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


@chatgpt.command()
@click.argument("name")
def use(name: str) -> None:
    """Make an account the default one

    \b
        llm chatgpt use work
    """
    with locked_store() as writer:
        store = read_store()
        if name not in store.accounts:
            raise NotSignedIn(
                f"There is no account of that name; there are: {name_list(store.accounts)}."
                if store.accounts
                else "No account is signed in. Run 'llm chatgpt login' first."
            )
        writer.save(store._replace(default=name))
    click.echo(f"Prompts now use the account {printable(name)}: {who_is(store.accounts[name])}.")
    if config.setting("ACCOUNT") and config.setting("ACCOUNT") != name:
        notice("Warning: LLM_CHATGPT_ACCOUNT is set, and goes before the default account.")


@chatgpt.command(name="import")
@click.argument("path", required=False)
@click.option("--yes", is_flag=True, help="Replace a login of somebody else without asking")
def import_command(path: str | None, yes: bool) -> None:
    """Use the login of Codex CLI until its access token ends

    PATH is its auth.json, or the folder of it; without one it is looked for in CODEX_HOME
    or ~/.codex. Codex CLI's file stays as it is.

    \b
        llm chatgpt import
        llm chatgpt import ~/.codex/auth.json
    """
    tokens = read_codex_login(codex_auth_path(path))
    old = read_store().get(CODEX_ACCOUNT)
    replace = ask_to_replace(yes)
    if old and old.kind == "login" and not replace(old, tokens):
        raise AccountTaken(
            f"Nothing was changed: you have signed in under the name {CODEX_ACCOUNT} yourself. "
            "Sign that out first, or import with --yes."
        )
    tokens = keep_login(tokens, CODEX_ACCOUNT, replace)
    click.echo(f"Imported as account {CODEX_ACCOUNT}: {who_is(tokens)}.")
    click.echo(f"Access token: {lifetime_words(tokens)}")
    if read_store().default != CODEX_ACCOUNT:
        click.echo(f"Use it with --key {CODEX_ACCOUNT}, or: llm chatgpt use {CODEX_ACCOUNT}")


def lifetime_words(tokens: Tokens | None) -> str:
    if tokens is None or tokens.kind == "access_token":
        return "does not say when it ends, and cannot be renewed here"
    if tokens.expires_at is None:
        return "does not say when it ends"
    left = tokens.expires_at - time.time()
    when = local_time(tokens.expires_at)
    if tokens.kind == "codex":
        renewal = "only Codex CLI can renew it ('llm chatgpt import' then)"
    else:
        renewal = "the next prompt renews it" if left <= 0 else "it is renewed by itself"
    return (
        f"ended {when}; {renewal}" if left <= 0 else f"ends {when}, in {in_words(left)}; {renewal}"
    )


def with_login(account: str | None, action: Callable[[Tokens], Any]) -> Any:
    """Do something with a login; once more with a renewed one after a 401."""
    tokens = get_tokens(account)
    try:
        return action(tokens)
    except RequestRefused as error:
        if error.status != 401:
            raise
        return action(get_tokens(account, rejected=tokens.access_token))


def present_login(account: str | None) -> Tokens | None:
    """What is stored of the login in use, None if that must be asked for. Sends nothing."""
    store = read_store()
    return present_tokens(choose_credential(account, store), store)


@chatgpt.command(name="models")
@account_option
@click.option("all_", "--all", is_flag=True, help="Also those that are hidden in ChatGPT's apps")
@click.option("json_", "--json", is_flag=True, help="Output as JSON")
def models_command(account: str | None, all_: bool, json_: bool) -> None:
    """List the models that this login has

    Shows what was last fetched; 'llm chatgpt refresh' fetches anew.

    \b
        llm chatgpt models
        llm chatgpt models --all --json
    """
    tokens = present_login(account)
    models = remembered_models(tokens) if tokens else None
    if models is None or not models.models:
        models = with_login(account, fetch_models)
    shown = models.by_rank if all_ else models.listed
    if json_:
        click.echo(json.dumps([_model_json(model) for model in shown], indent=2))
        return
    rows: list[tuple[str, ...]]
    rows = [("MODEL", "CONTEXT", "REASONING EFFORTS (* default)", "SERVICE TIERS")]
    for model in shown:
        efforts = [
            f"{effort}*" if effort == model.default_effort else effort
            for effort in model.efforts or ()
        ]
        context = f"{model.context_window:,}" if model.context_window else "?"
        name = f"chatgpt-{model.slug}" + (" (hidden)" if model.hidden else "")
        rows.append((name, context, " ".join(efforts), " ".join(model.service_tiers)))
    echo_table(rows)


def _model_json(model: ModelInfo) -> dict[str, Any]:
    return {
        "model_id": f"chatgpt-{model.slug}",
        "slug": model.slug,
        "name": model.display_name,
        "hidden": model.hidden,
        "context_window": model.context_window,
        "default_reasoning_effort": model.default_effort,
        "reasoning_efforts": list(model.efforts or ()),
        "service_tiers": list(model.service_tiers),
        "images": model.takes_images,
        "successor": model.upgrade,
    }


@chatgpt.command()
@account_option
def refresh(account: str | None) -> None:
    """Fetch the list of models anew and say what came and went

    \b
        llm chatgpt refresh
    """
    tokens = present_login(account)
    before = remembered_models(tokens) if tokens else None
    models = with_login(account, fetch_models)
    old = {model.slug for model in before.models} if before else set()
    new = {model.slug: model for model in models.by_rank}
    for slug in new:
        if slug not in old:
            click.echo(f"New:  chatgpt-{slug}")
    for slug in sorted(old - set(new)):
        click.echo(f"Gone: chatgpt-{slug}")
    count = len(models.listed)
    changed = "" if set(new) != old else ", as before"
    click.echo(f"This login has {count} model{'' if count == 1 else 's'}{changed}.")


@chatgpt.command()
@account_option
@click.option(
    "json_", "--json", is_flag=True, help="Output all that the server tells of it as JSON"
)
def usage(account: str | None, json_: bool) -> None:
    """Show how much of the plan's allowances is left

    \b
        llm chatgpt usage
    """
    told = with_login(account, fetch_usage)
    # Who it is stays out of what a script may log.
    report = {k: v for k, v in told.items() if k not in ("user_id", "account_id", "email")}
    if json_:
        click.echo(json.dumps(report, indent=2))
        return
    plan = report.get("plan_type")
    click.echo(f"Plan: {printable(plan, 40) if plan else 'unknown'}")
    for window in windows_of_usage(report.get("rate_limit")):
        click.echo(_window_line(window.name, window))
    additional = report.get("additional_rate_limits")
    for limit in as_list(additional):
        name = printable(as_mapping(limit).get("limit_name") or "another limit", 60)
        for window in windows_of_usage(as_mapping(limit).get("rate_limit")):
            click.echo(_window_line(f"{name}, {window.name}", window))
    credits_ = as_mapping(report.get("credits"))
    if credits_.get("unlimited") is True:
        click.echo("Credits: unlimited")
    elif credits_.get("has_credits") is True:
        click.echo(f"Credits: {printable(credits_.get('balance'), 40)}")
    individual = as_mapping(as_mapping(report.get("spend_control")).get("individual_limit"))
    if individual:
        used, limit = individual.get("used"), individual.get("limit")
        resets_at = as_number(individual.get("reset_at"))
        resets = UsageWindow(0, 0, resets_at).reset_words
        click.echo(f"Spending: {printable(used, 40)} of {printable(limit, 40)}{resets}")
    click.echo(f"More: {config.USAGE_PAGE}")


def _window_line(name: str, window: UsageWindow) -> str:
    # Plain characters, which every terminal and pipe can print.
    filled = round(window.left_percent / 5)
    bar = "#" * filled + "." * (20 - filled)
    return f"{name:<8} [{bar}] {window.left_percent:3.0f} % left{window.reset_words}"


class Finding(NamedTuple):
    """What `doctor` says of one thing. `state` is "ok", "warning" or "broken"."""

    name: str
    state: str
    text: str
    advice: str = ""


@chatgpt.command()
@account_option
@click.option("json_", "--json", is_flag=True, help="Output as JSON")
def doctor(account: str | None, json_: bool) -> None:
    """Find out what is wrong, and say what to do about it

    Asks both of OpenAI's hosts once and changes nothing. What it prints holds no secret and
    can be shown to others. Exits with 1 if something is broken.

    \b
        llm chatgpt doctor
        llm chatgpt doctor --json
    """
    findings = []
    for finding in _findings(account):
        findings.append(finding)
        if not json_:
            click.echo(f"{finding.state:<8} {finding.name}: {printable(finding.text, 1000)}")
            if finding.advice:
                click.echo(f"{'':<8} -> {printable(finding.advice, 1000)}")
    broken = any(finding.state == "broken" for finding in findings)
    if json_:
        report = {"ok": not broken, "findings": [f._asdict() for f in findings]}
        click.echo(json.dumps(report, indent=2))
    if broken:
        sys.exit(1)


def _findings(account: str | None) -> Iterator[Finding]:
    yield _versions()
    yield from _files()
    yield _lock()
    yield from _network_settings()
    tokens, finding = _login_state(account)
    yield finding
    yield from _hosts(tokens)
    if tokens:
        models = remembered_models(tokens)
        if models is None:
            yield Finding("models", "warning", "no list yet", "Run 'llm chatgpt refresh'.")
        else:
            age = in_words(time.time() - models.fetched_at)
            yield Finding("models", "ok", f"{len(models.listed)}, fetched {age} ago")


def _versions() -> Finding:
    library = http.http_library()
    return Finding(
        "versions", "ok", f"{config.user_agent()} {library.__name__}/{library.__version__}"
    )


def _below_home(path: object) -> str:
    """A path without the person's name in it, as far as that is the home folder's."""
    text, home = str(path), os.path.expanduser("~")
    return "~" + text[len(home) :] if text.startswith(home + os.sep) else text


def _files() -> Iterator[Finding]:
    folder = store_path().parent
    for name, path in (("login file", store_path()), ("model list", models_path())):
        if not path.exists():
            yield Finding(name, "ok", f"{_below_home(path)} does not exist yet")
            continue
        mode = path.stat().st_mode & 0o777
        if not config.WINDOWS and path == store_path() and mode & 0o077:
            yield Finding(
                name,
                "warning",
                f"{_below_home(path)} can be read by others (mode {mode:o})",
                f"Run 'chmod 600 {_below_home(path)}'.",
            )
        elif not os.access(path, os.R_OK):
            text = f"{_below_home(path)} cannot be read by you"
            yield Finding(name, "broken", text, "Give yourself read access to it.")
        else:
            who = "" if mode & 0o077 or config.WINDOWS else ", readable by you alone"
            yield Finding(name, "ok", f"{_below_home(path)}{who}")
    if not os.access(folder, os.W_OK):
        yield Finding(
            "folder",
            "broken",
            f"{_below_home(folder)} cannot be written, so no renewed login can be kept",
            "Make it writable, or choose another with LLM_USER_PATH.",
        )


def _lock() -> Finding:
    import filelock

    path = f"{store_path()}.lock"
    if not os.path.exists(path):
        return Finding("lock", "ok", "free")
    try:
        with filelock.FileLock(path, timeout=0, mode=0o600):
            return Finding("lock", "ok", "free")
    except filelock.Timeout:
        return Finding(
            "lock",
            "warning",
            "held by another program",
            "If it stays so, end that program: a renewal takes a few seconds.",
        )
    except (OSError, NotImplementedError):
        return Finding(
            "lock",
            "broken",
            f"{_below_home(path)} cannot be locked",
            "Make the folder writable, or choose another with LLM_USER_PATH.",
        )


def _network_settings() -> Iterator[Finding]:
    # A proxy's address may hold a password.
    proxies = []
    for scheme, address in http.proxy_settings().items():
        with contextlib.suppress(ValueError):
            parts = urlsplit(address if "//" in address else f"//{address}")
            proxies.append(f"{scheme} by {parts.hostname}:{parts.port}")
    yield Finding("proxies", "ok", ", ".join(proxies) or "none")
    names = ("SSL_CERT_FILE", "SSL_CERT_DIR", "CODEX_CA_CERTIFICATE")
    chosen = [f"{name}={_below_home(os.environ[name])}" for name in names if os.environ.get(name)]
    try:
        http.tls_context()
    except ChatGPTError as error:
        yield Finding("certificates", "broken", ", ".join(chosen), error.message)
    else:
        yield Finding("certificates", "ok", ", ".join(chosen) or "the system's")
    changed = [name for name in sorted(os.environ) if name.startswith("LLM_CHATGPT_")]
    if changed:
        # Only the names: LLM_CHATGPT_ACCOUNT can hold a token.
        yield Finding("settings", "ok", ", ".join(changed))


def _login_state(account: str | None) -> tuple[Tokens | None, Finding]:
    try:
        store = read_store()
        credential = choose_credential(account, store)
    except ChatGPTError as error:
        return None, Finding("login", "broken", "none that can be used", error.message)
    tokens = present_tokens(credential, store)
    if tokens is None:
        text = f"{credential_words(credential)}, its owner not asked for yet"
        return None, Finding("login", "ok", text)
    name, _, host = (tokens.email or "").partition("@")
    who = f"{name[:1]}...@{host}" if host else "no email"
    text = f"{credential_words(credential)}: {who}, plan {tokens.plan or 'unknown'}"
    text += f", access token {lifetime_words(tokens)}"
    advice = ""
    try:
        check_borrowed(tokens, None)
    except RefreshFailed as error:
        advice = error.message
    renewable = tokens.kind != "login" or tokens.refresh_token
    if not renewable and not still_works(tokens, time.time()):
        advice = "It cannot be renewed: run 'llm chatgpt login'."
    return tokens, Finding("login", "broken" if advice else "ok", text, advice)


def _hosts(tokens: Tokens | None) -> Iterator[Finding]:
    """Both hosts, each asked once, without following or renewing anything."""
    agent = {"User-Agent": config.user_agent()}
    version = config.setting("CLIENT_VERSION") or config.MODELS_CLIENT_VERSION
    date = None
    for name, service, path, headers in (
        ("sign-in host", config.issuer, "/.well-known/openid-configuration", agent),
        (
            "backend",
            functools.partial(config.base_url, tokens.origin if tokens else None),
            f"/codex/models?client_version={version}",
            backend_headers(tokens) if tokens else agent,
        ),
    ):
        try:
            url = service() + path
            with http.sync_client(url).stream("GET", url, headers=headers) as response:
                certificate = _certificate_words(response)
                response.read()
        except ChatGPTError as error:
            yield Finding(name, "broken", "not asked", error.message)
        except http.http_library().TransportError as error:
            text = f"{urlsplit(url).netloc}: {http.transport_reason(error)}"
            yield Finding(name, "broken", text, "Check the network and these settings.")
        else:
            reply = http.Reply.of(response)
            yield _host(name, reply, certificate, tokens if name == "backend" else None)
            date = date or reply.headers.get("date")
    yield _clock(date)


def _host(name: str, reply: http.Reply, certificate: str, tokens: Tokens | None) -> Finding:
    text = f"{reply.host} answers, {certificate}"
    if reply.is_web_page and reply.status != 404:
        return Finding(name, "broken", text, http.web_page_message(reply))
    if reply.status >= 500:
        text += f", with status {reply.status}"
        return Finding(name, "warning", text, "OpenAI's server is in trouble; try later.")
    if tokens and reply.status == 401 and tokens.refresh_token:
        advice = "The next prompt tries to renew it; if that fails, run 'llm chatgpt login'."
        return Finding(name, "warning", f"{text}, but refuses the access token", advice)
    if tokens and reply.status in (401, 403):
        advice = explain_refusal(reply).message
        return Finding(name, "broken", f"{text}, but refuses this login", advice)
    return Finding(name, "ok", text)


def _certificate_words(response: Any) -> str:
    stream = response.extensions.get("network_stream")
    connection = stream and stream.get_extra_info("ssl_object")
    if connection is None:
        return "without TLS"
    certificate = connection.getpeercert() or {}
    issuer = {key: value for part in certificate.get("issuer", ()) for key, value in part}
    name = issuer.get("organizationName") or issuer.get("commonName")
    # Where the system itself checks certificates, it does not show them.
    return f"certificate from {name or 'an issuer the system trusts'}" + (
        f" until {certificate['notAfter']}" if "notAfter" in certificate else ""
    )


def _clock(date: str | None) -> Finding:
    from email.utils import parsedate_to_datetime

    try:
        ahead = time.time() - parsedate_to_datetime(date or "").timestamp()
    except (TypeError, ValueError):
        return Finding("clock", "ok", "no server said what time it is")
    if abs(ahead) <= config.REFRESH_LEEWAY_SECONDS:
        return Finding("clock", "ok", "as the server's")
    way = "ahead of" if ahead > 0 else "behind"
    text = f"{in_words(abs(ahead))} {way} the server's"
    return Finding("clock", "warning", text, "Set this machine's clock.")


@llm.hookimpl
def register_models(register: Callable[..., None]) -> None:
    for info in known_models().values():
        register(ChatGPT(info), AsyncChatGPT(info))


@llm.hookimpl
def register_commands(cli: click.Group) -> None:
    cli.add_command(chatgpt)
