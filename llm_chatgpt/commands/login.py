"""llm chatgpt login."""

from __future__ import annotations

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
from llm_chatgpt.waiting import beside_line, shows_waiting

REDIRECT_SETTING = "LLM_CHATGPT_REDIRECT_HOST"


class _Login(NamedTuple):
    """The options of the command, for each way to sign in."""

    account: str | None
    name: str
    workspace: str | None
    replace: Callable[[Tokens, Tokens], bool]
    no_open: bool


@chatgpt.command(name="login")
@common.account_option(help="Sign in under this name and keep the others")
@click.option("--browser", is_flag=True, help="Sign in through the browser instead of with a code")
@click.option("--device", is_flag=True, help="Use a device code; never fall back to the browser")
@click.option("--official", is_flag=True, help="Use OpenAI's official sign-in (a preview)")
@click.option("--new", is_flag=True, help="With --official, register with OpenAI anew")
@click.option("--workspace", metavar="ID", help="Sign in to this workspace and no other")
@click.option("--no-open", is_flag=True, help="Print the address, but open nothing")
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

    Shows an address and a one-time code, which you enter in any browser. With --browser
    you sign in without a code. With --official you use OpenAI's documented sign-in for apps
    instead of Codex CLI's.

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
    options = _Login(account, name, workspace, functools.partial(common.may_replace, yes), no_open)
    _announce_login(name)
    first_time = official and not registration(name).get("subject")
    if official:
        tokens = _login_officially(options, new)
    elif browser:
        tokens = _login_in_browser(options)
    else:
        tokens = _login_with_code(options, device)
    common.echo(f"Signed in as {common.who_is(tokens)}")
    if first_time:
        click.echo("You're using your ChatGPT plan.")
    _suggest_next_steps(name, tokens)


def _new_account_name(name: str | None) -> str | None:
    """Choose the account name: the given one, else LLM_CHATGPT_ACCOUNT unless that is a token."""
    chosen = config.setting("ACCOUNT") if name is None else name
    if chosen is None or re.fullmatch(r"(?!at-)[A-Za-z0-9][\w.@+-]{0,47}", chosen):
        return chosen
    if name is None:
        return None
    raise click.UsageError(
        "An account's name has up to 48 letters, digits and . _ @ + -,\n"
        "and does not start with at-."
    )


