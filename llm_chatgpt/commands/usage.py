"""The commands `usage` and `reset`."""

from __future__ import annotations

import functools
import sys
import uuid
from collections.abc import Mapping
from typing import Any

import click

from llm_chatgpt import config
from llm_chatgpt.backend import usage as limits
from llm_chatgpt.backend.catalogue import RESERVE
from llm_chatgpt.backend.endpoints import fetch_first_expiry, fetch_usage, redeem_reset
from llm_chatgpt.backend.reached_limit import option_for_key, plan_name
from llm_chatgpt.commands import chatgpt, common, terminal
from llm_chatgpt.errors import ChatGPTError
from llm_chatgpt.login.credentials import with_login
from llm_chatgpt.login.login_file import read_store
from llm_chatgpt.login.tokens import Tokens
from llm_chatgpt.text import from_now, notice, printable
from llm_chatgpt.values import as_mapping


@chatgpt.command()
@common.account_option()
@click.option("all_", "--all", is_flag=True, help="Show all accounts")
@click.option(
    "--min-left",
    type=click.FloatRange(0, 100),
    metavar="PERCENT",
    help="Exit with 1 if any limit has less than PERCENT left",
)
@common.json_option
def usage(account: str | None, all_: bool, min_left: float | None, json_: bool) -> None:
    """Show how much of your plan's limits is left

    With --min-left, exits with 1 if any limit has less than PERCENT left, so that a script
    can stop in time. Luna Reserve is not checked.

    \b
        llm chatgpt usage
        llm chatgpt usage --all --json
        llm chatgpt usage --min-left 10 && llm "prompt"
    """
    if all_ and account is not None:
        raise click.UsageError("--all cannot be combined with --account.")
    names = list(read_store().accounts) if all_ else []
    reports = [_report_or_error(name) for name in names] or [with_login(account, _fetch_report)]
    if json_:
        common.echo_json(reports if all_ else reports[0])
    else:
        common.echo("\n\n".join("\n".join(_lines(report, account)) for report in reports))
        common.echo(f"Details: {config.USAGE_PAGE}")
    problems = [_shortage(report, min_left) for report in reports if min_left is not None]
    for problem in filter(None, problems):
        # Unlike JSON, the lines above have already said that no usage is reported.
        if json_ or problem != _UNREPORTED:
            notice(problem)
    if any(problems) or any("error" in report for report in reports):
        sys.exit(1)


def _report_or_error(account: str) -> dict[str, Any]:
    """Fetch an account's usage, or report the error that prevented it."""
    try:
        return {"account": account, **with_login(account, _fetch_report)}
    except ChatGPTError as error:
        return {"account": account, "error": error.message}


def _fetch_report(tokens: Tokens, login: str) -> dict[str, Any]:
    """Fetch the usage without names and ids, and add `banked_resets`.

    On the official route, which reports no usage (P219), sends nothing; `details` is then the
    address of the page that shows the usage.
    """
    if not tokens.route.reports_usage:
        return {"kind": tokens.kind, "details": config.USAGE_PAGE}
    answer = fetch_usage(tokens, login)
    # A script may log its output, so it gets no names and ids.
    report = {k: v for k, v in answer.items() if k not in ("user_id", "account_id", "email")}
    available, expires_at = limits.banked_resets(answer), None
    if available:
        try:
            expires_at = fetch_first_expiry(tokens, login)
        except ChatGPTError as error:
            notice(f"Warning: could not find out when a banked reset expires. {error.message}")
    resets = {"available": available, "first_expires_at": expires_at}
    report["banked_resets"] = None if available is None else resets
    return report


_UNREPORTED = "OpenAI's official sign-in does not report your plan's usage."


def _shortage(report: Mapping[str, Any], min_left: float) -> str:
    """Build the message about limits below --min-left; empty if there are none, or for an error.

    For the official route, the message says that it reports no usage.
    """
    if "details" in report:
        return _UNREPORTED
    left = {
        _name_of(limit): limit.left_percent
        for limit in limits.limits_of_usage(report)
        if limit.name != limits.RESERVE_LIMIT
    }
    left["spending"] = limits.spending_left(report)
    low = [f"{name} limit ({rest:.3g}%)" for name, rest in left.items() if rest < min_left]
    account = f" for account {printable(report['account'])}" if "account" in report else ""
    return f"Less than {min_left:g}% is left{account}: {', '.join(low)}." if low else ""


def _name_of(limit: limits.Limit) -> str:
    """Name a limit and its window with the least left: '5-hour', 'gpt-6-astra weekly'."""
    window = min(limit.windows, key=lambda window: window.left_percent, default=None)
    names = (printable(limit.name, 60), window.name if window else "")
    return " ".join(filter(None, names)) or "plan's"


