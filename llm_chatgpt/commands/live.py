"""`llm chatgpt doctor --live`: asks for consent, runs the checks, and prints the report."""

from __future__ import annotations

import dataclasses
import pathlib
import sys

import click

from llm_chatgpt.commands import common, terminal
from llm_chatgpt.errors import ChatGPTError
from llm_chatgpt.files import os_reason, write_whole
from llm_chatgpt.live.checks import chosen_checks
from llm_chatgpt.live.recording import Exchange, recording
from llm_chatgpt.live.scrub import cassette
from llm_chatgpt.live.session import Line, LiveRun, run_check
from llm_chatgpt.login.credentials import get_tokens
from llm_chatgpt.login.routes import CODEX
from llm_chatgpt.text import notice, printable
from llm_chatgpt.waiting import Waiting

STATES = ("ok", "differs", "failed")


def check_live(
    account: str | None, *, all_: bool, yes: bool, folder: str | None, json_: bool
) -> None:
    """Run the live check and print its report. Exits with 1 unless every check is ok."""
    tokens = get_tokens(account)
    checks = chosen_checks(tokens, all_)
    if not yes:
        _confirm(sum(check.requests for check in checks))
    report = {
        "versions": common.versions(),
        "route": "Codex" if tokens.route is CODEX else "official",
        "plan": printable(tokens.plan or "unknown", 40),
    }
    if not json_:
        click.echo("\n".join(f"{name}: {value}" for name, value in report.items()))
        click.echo(f"checks: {len(checks)}\n")
    with recording() as exchanges:
        live = LiveRun(account, tokens, exchanges)
        try:
            for number, check in enumerate(checks, 1):
                with Waiting(f"Check {number} of {len(checks)}: {check.name}"):
                    live.lines.append(run_check(live, check, later=checks[number:]))
                if not json_:
                    _echo(live.lines[-1])
        except KeyboardInterrupt:
            notice(f"Stopped after {len(live.lines)} of {len(checks)} checks.")
    complete = len(live.lines) == len(checks)
    ok = complete and all(line.state == "ok" for line in live.lines)
    if json_:
        report["model"] = live.info.model_id
        lines = [dataclasses.asdict(line) for line in live.lines]
        common.echo_json({"ok": ok, "complete": complete, **report, "lines": lines})
    else:
        click.echo(f"\n{_summary(live.lines, len(checks))}")
    if folder is not None:
        _write_cassette(exchanges, pathlib.Path(folder) / f"live_{report['route'].lower()}.yaml")
    if not ok:
        sys.exit(1)


def _confirm(requests: int) -> None:
    """Ask whether to go on. Raises ChatGPTError without a terminal, Abort if the user declines."""
    cost = f"sends up to {requests} small requests, which count against your plan's limits"
    if not terminal.is_terminal(sys.stdin):
        raise ChatGPTError(f"The live check {cost}.", "Confirm that with --yes.")
    click.confirm(f"The live check {cost}. Go on?", abort=True, err=True)


def _echo(line: Line) -> None:
    differences = [f"{difference.fact}: {difference.text}" for difference in line.differences]
    text = f"{line.name}: {line.text} [{' '.join(line.facts)}]"
    common.echo_state(line.state, text, differences)


def _summary(lines: list[Line], planned: int) -> str:
    """Count the lines, and list the facts that this run confirms and contradicts."""
    counts = [f"{sum(line.state == state for line in lines)} {state}" for state in STATES]
    if len(lines) < planned:
        counts.append(f"{planned - len(lines)} not run")
    summary = [", ".join(counts)]
    contradicted = {difference.fact for line in lines for difference in line.differences}
    confirmed = {fact for line in lines if line.state == "ok" for fact in line.facts}
    for title, ids in (("confirmed", confirmed - contradicted), ("contradicted", contradicted)):
        if ids:
            summary.append(f"{title}: {' '.join(sorted(ids, key=lambda fact: int(fact[1:])))}")
    return "\n".join([*summary, "The facts are numbered in docs/protocol.md."])


def _write_cassette(exchanges: list[Exchange], path: pathlib.Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, f"{cassette(exchanges)}\n".encode())
    except OSError as error:
        raise ChatGPTError(f"Could not write {path} ({os_reason(error)}).") from error
    notice(f"Recorded in {path}; read it before you publish it.")
