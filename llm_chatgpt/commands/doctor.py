"""llm chatgpt doctor."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import click

from llm_chatgpt import clients, config, http
from llm_chatgpt.backend.catalogue import remembered_models
from llm_chatgpt.backend.reached_limit import plan_name
from llm_chatgpt.backend.refusals import RefusedRequest, explain_refusal
from llm_chatgpt.commands import chatgpt, common
from llm_chatgpt.errors import ChatGPTError, ConnectionFailed, StoreError
from llm_chatgpt.login.credentials import choose_credential, stored_tokens
from llm_chatgpt.login.login_file import read_store, store_path
from llm_chatgpt.login.routes import CODEX
from llm_chatgpt.login.tokens import Tokens, backend_headers
from llm_chatgpt.text import in_words, short_path
from llm_chatgpt.values import as_http_date

# A clock that is this wrong does no harm.
CLOCK_TOLERANCE_SECONDS = 5 * 60


class Finding(NamedTuple):
    """What `doctor` says about one thing. `state` is "ok", "warning" or "broken"."""

    name: str
    state: str
    text: str
    advice: str = ""


@chatgpt.command()
@common.account_option()
@click.option("--live", is_flag=True, help="Check with small prompts that the plugin works")
@click.option("all_", "--all", is_flag=True, help="With --live: also an image and a renewal")
@click.option("--yes", is_flag=True, help="With --live: do not ask first")
@click.option(
    "folder",
    "--record",
    type=click.Path(file_okay=False),
    help="With --live: write recordings without secrets",
)
@common.json_option
def doctor(
    account: str | None, live: bool, all_: bool, yes: bool, folder: str | None, json_: bool
) -> None:
    """Diagnose problems and suggest fixes

    Sends one request to each of OpenAI's hosts and changes nothing. The output contains no
    secrets. Exits with 1 if something is broken.

    With --live, sends small prompts to the cheapest model instead, which count against your
    plan's limits, and reports how the service differs from what the plugin expects. You can
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
            advice = [finding.advice] if finding.advice else []
            common.echo_state(finding.state, f"{finding.name}: {finding.text}", advice)
    broken = any(finding.state == "broken" for finding in findings)
    if json_:
        common.echo_json({"ok": not broken, "findings": [f._asdict() for f in findings]})
    if broken:
        sys.exit(1)


def _examine(account: str | None) -> Iterator[Finding]:
    library = clients.library()
    yield Finding(
        "versions",
        "ok",
        f"{config.user_agent()} {library.__name__}/{library.__version__}",
    )
    yield from _storage()
    yield _proxies()
    yield _certificates()
    # Only the names: LLM_CHATGPT_ACCOUNT may contain a token.
    names = [name for name in sorted(os.environ) if name.startswith("LLM_CHATGPT_")]
    if names:
        yield Finding("settings", "ok", ", ".join(names))
    tokens, if_rejected, finding = _login(account)
    yield finding
    yield from _hosts(tokens, if_rejected)
    if tokens:
        yield _models(tokens)


def _storage() -> Iterator[Finding]:
    error = common.storage_problem()
    if error and error.code == "unwritable":
        yield Finding("storage", "broken", "no login can be stored", error.message)
    elif error:
        advice = "If this lasts for more than a minute, end that program."
        yield Finding("storage", "warning", "another program holds the lock", advice)
    else:
        yield Finding("storage", "ok", "logins can be stored")
    with contextlib.suppress(StoreError):
        path = store_path()
        mode = path.stat().st_mode & 0o777 if path.exists() else 0
        if mode & 0o077 and not config.WINDOWS:
            text = f"others can read {short_path(path)} (mode {mode:o})"
            yield Finding("login file", "warning", text, f"Run 'chmod 600 {short_path(path)}'.")
        else:
            text = short_path(path) + ("" if mode else " does not exist yet")
            yield Finding("login file", "ok", text)


def _proxies() -> Finding:
    proxies = []
    for scheme, address in http.proxy_settings().items():
        with contextlib.suppress(ValueError):
            # The whole address may contain a password.
            parts = urlsplit(address if "//" in address else f"//{address}")
            proxies.append(f"{scheme} through {parts.hostname}:{parts.port}")
    return Finding("proxies", "ok", ", ".join(proxies) or "none")


def _certificates() -> Finding:
    from llm_chatgpt.certificates import SETTINGS, tls_context

    added = [f"{name}={short_path(os.environ[name])}" for name in SETTINGS if os.environ.get(name)]
    try:
        tls_context()
    except ChatGPTError as error:
        return Finding("certificates", "broken", ", ".join(added), error.message)
    return Finding("certificates", "ok", ", ".join(["the system's", *added]))