def _lines(report: Mapping[str, Any], account: str | None) -> list[str]:
    """Describe a report, one fact per line.

    `account` is the user's --account. With --all, the report names its account instead.
    """
    lines = [f"Account: {printable(report['account'])}"] if "account" in report else []
    if "error" in report or "details" in report:
        return [*lines, report.get("error", _UNREPORTED)]
    lines.append(f"Plan: {plan_name(report.get('plan_type'))}")
    for limit in limits.limits_of_usage(report):
        if limit.name == limits.RESERVE_LIMIT:
            lines += ["Luna Reserve, for when these limits are used up:", *_windows("", limit)]
            name = report.get("account") or account
            key = "" if name == read_store().default else option_for_key("--key", name)
            lines.append(f'Use it: llm -m {RESERVE.model_id}{key} "prompt"')
        else:
            lines += _windows(f"{printable(limit.name, 60)}, " if limit.name else "", limit)
    if resets := report["banked_resets"]:
        expires_at = resets["first_expires_at"]
        expiry = "" if expires_at is None else f"; the first expires {from_now(expires_at)}"
        lines.append(f"Banked resets: {resets['available']}{expiry}")
    credits_ = as_mapping(report.get("credits"))
    if credits_.get("unlimited") is True:
        lines.append("Credits: unlimited")
    elif credits_.get("has_credits") is True:
        lines.append(f"Credits: {printable(credits_.get('balance'), 40)}")
    spending = as_mapping(as_mapping(report.get("spend_control")).get("individual_limit"))
    if spending:
        used, allowed = printable(spending.get("used"), 40), printable(spending.get("limit"), 40)
        reset_words = limits.reset_words(limits.reset_moment(spending))
        lines.append(f"Spending: {used} of {allowed}{reset_words}")
    return lines


def _windows(prefix: str, limit: limits.Limit) -> list[str]:
    """Describe each window of a limit in one line, with a bar."""
    lines = []
    for window in limit.windows:
        # ASCII characters, which every terminal and pipe can print; with the time of the reset
        # the line fits 80 columns.
        filled = round(window.left_percent / 10)
        bar = "#" * filled + "." * (10 - filled)
        left = f"{window.left_percent:3.0f}% left{limits.reset_words(window.resets_at)}"
        lines.append(f"{prefix + window.name:<8} [{bar}] {left}")
    return lines


# Messages for the server's codes other than "reset" (P210).
_NOT_RESET = {
    "nothing_to_reset": "There is nothing to reset, so no banked reset was used.",
    "no_credit": "No reset is banked. Wait until the limits reset.",
}


@chatgpt.command()
@common.account_option()
@click.option("--yes", is_flag=True, help="Use the reset without asking")
@common.json_option
def reset(account: str | None, yes: bool, json_: bool) -> None:
    """Use a banked reset to clear your plan's limits

    OpenAI grants such resets now and then. One clears the 5-hour and the weekly
    limit at once, and cannot be undone. Exits with 1 if nothing was reset.

    \b
        llm chatgpt reset
        llm chatgpt reset --yes
    """
    if not yes and not terminal.is_terminal(sys.stdin):
        raise ChatGPTError(
            "Nothing was sent: a reset cannot be undone, so the command asks first.",
            "Run it in a terminal, or use --yes.",
        )
    report, user = with_login(
        account, lambda t, login: (_fetch_report(t, login), common.user_words(t))
    )
    if "details" in report:
        raise ChatGPTError(
            "Nothing was sent: OpenAI's official sign-in has no banked resets.",
            "Choose another login with --account.",
        )
    banked = report["banked_resets"]
    if banked and not banked["available"]:
        raise _not_reset("no_credit", account)
    notice("\n".join(_lines(report, account)))
    if not yes:
        notice(f"\nA reset clears these limits for {user}.\nThis cannot be undone.")
        click.confirm("Use one banked reset?", abort=True, err=True)
    # One id for all attempts, so that together they use only one reset.
    redeem = functools.partial(redeem_reset, request_id=str(uuid.uuid4()))
    code = with_login(account, redeem)
    if code != "reset":
        raise _not_reset(code, account)
    after: dict[str, Any] | None = None
    try:
        after = with_login(account, _fetch_report)
    except ChatGPTError as error:
        notice(f"Warning: could not fetch the usage after the reset. {error.message}")
    if json_:
        common.echo_json({"reset": True, "usage": after})
    else:
        usage_lines = [*_lines(after, account), f"Details: {config.USAGE_PAGE}"] if after else []
        common.echo("\n".join(["The limits were reset.", *usage_lines]))


def _not_reset(code: str | None, account: str | None) -> ChatGPTError:
    """Build the error for a code of the server other than "reset"."""
    shown_code = printable(code or "no code", 60)
    unknown = f"OpenAI did not say that the limits were reset ({shown_code})."
    option = option_for_key("--account", account)
    return ChatGPTError(_NOT_RESET.get(code or "", unknown), f"See 'llm chatgpt usage{option}'.")
