"""llm chatgpt logout, status, accounts, use and import."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import click

from llm_chatgpt import config
from llm_chatgpt.commands.common import (
    account_option,
    ask_to_replace,
    chatgpt,
    credential_words,
    echo_table,
    lifetime_words,
    who_is,
)
from llm_chatgpt.errors import AccountTaken, ChatGPTError, LoginFailed, NotSignedIn
from llm_chatgpt.login.borrowed import codex_auth_path, read_codex_login
from llm_chatgpt.login.current import Credential, choose_credential, name_list, present_tokens
from llm_chatgpt.login.oauth import revoke
from llm_chatgpt.login.store import (
    CODEX_ACCOUNT,
    delete_tokens,
    locked_store,
    read_store,
    store_path,
)
from llm_chatgpt.login.tokens import Tokens, still_works
from llm_chatgpt.login.workspace import keep_login
from llm_chatgpt.text import notice, printable


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
    name = None if all_ else _account_to_sign_out(account)
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
    deleted = delete_tokens(name, everything=all_, before=before)
    if not deleted:
        click.echo("Not signed in; there was nothing to delete.")
    for name in deleted:
        click.echo(f"Signed out {printable(name, 60)}: the login in {store_path()} was deleted.")
    if deleted:
        try:
            left = choose_credential(None, read_store())
        except NotSignedIn as error:
            if read_store().accounts:
                click.echo(error.message)
        else:
            click.echo(f"Prompts use {credential_words(left)}.")


def _account_to_sign_out(account: str | None) -> str | None:
    named = config.setting("ACCOUNT") if account is None else account
    if named is None:
        return None
    name = choose_credential(named, read_store()).account
    if name is None:
        raise ChatGPTError(
            "That is an access token, which is not signed in here. Take it out of where it "
            "is set: llm's keys.json, LLM_CHATGPT_ACCOUNT or CODEX_ACCESS_TOKEN."
        )
    return name


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
