"""The `llm chatgpt` group, and what its commands have in common."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import click

from llm_chatgpt.errors import RequestRefused
from llm_chatgpt.login.current import Credential, choose_credential, get_tokens, present_tokens
from llm_chatgpt.login.store import read_store
from llm_chatgpt.login.tokens import Tokens
from llm_chatgpt.text import in_words, local_time, notice, printable


@click.group()
def chatgpt() -> None:
    """Sign in with a ChatGPT subscription and use its models"""


def account_option(function: Any) -> Any:
    return click.option(
        "--account", metavar="NAME", help="Which account; without it the one in use"
    )(function)


def ask_to_replace(yes: bool) -> Callable[[Tokens, Tokens], bool]:
    def replace(old: Tokens, new: Tokens) -> bool:
        if yes:
            return True
        notice(f"Signed in under that name is {who_is(old)}.\nThe new login is {who_is(new)}.")
        return sys.stdin.isatty() and click.confirm("Replace the old login?", err=True)

    return replace


def who_is(tokens: Tokens) -> str:
    email = printable(tokens.email, 100) if tokens.email else "an account without an email"
    plan = f"plan {printable(tokens.plan, 40)}" if tokens.plan else "plan unknown"
    account = f"account {printable(tokens.account_id, 60)}" if tokens.account_id else "no account"
    return f"{email} ({plan}, {account})"


def credential_words(credential: Credential) -> str:
    what = f"the account {credential.account}" if credential.account else "an access token"
    return f"{printable(what)} ({credential.reason})"


def echo_table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(printable(cell)) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (printable(cell).ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


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
