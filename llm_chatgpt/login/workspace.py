"""Where an account's workspace is served, and the storing of a new login."""

from __future__ import annotations

import logging
from collections.abc import Callable

from llm_chatgpt import config, http
from llm_chatgpt.errors import AccountTaken, ChatGPTError, StoreError
from llm_chatgpt.login.store import load_tokens, locked_store, read_store
from llm_chatgpt.login.tokens import Tokens, backend_headers, is_somebody_else, is_workspace_origin
from llm_chatgpt.text import printable
from llm_chatgpt.values import as_list, as_mapping, as_text

log = logging.getLogger("llm_chatgpt_oauth")


def keep_login(
    tokens: Tokens,
    account: str | None = None,
    replace: Callable[[Tokens, Tokens], bool] | None = None,
) -> Tokens:
    """Store a new login under an account's name, then find out where its workspace is served.

    Without a name it is stored under its route's (`default` or `official`), and prompts use it
    from now on. Raises AccountTaken if the name is another user's and `replace(old, new)` says
    no; StoreError.
    """
    name = account or tokens.route.account
    try:
        old = load_tokens(name)
    except StoreError as error:
        if error.code != "damaged":
            raise
        old = None
    if old and is_somebody_else(old, tokens) and replace and not replace(old, tokens):
        kept, new = printable(old.email or "the old login"), printable(tokens.email or "the new")
        raise AccountTaken(
            f"Kept {kept}. To add {new} as well, use --account NAME; to replace {kept}, use --yes."
        )
    if old and old.account_id == tokens.account_id:
        tokens = tokens._replace(origin=old.origin)
    with locked_store() as writer:
        writer.save(writer.mended().add(name, tokens, as_default=account is None))
    # The login is safe from here on: what follows may fail or be interrupted.
    origin = fetch_origin(tokens)
    if origin is None or origin == tokens.origin:
        return tokens
    try:
        with locked_store() as writer:
            store = read_store()
            now = store.get(name)
            if now and now.account_id == tokens.account_id:
                writer.save(store.put(name, now._replace(origin=origin)))
    except StoreError as error:
        log.info("The workspace's address was not stored: %s", error)
    return tokens._replace(origin=origin)


# The values of `account_routing_override` under which the origin holds (docs/protocol.md).
ROUTING_OVERRIDES = (None, "NO_CONSTRAINT", "us", "us_cr")


def fetch_origin(tokens: Tokens) -> str | None:
    """Where the account's workspace is served (docs/protocol.md); None if that stays unknown.

    Raises nothing: without an answer the default host serves the account as before.
    """
    if not tokens.route.names_account:
        return None
    try:
        reply = http.send(
            "GET",
            config.base_url() + "/wham/accounts/check",
            headers=backend_headers(tokens),
            seconds=config.ORIGIN_TIMEOUT_SECONDS,
        )
    except ChatGPTError as error:
        log.info("The workspace's address is unknown: %s", error)
        return None
    entries = map(as_mapping, as_list(as_mapping(reply.data).get("accounts")))
    mine = [entry for entry in entries if entry.get("id") == tokens.account_id]
    if reply.status != 200 or len(mine) != 1 or not tokens.account_id:
        log.info("The workspace's address is unknown: status %s", reply.status)
        return None
    if mine[0].get("account_routing_override") not in ROUTING_OVERRIDES:
        return None
    origin = mine[0].get("workspace_backend_origin")
    return as_text(origin) if is_workspace_origin(origin) else None
