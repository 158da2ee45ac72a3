"""Every GET of the backend: models and usage."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import urlsplit

from llm_chatgpt import config, http
from llm_chatgpt.backend.catalogue import (
    KEPT_MODEL_FIELDS,
    ModelList,
    models_path,
    parse_model,
    parse_model_list,
    read_models_file,
    remember_models,
)
from llm_chatgpt.backend.refusals import explain_refusal
from llm_chatgpt.errors import ChatGPTError
from llm_chatgpt.files import os_reason
from llm_chatgpt.login.tokens import Tokens, backend_headers
from llm_chatgpt.text import notice
from llm_chatgpt.values import as_mapping

log = logging.getLogger("llm_chatgpt_oauth")


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


def fetch_usage(tokens: Tokens) -> Mapping[str, Any]:
    """What the account has used of its allowances, as the server tells it.

    Raises ChatGPTError, RequestRefused.
    """
    return as_mapping(get_backend("/wham/usage", tokens).data)
