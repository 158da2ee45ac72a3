"""llm chatgpt usage."""

from __future__ import annotations

import json
import logging

import click

from llm_chatgpt import config
from llm_chatgpt.backend.fetch import fetch_usage
from llm_chatgpt.backend.usage import UsageWindow, windows_of_usage
from llm_chatgpt.commands.common import account_option, chatgpt, with_login
from llm_chatgpt.text import printable
from llm_chatgpt.values import as_list, as_mapping, as_number

log = logging.getLogger("llm_chatgpt_oauth")


@chatgpt.command()
@account_option
@click.option(
    "json_", "--json", is_flag=True, help="Output all that the server tells of it as JSON"
)
def usage(account: str | None, json_: bool) -> None:
    """Show how much of the plan's allowances is left

    \b
        llm chatgpt usage
    """
    told = with_login(account, fetch_usage)
    # Who it is stays out of what a script may log.
    report = {k: v for k, v in told.items() if k not in ("user_id", "account_id", "email")}
    if json_:
        click.echo(json.dumps(report, indent=2))
        return
    plan = report.get("plan_type")
    click.echo(f"Plan: {printable(plan, 40) if plan else 'unknown'}")
    for window in windows_of_usage(report.get("rate_limit")):
        click.echo(_window_line(window.name, window))
    additional = report.get("additional_rate_limits")
    for limit in as_list(additional):
        name = printable(as_mapping(limit).get("limit_name") or "another limit", 60)
        for window in windows_of_usage(as_mapping(limit).get("rate_limit")):
            click.echo(_window_line(f"{name}, {window.name}", window))
    credits_ = as_mapping(report.get("credits"))
    if credits_.get("unlimited") is True:
        click.echo("Credits: unlimited")
    elif credits_.get("has_credits") is True:
        click.echo(f"Credits: {printable(credits_.get('balance'), 40)}")
    individual = as_mapping(as_mapping(report.get("spend_control")).get("individual_limit"))
    if individual:
        used, limit = individual.get("used"), individual.get("limit")
        resets_at = as_number(individual.get("reset_at"))
        resets = UsageWindow(0, 0, resets_at).reset_words
        click.echo(f"Spending: {printable(used, 40)} of {printable(limit, 40)}{resets}")
    click.echo(f"More: {config.USAGE_PAGE}")


def _window_line(name: str, window: UsageWindow) -> str:
    # Plain characters, which every terminal and pipe can print.
    filled = round(window.left_percent / 5)
    bar = "#" * filled + "." * (20 - filled)
    return f"{name:<8} [{bar}] {window.left_percent:3.0f} % left{window.reset_words}"
