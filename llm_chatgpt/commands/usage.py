"""llm chatgpt usage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from llm_chatgpt import config
from llm_chatgpt.backend.fetch import fetch_usage
from llm_chatgpt.backend.usage import UsageWindow, windows_of_usage
from llm_chatgpt.commands import group
from llm_chatgpt.text import printable
from llm_chatgpt.values import as_list, as_mapping, as_number


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
    answer = group.with_login(account, fetch_usage)
    # A script may log its output, so it gets no names and ids.
    report = {k: v for k, v in answer.items() if k not in ("user_id", "account_id", "email")}
    if json_:
        group.echo_json(report)
    else:
        _echo_usage(report)


def _echo_usage(report: Mapping[str, Any]) -> None:
    click.echo(f"Plan: {group.plan_name(report.get('plan_type'))}")
    _echo_windows("", report.get("rate_limit"))
    for limit in map(as_mapping, as_list(report.get("additional_rate_limits"))):
        name = printable(limit.get("limit_name") or "another limit", 60)
        _echo_windows(f"{name}, ", limit.get("rate_limit"))
    credits_ = as_mapping(report.get("credits"))
    if credits_.get("unlimited") is True:
        click.echo("Credits: unlimited")
    elif credits_.get("has_credits") is True:
        click.echo(f"Credits: {printable(credits_.get('balance'), 40)}")
    spending = as_mapping(as_mapping(report.get("spend_control")).get("individual_limit"))
    if spending:
        used, of = printable(spending.get("used"), 40), printable(spending.get("limit"), 40)
        resets = UsageWindow(0, 0, as_number(spending.get("reset_at"))).reset_words
        click.echo(f"Spending: {used} of {of}{resets}")
    click.echo(f"Details: {config.USAGE_PAGE}")


def _echo_windows(prefix: str, rate_limit: object) -> None:
    for window in windows_of_usage(rate_limit):
        # ASCII characters, which every terminal and pipe can print.
        filled = round(window.left_percent / 5)
        bar = "#" * filled + "." * (20 - filled)
        left = f"{window.left_percent:3.0f}% left"
        click.echo(f"{prefix + window.name:<8} [{bar}] {left}{window.reset_words}")
