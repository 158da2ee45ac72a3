"""Where an account's workspace is served, and keeping a new login."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import cast

from llm_chatgpt import config, http
from llm_chatgpt.errors import AccountTaken, ChatGPTError, StoreError
from llm_chatgpt.login.store import locked_store, read_store, store_tokens
from llm_chatgpt.login.tokens import Tokens, backend_headers, is_somebody_else, is_workspace_origin
from llm_chatgpt.values import as_list, as_mapping

log = logging.getLogger("llm_chatgpt_oauth")


def keep_login(
    tokens: Tokens,
    account: str | None = None,
    replace: Callable[[Tokens, Tokens], bool] | None = None,
) -> Tokens:
    """Store a new login, then find out where its workspace is served.

    Raises AccountTaken if `replace(old, new)` says no, StoreError.
    """
    try:
        store = read_store()
        old = store.get(store.login_name(account))
    except StoreError as error:
        if error.code != "damaged":
            raise
        old = None
    if old and is_somebody_else(old, tokens) and replace and not replace(old, tokens):
        raise AccountTaken(
            "Nothing was changed: somebody else is signed in under that name. To keep both, "
            "sign in with --account and another name; to replace the old login, with --yes."
        )
    if old and old.account_id == tokens.account_id:
        tokens = tokens._replace(origin=old.origin)
    name = store_tokens(tokens, account)
    # After the login is safe: this may fail or be broken off.
    origin = fetch_origin(tokens)
    if origin and origin != tokens.origin:
        with locked_store() as writer:
            store = read_store()
            now = store.get(name)
            if now and now.account_id == tokens.account_id:
                writer.save(store.put(name, now._replace(origin=origin)))
        tokens = tokens._replace(origin=origin)
    return tokens


# auth.md 8
ROUTING_OVERRIDES = frozenset({"NO_CONSTRAINT", "us", "us_cr"})


def fetch_origin(tokens: Tokens) -> str | None:
    """Where the account's workspace is served (auth.md 8); None if that is not to be found.

    Raises nothing: without an answer all goes on as before.
    """
    library = http.http_library()
    try:
        url = config.base_url() + "/wham/accounts/check"
        headers = backend_headers(tokens)
        response = http.sync_client(url).get(
            url, headers=headers, timeout=config.ORIGIN_TIMEOUT_SECONDS
        )
    except (ChatGPTError, library.TransportError) as error:
        log.info("Where the workspace is served was not found out: %s", error)
        return None
    reply = http.Reply.of(response)
    if reply.status != 200:
        log.info("Where the workspace is served was not found out: status %s", reply.status)
        return None
    entries = map(as_mapping, as_list(as_mapping(reply.data).get("accounts")))
    mine = [entry for entry in entries if entry.get("id") == tokens.account_id]
    if len(mine) != 1 or not tokens.account_id:
        return None
    override = mine[0].get("account_routing_override")
    origin = mine[0].get("workspace_backend_origin")
    if override is not None and override not in ROUTING_OVERRIDES:
        return None
    return cast(str, origin) if is_workspace_origin(origin) else None
