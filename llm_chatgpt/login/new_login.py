"""Store a new login, after asking the service for the name and the host of its workspace."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llm_chatgpt import config, http
from llm_chatgpt.errors import AccountTaken, ChatGPTError, LoginFailed
from llm_chatgpt.login import oauth
from llm_chatgpt.login.login_file import locked_store
from llm_chatgpt.login.tokens import (
    Tokens,
    backend_headers,
    header_safe,
    is_other_identity,
    sent_account_id,
)
from llm_chatgpt.text import log, printable
from llm_chatgpt.values import as_list, as_mapping, as_text


def store_new_login(
    tokens: Tokens,
    account: str | None = None,
    replace: Callable[[Tokens, Tokens], bool] | None = None,
    workspace: str | None = None,
) -> Tokens:
    """Look up a new login's workspace, then store the login under an account's name.

    Without `account`, the name is `default` or `official`, and the login becomes the default.
    If the name has a login of another user, workspace or route, `replace(old, new)` decides (None:
    replace it). Raises LoginFailed if the login is not for the workspace with the id `workspace`
    (None: any workspace), AccountTaken if `replace` returns False, StoreError.
    """
    name = account or tokens.route.account
    tokens = fetch_workspace(tokens)
    if workspace not in (None, tokens.account_id):
        raise LoginFailed(
            f"OpenAI signed you in to the workspace {workspace_words(tokens)}, not to "
            f"{printable(workspace, 60)}.",
            "Nothing was stored. Sign in again and choose the other workspace on OpenAI's page.",
        )
    # Logins that may be replaced: those like the new one, and those that `replace` has approved.
    replaceable = [tokens]
    while True:
        with locked_store() as writer:
            # Read under the lock, because another program may just have signed in under this name.
            store = writer.read_to_add()
            old = store.accounts.get(name)
            is_other = old and all(is_other_identity(old, login) for login in replaceable)
            if not (old and replace and is_other):
                if old and old.account_id == tokens.account_id:
                    tokens = tokens._replace(
                        origin=tokens.origin or old.origin,
                        workspace=tokens.workspace or old.workspace,
                    )
                writer.save(store.add(name, tokens, as_default=account is None))
                break
        # Ask without the lock: prompts in other programs may wait for it.
        if not replace(old, tokens):
            raise _account_taken(old, tokens)
        replaceable.append(old)
    # End the session of a replaced official login, unless the client id is the same.
    if old and old.route.own_session and old.client_id != tokens.client_id and old.access_token:
        oauth.revoke_all([old])
    return tokens


def _account_taken(old: Tokens, new: Tokens) -> AccountTaken:
    def user(tokens: Tokens) -> str:
        workspace = f" in {printable(tokens.workspace or tokens.account_id, 60)}"
        return printable(tokens.email or "?") + (workspace if old.email == new.email else "")

    return AccountTaken(
        f"Kept the login of {user(old)}.",
        f"To add {user(new)} as well, use --account NAME; to replace {user(old)}, use --yes.",
    )


def workspace_words(tokens: Tokens) -> str:
    """Describe a workspace by its name, if known, and its id: 'Acme (5e1f7a3c-...)'."""
    account_id = printable(tokens.account_id or "?", 60)
    return f"{printable(tokens.workspace, 60)} ({account_id})" if tokens.workspace else account_id


# Values of `account_routing_override` that allow requests to the workspace's own host (P71).
ROUTING_OVERRIDES = (None, "NO_CONSTRAINT", "us", "us_cr")


def fetch_workspace(tokens: Tokens) -> Tokens:
    """Add the workspace's name and host to a login, and its id if the tokens have none (P71, P72).

    Raises nothing: without a usable answer, returns the login unchanged.
    """
    if not tokens.route.names_account:
        return tokens
    try:
        url = f"{config.base_url()}/wham/accounts/check"
        seconds = config.WORKSPACE_TIMEOUT_SECONDS
        reply = http.send("GET", url, headers=backend_headers(tokens), seconds=seconds)
    except ChatGPTError as error:
        log.info("The workspace is unknown: %s", error)
        return tokens
    entries = [as_mapping(entry) for entry in as_list(reply.data.get("accounts"))]
    account_id = sent_account_id(tokens) or _first_workspace_id(reply.data, entries)
    matches = [entry for entry in entries if entry.get("id") == account_id]
    if reply.status != 200 or len(matches) != 1:
        log.info("The workspace is unknown: status %s", reply.status)
        return tokens
    origin = matches[0].get("workspace_backend_origin")
    may_use_origin = matches[0].get("account_routing_override") in ROUTING_OVERRIDES
    return tokens._replace(
        account_id=account_id,
        origin=origin if may_use_origin and config.is_workspace_origin(origin) else tokens.origin,
        workspace=as_text(matches[0].get("name")) or tokens.workspace,
    )


def _first_workspace_id(answer: Mapping[str, Any], entries: list[Mapping[str, Any]]) -> str | None:
    """Return the id of the first active workspace in the service's order (None: no workspace)."""
    active = [entry.get("id") for entry in entries if entry.get("is_deactivated") is not True]
    ordered = [entry for entry in as_list(answer.get("account_ordering")) if entry in active]
    return next(filter(None, map(header_safe, [*ordered, *active])), None)