def _login(account: str | None) -> tuple[Tokens | None, str, Finding]:
    """The login in use, what to do if the backend rejects its access token (empty if it can be
    renewed), and what is known to be wrong with it."""
    try:
        store = read_store()
        credential = choose_credential(account, store)
    except ChatGPTError as error:
        return None, "", Finding("login", "broken", "not signed in", error.message)
    known = stored_tokens(credential, store)
    tokens = known or Tokens(credential.access_token or "", kind="access_token")
    ended, problem = common.problems(credential, tokens)
    text = common.credential_words(credential, store)
    if known:
        name, _, host = (known.email or "").partition("@")
        email = f"{name[:1]}...@{host}" if host else "no email"
        plan = f"{plan_name(known.plan)} plan" if known.plan else "unknown plan"
        if known.route.plan:
            plan = f"{known.route.plan} sign-in"
        text += f": {email}, {plan}, access token {common.lifetime_words(known, ended, problem)}"
    else:
        text += ", owner not checked yet"
    state = "broken" if ended else "warning" if problem else "ok"
    if_rejected, _ = common.problems(credential, tokens, rejected=tokens.access_token)
    return tokens, if_rejected, Finding("login", state, text, problem)


def _hosts(tokens: Tokens | None, if_rejected: str) -> Iterator[Finding]:
    """Each of the two hosts, asked once; then this machine's clock against theirs."""
    agent = {"User-Agent": config.user_agent()}
    date = None

    def ask_issuer() -> http.Reply:
        url = f"{config.issuer()}/.well-known/openid-configuration"
        return http.send("GET", url, headers=agent)

    def ask_backend() -> http.Reply:
        route = tokens.route if tokens else CODEX
        url = route.base_url(tokens.origin if tokens else None) + route.models_path
        version = config.models_client_version()
        headers = backend_headers(tokens) if tokens else agent
        return http.send("GET", url, headers=headers, params={"client_version": version})

    for name, ask in (("sign-in host", ask_issuer), ("backend", ask_backend)):
        try:
            reply = ask()
        except ConnectionFailed as error:
            yield Finding(name, "broken", f"{error.reason}.", error.advice)
        except ChatGPTError as error:
            yield Finding(name, "broken", "not checked", error.message)
        else:
            date = date or reply.headers.get("date")
            yield _host(name, reply, tokens if name == "backend" else None, if_rejected)
    yield _clock(date)


def _host(name: str, reply: http.Reply, tokens: Tokens | None, if_rejected: str) -> Finding:
    """What an answer says about a host, and about the login that was sent along (if any)."""
    text = f"{reply.host} answers, {_certificate_words(reply.certificate)}"
    if reply.is_web_page and reply.status != 404:
        return Finding(name, "broken", text, " ".join(reply.web_page_advice))
    if reply.status >= 500:
        return Finding(name, "warning", f"OpenAI server error ({reply.status})", "Try again later.")
    if tokens and reply.status == 401:
        state = "broken" if if_rejected else "warning"
        advice = if_rejected or "The next prompt tries to renew it."
        return Finding(name, state, f"{text}, but rejects the access token", advice)
    if tokens and reply.status == 403:
        advice = explain_refusal(reply, RefusedRequest(tokens)).message
        return Finding(name, "broken", f"{text}, but refuses this account", advice)
    return Finding(name, "ok", text)


def _certificate_words(certificate: Mapping[str, Any] | None) -> str:
    if certificate is None:
        return "without TLS"
    issuer = {key: value for part in certificate.get("issuer", ()) for key, value in part}
    name = issuer.get("organizationName") or issuer.get("commonName")
    # Where the system itself checks certificates, it does not show them.
    words = f"certificate from {name or 'an issuer that the system trusts'}"
    return f"{words} until {certificate['notAfter']}" if "notAfter" in certificate else words


def _clock(date: str | None) -> Finding:
    moment = as_http_date(date)
    if moment is None:
        advice = "Fix the connection first, then run 'llm chatgpt doctor' again."
        return Finding("clock", "warning", "not checked, because no server answered", advice)
    ahead = time.time() - moment
    if abs(ahead) <= CLOCK_TOLERANCE_SECONDS:
        return Finding("clock", "ok", "in sync")
    way = "ahead of" if ahead > 0 else "behind"
    text = f"{in_words(abs(ahead))} {way} OpenAI's servers"
    return Finding("clock", "warning", text, "Set this machine's clock.")


def _models(tokens: Tokens) -> Finding:
    models = remembered_models(tokens)
    if not models.fetched_at:
        return Finding("models", "warning", "not fetched yet", "Run 'llm chatgpt refresh'.")
    age = time.time() - models.fetched_at
    fetched = "just now" if age < 60 else f"{in_words(age)} ago"
    return Finding("models", "ok", f"{len(models.listed)}, fetched {fetched}")
