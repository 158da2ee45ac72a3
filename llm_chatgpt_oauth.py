"""Use OpenAI's models from llm with a ChatGPT subscription, without an API key.

The module reads from top to bottom; each section builds on those above it:

 1. constants and settings     addresses, times, limits, each with its source
 2. errors                     one plain sentence each, with the next step
 3. talking to a person        notices on stderr, harmless text
 4. tokens                     what a login is, and what its JWTs say
 5. the store                  chatgpt-oauth.json: read, lock, write whole
 6. HTTP                       one client per process or event loop
 7. signing in                 device code, browser, access token, import, refresh, revoke
 8. the current login          a token that is good now; refreshed once by all
 9. the model list             built in, fetched, remembered
10. refusals                   what the server's errors mean
11. the request                messages, tools, options -> JSON
12. the stream                 bytes -> server-sent events -> llm's StreamEvents
13. one exchange               send, read, decide whether to send again
14. models                     the sync and the async class
15. commands                   llm chatgpt ...
16. hooks                      what llm calls

Facts of the service are marked "auth.md" or "responses.md": the project's protocol
notes, which record how sure each one is. Nothing here touches the network, takes a lock
or imports an HTTP client while llm loads it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import json
import logging
import os
import re
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any, ClassVar, Literal, NamedTuple
from urllib.parse import urlsplit

import click
import llm
from llm.parts import StreamEvent
from pydantic import Field, field_validator, model_validator

from llm_chatgpt import config, http
from llm_chatgpt.backend.catalogue import (
    BUILT_IN_MODELS,
    ModelInfo,
    known_models,
    models_path,
    remembered_models,
)
from llm_chatgpt.backend.exchange import Exchange, Resend
from llm_chatgpt.backend.fetch import fetch_models, fetch_usage
from llm_chatgpt.backend.refusals import explain_refusal
from llm_chatgpt.backend.tools import ImageGeneration
from llm_chatgpt.backend.usage import UsageWindow, windows_of_usage
from llm_chatgpt.errors import (
    AccountTaken,
    ChatGPTError,
    DeviceLoginDisabled,
    LoginDenied,
    LoginExpired,
    LoginFailed,
    NotSignedIn,
    RefreshFailed,
    RequestRefused,
    SlowDown,
    StoreError,
    StreamFailed,
    UsageLimitReached,
)
from llm_chatgpt.login.borrowed import check_borrowed, codex_auth_path, read_codex_login
from llm_chatgpt.login.browser import BrowserLogin, login_with_browser
from llm_chatgpt.login.current import (
    Credential,
    choose_credential,
    get_tokens,
    get_tokens_async,
    name_list,
    present_tokens,
)
from llm_chatgpt.login.device import DeviceCode, login, poll_for_token, request_device_code
from llm_chatgpt.login.oauth import refresh_tokens, revoke
from llm_chatgpt.login.store import (
    CODEX_ACCOUNT,
    delete_tokens,
    load_tokens,
    locked_store,
    read_store,
    store_path,
    store_tokens,
)
from llm_chatgpt.login.tokens import (
    Tokens,
    backend_headers,
    extract_account_id,
    parse_jwt_claims,
    still_works,
)
from llm_chatgpt.login.workspace import keep_login
from llm_chatgpt.text import in_words, local_time, notice, printable
from llm_chatgpt.values import as_list, as_mapping, as_number

__all__ = [
    "AccountTaken",
    "AsyncChatGPT",
    "BrowserLogin",
    "ChatGPT",
    "ChatGPTError",
    "DeviceCode",
    "DeviceLoginDisabled",
    "Finding",
    "ImageGeneration",
    "LoginDenied",
    "LoginExpired",
    "LoginFailed",
    "NotSignedIn",
    "Options",
    "RefreshFailed",
    "RequestRefused",
    "SlowDown",
    "StoreError",
    "StreamFailed",
    "Tokens",
    "UsageLimitReached",
    "account_option",
    "accounts",
    "ask_to_replace",
    "chatgpt",
    "credential_words",
    "doctor",
    "echo_table",
    "extract_account_id",
    "get_tokens",
    "get_tokens_async",
    "import_command",
    "lifetime_words",
    "load_tokens",
    "login",
    "login_command",
    "login_with_browser",
    "logout",
    "models_command",
    "parse_jwt_claims",
    "poll_for_token",
    "present_login",
    "refresh",
    "refresh_tokens",
    "register_commands",
    "register_models",
    "request_device_code",
    "status",
    "store_tokens",
    "usage",
    "use",
    "who_is",
    "with_login",
]


log = logging.getLogger("llm_chatgpt_oauth")


class Options(llm.Options):
    """The options that the backend accepts; it refuses sampling and token limits."""

    reasoning_effort: str | None = Field(
        description=(
            "How much the model thinks before it answers: none, low, medium, high, xhigh, max "
            "or ultra, as far as the model has them ('llm chatgpt models')."
        ),
        default=None,
    )
    reasoning_summary: Literal["auto", "concise", "detailed", "none"] | None = Field(
        description="Which summary of its reasoning the model shows; auto unless said otherwise.",
        default=None,
    )
    verbosity: Literal["low", "medium", "high"] | None = Field(
        description="How wordy the answer is: low, medium or high.", default=None
    )
    service_tier: Literal["fast", "priority", "ultrafast", "default"] | None = Field(
        description=(
            "The processing tier. fast and priority are the same: faster, and counted more "
            "against the plan's limits."
        ),
        default=None,
    )
    image_detail: Literal["auto", "low", "high", "original"] | None = Field(
        description="How closely images are looked at: auto, low, high, or original.",
        default=None,
    )
    json_object: bool | None = Field(
        description="Output a valid JSON object {...}. Prompt must mention JSON.", default=None
    )
    parallel_tool_calls: bool | None = Field(
        description="Whether the model may ask for several tool calls at once.", default=None
    )
    prompt_cache_key: str | None = Field(
        description=(
            "A name of at most 64 characters that routes requests with the same beginning to "
            "the same cache. Each conversation has its own unless this is given."
        ),
        default=None,
        min_length=1,
        max_length=64,
    )

    @model_validator(mode="before")
    @classmethod
    def _known_options(cls, values: Any) -> Any:
        unknown = [name for name in values if name not in cls.model_fields]
        if unknown:
            raise ValueError(
                f"a ChatGPT login does not take the option {', '.join(unknown)}; "
                f"it takes {', '.join(cls.model_fields)}"
            )
        return values

    @field_validator("reasoning_effort")
    @classmethod
    def _one_word(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[a-z0-9_-]{1,20}", value):
            raise ValueError("must be one word such as low, medium or high")
        return value


class _ChatGPTModel:
    """What the sync and the async model have in common."""

    can_stream = True
    supports_schema = True
    supports_tools = True
    # `--key` names an account, so llm must not look for an API key.
    needs_key = None
    key: str | None = None
    Options = Options

    # What recurs in every logged answer. NEVER change or remove an entry, only add:
    # stored logs refer to them by name.
    json_replacements: ClassVar[dict[str, Any]] = {
        "chatgpt_envelope_0": {
            "object": "response",
            "background": False,
            "parallel_tool_calls": True,
            "service_tier": "default",
            "status": "completed",
            "store": False,
            "temperature": 1.0,
            "tool_choice": "auto",
            "top_logprobs": 0,
            "top_p": 0.98,
            "truncation": "disabled",
        },
        "chatgpt_tool_usage_0": {
            "image_gen": {
                "input_tokens": 0,
                "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
                "output_tokens": 0,
                "output_tokens_details": {"image_tokens": 0, "text_tokens": 0},
                "total_tokens": 0,
            },
            "web_search": {"num_requests": 0},
        },
        "chatgpt_text_0": {"format": {"type": "text"}, "verbosity": "medium"},
        "chatgpt_text_1": {"format": {"type": "text"}, "verbosity": "low"},
    }

    def __init__(self, info: ModelInfo):
        self.info = info
        self.slug = info.slug
        self.model_id = f"chatgpt-{info.slug}"
        self.attachment_types = config.IMAGE_TYPES if info.takes_images else frozenset()

    @property
    def supported_server_side_tools(self) -> tuple[type, ...]:
        from llm.default_plugins.openai_models import WebSearch

        return (WebSearch, ImageGeneration, llm.ServerSideTool)

    def get_key(self, explicit_key: str | None = None) -> str | None:
        return explicit_key or self.key

    def __str__(self) -> str:
        return f"ChatGPT: {self.model_id}"


class ChatGPT(_ChatGPTModel, llm.KeyModel):  # type: ignore[misc]
    """A model that answers through a ChatGPT login."""

    def execute(
        self,
        prompt: llm.Prompt,
        stream: bool,
        response: llm.Response,
        conversation: llm.Conversation | None = None,
        key: str | None = None,
    ) -> Iterator[StreamEvent]:
        library = http.http_library()
        exchange = Exchange(self, prompt, response, conversation)
        step: Resend | None = Resend()
        while step is not None:
            if step.delay:
                time.sleep(step.delay)
            request = exchange.request(get_tokens(key, rejected=step.rejected))
            try:
                with http.sync_client(exchange.url).stream(**request) as reply:
                    if reply.status_code != 200:
                        exchange.refused(reply.status_code, reply.headers, reply.read())
                    else:
                        exchange.opened(reply.headers)
                        chunks = reply.iter_bytes()
                        for chunk in chunks:
                            yield from exchange.translator.feed(chunk)
                            if exchange.translator.ended:
                                http.drain(reply, chunks)
                                break
                        else:
                            yield from exchange.translator.finish()
                        if exchange.translator.ended:
                            exchange.ended()
                        else:
                            exchange.closed()
            except library.TransportError as error:
                exchange.broke_off(error)
            step = exchange.next_step()
        yield from exchange.finish()
        if exchange.models_changed:
            exchange.update_models()


class AsyncChatGPT(_ChatGPTModel, llm.AsyncKeyModel):  # type: ignore[misc]
    """The same for an event loop, which it never blocks."""

    async def execute(
        self,
        prompt: llm.Prompt,
        stream: bool,
        response: llm.AsyncResponse,
        conversation: llm.AsyncConversation | None = None,
        key: str | None = None,
    ) -> AsyncGenerator[str | StreamEvent, None]:
        library = http.http_library()
        exchange = Exchange(self, prompt, response, conversation)
        step: Resend | None = Resend()
        while step is not None:
            if step.delay:
                await asyncio.sleep(step.delay)
            request = exchange.request(await get_tokens_async(key, rejected=step.rejected))
            client = await http.async_client(exchange.url)
            try:
                async with client.stream(**request) as reply:
                    if reply.status_code != 200:
                        exchange.refused(reply.status_code, reply.headers, await reply.aread())
                    else:
                        exchange.opened(reply.headers)
                        chunks = reply.aiter_bytes()
                        async for chunk in chunks:
                            for event in exchange.translator.feed(chunk):
                                yield event
                            if exchange.translator.ended:
                                await http.drain_async(chunks)
                                break
                        else:
                            for event in exchange.translator.finish():
                                yield event
                        if exchange.translator.ended:
                            exchange.ended()
                        else:
                            exchange.closed()
            except library.TransportError as error:
                exchange.broke_off(error)
            step = exchange.next_step()
        for event in exchange.finish():
            yield event
        if exchange.models_changed:
            await asyncio.to_thread(exchange.update_models)


@click.group()
def chatgpt() -> None:
    """Sign in with a ChatGPT subscription and use its models"""


def account_option(function: Any) -> Any:
    return click.option(
        "--account", metavar="NAME", help="Which account; without it the one in use"
    )(function)


def _new_account_name(name: str | None) -> str | None:
    """The name to sign in under: as given, else LLM_CHATGPT_ACCOUNT's if that is a name."""
    chosen = config.setting("ACCOUNT") if name is None else name
    if chosen is None or re.fullmatch(r"(?!at-)[A-Za-z0-9][\w.@+-]{0,47}", chosen):
        return chosen
    if name is None:
        return None
    raise click.UsageError(
        "An account's name has up to 48 letters, digits and . _ @ + -, and does not begin with at-."
    )


