"""llm chatgpt doctor --live: the question before it, and its report."""

from __future__ import annotations

import pathlib
import platform
import sys
from typing import Any

import click

from llm_chatgpt import clients, config
from llm_chatgpt.commands import common, terminal
from llm_chatgpt.errors import ChatGPTError
from llm_chatgpt.files import os_reason, write_whole
from llm_chatgpt.live.checks import Check, chosen_checks
from llm_chatgpt.live.recording import recording
from llm_chatgpt.live.scrub import cassette
from llm_chatgpt.live.session import Line, Live
from llm_chatgpt.live.verdict import run_check
from llm_chatgpt.login.credentials import get_tokens
from llm_chatgpt.login.routes import CODEX
from llm_chatgpt.login.tokens import Tokens
from llm_chatgpt.text import notice, printable
from llm_chatgpt.waiting import Waiting

STATES = ("ok", "differs", "failed")


def check_live(
    account: str | None, *, all_: bool, yes: bool, folder: str | None, json_: bool
) -> None:
    """Run the live check and print its report. Exits with 1 unless every line is ok."""
    tokens = get_tokens(account)
    checks = chosen_checks(tokens, all_)
    _ask(sum(check.requests for check in checks), yes)
    lines: list[Line] = []
    report = _about(tokens)
    if not json_:
        click.echo("\n".join(f"{name}: {value}" for name, value in report.items()))
        click.echo(f"checks: {len(checks)}\n")
    with recording() as recorded:
        live = Live(account, tokens, recorded)
        try:
            for number, check in enumerate(checks, 1):
                with Waiting(f"Check {number} of {len(checks)}: {check.name}"):
                    lines.append(run_check(live, check))
                if not json_:
                    _echo(lines[-1])
        except KeyboardInterrupt:
            notice(f"Stopped after {len(lines)} of {len(checks)} checks.")
    whole = len(lines) == len(checks)
    fine = whole and all(line.state == "ok" for line in lines)
    if json_:
        report["model"] = live.info.model_id
        common.echo_json({"ok": fine, "complete": whole, **report, "lines": _plain(lines)})
    else:
        click.echo(f"\n{_summary(lines, checks)}")
    if folder is not None:
        _record(recorded, pathlib.Path(folder), tokens)
    if not fine:
        sys.exit(1)


def _ask(requests: int, yes: bool) -> None:
    """Raises ChatGPTError if nobody can be asked, Abort if the user declines."""
    costs = f"sends up to {requests} small requests, which count against your plan's limits"
    if yes:
        return
    if not terminal.is_terminal(sys.stdin):
        raise ChatGPTError(f"The live check {costs}.", "Confirm that with --yes.")
    click.confirm(f"The live check {costs}. Go on?", abort=True, err=True)


def _about(tokens: Tokens) -> dict[str, str]:
    """What the report begins with."""
    library = clients.library()
    return {
        "versions": f"{config.user_agent()} {library.__name__}/{library.__version__} "
        f"Python/{platform.python_version()}",
        "route": "Codex" if tokens.route is CODEX else "official",
        "plan": printable(tokens.plan or "not told", 40),
    }


def _echo(line: Line) -> None:
    differences = [f"{fact}: {words}" for fact, words in line.differences]
    text = f"{line.name}: {printable(line.text, 400)} [{' '.join(line.facts)}]"
    common.echo_state(line.state, text, differences)


def _plain(lines: list[Line]) -> list[dict[str, Any]]:
    return [
        {**line._asdict(), "differences": [found._asdict() for found in line.differences]}
        for line in lines
    ]


def _summary(lines: list[Line], checks: list[Check]) -> str:
    """The counts, and the facts of docs/protocol.md that this run confirms and contradicts."""
    counts = [f"{sum(ln.state == state for ln in lines)} {state}" for state in STATES]
    if len(lines) < len(checks):
        counts.append(f"{len(checks) - len(lines)} not run")
    wrong = {found.fact for line in lines for found in line.differences}
    confirmed = {fact for line in lines if line.state == "ok" for fact in line.facts} - wrong
    parts = [", ".join(counts)]
    for words, ids in (("confirmed", confirmed), ("contradicted", wrong)):
        if ids:
            parts.append(f"{words}: {' '.join(sorted(ids, key=lambda fact: int(fact[1:])))}")
    return "\n".join([*parts, "The facts are numbered in docs/protocol.md."])


def _record(recorded: list[Any], folder: pathlib.Path, tokens: Tokens) -> None:
    path = folder / ("live_codex.yaml" if tokens.route is CODEX else "live_official.yaml")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, cassette(recorded).encode())
    except OSError as error:
        raise ChatGPTError(f"Could not write {path} ({os_reason(error)}).") from error
    except ValueError as error:
        raise ChatGPTError(f"The recording was not written: {error}.") from error
    notice(f"Recorded in {path}; read it before you publish it.")
