"""llm chatgpt usage and reset."""

from __future__ import annotations

import functools
import sys
import uuid
from collections.abc import Mapping
from typing import Any

import click

from llm_chatgpt import config
from llm_chatgpt.backend.fetch import fetch_resets, fetch_usage, redeem_reset
from llm_chatgpt.backend.usage import (
    BankedResets,
    reset_moment,
    reset_words,
    resets_of_usage,
    windows_of_usage,
)
from llm_chatgpt.commands import group, terminal
from llm_chatgpt.errors import ChatGPTError
from llm_chatgpt.login.tokens import Tokens
from llm_chatgpt.text import from_now, notice, printable
from llm_chatgpt.values import as_list, as_mapping


@group.chatgpt.command()
@group.account_option()
@group.json_option
def usage(account: str | None, json_: bool) -> None:
    """Show how much of your plan's limits is left

    \b
        llm chatgpt usage
    """
    tokens = group.present_login(account)
    if tokens and not tokens.route.tells_usage:
        if json_:
            group.echo_json({"kind": tokens.kind, "details": config.USAGE_PAGE})
        else:
            click.echo("OpenAI's official sign-in does not tell how much of your plan is used.")
            click.echo(f"Manage usage: {config.USAGE_PAGE}")
        return
    report = group.with_login(account, _fetch_report)
    if json_:
        group.echo_json(report)
    else:
        click.echo("\n".join(_lines(report)))


def _fetch_report(tokens: Tokens, login: str) -> dict[str, Any]:
    """The server's figures, and under `banked_resets` the resets that are banked."""
    answer = fetch_usage(tokens, login)
    # A script may log its output, so it gets no names and ids.
    report = {k: v for k, v in answer.items() if k not in ("user_id", "account_id", "email")}
    resets = resets_of_usage(answer)
    if resets and resets.available:
        try:
            # The server has already told how many there are.
            resets = resets._replace(first_expires_at=fetch_resets(tokens, login).first_expires_at)
        except ChatGPTError as error:
            notice(f"Warning: could not find out when a banked reset expires. {error.message}")
    report["banked_resets"] = resets._asdict() if resets else None
    return report


def _lines(report: Mapping[str, Any]) -> list[str]:
    lines = [f"Plan: {group.plan_name(report.get('plan_type'))}"]
    lines += _windows("", report.get("rate_limit"))
    for limit in map(as_mapping, as_list(report.get("additional_rate_limits"))):
        name = printable(limit.get("limit_name") or "another limit", 60)
        lines += _windows(f"{name}, ", limit.get("rate_limit"))
    if report["banked_resets"]:
        resets = BankedResets(**report["banked_resets"])
        end = resets.first_expires_at
        first = "" if end is None else f"; the first expires {from_now(end)}"
        lines.append(f"Banked resets: {resets.available}{first}")
    credits_ = as_mapping(report.get("credits"))
    if credits_.get("unlimited") is True:
        lines.append("Credits: unlimited")
    elif credits_.get("has_credits") is True:
        lines.append(f"Credits: {printable(credits_.get('balance'), 40)}")
    spending = as_mapping(as_mapping(report.get("spend_control")).get("individual_limit"))
    if spending:
        used, of = printable(spending.get("used"), 40), printable(spending.get("limit"), 40)
        resets_at = reset_moment(spending.get("reset_at"), spending.get("reset_after_seconds"))
        lines.append(f"Spending: {used} of {of}{reset_words(resets_at)}")
    return [*lines, f"Details: {config.USAGE_PAGE}"]


def _windows(prefix: str, rate_limit: object) -> list[str]:
    lines = []
    for window in windows_of_usage(rate_limit):
        # ASCII characters, which every terminal and pipe can print; with the time of the reset
        # the line fits 80 columns.
        filled = round(window.left_percent / 10)
        bar = "#" * filled + "." * (10 - filled)
        left = f"{window.left_percent:3.0f}% left"
        lines.append(f"{prefix + window.name:<8} [{bar}] {left}{window.reset_words}")
    return lines


# What the server can say instead of "reset" (docs/protocol.md).
_NOT_RESET = {
    "nothing_to_reset": "There is nothing to reset, so no banked reset was used.",
    "no_credit": "No reset is banked. Wait until the limits reset; see 'llm chatgpt usage'.",
}


@group.chatgpt.command()
@group.account_option()
@click.option("--yes", is_flag=True, help="Use the reset without asking")
@group.json_option
def reset(account: str | None, yes: bool, json_: bool) -> None:
    """Use a banked reset to clear your plan's limits

    OpenAI grants such resets now and then. One clears the 5-hour and the weekly
    limit at once, and cannot be taken back. Exits with 1 if nothing was reset.

    \b
        llm chatgpt reset
        llm chatgpt reset --yes
    """
    if not yes and not terminal.is_terminal(sys.stdin):
        raise ChatGPTError(
            "Nothing was sent: a reset cannot be taken back, so the command asks first. Run it in "
            "a terminal, or use --yes."
        )
    tokens = group.present_login(account)
    if tokens and not tokens.route.tells_usage:
        raise ChatGPTError(
            "Nothing was sent: OpenAI's official sign-in has no banked resets. Name another login "
            "with --account."
        )
    report, who = group.with_login(
        account, lambda t, login: (_fetch_report(t, login), group.who_is(t))
    )
    banked = report["banked_resets"]
    if banked and not banked["available"]:
        raise ChatGPTError(_NOT_RESET["no_credit"])
    notice("\n".join(_lines(report)))
    if not yes:
        notice(f"\nA reset clears these limits of {who} now.\nIt cannot be taken back.")
        click.confirm("Use one banked reset?", abort=True, err=True)
    # One for all attempts, so that they spend one reset together.
    redeem = functools.partial(redeem_reset, request_id=str(uuid.uuid4()))
    code = group.with_login(account, redeem)
    if code != "reset":
        said = (
            f"OpenAI did not say that the limits were reset ({printable(code or 'no code', 60)})."
        )
        raise ChatGPTError(_NOT_RESET.get(code, f"{said} See 'llm chatgpt usage'."))
    try:
        report = group.with_login(account, _fetch_report)
    except ChatGPTError as error:
        notice(f"Warning: could not fetch the usage after it. {error.message}")
        report = None
    if json_:
        group.echo_json({"reset": True, "usage": report})
    else:
        click.echo("\n".join(["The limits were reset.", *(_lines(report) if report else [])]))