@chatgpt.command(name="login")
@click.option("--account", metavar="NAME", help="Sign in beside others, under this name")
@click.option("--browser", is_flag=True, help="With a browser on this machine, or a pasted address")
@click.option("--device", is_flag=True, help="With a code, and with nothing else")
@click.option("--no-open", is_flag=True, help="Print the browser's address, but open nothing")
@click.option("--yes", is_flag=True, help="Replace a login of somebody else without asking")
def login_command(
    account: str | None, browser: bool, device: bool, no_open: bool, yes: bool
) -> None:
    """Sign in with a code that you enter in a browser, or with the browser itself

    \b
        llm chatgpt login
        llm chatgpt login --browser
        llm chatgpt login --account work
    """
    if browser and device:
        raise click.UsageError("--browser and --device are two ways to sign in; choose one.")
    account = _new_account_name(account)
    replace = ask_to_replace(yes)
    if browser:
        tokens = _login_in_browser(account, no_open, replace)
    else:
        try:
            tokens = login(account, show=_show_device_code, wait=_waiting(), replace=replace)
        except DeviceLoginDisabled as error:
            if device or not sys.stdin.isatty():
                raise
            notice(error.message)
            click.confirm("Sign in with a browser now?", default=True, abort=True, err=True)
            tokens = _login_in_browser(account, no_open, replace)
    click.echo(f"Signed in to ChatGPT as {who_is(tokens)}.")
    store = read_store()
    name = store.login_name(account)
    key = ""
    if name != store.default:
        key = f" --key {name}"
        click.echo(f"'llm chatgpt use {name}' makes this account the default one.")
    models: list[ModelInfo] = []
    try:
        models = fetch_models(tokens).listed
    except ChatGPTError as error:
        notice(f"Warning: the sign-in worked, but not the model list. {error.message}")
    slug = models[0].slug if models else next(iter(BUILT_IN_MODELS))
    click.echo(f'Try:\n  llm -m chatgpt-{slug}{key} "Three names for a pet pelican"')
    click.echo("  llm models list -q chatgpt-")


