"""llm chatgpt login."""

from __future__ import annotations

import importlib
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import click

from llm_chatgpt import config
from llm_chatgpt.backend.catalogue import BUILT_IN_MODELS, ModelInfo
from llm_chatgpt.backend.fetch import fetch_models
from llm_chatgpt.commands.common import ask_to_replace, chatgpt, who_is
from llm_chatgpt.errors import ChatGPTError, DeviceLoginDisabled
from llm_chatgpt.login.browser import BrowserLogin, login_with_browser
from llm_chatgpt.login.device import DeviceCode, login
from llm_chatgpt.login.store import DEFAULT_ACCOUNT, read_store
from llm_chatgpt.login.tokens import Tokens
from llm_chatgpt.text import in_words, notice, printable


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
    name = account or DEFAULT_ACCOUNT
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
