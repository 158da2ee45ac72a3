"""The command `doctor`: one function for each check."""

from __future__ import annotations

import contextlib
import os
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import click

from llm_chatgpt import config, http
from llm_chatgpt.backend.catalogue import stored_models
from llm_chatgpt.backend.refusals import RefusedRequest, explain_refusal
from llm_chatgpt.certificates import SETTINGS, tls_context
from llm_chatgpt.commands import chatgpt, common
from llm_chatgpt.errors import ChatGPTError, StoreError
from llm_chatgpt.login.credentials import Credential
from llm_chatgpt.login.login_file import store_path
from llm_chatgpt.login.routes import CODEX
from llm_chatgpt.login.tokens import Tokens, backend_headers
from llm_chatgpt.text import in_words, short_path
from llm_chatgpt.values import as_http_date

# A smaller difference between the clocks does no harm.
CLOCK_TOLERANCE_SECONDS = 5 * 60


class Finding(NamedTuple):
    """The result of one check. `state` is "ok", "warning" or "broken"."""

    name: str
    state: str
    text: str
    advice: str = ""


@chatgpt.command()
@common.account_option()
@click.option("--live", is_flag=True, help="Check with small prompts that the plugin works")
@click.option(
    "all_",
    "--all",
    is_flag=True,
    help="With --live: create an image, renew the login, switch models",
)
@click.option("--yes", is_flag=True, help="With --live: do not ask first")
@click.option(
    "folder",
    "--record",
    type=click.Path(file_okay=False),
    metavar="FOLDER",
    help="With --live: write recordings without secrets",
)
@common.json_option
def doctor(
    account: str | None, live: bool, all_: bool, yes: bool, folder: str | None, json_: bool
) -> None:
    """Diagnose problems and suggest fixes

    Sends one request to each of OpenAI's hosts and changes nothing. The output contains no
    secrets. Exits with 1 if something is broken.

    With --live, sends small prompts to a small model instead, and reports how the service
    differs from what the plugin expects. The prompts count against your plan's limits. You can
    paste the report into a public issue.

    \b
        llm chatgpt doctor
        llm chatgpt doctor --json
        llm chatgpt doctor --live
    """
    if live:
        from llm_chatgpt.commands.live import check_live

        check_live(account, all_=all_, yes=yes, folder=folder, json_=json_)
        return
    if all_ or yes or folder:
        raise click.UsageError("--all, --yes and --record need --live.")
    findings = []
    for finding in _examine(account):
        findings.append(finding)
        if not json_:
            text = f"{finding.name}: {finding.text}"
            common.echo_state(finding.state, text, [finding.advice])
    broken = any(finding.state == "broken" for finding in findings)
    if json_:
        common.echo_json({"ok": not broken, "findings": [f._asdict() for f in findings]})
    if broken:
        sys.exit(1)


def _examine(account: str | None) -> Iterator[Finding]:
    yield Finding("versions", "ok", common.versions())
    yield _storage()
    with contextlib.suppress(StoreError):
        yield _login_file(store_path())
    yield _proxies()
    yield _certificates()
    # Only the names: LLM_CHATGPT_ACCOUNT may contain a token.
    settings = [name for name in sorted(os.environ) if name.startswith("LLM_CHATGPT_")]
    if settings:
        yield Finding("settings", "ok", ", ".join(settings))
    try:
        credential, tokens = common.stored_login(account)
    except ChatGPTError as error:
        yield Finding("login", "broken", "no login to use", error.message)
        yield from _hosts(None, None)
        return
    yield _login(credential, tokens)
    yield from _hosts(credential.account, tokens)
    yield _models(tokens)


def _storage() -> Finding:
    error = common.storage_problem()
    if error is None:
        return Finding("storage", "ok", "logins can be stored")
    if error.code == "unwritable":
        return Finding("storage", "broken", "no login can be stored", error.message)
    advice = "If this lasts for more than a minute, end that program."
    return Finding("storage", "warning", "another program holds the lock", advice)


def _login_file(path: pathlib.Path) -> Finding:
    shown_path = short_path(path)
    if not path.exists():
        return Finding("login file", "ok", f"{shown_path} does not exist yet")
    mode = path.stat().st_mode & 0o777
    if mode & 0o077 and not config.WINDOWS:
        text = f"others can read {shown_path} (mode {mode:o})"
        return Finding("login file", "warning", text, f"Run 'chmod 600 {shown_path}'.")
    return Finding("login file", "ok", shown_path)


def _proxies() -> Finding:
    proxies = []
    for scheme, address in http.proxy_settings().items():
        with contextlib.suppress(ValueError):
            # The whole address may contain a password.
            url = urlsplit(address if "//" in address else f"//{address}")
            proxies.append(f"{scheme} through {url.hostname}:{url.port}")
    return Finding("proxies", "ok", ", ".join(proxies) or "none")


