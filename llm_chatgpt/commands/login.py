"""The command `login`: three ways to sign in, and the texts they show."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import click

from llm_chatgpt import config
from llm_chatgpt.backend.catalogue import DEFAULT, ModelList, model_to_use
from llm_chatgpt.backend.endpoints import fetch_models
from llm_chatgpt.commands import chatgpt, common, terminal
from llm_chatgpt.errors import ChatGPTError, DeviceLoginDisabled, StoreError
from llm_chatgpt.login.browser import BrowserLogin, login_with_browser
from llm_chatgpt.login.device import DeviceCode, login
from llm_chatgpt.login.login_file import read_store
from llm_chatgpt.login.official import OfficialLogin, login_officially, registration
from llm_chatgpt.login.routes import CODEX, OFFICIAL
from llm_chatgpt.login.tokens import Tokens, header_safe
from llm_chatgpt.text import in_words, notice, printable
from llm_chatgpt.waiting import shows_waiting


class _Options(NamedTuple):
    """The options that several ways to sign in share."""

    account: str | None
    workspace: str | None
    replace: Callable[[Tokens, Tokens], bool]
    no_open: bool


@chatgpt.command(name="login")
@common.account_option(help="Sign in under this name and keep the others")
@click.option("--browser", is_flag=True, help="Sign in through the browser instead of with a code")
@click.option("--device", is_flag=True, help="Use a device code; never fall back to the browser")
@click.option("--official", is_flag=True, help="Use OpenAI's official sign-in (a preview)")
@click.option("--new", is_flag=True, help="With --official, register with OpenAI again")
@click.option("--workspace", metavar="ID", help="Sign in to this workspace and no other")
@click.option("--no-open", is_flag=True, help="Print the address without opening it")
@common.yes_option
def login_command(
    account: str | None,
    browser: bool,
    device: bool,
    official: bool,
    new: bool,
    workspace: str | None,
    no_open: bool,
    yes: bool,
) -> None:
    """Sign in to ChatGPT

    Shows an address and a one-time code. Open the address in any browser and enter the code.
    With --browser you sign in without a code. With --official you use OpenAI's documented
    sign-in for apps instead of the one that Codex CLI uses.

    \b
        llm chatgpt login
        llm chatgpt login --browser
        llm chatgpt login --account work
        llm chatgpt login --official
    """
    if browser and device:
        raise click.UsageError("Use either --browser or --device.")
    if official and (browser or device or workspace):
        raise click.UsageError(
            "--official cannot be combined with --browser, --device or --workspace."
        )
    if new and not official:
        raise click.UsageError("Use --new only with --official.")
    if workspace is not None and not header_safe(workspace):
        raise click.UsageError("--workspace takes a workspace's id, which has no spaces.")
    account = _new_account_name(account)
    name = account or (OFFICIAL if official else CODEX).account
    replace = functools.partial(common.may_replace, yes)
    options = _Options(account, workspace, replace, no_open)
    _announce_login(name)
    first_time = official and not registration(name).get("subject")
    if official:
        tokens = _login_officially(options, name, new)
    elif browser:
        tokens = _login_in_browser(options)
    else:
        tokens = _login_with_code(options, device)
    common.echo(f"Signed in as {common.user_words(tokens)}")
    if first_time:
        # OpenAI's wording (P272).
        click.echo("You're using your ChatGPT plan.")
    _suggest_next_steps(name, tokens)


def _new_account_name(name: str | None) -> str | None:
    """Return the given account name, or else LLM_CHATGPT_ACCOUNT if that is a valid name.

    Raises UsageError if the given name is invalid.
    """
    chosen = config.setting("ACCOUNT") if name is None else name
    if chosen is None or re.fullmatch(r"(?!at-)[A-Za-z0-9][\w.@+-]{0,47}", chosen):
        return chosen
    if name is None:
        return None
    raise click.UsageError(
        "An account's name has up to 48 letters, digits and . _ @ + -,\n"
        "starts with a letter or digit, and does not start with at-."
    )


def _announce_login(name: str) -> None:
    """Name the existing logins, and say whether the new login replaces one."""
    try:
        store = read_store()
    except StoreError:
        # The sign-in itself replaces a damaged file, or reports the problem.
        return
    old = store.accounts.get(name)
    if old and common.problem_of(name, old)[0]:
        notice(f"Your login as {common.user_words(old)} has ended.\nA new login replaces it.\n")
    elif old:
        notice(
            f"You are signed in as {common.user_words(old)}. A new login replaces this one; to "
            "keep both, use --account NAME.\n"
        )
    elif store.accounts:
        others = ", ".join(f"{n} ({t.email or '?'})" for n, t in store.accounts.items())
        notice(f"Already signed in: {printable(others)}.\nThis login is added as account {name}.\n")


def _suggest_next_steps(name: str, tokens: Tokens) -> None:
    key = "" if name == read_store().default else f" --key {name}"
    models = ModelList()
    try:
        models = fetch_models(tokens)
    except ChatGPTError as error:
        notice(f"Warning: Signed in, but could not fetch the model list.\n{error.message}")
    model = model_to_use(DEFAULT, models).model_id
    click.echo(f'\nTry it:\n  llm -m {model}{key} "Three names for a pet pelican"')
    click.echo(f"Make it the default model:\n  llm models default {model}")
    if key:
        click.echo(f"Make this account the default:\n  llm chatgpt use {name}")


# With a code -------------------------------------------------------------------------


class _WithoutCode(Exception):
    """Raised if the user chooses the browser instead of a code."""


def _login_with_code(options: _Options, device: bool) -> Tokens:
    screen = _CodeScreen(no_open=options.no_open, device=device)
    try:
        return login(
            options.account,
            show=screen.show,
            wait=screen.wait,
            replace=options.replace,
            workspace=options.workspace,
        )
    except _WithoutCode:
        pass
    except DeviceLoginDisabled as error:
        if device or not terminal.is_terminal(sys.stdin):
            raise
        notice(f"{error.reason}.\n")
        if not screen.local:
            click.confirm("Sign in through the browser now?", default=True, abort=True, err=True)
    return _login_in_browser(options)


class _CodeScreen:
    """Screen that shows a one-time code, and reads the keyboard until the code has been entered.

    Enter opens the page where the user enters the code, c copies the code, b switches to the
    browser sign-in. The screen offers only the keys that can work on this terminal.
    """

    def __init__(self, *, no_open: bool, device: bool):
        on_terminal = terminal.is_terminal(sys.stdin) and terminal.is_terminal(sys.stderr)
        over_ssh = bool(os.environ.get("SSH_CONNECTION") or os.environ.get("SSH_TTY"))
        # Whether the terminal is on this machine.
        self.local = on_terminal and not over_ssh
        self._clipboard = terminal.Clipboard(local=self.local)
        self._may_open = self.local and not no_open and terminal.has_browser()
        self._may_copy = on_terminal and self._clipboard.available
        self._may_switch = self.local and not device
        self._read_line: Callable[[float], str | None] = time.sleep
        if on_terminal:
            self._read_line = terminal.Keyboard().read_line
        self._url = self._user_code = ""

    def show(self, code: DeviceCode) -> None:
        self._url, self._user_code = code.verification_url, printable(code.user_code, 40)
        other_way = f"run '{code.login_command} --browser'"
        if self._may_switch:
            other_way = "type b and Enter to sign in through the browser"
        lines = [
            "  1. Open this page and sign in:",
            f"\n     {terminal.styled(printable(self._url), bold=True)}\n",
            f"  2. Enter this one-time code (expires in {in_words(code.expires_in)}):",
            f"\n     {terminal.styled(self._user_code, bold=True)}\n",
            "Only continue if you started this sign-in. If someone sent you this code, stop.",
            # Only the page says that the user has turned device codes off (P20).
            "Page says device codes are off? Turn them on in ChatGPT under Settings > Security, or "
            f"{other_way}.",
        ]
        keys = ["Press Enter to open the page."] if self._may_open else []
        keys += ["Type c and Enter to copy the code."] if self._may_copy else []
        if keys:
            lines += ["", " ".join(keys)]
        if not shows_waiting():
            lines.append("Waiting for you to enter the code...")
        notice("\n".join(lines))

    def wait(self, seconds: float, _: float) -> None:
        """Read keys for `seconds`, and act on them. Raises _WithoutCode after b."""
        end = time.monotonic() + seconds
        while (remaining := end - time.monotonic()) > 0:
            try:
                typed = self._read_line(remaining)
            except (EOFError, OSError, ValueError):
                self._read_line = time.sleep
                continue
            key = None if typed is None else typed.strip().lower()
            if key == "b" and self._may_switch:
                raise _WithoutCode
            if key == "c" and self._may_copy:
                notice(self._clipboard.copy_code(self._user_code))
            if key == "" and self._may_open:
                opened = terminal.open_address(self._url)
                notice("Opened the page in a browser." if opened else "Could not open a browser.")


# With a browser ------------------------------------------------------------------------


def _login_in_browser(options: _Options) -> Tokens:
    other_host = "127.0.0.1" if config.redirect_host() == "localhost" else "localhost"
    # Only the browser shows OpenAI's error, so the terminal gives the advice in advance (P32).
    hint = f"Error instead of a sign-in? Set LLM_CHATGPT_REDIRECT_HOST={other_host} and retry."
    return login_with_browser(
        options.account,
        show=functools.partial(_show_address, options.no_open, hint),
        read_lines=_read_pasted,
        replace=options.replace,
        workspace=options.workspace,
    )


def _login_officially(options: _Options, name: str, new: bool) -> Tokens:
    # The first line is OpenAI's wording (P272).
    notice(
        "Continue with ChatGPT\nThis uses your plan through OpenAI's official sign-in for apps, "
        f"a preview with terms of its own: {config.OFFICIAL_PAGE}\n"
    )
    hint = ""
    if registration(name).get("client_id") and not new:
        hint = (
            "Error instead of a sign-in? Signing in as another user? Press Ctrl-C and run "
            f"'{OFFICIAL.login_command(name)} --new'."
        )
    return login_officially(
        options.account,
        show=functools.partial(_show_address, options.no_open, hint),
        read_lines=_read_pasted,
        replace=options.replace,
        new=new,
    )


def _show_address(no_open: bool, hint: str, request: BrowserLogin | OfficialLogin) -> None:
    """Open the address of a sign-in, unless `no_open`, and show it.

    `hint` says what to do if the page shows an error.
    """
    title = "Open this page in a browser:"
    if not no_open and terminal.open_address(request.url):
        title = "Opening your browser. If nothing happens, visit:"
    lines = [title, f"\n  {terminal.styled(request.url, bold=True)}\n"]
    if hint:
        lines.append(hint)
    if not shows_waiting():
        limit = in_words(config.BROWSER_LOGIN_SECONDS)
        lines.append(f"Waiting for the browser (up to {limit})...")
    if terminal.is_terminal(sys.stdin):
        lines.append(
            "Browser on another machine? Sign in there, then paste the address of the page that "
            "fails to load:"
        )
    notice("\n".join(lines))


def _read_pasted(use_line: Callable[[str], None], stop: threading.Event) -> None:
    """Pass the lines typed or pasted on a terminal to `use_line`, until `stop` is set."""
    keyboard = terminal.Keyboard()
    # If the terminal cannot be read, the browser can still complete the sign-in.
    with contextlib.suppress(EOFError, OSError, ValueError):
        while terminal.is_terminal(sys.stdin) and not stop.is_set():
            typed = keyboard.read_line(0.1)
            # An address that was pasted in two lines is one answer, not two.
            while typed and (next_line := keyboard.read_line(0.05)) is not None:
                typed += f" {next_line}"
            if typed is not None:
                use_line(typed)
