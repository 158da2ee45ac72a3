"""The commands `status`, `accounts`, `use`, `import` and `logout`."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Iterable
from typing import Any

import click

from llm_chatgpt import config
from llm_chatgpt.backend.reached_limit import plan_name
from llm_chatgpt.commands import chatgpt, common
from llm_chatgpt.errors import AccountTaken, ChatGPTError, NotSignedIn
from llm_chatgpt.login.credentials import choose_credential, no_such_account
from llm_chatgpt.login.imported import read_codex_login
from llm_chatgpt.login.login_file import delete_tokens, locked_store, read_store, store_path
from llm_chatgpt.login.new_login import store_new_login, workspace_words
from llm_chatgpt.login.oauth import revoke_all
from llm_chatgpt.login.store import IMPORTED_ACCOUNT
from llm_chatgpt.login.tokens import Tokens, still_works
from llm_chatgpt.text import notice, printable, short_path


@chatgpt.command()
@common.account_option()
@common.json_option
def status(account: str | None, json_: bool) -> None:
    """Show who is signed in (offline)

    Sends nothing. Exits with 1 if nobody is signed in or the login has ended.

    \b
        llm chatgpt status
        llm chatgpt status --account work --json
    """
    path = store_path()
    try:
        credential, tokens = common.stored_login(account)
    except NotSignedIn as error:
        # For a named account this is an error, otherwise a result.
        if account is not None or config.setting("ACCOUNT"):
            raise
        if json_:
            common.echo_json({"signed_in": False, "problem": error.message, "path": str(path)})
        else:
            common.echo(error.message)
        sys.exit(1)
    ended, problem = common.problem_of(credential.account, tokens)
    if json_:
        selection = {"account": credential.account, "reason": credential.reason}
        details = _account_json(tokens, problem)
        common.echo_json({"signed_in": not ended, "path": str(path), **selection, **details})
    else:
        first_line = f"Signed in as {common.user_words(tokens)}"
        if ended:
            command = "llm chatgpt import"
            if tokens.renewable:
                command = tokens.route.login_command(credential.account)
            first_line = f"Your login as {common.user_words(tokens)} has ended. Run '{command}'."
        common.echo(first_line)
        common.echo(f"Account: {common.credential_words(credential)}")
        if tokens.account_id:
            common.echo(f"Workspace: {workspace_words(tokens)}")
        common.echo(f"Access token: {common.lifetime_words(tokens)}")
        if credential.account:
            common.echo(f"Stored in: {short_path(path)}")
            # Otherwise the user would learn of this only at the next renewal.
            storage_error = common.storage_problem()
            if storage_error and storage_error.code == "unwritable":
                notice(f"Warning: {storage_error.message}")
        if problem:
            common.echo(problem)
    if ended:
        sys.exit(1)


def _account_json(tokens: Tokens, problem: str) -> dict[str, Any]:
    names = ("kind", "account_id", "workspace", "email", "plan", "expires_at")
    fields = {name: getattr(tokens, name) for name in names}
    expired = not still_works(tokens, time.time())
    return {**fields, "expired": expired, "problem": problem or None}


@chatgpt.command()
@common.json_option
def accounts(json_: bool) -> None:
    """List the accounts that are signed in

    The default account is marked with *. Exits with 1 if a login has ended
    or cannot be read.

    \b
        llm chatgpt accounts
        llm chatgpt accounts --json
    """
    store = read_store()
    rows: list[tuple[str, ...]] = [("", "NAME", "EMAIL", "PLAN", "WORKSPACE", "ACCESS TOKEN")]
    output, any_ended = [], False
    workspaces = [tokens.workspace for tokens in store.accounts.values()]
    for name, tokens in store.accounts.items():
        ended, problem = common.problem_of(name, tokens)
        any_ended = any_ended or ended
        default = name == store.default
        output.append({"name": name, "default": default, **_account_json(tokens, problem)})
        lifetime = "renews automatically"
        if problem or not tokens.renewable:
            lifetime = common.lifetime_words(tokens)
        plan = tokens.route.plan or plan_name(tokens.plan)
        workspace, short_id = tokens.workspace, (tokens.account_id or "?")[:8]
        if not workspace:
            workspace = short_id
        elif workspaces.count(workspace) > 1:
            workspace = f"{workspace} ({short_id})"
        rows.append(("*" if default else "", name, tokens.email or "?", plan, workspace, lifetime))
    unreadable = [name for name in store.entries if name not in store.accounts]
    for name in unreadable:
        rows.append(("*" * (name == store.default), name, "?", "?", "?", "damaged or too new"))
    if json_:
        common.echo_json(output)
    elif len(rows) == 1:
        notice("No accounts. Run 'llm chatgpt login' to sign in.")
    else:
        common.echo_table(rows)
        try:
            choose_credential(None, store)
        except NotSignedIn as error:
            notice(error.message)
    if any_ended or unreadable:
        sys.exit(1)


@chatgpt.command()
@click.argument("name", shell_complete=common.complete_account)
def use(name: str) -> None:
    """Make an account the default

    \b
        llm chatgpt use work
    """
    with locked_store() as writer:
        store = read_store()
        if name not in store.accounts:
            # Raises, unless the name is a key of llm or an access token, which cannot be default.
            choose_credential(name, store)
            raise no_such_account(name, store.accounts)
        writer.save(store.with_default(name))
    common.echo(f"Default account: {printable(name)}, {common.user_words(store.accounts[name])}")
    if config.setting("ACCOUNT") not in (None, name):
        notice("Warning: LLM_CHATGPT_ACCOUNT is set and takes precedence.")


@chatgpt.command(name="import")
@click.argument("path", required=False)
@common.yes_option
def import_command(path: str | None, yes: bool) -> None:
    """Use Codex CLI's login until its access token expires

    PATH is Codex CLI's auth.json or its folder; the default is CODEX_HOME, or ~/.codex.
    Codex CLI's file stays unchanged.

    \b
        llm chatgpt import
        llm chatgpt import ~/.codex/auth.json
    """
    name = IMPORTED_ACCOUNT
    tokens = read_codex_login(path)
    old = read_store().accounts.get(name)
    if old and old.kind == "login":
        if not common.may_replace(yes, old, tokens):
            raise AccountTaken(
                f"Kept your own login, which is named {name}.", "To replace it, use --yes."
            )
        yes = True
    tokens = store_new_login(tokens, name, functools.partial(common.may_replace, yes))
    common.echo(f"Imported as account {name}: {common.user_words(tokens)}")
    common.echo(f"Access token: {common.lifetime_words(tokens)}")
    if read_store().default != name:
        common.echo(f"Use it with --key {name}, or run 'llm chatgpt use {name}'.")


@chatgpt.command()
@common.account_option()
@click.option("--all", "all_", is_flag=True, help="Sign out of all accounts")
@click.option("--revoke", "revoke_", is_flag=True, help="Also end the session at OpenAI")
def logout(account: str | None, all_: bool, revoke_: bool) -> None:
    """Sign out on this machine

    For an official login, this also ends the session at OpenAI.

    \b
        llm chatgpt logout
        llm chatgpt logout --account work --revoke
        llm chatgpt logout --all
    """
    if account is not None and all_:
        raise click.UsageError("Use either --account or --all.")
    if revoke_:
        notice("Warning: this may also sign out other programs that use the same session.")
    name = config.setting("ACCOUNT") if account is None else account
    deleted = delete_tokens(name, everything=all_)
    if deleted:
        for deleted_name in deleted:
            common.echo(f"Signed out of account {printable(deleted_name, 60)}.")
        _show_account_in_use()
        _end_sessions(filter(None, deleted.values()), requested=revoke_)
    elif name is None or all_:
        common.echo("Not signed in.")
    else:
        # Raises, unless the name is a key of llm or an access token.
        choose_credential(name, read_store())
        raise ChatGPTError(
            "An access token cannot be signed out.",
            "Remove it from where it is set: 'llm keys', LLM_CHATGPT_ACCOUNT or "
            "CODEX_ACCESS_TOKEN.",
        )


def _end_sessions(deleted: Iterable[Tokens], *, requested: bool) -> None:
    """End the sessions of deleted logins: all if `requested`, otherwise the official ones, which no
    other program uses. Never ends Codex CLI's session (P63)."""
    # A login without an access token was ended by OpenAI.
    logins = [t for t in deleted if (requested or t.route.own_session) and t.access_token]
    revoke_all(tokens for tokens in logins if tokens.renewable)
    if not all(tokens.renewable for tokens in logins):
        notice("The imported login's session was not ended, because it belongs to Codex CLI.")


def _show_account_in_use() -> None:
    store = read_store()
    try:
        credential = choose_credential(None, store)
    except ChatGPTError as error:
        if store.accounts:
            common.echo(error.message)
        return
    common.echo(f"Now in use: {common.credential_words(credential)}")