def _certificates() -> Finding:
    extra = [f"{name}={short_path(os.environ[name])}" for name in SETTINGS if os.environ.get(name)]
    try:
        tls_context()
    except ChatGPTError as error:
        return Finding("certificates", "broken", ", ".join(extra), error.message)
    return Finding("certificates", "ok", ", ".join(["the system's", *extra]))


def _login(credential: Credential, tokens: Tokens) -> Finding:
    """Judge the login in use."""
    ended, problem = common.problem_of(credential.account, tokens)
    user, _, host = (tokens.email or "").partition("@")
    anonymous = tokens._replace(email=f"{user[:1]}...@{host}" if host else None, workspace=None)
    text = f"{common.credential_words(credential)}: {common.user_words(anonymous)}"
    text += f", access token: {common.lifetime_words(tokens)}"
    return Finding("login", "broken" if ended else "warning" if problem else "ok", text, problem)


def _hosts(account: str | None, tokens: Tokens | None) -> Iterator[Finding]:
    """Send a request to each of the two hosts; compare this machine's clock with theirs."""
    date = None
    for name, ask, sent in (("sign-in host", _ask_issuer, None), ("backend", _ask_backend, tokens)):
        try:
            reply = ask(sent)
        except ChatGPTError as error:
            yield Finding(name, "broken", "not reached", error.message)
            continue
        date = date or reply.headers.get("date")
        yield _host(name, reply, account, sent)
    moment = as_http_date(date)
    if moment is not None:
        yield _clock(time.time() - moment)


def _ask_issuer(_: Tokens | None) -> http.Reply:
    """Request the issuer's public settings (P217), which need no login."""
    url = f"{config.issuer()}/.well-known/openid-configuration"
    return http.send("GET", url, headers={"User-Agent": config.user_agent()})


def _ask_backend(tokens: Tokens | None) -> http.Reply:
    """Request the model list (P11), without a login if there is none."""
    route = tokens.route if tokens else CODEX
    return http.send(
        "GET",
        route.base_url(tokens.origin if tokens else None) + route.models_path,
        headers=backend_headers(tokens) if tokens else {"User-Agent": config.user_agent()},
        params={"client_version": config.models_client_version()},
    )


def _host(name: str, reply: http.Reply, account: str | None, tokens: Tokens | None) -> Finding:
    """Judge a host by its answer. `tokens` are those in the request; None if it had none."""
    text = f"{reply.host} answers{_certificate_words(reply.certificate)}"
    # Cloudflare and proxies block with other statuses than 404.
    if reply.is_web_page and reply.status != 404:
        return Finding(name, "broken", text, " ".join(reply.web_page_error))
    if reply.status >= 500:
        return Finding(name, "warning", f"OpenAI server error ({reply.status})", "Try again later.")
    if tokens and reply.status == 401:
        ended, problem = common.problem_of(account, tokens, rejected=True)
        state = "broken" if ended else "warning"
        advice = problem or "The next prompt tries to renew it."
        return Finding(name, state, f"{text}, but rejects the access token", advice)
    if tokens and reply.status == 403:
        request = RefusedRequest(tokens, tokens.route.login_command(account))
        advice = explain_refusal(reply, request).message
        return Finding(name, "broken", f"{text}, but refuses this account", advice)
    return Finding(name, "ok", text)


def _certificate_words(certificate: Mapping[str, Any] | None) -> str:
    """Name a certificate's issuer and expiry; empty where the operating system does not show it."""
    if not certificate:
        return ""
    issuer = {key: value for pairs in certificate["issuer"] for key, value in pairs}
    name = issuer.get("organizationName") or issuer.get("commonName")
    return f", certificate from {name} until {certificate['notAfter']}"


def _clock(ahead: float) -> Finding:
    """Judge this machine's clock, which is `ahead` seconds ahead of OpenAI's."""
    if abs(ahead) <= CLOCK_TOLERANCE_SECONDS:
        return Finding("clock", "ok", "in sync")
    direction = "ahead of" if ahead > 0 else "behind"
    text = f"{in_words(abs(ahead))} {direction} OpenAI's servers"
    return Finding("clock", "warning", text, "Set this machine's clock.")


def _models(tokens: Tokens) -> Finding:
    models = stored_models(tokens)
    if not models.fetched_at:
        return Finding("models", "warning", "not fetched yet", "Run 'llm chatgpt refresh'.")
    age = time.time() - models.fetched_at
    fetched = "just now" if age < 60 else f"{in_words(age)} ago"
    return Finding("models", "ok", f"{len(models.listed)}, fetched {fetched}")
