"""Options, output and phrases that the commands share."""

from __future__ import annotations

import functools
import itertools
import json
import sys
import time
from collections.abc import Iterable, Sequence

import click

from llm_chatgpt import clients, config
from llm_chatgpt.backend.reached_limit import plan_name
from llm_chatgpt.commands import terminal
from llm_chatgpt.errors import ChatGPTError, RefreshFailed, StoreError
from llm_chatgpt.login.credentials import (
    Credential,
    Rejection,
    choose_credential,
    must_renew,
    stored_tokens,
)
from llm_chatgpt.login.login_file import locked_store, read_store
from llm_chatgpt.login.new_login import workspace_words
from llm_chatgpt.login.tokens import Tokens, still_works
from llm_chatgpt.text import fitted, from_now, notice, printable
from llm_chatgpt.waiting import width


def complete_account(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    """List the accounts whose names begin with the text typed so far."""
    try:
        return [name for name in read_store().accounts if name.startswith(incomplete)]
    except ChatGPTError:
        return []


account_option = functools.partial(
    click.option,
    "--account",
    metavar="NAME",
    shell_complete=complete_account,
    help="Account name (default: the account that prompts use)",
)
json_option = click.option("json_", "--json", is_flag=True, help="Output as JSON")
yes_option = click.option("--yes", is_flag=True, help="Replace the old login without asking")


def echo_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2))


def echo(text: str) -> None:
    """Print a result. On a terminal, wrap long lines."""
    click.echo(fitted(text, sys.stdout, indent=2))


def echo_state(state: str, text: str, details: Iterable[str] = ()) -> None:
    """Print an entry of a report: its state and text, and the details below."""
    lines = [f"{state:<8} {printable(text, 1000)}"]
    lines += [f"{'':<8} -> {printable(detail, 1000)}" for detail in filter(None, details)]
    report = fitted("\n".join(lines), sys.stdout, indent=12)
    colour = {"ok": "green", "broken": "red", "failed": "red"}.get(state, "yellow")
    # Coloured last, because `fitted` would count the colour codes as text.
    click.echo(report.replace(state, terminal.styled(state, fg=colour), 1))


def echo_table(rows: list[tuple[str, ...]], notes: Sequence[str] = ()) -> None:
    """Print aligned columns; the first row holds the titles. `notes[i]` is printed below `rows[i]`.

    On a terminal that is too narrow, the widest columns are shortened. Names stay whole, because
    users copy them.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    note_width = 500
    if terminal.is_terminal(sys.stdout):
        note_width = width() - 3
        shortenable = [n for n, title in enumerate(rows[0]) if title not in ("NAME", "MODEL")]
        for _ in range(sum(widths) + 2 * len(widths) - width() - 1):
            widest = max(shortenable, key=widths.__getitem__)
            widths[widest] = max(widths[widest] - 1, 6)
    for row, note in itertools.zip_longest(cells, notes):
        padded = [printable(cell, size).ljust(size) for cell, size in zip(row, widths, strict=True)]
        click.echo("  ".join(padded).rstrip())
        if note:
            click.echo(f"  {printable(note, note_width)}")


def versions() -> str:
    """Name the versions of the plugin, the system, Python, llm and the HTTP library."""
    library = clients.library()
    return f"{config.user_agent()} {library.__name__}/{library.__version__}"


def user_words(tokens: Tokens) -> str:
    """Describe a login's user: 'ada@example.com (Plus plan, Acme)'."""
    if tokens.kind == "access_token" and tokens.account_id is None:
        return "the token's owner (not checked yet)"
    user = printable(tokens.email, 100) if tokens.email else "an account without an email"
    plan = f"{plan_name(tokens.plan)} plan" if tokens.plan else ""
    if tokens.route.plan:
        plan = f"ChatGPT plan, {tokens.route.plan}"
    details = ", ".join(filter(None, (plan, printable(tokens.workspace or "", 60))))
    return f"{user} ({details})" if details else user


def stored_login(key: str | None) -> tuple[Credential, Tokens]:
    """Choose a login, and read its tokens without a request.

    For an access token whose owner is not stored, the tokens name no owner. Raises NotSignedIn,
    StoreError.
    """
    store = read_store()
    credential = choose_credential(key, store)
    ownerless = Tokens(credential.access_token or "", kind="access_token")
    return credential, stored_tokens(credential, store) or ownerless


def credential_words(credential: Credential) -> str:
    """Name the account in use and, unless it is the default, why it is used."""
    if credential.account and credential.account == read_store().default:
        return printable(credential.account)
    return printable(f"{credential.account or 'an access token'} ({credential.reason})")


def problem_of(account: str | None, tokens: Tokens, *, rejected: bool = False) -> tuple[bool, str]:
    """Check without a request whether a login has ended, and explain its problem.

    A login has ended if it can be neither used nor renewed. The explanation says why it has ended
    or cannot be renewed, and names the next step; it is empty if there is no problem. `rejected`
    says that the backend has refused the access token.
    """
    try:
        must_renew(account, tokens, Rejection(tokens.access_token if rejected else None))
    except RefreshFailed as error:
        return True, error.message
    return False, tokens.refusal or ""


def storage_problem() -> StoreError | None:
    """Return the error that storing a login now would raise, or None. Its code is "unwritable",
    unless another program holds the lock."""
    try:
        with locked_store(0) as writer:
            writer.probe()
    except StoreError as error:
        return error
    return None


def lifetime_words(tokens: Tokens) -> str:
    """Say when an access token expires and how it is renewed."""
    if tokens.kind == "access_token":
        return "no expiry date; cannot be renewed"
    ended, problem = problem_of(None, tokens)
    if ended and tokens.renewable:
        return "expired, sign in again"
    expired = not still_works(tokens, time.time())
    if tokens.kind == "codex":
        renewal = "renew it with Codex CLI, then run 'llm chatgpt import'"
    elif problem:
        renewal = "cannot be renewed"
    elif tokens.route.refresh_leeway is None:
        renewal = "renews when OpenAI asks for it"
    else:
        renewal = "the next prompt renews it" if expired else "renews automatically"
    if tokens.expires_at is None:
        return f"no expiry date; {renewal}"
    return f"{'expired' if expired else 'expires'} {from_now(tokens.expires_at)}; {renewal}"


def may_replace(yes: bool, old: Tokens, new: Tokens) -> bool:
    """Ask whether a new login may replace the old one.

    Returns True without asking if `yes`, and False if stdin is not a terminal.
    """
    if yes:
        return True
    notice(f"You are already signed in as {user_words(old)};\nthis login is {user_words(new)}.")
    if old.email == new.email:
        notice(f"Old workspace: {workspace_words(old)}\nNew workspace: {workspace_words(new)}")
    return terminal.is_terminal(sys.stdin) and click.confirm("Replace the old login?", err=True)