def _announce_login(name: str) -> None:
    """Tell who is signed in already, and whether the new login replaces that one."""
    try:
        store = read_store()
    except StoreError:
        # The login itself replaces a damaged file, or says what is wrong.
        return
    old = store.accounts.get(name)
    if old and common.problem_of(name, old)[0]:
        notice(f"Your login as {common.who_is(old)} has ended.\nA new login replaces it.\n")
    elif old:
        notice(
            f"You are signed in as {common.who_is(old)}. A new login replaces this one; to keep "
            "both, use --account NAME.\n"
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
    """The user wants to sign in through the browser instead."""


def _login_with_code(options: _Login, device: bool) -> Tokens:
    over_ssh = bool(os.environ.get("SSH_CONNECTION") or os.environ.get("SSH_TTY"))
    on_terminal = terminal.is_terminal(sys.stdin) and terminal.is_terminal(sys.stderr)
    local = on_terminal and not over_ssh
    code_page = _CodePage(
        may_open=local and not options.no_open and terminal.has_browser(),
        may_switch=local and not device,
        clipboard=terminal.Clipboard(local=local) if on_terminal else None,
    )
    try:
        return login(
            options.account,
            show=code_page.show,
            wait=code_page.wait,
            replace=options.replace,
            workspace=options.workspace,
        )
    except _WithoutCode:
        pass
    except DeviceLoginDisabled as error:
        if device or not terminal.is_terminal(sys.stdin):
            raise
        if local:
            notice("Device codes are turned off for this account. Using the browser instead.\n")
        else:
            notice(error.message)
            click.confirm("Sign in through the browser now?", default=True, abort=True, err=True)
    return _login_in_browser(options)


class _CodePage:
    """Shows a one-time code, and reads the keyboard until it has been entered.

    Meanwhile Enter opens the page where the code is entered (`may_open`), c copies the code
    (`clipboard`), and b switches to the browser login (`may_switch`).
    """

    def __init__(self, *, may_open: bool, may_switch: bool, clipboard: terminal.Clipboard | None):
        self._may_open = may_open
        self._may_switch = may_switch
        self._clipboard = clipboard if clipboard and clipboard.available else None
        reads = may_open or may_switch or self._clipboard
        self._keyboard = terminal.Keyboard() if reads else None
        self._url = self._user_code = ""

    def show(self, code: DeviceCode) -> None:
        self._url, self._user_code = code.verification_url, printable(code.user_code, 40)
        other_way = "run 'llm chatgpt login --browser'"
        if self._may_switch:
            other_way = "type b and Enter to sign in through the browser"
        lines = [
            "  1. Open this page and sign in:",
            f"\n     {terminal.styled(printable(self._url), bold=True)}\n",
            f"  2. Enter this one-time code (expires in {in_words(code.expires_in)}):",
            f"\n     {terminal.styled(self._user_code, bold=True)}\n",
            "Only continue if you started this sign-in. If someone sent you this code, stop.",
            "Page says device codes are off? Turn them on in ChatGPT under Settings > Security, or "
            f"{other_way}.",
        ]
        keys = ["press Enter to open the page"] if self._may_open else []
        keys += ["type c and Enter to copy the code"] if self._clipboard else []
        if keys:
            text = ", or ".join(keys)
            lines.append(f"\n{text[0].upper()}{text[1:]}.")
        if not shows_waiting():
            lines.append("Waiting for you to enter the code...")
        notice("\n".join(lines))

    def wait(self, seconds: float, left: float) -> None:
        """Read the keyboard for so many seconds."""
        end = time.monotonic() + seconds
        while (rest := end - time.monotonic()) > 0:
            self._pause(rest)

    def _pause(self, seconds: float) -> None:
        if self._keyboard is None:
            time.sleep(seconds)
            return
        try:
            typed = self._keyboard.read_line(seconds)
        except (EOFError, OSError, ValueError):
            self._keyboard = None
            return
        key = None if typed is None else typed.strip().lower()
        if self._may_switch and key == "b":
            raise _WithoutCode
        if self._clipboard and key == "c":
            notice(self._clipboard.copy(self._user_code))
        if self._may_open and key == "":
            opened = terminal.open_in_browser(self._url)
            notice("Opened the page in your browser." if opened else "Could not open a browser.")


# With a browser ------------------------------------------------------------------------


def _login_in_browser(options: _Login) -> Tokens:
    # Only the browser shows an error page of OpenAI's, so the terminal says what to do then.
    local = config.redirect_host() == "localhost"
    change = f"Unset {REDIRECT_SETTING}" if local else f"Set {REDIRECT_SETTING}=localhost"
    hint = f"Error instead of a sign-in? {change} and retry."
    return login_with_browser(
        options.account,
        show=functools.partial(_show_address, hint, options.no_open),
        read_lines=_reader(),
        replace=options.replace,
        workspace=options.workspace,
    )


def _login_officially(options: _Login, new: bool) -> Tokens:
    notice(
        "Continue with ChatGPT. This uses your plan through OpenAI's official sign-in for apps, "
        f"a preview with terms of its own: {config.OFFICIAL_PAGE}\n"
    )
    hint = ""
    if registration(options.name).get("client_id") and not new:
        hint = (
            "Error instead of a sign-in, or another ChatGPT user? Press Ctrl-C and run "
            f"'{OFFICIAL.login_command(options.name)} --new'."
        )
    return login_officially(
        options.account,
        show=functools.partial(_show_address, hint, options.no_open),
        read_lines=_reader(),
        replace=options.replace,
        new=new,
    )


def _show_address(hint: str, no_open: bool, request: BrowserLogin | OfficialLogin) -> None:
    """Open the address of a sign-in, and show it with the advice for when something goes wrong."""
    opened = not no_open and terminal.open_in_browser(request.url)
    notice(
        "Opening your browser. If nothing happens, visit:"
        if opened
        else "Open this page in a browser:"
    )
    notice(f"\n  {terminal.styled(request.url, bold=True)}\n")
    if hint:
        notice(hint)
    if not shows_waiting():
        notice(f"Waiting for the browser (up to {in_words(config.BROWSER_LOGIN_SECONDS)})...")
    if _reader():
        notice(
            "Browser on another machine? Sign in there, then paste the address of the page that "
            "fails to load:"
        )


def _reader() -> Callable[[Callable[[str], None], threading.Event], None] | None:
    return _read_pasted if terminal.is_terminal(sys.stdin) else None


def _read_pasted(line: Callable[[str], None], stop: threading.Event) -> None:
    """Hand over the lines that are typed or pasted, until `stop` is set."""
    keyboard = terminal.Keyboard()
    try:
        while not stop.is_set():
            typed = keyboard.read_line(0.1)
            # An address that was pasted in two lines is one answer, not two.
            while typed and (more := keyboard.read_line(0.05)) is not None:
                typed += f" {more}"
            if typed is not None:
                line(typed)
    except EOFError:
        pass
    except (OSError, ValueError):
        with beside_line():
            click.echo("Pasting does not work here. Use a browser on this machine.", err=True)
