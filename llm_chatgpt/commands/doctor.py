"""llm chatgpt doctor."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import click

from llm_chatgpt import config, http
from llm_chatgpt.backend.catalogue import models_path, remembered_models
from llm_chatgpt.backend.refusals import explain_refusal
from llm_chatgpt.commands.common import account_option, chatgpt, credential_words, lifetime_words
from llm_chatgpt.errors import ChatGPTError, RefreshFailed
from llm_chatgpt.login.current import check_usable, choose_credential, present_tokens
from llm_chatgpt.login.store import read_store, store_path
from llm_chatgpt.login.tokens import Tokens, backend_headers
from llm_chatgpt.text import in_words, printable


class Finding(NamedTuple):
    """What `doctor` says of one thing. `state` is "ok", "warning" or "broken"."""

    name: str
    state: str
    text: str
    advice: str = ""


@chatgpt.command()
@account_option
@click.option("json_", "--json", is_flag=True, help="Output as JSON")
def doctor(account: str | None, json_: bool) -> None:
    """Find out what is wrong, and say what to do about it

    Asks both of OpenAI's hosts once and changes nothing. What it prints holds no secret and
    can be shown to others. Exits with 1 if something is broken.

    \b
        llm chatgpt doctor
        llm chatgpt doctor --json
    """
    findings = []
    for finding in _findings(account):
        findings.append(finding)
        if not json_:
            click.echo(f"{finding.state:<8} {finding.name}: {printable(finding.text, 1000)}")
            if finding.advice:
                click.echo(f"{'':<8} -> {printable(finding.advice, 1000)}")
    broken = any(finding.state == "broken" for finding in findings)
    if json_:
        report = {"ok": not broken, "findings": [f._asdict() for f in findings]}
        click.echo(json.dumps(report, indent=2))
    if broken:
        sys.exit(1)


def _findings(account: str | None) -> Iterator[Finding]:
    yield _versions()
    yield from _files()
    yield _lock()
    yield from _network_settings()
    tokens, finding = _login_state(account)
    yield finding
    yield from _hosts(tokens)
    if tokens:
        models = remembered_models(tokens)
        if models is None:
            yield Finding("models", "warning", "no list yet", "Run 'llm chatgpt refresh'.")
        else:
            age = in_words(time.time() - models.fetched_at)
            yield Finding("models", "ok", f"{len(models.listed)}, fetched {age} ago")


def _versions() -> Finding:
    library = http.http_library()
    return Finding(
        "versions", "ok", f"{config.user_agent()} {library.__name__}/{library.__version__}"
    )


def _below_home(path: object) -> str:
    """A path without the person's name in it, as far as that is the home folder's."""
    text, home = str(path), os.path.expanduser("~")
    return "~" + text[len(home) :] if text.startswith(home + os.sep) else text


def _files() -> Iterator[Finding]:
    folder = store_path().parent
    for name, path in (("login file", store_path()), ("model list", models_path())):
        if not path.exists():
            yield Finding(name, "ok", f"{_below_home(path)} does not exist yet")
            continue
        mode = path.stat().st_mode & 0o777
        if not config.WINDOWS and path == store_path() and mode & 0o077:
            yield Finding(
                name,
                "warning",
                f"{_below_home(path)} can be read by others (mode {mode:o})",
                f"Run 'chmod 600 {_below_home(path)}'.",
            )
        elif not os.access(path, os.R_OK):
            text = f"{_below_home(path)} cannot be read by you"
            yield Finding(name, "broken", text, "Give yourself read access to it.")
        else:
            who = "" if mode & 0o077 or config.WINDOWS else ", readable by you alone"
            yield Finding(name, "ok", f"{_below_home(path)}{who}")
    if not os.access(folder, os.W_OK):
        yield Finding(
            "folder",
            "broken",
            f"{_below_home(folder)} cannot be written, so no renewed login can be kept",
            "Make it writable, or choose another with LLM_USER_PATH.",
        )


def _lock() -> Finding:
    import filelock

    path = f"{store_path()}.lock"
    if not os.path.exists(path):
        return Finding("lock", "ok", "free")
    try:
        with filelock.FileLock(path, timeout=0, mode=0o600):
            return Finding("lock", "ok", "free")
    except filelock.Timeout:
        return Finding(
            "lock",
            "warning",
            "held by another program",
            "If it stays so, end that program: a renewal takes a few seconds.",
        )
    except (OSError, NotImplementedError):
        return Finding(
            "lock",
            "broken",
            f"{_below_home(path)} cannot be locked",
            "Make the folder writable, or choose another with LLM_USER_PATH.",
        )


def _network_settings() -> Iterator[Finding]:
    # A proxy's address may hold a password.
    proxies = []
    for scheme, address in http.proxy_settings().items():
        with contextlib.suppress(ValueError):
            parts = urlsplit(address if "//" in address else f"//{address}")
            proxies.append(f"{scheme} by {parts.hostname}:{parts.port}")
    yield Finding("proxies", "ok", ", ".join(proxies) or "none")
    names = ("SSL_CERT_FILE", "SSL_CERT_DIR", "CODEX_CA_CERTIFICATE")
    chosen = [f"{name}={_below_home(os.environ[name])}" for name in names if os.environ.get(name)]
    try:
        http.tls_context()
    except ChatGPTError as error:
        yield Finding("certificates", "broken", ", ".join(chosen), error.message)
    else:
        yield Finding("certificates", "ok", ", ".join(chosen) or "the system's")
    changed = [name for name in sorted(os.environ) if name.startswith("LLM_CHATGPT_")]
    if changed:
        # Only the names: LLM_CHATGPT_ACCOUNT can hold a token.
        yield Finding("settings", "ok", ", ".join(changed))


def _login_state(account: str | None) -> tuple[Tokens | None, Finding]:
    try:
        store = read_store()
        credential = choose_credential(account, store)
    except ChatGPTError as error:
        return None, Finding("login", "broken", "none that can be used", error.message)
    tokens = present_tokens(credential, store)
    if tokens is None:
        text = f"{credential_words(credential)}, its owner not asked for yet"
        return None, Finding("login", "ok", text)
    name, _, host = (tokens.email or "").partition("@")
    who = f"{name[:1]}...@{host}" if host else "no email"
    text = f"{credential_words(credential)}: {who}, plan {tokens.plan or 'unknown'}"
    text += f", access token {lifetime_words(tokens)}"
    advice = ""
    try:
        check_usable(credential, tokens, store)
    except RefreshFailed as error:
        advice = error.message
    return tokens, Finding("login", "broken" if advice else "ok", text, advice)


def _hosts(tokens: Tokens | None) -> Iterator[Finding]:
    """Both hosts, each asked once, without following or renewing anything."""
    agent = {"User-Agent": config.user_agent()}
    version = config.setting("CLIENT_VERSION") or config.MODELS_CLIENT_VERSION
    date = None
    for name, service, path, headers in (
        ("sign-in host", config.issuer, "/.well-known/openid-configuration", agent),
        (
            "backend",
            functools.partial(config.base_url, tokens.origin if tokens else None),
            f"/codex/models?client_version={version}",
            backend_headers(tokens) if tokens else agent,
        ),
    ):
        try:
            url = service() + path
            with http.sync_client(url).stream("GET", url, headers=headers) as response:
                certificate = _certificate_words(response)
                response.read()
        except ChatGPTError as error:
            yield Finding(name, "broken", "not asked", error.message)
        except http.http_library().TransportError as error:
            text = f"{urlsplit(url).netloc}: {http.transport_reason(error)}"
            yield Finding(name, "broken", text, "Check the network and these settings.")
        else:
            reply = http.Reply.of(response)
            yield _host(name, reply, certificate, tokens if name == "backend" else None)
            date = date or reply.headers.get("date")
    yield _clock(date)


def _host(name: str, reply: http.Reply, certificate: str, tokens: Tokens | None) -> Finding:
    text = f"{reply.host} answers, {certificate}"
    if reply.is_web_page and reply.status != 404:
        return Finding(name, "broken", text, http.web_page_message(reply))
    if reply.status >= 500:
        text += f", with status {reply.status}"
        return Finding(name, "warning", text, "OpenAI's server is in trouble; try later.")
    if tokens and reply.status == 401 and tokens.refresh_token:
        advice = "The next prompt tries to renew it; if that fails, run 'llm chatgpt login'."
        return Finding(name, "warning", f"{text}, but refuses the access token", advice)
    if tokens and reply.status in (401, 403):
        advice = explain_refusal(reply).message
        return Finding(name, "broken", f"{text}, but refuses this login", advice)
    return Finding(name, "ok", text)


def _certificate_words(response: Any) -> str:
    stream = response.extensions.get("network_stream")
    connection = stream and stream.get_extra_info("ssl_object")
    if connection is None:
        return "without TLS"
    certificate = connection.getpeercert() or {}
    issuer = {key: value for part in certificate.get("issuer", ()) for key, value in part}
    name = issuer.get("organizationName") or issuer.get("commonName")
    # Where the system itself checks certificates, it does not show them.
    return f"certificate from {name or 'an issuer the system trusts'}" + (
        f" until {certificate['notAfter']}" if "notAfter" in certificate else ""
    )


def _clock(date: str | None) -> Finding:
    from email.utils import parsedate_to_datetime

    try:
        ahead = time.time() - parsedate_to_datetime(date or "").timestamp()
    except (TypeError, ValueError):
        return Finding("clock", "ok", "no server said what time it is")
    if abs(ahead) <= config.REFRESH_LEEWAY_SECONDS:
        return Finding("clock", "ok", "as the server's")
    way = "ahead of" if ahead > 0 else "behind"
    text = f"{in_words(abs(ahead))} {way} the server's"
    return Finding("clock", "warning", text, "Set this machine's clock.")