def ask_to_replace(yes: bool) -> Callable[[Tokens, Tokens], bool]:
    def replace(old: Tokens, new: Tokens) -> bool:
        if yes:
            return True
        notice(f"Signed in under that name is {who_is(old)}.\nThe new login is {who_is(new)}.")
        return sys.stdin.isatty() and click.confirm("Replace the old login?", err=True)

    return replace


def _login_in_browser(
    account: str | None, no_open: bool, replace: Callable[[Tokens, Tokens], bool]
) -> Tokens:
    paste = sys.stdin.isatty()

    def show(request: BrowserLogin) -> None:
        opened = not no_open and _open_browser(request.url)
        said = "Your browser is asked to open" if opened else "Open in a browser"
        click.echo(
            f"{said}:\n\n  {request.url}\n\nWaiting {in_words(config.BROWSER_LOGIN_SECONDS)} for "
            f"it to come back to {request.redirect_uri.removesuffix('/auth/callback')}.",
            err=True,
        )
        if paste:
            click.echo(
                "Is the browser on another machine? Sign in there all the same; it ends on a "
                "page that\ncannot be shown. Paste that page's address here, and press Enter.",
                err=True,
            )

    return login_with_browser(
        account, show=show, read_lines=_read_terminal if paste else None, replace=replace
    )


