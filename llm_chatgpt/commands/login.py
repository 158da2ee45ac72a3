"""llm chatgpt login, and how it uses the terminal and the browser."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import click

from llm_chatgpt import config
from llm_chatgpt.backend.catalogue import ModelInfo
from llm_chatgpt.backend.fetch import fetch_models
from llm_chatgpt.commands import group
from llm_chatgpt.commands.group import is_terminal, styled
from llm_chatgpt.errors import ChatGPTError, DeviceLoginDisabled
from llm_chatgpt.login.browser import BrowserLogin, login_with_browser
from llm_chatgpt.login.device import DeviceCode, login
from llm_chatgpt.login.store import read_store
from llm_chatgpt.login.tokens import Tokens
from llm_chatgpt.text import in_words, notice, printable

# The model of the examples in README, which a signed-in account usually has.
SUGGESTED_MODEL = "gpt-6-sol"
Replace = Callable[[Tokens, Tokens], bool]


@group.chatgpt.command(name="login")
@click.option("--account", metavar="NAME", help="Sign in under this name and keep the others")
@click.option("--browser", is_flag=True, help="Sign in through the browser instead of with a code")
@click.option("--device", is_flag=True, help="Use a device code; never fall back to the browser")
@click.option("--no-open", is_flag=True, help="Print the address, but open nothing")
@group.yes_option
def login_command(
    account: str | None, browser: bool, device: bool, no_open: bool, yes: bool
) -> None:
    """Sign in to ChatGPT

    Shows an address and a one-time code, which you enter in any browser. With --browser
    you sign in without a code.

    \b
        llm chatgpt login
        llm chatgpt login --browser
        llm chatgpt login --account work
    """
    if browser and device:
        raise click.UsageError("Use either --browser or --device.")
    account = _new_account_name(account)
    replace = group.ask_to_replace(yes)
    if browser:
        tokens = _login_in_browser(account, no_open, replace)
    else:
        tokens = _login_with_code(account, device, no_open, replace)
    click.echo(f"Signed in as {group.who_is(tokens)}")
    _suggest_next_steps(account, tokens)


def _new_account_name(name: str | None) -> str | None:
    """The name to sign in under: as given, else LLM_CHATGPT_ACCOUNT's if that is a name."""
    chosen = config.setting("ACCOUNT") if name is None else name
    if chosen is None or re.fullmatch(r"(?!at-)[A-Za-z0-9][\w.@+-]{0,47}", chosen):
        return chosen
    if name is None:
        return None
    raise click.UsageError(
        "An account's name has up to 48 letters, digits and . _ @ + -, and does not start with at-."
    )


def _suggest_next_steps(account: str | None, tokens: Tokens) -> None:
    store = read_store()
    name = store.login_name(account)
    key = "" if name == store.default else f" --key {name}"
    models: list[ModelInfo] = []
    try:
        models = fetch_models(tokens).listed
    except ChatGPTError as error:
        notice(f"Warning: Signed in, but could not fetch the model list. {error.message}")
    slugs = [model.slug for model in models]
    slug = SUGGESTED_MODEL if SUGGESTED_MODEL in slugs or not slugs else slugs[0]
    click.echo(f'\nTry it:\n  llm -m chatgpt-{slug}{key} "Three names for a pet pelican"')
    click.echo("List the models:\n  llm chatgpt models" + (f" --account {name}" if key else ""))
    if key:
        click.echo(f"Make this account the default:\n  llm chatgpt use {name}")


# With a code -------------------------------------------------------------------------


def _login_with_code(account: str | None, device: bool, no_open: bool, replace: Replace) -> Tokens:
    wait = _count_down if is_terminal(sys.stderr) else None
    try:
        return login(account, show=_show_code, wait=wait, replace=replace)
    except DeviceLoginDisabled as error:
        if device or not is_terminal(sys.stdin):
            raise
        notice(error.message)
    click.confirm("Sign in through the browser now?", default=True, abort=True, err=True)
    return _login_in_browser(account, no_open, replace)


def _show_code(code: DeviceCode) -> None:
    url = styled(printable(code.verification_url), bold=True)
    user_code = styled(printable(code.user_code, 40), bold=True)
    click.echo(
        f"  1. Open this page and sign in: {url}\n"
        f"  2. Enter this one-time code (expires in {in_words(code.expires_in)}): {user_code}\n\n"
        "Only continue if you started this sign-in. If someone sent you this code, stop.\n"
        "Page says device codes are off? Turn them on in ChatGPT under Settings >\n"
        "Security, or run 'llm chatgpt login --browser'.",
        err=True,
    )
    if not is_terminal(sys.stderr):
        click.echo("Waiting for you to enter the code...", err=True)


