"""Fetch the model list, the usage and the banked resets; spend a reset.

The fetch functions raise ChatGPTError if no answer comes, and RequestRefused for an error status.
For a body that is not JSON, `fetch_models` raises ChatGPTError; the others treat it as empty.
Error messages suggest `login_command` for signing in again (None: the command without an account's
name).
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping
from typing import Any

from llm_chatgpt import config, http
from llm_chatgpt.backend import catalogue
from llm_chatgpt.backend.reached_limit import resets_and_reserve
from llm_chatgpt.backend.refusals import RefusedRequest, explain_refusal
from llm_chatgpt.backend.usage import first_expiry
from llm_chatgpt.errors import ChatGPTError, ConnectionFailed, UsageLimitReached
from llm_chatgpt.files import os_reason
from llm_chatgpt.login.imported import access_token_in
from llm_chatgpt.login.tokens import Tokens, backend_headers
from llm_chatgpt.text import notice
from llm_chatgpt.values import as_mapping, as_text
from llm_chatgpt.waiting import Waiting


def fetch_models(
    tokens: Tokens, login_command: str | None = None, seconds: float = config.AUTH_TIMEOUT_SECONDS
) -> catalogue.ModelList:
    """Fetch the list of this account's models within `seconds`, and store it (P197)."""
    route = tokens.route
    params = {"client_version": config.models_client_version()}
    reply = _get(route.models_path, tokens, login_command, params=params, seconds=seconds)
    entries = reply.data.get("models")
    if not isinstance(entries, list):
        raise ChatGPTError("Could not read the server's model list.", "Try again later.")
    if route.lists_in_order:
        # The order of the list is the priority (P262).
        served = [e for e in map(as_mapping, entries) if e.get("supported_in_api") is not False]
        entries = [{**entry, "priority": place} for place, entry in enumerate(served)]
    now = time.time()
    record = {
        "fetched_at": now,
        "tried_at": now,
        "etag": reply.headers.get("etag"),
        "models": [
            {name: entry[name] for name in catalogue.STORED_MODEL_FIELDS if name in entry}
            for entry in map(as_mapping, entries)
        ],
    }
    try:
        catalogue.store_models(tokens, record)
    except OSError as error:
        path = catalogue.models_file()
        notice(f"Warning: could not save the model list in {path} ({os_reason(error)}).")
    return catalogue.parse_model_list(record)


_UPDATE_THREAD = "chatgpt-models"


def update_models(tokens: Tokens, models: catalogue.ModelList, etag: str | None) -> None:
    """Fetch the list in the background if the server's `etag` differs from `models.etag`.

    At most once an hour (P202).
    """

    def update() -> None:
        # If anything fails, the old list stays in use.
        with contextlib.suppress(Exception):
            # Another thread or process may have fetched it meanwhile.
            if _is_outdated(catalogue.stored_models(tokens), etag):
                # Stored before the fetch, so that no other process fetches the list as well.
                catalogue.store_models(tokens, {"tried_at": time.time()})
                fetch_models(tokens)

    is_running = any(thread.name == _UPDATE_THREAD for thread in threading.enumerate())
    if not is_running and _is_outdated(models, etag):
        threading.Thread(target=update, name=_UPDATE_THREAD, daemon=True).start()


def _is_outdated(models: catalogue.ModelList, etag: str | None) -> bool:
    is_recent = 0 <= time.time() - models.tried_at < config.MODELS_UPDATE_SECONDS
    return etag not in (None, models.etag) and not is_recent


def fetch_usage(
    tokens: Tokens, login_command: str | None = None, seconds: float = config.AUTH_TIMEOUT_SECONDS
) -> Mapping[str, Any]:
    """Fetch the use of the account's limits within `seconds` (P203)."""
    return _get("/wham/usage", tokens, login_command, seconds=seconds).data


def add_resets(error: UsageLimitReached, tokens: Tokens, slug: str, key: str | None) -> None:
    """Add the account's banked resets and Luna Reserve to the advice of a reached limit (P212).

    `slug` is the requested model. `key` names the login; nothing is added for an access token,
    which no message may show. Waits at most 2 seconds for the server.
    """
    usage: Mapping[str, Any] = {}
    if error.resettable and not access_token_in(key):
        with contextlib.suppress(ChatGPTError), Waiting("Looking for banked resets"):
            usage = fetch_usage(tokens, seconds=config.RESETS_TIMEOUT_SECONDS)
    if steps := resets_and_reserve(usage, slug, key):
        old_advice = f"{error.advice[0].lower()}{error.advice[1:]}"
        error.replace_advice(f"{' '.join(steps)} Or {old_advice}")


_RESETS_PATH = "/wham/rate-limit-reset-credits"


def fetch_first_expiry(tokens: Tokens, login_command: str | None = None) -> float | None:
    """Fetch the earliest expiry of the banked resets, in Unix seconds."""
    return first_expiry(_get(_RESETS_PATH, tokens, login_command).data)


def redeem_reset(tokens: Tokens, login_command: str, request_id: str) -> str | None:
    """Spend a banked reset. Returns the server's code, such as "reset" or "no_credit" (P210).

    After a server error or a lost answer, the request is sent again (P212). The server spends at
    most one reset for each `request_id`, a UUID.
    """
    url = f"{tokens.route.base_url(tokens.origin)}{_RESETS_PATH}/consume"
    body = {"redeem_request_id": request_id}
    for resends in range(config.MAX_RESENDS + 1):
        if resends:
            time.sleep(config.FIRST_RESEND_PAUSE_SECONDS * 2 ** (resends - 1))
        try:
            reply = http.send("POST", url, headers=backend_headers(tokens), json=body)
            if reply.status == 200:
                code = as_text(reply.data.get("code"))
                # An earlier attempt has spent the reset, but its answer was lost.
                return "reset" if resends and code == "already_redeemed" else code
            failure = explain_refusal(reply, RefusedRequest(tokens, login_command))
            if reply.status < 500:
                raise failure
        except ConnectionFailed as error:
            failure = error
    raise ChatGPTError(
        f"{failure.reason}.",
        "It is not known whether a reset was used: run 'llm chatgpt usage' before you try again.",
    ) from failure


def _get(path: str, tokens: Tokens, login_command: str | None, **arguments: Any) -> http.Reply:
    url = tokens.route.base_url(tokens.origin) + path
    reply = http.send("GET", url, headers=backend_headers(tokens), **arguments)
    if reply.status != 200:
        raise explain_refusal(reply, RefusedRequest(tokens, login_command))
    return reply