def _open_browser(url: str) -> bool:
    """Ask for the person's browser, apart from this terminal; False where there is none."""
    import subprocess

    names = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    # Without a display, what is found would be a text browser, in this very terminal.
    if sys.platform not in ("darwin", "win32") and not any(map(os.environ.get, names)):
        return False
    try:
        # In a process of its own: browsers write to stdout, and some end with Ctrl-C.
        subprocess.Popen(  # noqa: S603 - our own interpreter, and an address of our own
            [sys.executable, "-m", "webbrowser", url],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        return False
    return True


def _read_terminal(line: Callable[[str], None], stop: threading.Event) -> None:
    """Hand over the lines that are typed, until `stop` is set. Never blocks for long."""
    try:
        (_read_windows_console if config.WINDOWS else _read_posix_terminal)(line, stop)
    except (OSError, ValueError):
        message = "Pasting does not work in this console; the browser can still come back."
        click.echo(message, err=True)


def _read_posix_terminal(line: Callable[[str], None], stop: threading.Event) -> None:
    import select

    # Not through sys.stdin: a thread that waits in there hangs the program's end.
    terminal = sys.stdin.fileno()
    while not stop.is_set():
        if select.select([terminal], [], [], 0.1)[0]:
            data = os.read(terminal, 65536)
            if not data:
                return
            line(data.decode(errors="replace"))


def _read_windows_console(line: Callable[[str], None], stop: threading.Event) -> None:
    msvcrt: Any = importlib.import_module("msvcrt")
    typed = ""
    while not stop.is_set():
        if not msvcrt.kbhit():
            stop.wait(0.05)
            continue
        key = msvcrt.getwche()
        if key in "\r\n":
            line(typed)
            typed = ""
        elif key == "\b":
            typed = typed[:-1]
        else:
            typed += key


def _show_device_code(code: DeviceCode) -> None:
    click.echo(
        "Device codes must first be switched on in ChatGPT (Settings > Security), in\n"
        "workspaces by the admin. If the page refuses, use 'llm chatgpt login --browser'.\n\n"
        f"  1. Open  {printable(code.verification_url)}\n"
        f"  2. Enter {printable(code.user_code, 40)}\n\n"
        f"The code lasts {in_words(code.expires_in)}. Enter it only if you started this "
        "sign-in yourself:\nwhoever sends you a code wants to use your account.",
        err=True,
    )


def _waiting() -> Callable[[float, float], None]:
    """How `login` waits: a countdown on a terminal, one plain line elsewhere."""
    told = False

    def wait_quietly(seconds: float, left: float) -> None:
        nonlocal told
        if not told:
            click.echo("Waiting for the code to be entered...", err=True)
            told = True
        time.sleep(seconds)

    if not sys.stderr.isatty():
        return wait_quietly

    def count_down(seconds: float, left: float) -> None:
        end = time.monotonic() + seconds
        try:
            while (rest := end - time.monotonic()) > 0:
                minutes, second = divmod(round(left - seconds + rest), 60)
                click.echo(
                    f"\rWaiting for the code to be entered, {minutes}:{second:02} left ",
                    nl=False,
                    err=True,
                )
                time.sleep(min(1.0, rest))
        finally:
            click.echo(f"\r{' ' * 60}\r", nl=False, err=True)

    return count_down


def who_is(tokens: Tokens) -> str:
    email = printable(tokens.email, 100) if tokens.email else "an account without an email"
    plan = f"plan {printable(tokens.plan, 40)}" if tokens.plan else "plan unknown"
    account = f"account {printable(tokens.account_id, 60)}" if tokens.account_id else "no account"
    return f"{email} ({plan}, {account})"


@chatgpt.command()
@account_option
@click.option("--all", "all_", is_flag=True, help="All accounts")
@click.option("--revoke", "revoke_", is_flag=True, help="Also end the session at OpenAI")
def logout(account: str | None, all_: bool, revoke_: bool) -> None:
    """Forget a login on this machine; with --revoke at OpenAI, too

    \b
        llm chatgpt logout
        llm chatgpt logout --account work --revoke
        llm chatgpt logout --all
    """
    if account is not None and all_:
        raise click.UsageError("--account and --all exclude each other.")
    store = read_store()
    named = config.setting("ACCOUNT") if account is None else account
    if all_:
        names = list(store.accounts)
    elif named is not None:
        name = choose_credential(named, store).account
        if name is None:
            raise ChatGPTError(
                "That is an access token, which is not signed in here. Take it out of where it "
                "is set: llm's keys.json, LLM_CHATGPT_ACCOUNT or CODEX_ACCESS_TOKEN."
            )
        names = [name]
    else:
        names = [store.default]
    if revoke_:
        notice(
            "Warning: other programs that are signed in with the same session may be signed "
            "out, too."
        )

    def end_session(tokens: Tokens) -> None:
        if tokens.kind != "login":
            notice("Not ended at OpenAI: this login belongs to Codex CLI.")
            return
        try:
            revoke(tokens)
        except LoginFailed as error:
            notice(
                f"Warning: the session at OpenAI may go on ({error.message}). You can end it in "
                "ChatGPT's settings under Security."
            )

    before = end_session if revoke_ else None
    deleted = [name for name in names if delete_tokens(name, before=before)]
    if not deleted:
        click.echo("Not signed in; there was nothing to delete.")
    for name in deleted:
        who = "" if [name] == list(store.accounts) else f" {printable(name, 60)}"
        click.echo(f"Signed out{who}: the login in {store_path()} was deleted.")
    if deleted:
        try:
            left = choose_credential(None, read_store())
        except NotSignedIn as error:
            if read_store().accounts:
                click.echo(error.message)
        else:
            click.echo(f"Prompts use {credential_words(left)}.")


def credential_words(credential: Credential) -> str:
    what = f"the account {credential.account}" if credential.account else "an access token"
    return f"{printable(what)} ({credential.reason})"


@chatgpt.command()
@account_option
@click.option("json_", "--json", is_flag=True, help="Output as JSON")
def status(account: str | None, json_: bool) -> None:
    """Show which login is used, why, and until when; sends nothing, changes nothing

    Exits with 1 when there is none.

    \b
        llm chatgpt status
        llm chatgpt status --account work --json
    """
    store = read_store()
    path = store_path()
    credential: Credential | None = None
    missing = ""
    try:
        credential = choose_credential(account, store)
    except NotSignedIn as error:
        missing = error.message
    tokens = present_tokens(credential, store) if credential else None
    if json_:
        report: dict[str, Any] = {"signed_in": credential is not None, "path": str(path)}
        if credential:
            report |= {"account": credential.account, "reason": credential.reason}
            report["kind"] = tokens.kind if tokens else "access_token"
        if tokens:
            report |= _account_json(tokens)
        click.echo(json.dumps(report, indent=2))
    elif credential is None:
        click.echo(missing)
    else:
        # Whose an access token is, the first prompt asks.
        who = who_is(tokens) if tokens else "the owner of an access token, not yet asked for"
        click.echo(f"Signed in as {who}")
        click.echo(f"In use:       {credential_words(credential)}")
        click.echo(f"Access token: {lifetime_words(tokens)}")
        if credential.account:
            click.echo(f"Kept in:      {path}")
    if credential is None:
        sys.exit(1)


def _account_json(tokens: Tokens) -> dict[str, Any]:
    return {
        "kind": tokens.kind,
        "account_id": tokens.account_id,
        "email": tokens.email,
        "plan": tokens.plan,
        "expires_at": tokens.expires_at,
        "expired": not still_works(tokens, time.time()),
    }


@chatgpt.command()
@click.option("json_", "--json", is_flag=True, help="Output as JSON")
def accounts(json_: bool) -> None:
    """List the accounts that are signed in; * marks the default one

    \b
        llm chatgpt accounts
        llm chatgpt accounts --json
    """
    store = read_store()
    if json_:
        report = [
            {"name": name, "default": name == store.default, **_account_json(tokens)}
            for name, tokens in store.accounts.items()
        ]
        click.echo(json.dumps(report, indent=2))
        return
    if not store.accounts:
        notice("No account is signed in. Run 'llm chatgpt login' first.")
        return
    rows: list[tuple[str, ...]]
    rows = [("", "NAME", "EMAIL", "PLAN", "ACCESS TOKEN")]
    for name, tokens in store.accounts.items():
        mark = "*" if name == store.default else ""
        rows.append((mark, name, tokens.email or "?", tokens.plan or "?", lifetime_words(tokens)))
    echo_table(rows)
    if store.get() is None:
        notice("None of them is the default one; choose it with 'llm chatgpt use NAME'.")


def echo_table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(printable(cell)) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (printable(cell).ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


@chatgpt.command()
@click.argument("name")
def use(name: str) -> None:
    """Make an account the default one

    \b
        llm chatgpt use work
    """
    with locked_store() as writer:
        store = read_store()
        if name not in store.accounts:
            raise NotSignedIn(
                f"There is no account of that name; there are: {name_list(store.accounts)}."
                if store.accounts
                else "No account is signed in. Run 'llm chatgpt login' first."
            )
        writer.save(store._replace(default=name))
    click.echo(f"Prompts now use the account {printable(name)}: {who_is(store.accounts[name])}.")
    if config.setting("ACCOUNT") and config.setting("ACCOUNT") != name:
        notice("Warning: LLM_CHATGPT_ACCOUNT is set, and goes before the default account.")


@chatgpt.command(name="import")
@click.argument("path", required=False)
@click.option("--yes", is_flag=True, help="Replace a login of somebody else without asking")
def import_command(path: str | None, yes: bool) -> None:
    """Use the login of Codex CLI until its access token ends

    PATH is its auth.json, or the folder of it; without one it is looked for in CODEX_HOME
    or ~/.codex. Codex CLI's file stays as it is.

    \b
        llm chatgpt import
        llm chatgpt import ~/.codex/auth.json
    """
    tokens = read_codex_login(codex_auth_path(path))
    old = read_store().get(CODEX_ACCOUNT)
    replace = ask_to_replace(yes)
    if old and old.kind == "login" and not replace(old, tokens):
        raise AccountTaken(
            f"Nothing was changed: you have signed in under the name {CODEX_ACCOUNT} yourself. "
            "Sign that out first, or import with --yes."
        )
    tokens = keep_login(tokens, CODEX_ACCOUNT, replace)
    click.echo(f"Imported as account {CODEX_ACCOUNT}: {who_is(tokens)}.")
    click.echo(f"Access token: {lifetime_words(tokens)}")
    if read_store().default != CODEX_ACCOUNT:
        click.echo(f"Use it with --key {CODEX_ACCOUNT}, or: llm chatgpt use {CODEX_ACCOUNT}")


def lifetime_words(tokens: Tokens | None) -> str:
    if tokens is None or tokens.kind == "access_token":
        return "does not say when it ends, and cannot be renewed here"
    if tokens.expires_at is None:
        return "does not say when it ends"
    left = tokens.expires_at - time.time()
    when = local_time(tokens.expires_at)
    if tokens.kind == "codex":
        renewal = "only Codex CLI can renew it ('llm chatgpt import' then)"
    else:
        renewal = "the next prompt renews it" if left <= 0 else "it is renewed by itself"
    return (
        f"ended {when}; {renewal}" if left <= 0 else f"ends {when}, in {in_words(left)}; {renewal}"
    )


def with_login(account: str | None, action: Callable[[Tokens], Any]) -> Any:
    """Do something with a login; once more with a renewed one after a 401."""
    tokens = get_tokens(account)
    try:
        return action(tokens)
    except RequestRefused as error:
        if error.status != 401:
            raise
        return action(get_tokens(account, rejected=tokens.access_token))


def present_login(account: str | None) -> Tokens | None:
    """What is stored of the login in use, None if that must be asked for. Sends nothing."""
    store = read_store()
    return present_tokens(choose_credential(account, store), store)


@chatgpt.command(name="models")
@account_option
@click.option("all_", "--all", is_flag=True, help="Also those that are hidden in ChatGPT's apps")
@click.option("json_", "--json", is_flag=True, help="Output as JSON")
def models_command(account: str | None, all_: bool, json_: bool) -> None:
    """List the models that this login has

    Shows what was last fetched; 'llm chatgpt refresh' fetches anew.

    \b
        llm chatgpt models
        llm chatgpt models --all --json
    """
    tokens = present_login(account)
    models = remembered_models(tokens) if tokens else None
    if models is None or not models.models:
        models = with_login(account, fetch_models)
    shown = models.by_rank if all_ else models.listed
    if json_:
        click.echo(json.dumps([_model_json(model) for model in shown], indent=2))
        return
    rows: list[tuple[str, ...]]
    rows = [("MODEL", "CONTEXT", "REASONING EFFORTS (* default)", "SERVICE TIERS")]
    for model in shown:
        efforts = [
            f"{effort}*" if effort == model.default_effort else effort
            for effort in model.efforts or ()
        ]
        context = f"{model.context_window:,}" if model.context_window else "?"
        name = f"chatgpt-{model.slug}" + (" (hidden)" if model.hidden else "")
        rows.append((name, context, " ".join(efforts), " ".join(model.service_tiers)))
    echo_table(rows)


def _model_json(model: ModelInfo) -> dict[str, Any]:
    return {
        "model_id": f"chatgpt-{model.slug}",
        "slug": model.slug,
        "name": model.display_name,
        "hidden": model.hidden,
        "context_window": model.context_window,
        "default_reasoning_effort": model.default_effort,
        "reasoning_efforts": list(model.efforts or ()),
        "service_tiers": list(model.service_tiers),
        "images": model.takes_images,
        "successor": model.upgrade,
    }


@chatgpt.command()
@account_option
def refresh(account: str | None) -> None:
    """Fetch the list of models anew and say what came and went

    \b
        llm chatgpt refresh
    """
    tokens = present_login(account)
    before = remembered_models(tokens) if tokens else None
    models = with_login(account, fetch_models)
    old = {model.slug for model in before.models} if before else set()
    new = {model.slug: model for model in models.by_rank}
    for slug in new:
        if slug not in old:
            click.echo(f"New:  chatgpt-{slug}")
    for slug in sorted(old - set(new)):
        click.echo(f"Gone: chatgpt-{slug}")
    count = len(models.listed)
    changed = "" if set(new) != old else ", as before"
    click.echo(f"This login has {count} model{'' if count == 1 else 's'}{changed}.")


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
        check_borrowed(tokens, None)
    except RefreshFailed as error:
        advice = error.message
    renewable = tokens.kind != "login" or tokens.refresh_token
    if not renewable and not still_works(tokens, time.time()):
        advice = "It cannot be renewed: run 'llm chatgpt login'."
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


@llm.hookimpl
def register_models(register: Callable[..., None]) -> None:
    for info in known_models().values():
        register(ChatGPT(info), AsyncChatGPT(info))


@llm.hookimpl
def register_commands(cli: click.Group) -> None:
    cli.add_command(chatgpt)