def _count_down(seconds: float, left: float) -> None:
    """Wait so many seconds, and show how long the code is still valid."""
    end = time.monotonic() + seconds
    try:
        while (rest := end - time.monotonic()) > 0:
            minutes, second = divmod(round(left - seconds + rest), 60)
            line = f"\rWaiting for you to enter the code, {minutes}:{second:02} left "
            click.echo(line, nl=False, err=True)
            time.sleep(min(1.0, rest))
    finally:
        click.echo(f"\r{' ' * 60}\r", nl=False, err=True)


# With a browser ------------------------------------------------------------------------


def _login_in_browser(account: str | None, no_open: bool, replace: Replace) -> Tokens:
    paste = is_terminal(sys.stdin)

    def show(request: BrowserLogin) -> None:
        if not no_open and _open_in_browser(request.url):
            said = "Opening your browser. If nothing happens, visit:"
        else:
            said = "Open this page in a browser:"
        click.echo(f"{said}\n\n  {styled(request.url, bold=True)}\n", err=True)
        if paste:
            click.echo(
                "Browser on another machine? Sign in there, then paste the address of the page\n"
                "that fails to load:",
                err=True,
            )
        limit = in_words(config.BROWSER_LOGIN_SECONDS)
        click.echo(f"Waiting for the browser ({limit})...", err=True)

    read_lines = _read_pasted if paste else None
    return login_with_browser(account, show=show, read_lines=read_lines, replace=replace)


def _read_pasted(line: Callable[[str], None], stop: threading.Event) -> None:
    """Hand over the lines that are typed or pasted, until `stop` is set."""
    keyboard = _Keyboard()
    try:
        while not stop.is_set():
            typed = keyboard.read_line(0.1)
            if typed is not None:
                line(typed)
    except EOFError:
        pass
    except (OSError, ValueError):
        click.echo(
            "Pasting does not work in this console. Use a browser on this machine.", err=True
        )


class _Keyboard:
    """Lines typed on this terminal, read without waiting longer than asked for."""

    def __init__(self) -> None:
        # A Windows console's line so far.
        self._typed = ""

    def read_line(self, seconds: float) -> str | None:
        """The next line; None if there is none in time.

        Raises EOFError, or OSError or ValueError where the terminal cannot be read.
        """
        return self._read_console(seconds) if config.WINDOWS else self._read_terminal(seconds)

    def _read_terminal(self, seconds: float) -> str | None:
        import select

        # Not through sys.stdin: a thread that waits in there hangs the program's end.
        terminal = sys.stdin.fileno()
        if not select.select([terminal], [], [], seconds)[0]:
            return None
        data = os.read(terminal, 65536)
        if not data:
            raise EOFError
        return data.decode(errors="replace")

    def _read_console(self, seconds: float) -> str | None:
        msvcrt: Any = importlib.import_module("msvcrt")
        end = time.monotonic() + seconds
        while True:
            while msvcrt.kbhit():
                key = msvcrt.getwche()
                if key in "\r\n":
                    line, self._typed = self._typed, ""
                    return line
                self._typed = self._typed[:-1] if key == "\b" else self._typed + key
            if time.monotonic() >= end:
                return None
            time.sleep(0.05)


def _browser_command(url: str) -> list[str] | None:
    """The command that opens a page in the user's browser; None where there is none."""
    if config.WINDOWS:
        return ["rundll32", "url.dll,FileProtocolHandler", url]
    chosen = os.environ.get("BROWSER", "").partition(os.pathsep)[0]
    if chosen:
        command = [word.replace("%s", url) for word in shlex.split(chosen) if word != "&"]
        return command if "%s" in chosen else [*command, url]
    if sys.platform == "darwin":
        return ["open", url]
    # Without a display, a text browser would open in this terminal.
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return ["xdg-open", url] if display and shutil.which("xdg-open") else None


def _open_in_browser(url: str) -> bool:
    """Open a page in the user's browser; False where that is not possible.

    Unlike with `webbrowser` and `click.launch`, the browser cannot write to our stdout, does
    not end with our Ctrl-C, and is not waited for.
    """
    command = _browser_command(url)
    if command is None:
        return False
    try:
        subprocess.Popen(  # noqa: S603 - the user's own browser
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        return False
    return True
