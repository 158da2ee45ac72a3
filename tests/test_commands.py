"""The commands at a terminal and in pipes: what they ask, open, show and exit with."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import threading
import time
import types
import urllib.request

import click
import llm
import pytest
from click.shell_completion import ShellComplete
from llm.cli import cli

import llm_chatgpt_oauth as plugin
from conftest import sign_in, start_llm, wait_until
from simulator import Account, Answer, error_answer
from terminal import Terminal

needs_pty = pytest.mark.skipif(os.name == "nt", reason="Windows has no such terminals")
listens = pytest.mark.usefixtures("callback_ports")
GROUP = cli.commands["chatgpt"]
NO_CODES = Answer(404, {"detail": "Not Found"})


@pytest.fixture
def start(monkeypatch):
    """Terminals of this test, which end with it."""
    for name in ("SSH_CONNECTION", "SSH_TTY", "DISPLAY", "WAYLAND_DISPLAY", "BROWSER", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    started = []

    def run(*arguments, **options):
        started.append(Terminal(*arguments, **options))
        return started[-1]

    yield run
    for terminal in started:
        terminal.process.kill()
        terminal.process.wait()


@pytest.fixture
def in_pipes(start, callback_ports):
    """`llm chatgpt login --browser` in pipes: the process, the address, what it said."""
    started = []

    def run():
        process = start_llm("chatgpt", "login", "--browser")
        started.append(process)
        printed = ""
        while not (found := re.search(r"^  (http\S+)$", printed, re.MULTILINE)):
            line = process.stderr.readline()
            assert line, printed
            printed += line
        return process, found[1], printed

    yield run
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def browser(tmp_path, monkeypatch, start):
    """The addresses that the user's browser was opened with, in a list that grows."""
    seen = tmp_path / "opened"
    program = tmp_path / "browser"
    program.write_text(f'#!/bin/sh\necho noise; echo noise >&2; echo "$1" >> {seen}\n')
    program.chmod(0o755)
    monkeypatch.setenv("BROWSER", str(program))
    return lambda: seen.read_text().split() if seen.exists() else []


def approve(simulator):
    simulator.approve(simulator.seen("/deviceauth/token")[0].body["user_code"])


def address_on(terminal):
    return terminal.wait_for(r"\n  (http://127\S+)\r")[1]


def visit(url):
    request = urllib.request.Request(url, headers={"User-Agent": "Mozilla/5.0"})
    with urllib.request.urlopen(request, timeout=20) as reply:
        return reply.read().decode()


# Signing in at a terminal


@needs_pty
def test_enter_opens_the_page(simulator, start, browser):
    simulator.interval = "1"
    terminal = start("chatgpt", "login")
    terminal.wait_for("type b and Enter to sign in through the browser")
    terminal.wait_for("Press Enter to open the page")
    terminal.wait_for("14:5")
    assert browser() == []
    terminal.type("")
    terminal.wait_for("Opened the page in your browser")
    wait_until(browser)
    assert browser() == [f"{simulator.issuer}/codex/device"]
    approve(simulator)
    assert terminal.end() == 0, terminal.screen
    assert "Signed in as ada@example.com (Plus plan)" in terminal.screen
    assert "noise" not in terminal.screen
    assert not simulator.seen("/oauth/authorize")


@needs_pty
@listens
@pytest.mark.parametrize("typed", ["b", " B "])
def test_b_goes_over_to_the_browser(simulator, start, browser, typed):
    simulator.interval = "1"
    terminal = start("chatgpt", "login")
    terminal.wait_for("14:5")
    terminal.type("what?")
    terminal.type(typed)
    url = address_on(terminal)
    terminal.wait_for("Opening your browser")
    wait_until(browser)
    assert browser() == [url]
    assert "Go back to the terminal" in visit(url)
    assert terminal.end() == 0, terminal.screen
    assert plugin.load_tokens().email == "ada@example.com"


@needs_pty
@listens
def test_without_a_browser_only_b_is_offered(simulator, start):
    """In a container, say; the address can be opened elsewhere."""
    simulator.interval = "1"
    terminal = start("chatgpt", "login")
    terminal.wait_for("type b and Enter to sign in through the browser")
    terminal.wait_for("14:5")
    assert "Press Enter" not in terminal.screen
    terminal.type("")
    terminal.type("b")
    assert "Go back to the terminal" in visit(address_on(terminal))
    assert "Opening your browser" not in terminal.screen
    assert terminal.end() == 0, terminal.screen


@needs_pty
@listens
def test_no_open_opens_nothing_in_both_ways(simulator, start, browser):
    simulator.interval = "1"
    terminal = start("chatgpt", "login", "--no-open")
    terminal.wait_for("14:5")
    assert "Press Enter" not in terminal.screen
    terminal.type("")
    terminal.type("b")
    visit(address_on(terminal))
    assert terminal.end() == 0, terminal.screen
    assert browser() == []


@needs_pty
def test_device_stays_with_the_code(simulator, start, browser):
    simulator.interval = "1"
    terminal = start("chatgpt", "login", "--device")
    terminal.wait_for("Press Enter to open the page")
    terminal.wait_for("14:5")
    assert "type b" not in terminal.screen
    terminal.type("b")
    terminal.type("")
    wait_until(browser)
    approve(simulator)
    assert terminal.end() == 0, terminal.screen
    assert not simulator.seen("/oauth/authorize")


@needs_pty
@listens
def test_without_device_codes_the_browser_login_begins_by_itself(simulator, start, browser):
    simulator.script("usercode", NO_CODES)
    terminal = start("chatgpt", "login")
    terminal.wait_for("Device codes are turned off for this account")
    url = address_on(terminal)
    wait_until(browser)
    visit(url)
    assert terminal.end() == 0, terminal.screen
    assert "[Y/n]" not in terminal.screen


@needs_pty
def test_over_ssh_nothing_is_opened_or_offered(simulator, start, browser, monkeypatch):
    monkeypatch.setenv("SSH_CONNECTION", "192.0.2.1 50000 192.0.2.2 22")
    simulator.interval = "1"
    terminal = start("chatgpt", "login")
    terminal.wait_for("14:5")
    assert "Press Enter" not in terminal.screen
    assert "type b" not in terminal.screen
    assert "llm chatgpt login --browser" in terminal.screen
    approve(simulator)
    assert terminal.end() == 0, terminal.screen
    simulator.script("usercode", NO_CODES)
    terminal = start("chatgpt", "login", "--no-open")
    terminal.wait_for(r"Sign in through the browser now\? \[Y/n\]")
    terminal.type("n")
    assert terminal.end() == 1
    assert not simulator.seen("/oauth/authorize")
    assert browser() == []


def test_in_a_pipe_nothing_is_opened_or_offered(simulator, start, browser, run_llm):
    simulator.approve_after_polls = 0
    result = run_llm("chatgpt", "login")
    assert result.exit_code == 0
    assert "Press Enter" not in result.stderr
    assert "type b" not in result.stderr
    assert result.stderr.count("Waiting") == 1
    assert browser() == []


@needs_pty
def test_a_terminal_without_stderr(simulator, start):
    terminal = start("chatgpt", "doctor", columns=40, preexec_fn=lambda: os.close(2))
    assert terminal.end() == 1
    assert "login: not signed in" in terminal.screen
    assert "-> Not signed in to ChatGPT.\r\n" in terminal.screen


@needs_pty
def test_the_end_of_input_leaves_the_countdown(simulator, start):
    simulator.interval = "1"
    terminal = start("chatgpt", "login")
    terminal.wait_for("14:5")
    os.write(terminal.master, b"\x04")
    terminal.wait_for("14:5[0-7]")
    approve(simulator)
    assert terminal.end() == 0, terminal.screen


@needs_pty
@pytest.mark.parametrize("columns", [20, 40, 80])
def test_the_countdown_stays_on_its_line(simulator, start, columns):
    simulator.interval = "1"
    terminal = start("chatgpt", "login", columns=columns)
    terminal.wait_for("14:5[0-7]")
    counted = terminal.screen.rpartition("code.")[2]
    assert "\n" not in counted.lstrip("\r\n")
    assert max(map(len, counted.split("\r"))) < columns
    assert ("Waiting for you" in counted) == (columns == 80)


@needs_pty
@pytest.mark.parametrize("columns", [60, 80])
def test_the_screen_of_a_login_fits(simulator, start, browser, columns):
    """The address and the code stand alone, so that a double click selects them."""
    sign_in(simulator)
    terminal = start("chatgpt", "login", columns=columns)
    terminal.wait_for("14:5")
    lines = re.split(r"[\r\n]+", terminal.screen)
    assert max(map(len, lines)) < columns
    user_code = simulator.seen("/deviceauth/token")[0].body["user_code"]
    assert {f"     {simulator.issuer}/codex/device", f"     {user_code}"} < set(lines)


@pytest.fixture
def clipboard(tmp_path, monkeypatch, start):
    """The file that a `pbcopy` of this test copies to; it is the only command on the PATH."""
    folder, copied = tmp_path / "bin", tmp_path / "copied"
    folder.mkdir()
    (folder / "pbcopy").write_text(f"#!/bin/sh\n/bin/cat > {copied}\n")
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("TERM", "xterm")
    return copied


def copy_code(simulator, start):
    """What the login says after c and Enter, and the code."""
    simulator.interval = "1"
    terminal = start("chatgpt", "login")
    terminal.wait_for("ype c and Enter to copy the code")
    terminal.wait_for("14:5")
    terminal.type("c")
    message = terminal.wait_for(r"((?:Copied|Asked) .*)\r")[1]
    user_code = simulator.seen("/deviceauth/token")[0].body["user_code"]
    approve(simulator)
    assert terminal.end() == 0, terminal.screen
    return message, user_code, terminal.raw


@needs_pty
def test_c_copies_the_code(simulator, start, clipboard):
    (clipboard.parent / "bin" / "pbcopy").chmod(0o755)
    message, user_code, raw = copy_code(simulator, start)
    assert message == "Copied the code."
    assert clipboard.read_text() == user_code
    assert "]52;" not in raw


@needs_pty
@pytest.mark.parametrize("where", ["no command", "it fails", "over SSH"])
def test_without_a_command_the_terminal_is_asked_to_copy(
    simulator, start, clipboard, monkeypatch, where
):
    command = clipboard.parent / "bin" / "pbcopy"
    if where != "no command":
        command.chmod(0o755)
    if where == "it fails":
        command.write_text("#!/bin/sh\nexit 1\n")
    if where == "over SSH":
        monkeypatch.setenv("SSH_TTY", "/dev/pts/1")
    message, user_code, raw = copy_code(simulator, start)
    assert message == "Asked your terminal to copy the code; not every terminal does."
    assert f"\x1b]52;c;{base64.b64encode(user_code.encode()).decode()}\a" in raw
    assert not clipboard.exists()


@needs_pty
def test_where_nothing_can_copy_it_is_not_offered(simulator, start, clipboard, monkeypatch):
    monkeypatch.setenv("TERM", "linux")
    terminal = start("chatgpt", "login")
    terminal.wait_for("14:5")
    assert "copy" not in terminal.screen


@needs_pty
@listens
def test_advice_about_the_redirect_stands_below_the_address(simulator, start):
    terminal = start("chatgpt", "login", "--browser", "--no-open", columns=60)
    terminal.wait_for("fails to load:")
    before, _, after = terminal.screen.partition(address_on(terminal))
    assert before == "Open this page in a browser:\r\n\r\n  "
    assert "LLM_CHATGPT_REDIRECT_HOST=localhost" in after
    assert max(map(len, re.split(r"[\r\n]+", after))) < 60


LONG = "ada.lovelace-byron@engineering.example.com"


# One process for all of them, because starting llm takes longer than they do.
EACH_COMMAND = """
from llm.cli import cli
for command in {commands}:
    try:
        cli(["chatgpt", *command.split()])
    except SystemExit as end:
        print(f"> {{command}}: {{end.code}}", flush=True)
"""


@needs_pty
@pytest.mark.parametrize("columns", [60, 80])
def test_answers_and_errors_fit_the_terminal(simulator, run_llm, start, columns):
    sign_in(simulator, email=LONG, workspace="Analytical Engines Ltd")
    simulator.bank_reset()
    run_llm("chatgpt", "refresh")
    commands = ["accounts", "status", "usage", "models", "models --all", "image x -m nonsense"]
    code = EACH_COMMAND.format(commands=commands)
    terminal = start("-c", code, program=(), columns=columns)
    assert terminal.end() == 0
    outputs = re.findall(r"((?:(?!> ).*\r\n)*)> (.*): (\d)\r\n", terminal.screen)
    assert [(command, int(code)) for _, command, code in outputs] == [
        (command, command.startswith("image ")) for command in commands
    ]
    for output, command, _ in outputs:
        # A path is a long word.
        lines = [line for line in output.split("\r\n") if "/" not in line]
        assert max(map(len, lines)) < columns, command
        # Only columns are shortened, and no names in them.
        assert ("\u2026" in output) <= (command.split()[0] in ("accounts", "models")), command
        if command.startswith("models"):
            assert "\nchatgpt-gpt-6.2-sol " in output


@pytest.mark.parametrize("command", ["accounts", "models --all"])
def test_nothing_is_shortened_in_a_pipe(simulator, run_llm, command):
    sign_in(simulator, email=LONG, workspace="Analytical Engines Ltd")
    stdout = run_llm("chatgpt", *command.split()).stdout
    assert "\u2026" not in stdout
    assert max(map(len, stdout.splitlines())) > 80


def test_who_is_signed_in_already_is_said(simulator, run_llm):
    sign_in(simulator)
    simulator.approve_after_polls = 0
    stderr = run_llm("chatgpt", "login").stderr
    assert stderr.startswith(
        "You are signed in as ada@example.com (Plus plan). A new login replaces"
    )
    assert "--account NAME" in stderr
    simulator.account = Account(email="bob@example.com", account_id="acc-bob")
    result = run_llm("chatgpt", "login", "--account", "work")
    assert result.stderr.startswith("Already signed in: default (ada@example.com).\n")
    assert "added as account work" in result.stderr
    assert "llm chatgpt use work" in result.stdout


def test_nothing_is_said_about_nobody(simulator, run_llm):
    simulator.approve_after_polls = 0
    assert "signed in" not in run_llm("chatgpt", "login").stderr.lower()


def test_the_next_steps(simulator, run_llm):
    simulator.approve_after_polls = 0
    stdout = run_llm("chatgpt", "login").stdout
    assert "\n  llm -m chatgpt-gpt-6.2-sol " in stdout
    assert "\n  llm models default chatgpt-gpt-6.2-sol\n" in stdout
    # As it says.
    assert run_llm("models", "default", "chatgpt-gpt-6.2-sol").exit_code == 0
    assert run_llm("hi").exit_code == 0


def test_a_model_that_the_account_lacks_is_not_suggested(simulator, run_llm):
    simulator.approve_after_polls = 0
    simulator.script("models", Answer(200, {"models": [{"slug": "gpt-7"}]}), Answer(500))
    assert "llm models default chatgpt-gpt-7" in run_llm("chatgpt", "login").stdout
    assert "llm models default chatgpt-gpt-6.1-sol" in run_llm("chatgpt", "login").stdout


# Logins that have come to their end


@pytest.fixture
def ended(simulator, run_llm):
    """The account `work`, whose refresh token OpenAI has refused; `default` is healthy."""
    sign_in(simulator)
    sign_in(simulator, "work", expires_at=time.time() - 60)
    simulator.script("token", error_answer(401, "refresh_token_expired"))
    result = run_llm("-m", "chatgpt-gpt-6-luna", "--key", "work", "hi")
    assert result.exit_code == 1
    return result.stderr.removeprefix("Error: ").strip()


def test_status_of_a_login_that_has_ended(simulator, ended, run_llm):
    result = run_llm("chatgpt", "status", "--account", "work")
    assert result.exit_code == 1
    assert result.stdout.startswith(
        "Your login as ada@example.com (Plus plan) has ended. "
        "Run 'llm chatgpt login --account work'.\n"
    )
    assert "\nAccess token: expired, sign in again\n" in result.stdout
    assert result.stdout.splitlines()[-1] == ended
    assert "llm chatgpt login --account work" in ended
    result = run_llm("chatgpt", "status", "--account", "work", "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert (report["signed_in"], report["expired"], report["problem"]) == (False, True, ended)
    assert report["reason"] == "chosen by name"
    result = run_llm("chatgpt", "status", "--json")
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert (report["signed_in"], report["problem"]) == (True, None)
    assert len(simulator.refreshes) == 1


def test_status_of_an_imported_login_that_has_ended(simulator, run_llm):
    sign_in(simulator, kind="codex", refresh_token=None, expires_at=time.time() - 60)
    result = run_llm("chatgpt", "status")
    assert result.exit_code == 1
    assert result.stdout.startswith("Your login as ada@example.com (Plus plan) has ended. Run 'llm")
    assert "has ended. Run 'llm chatgpt import'." in result.stdout


def test_a_login_says_that_it_replaces_the_one_that_has_ended(simulator, ended, run_llm):
    simulator.approve_after_polls = 0
    result = run_llm("chatgpt", "login", "--account", "work")
    assert result.stderr.startswith(
        "Your login as ada@example.com (Plus plan) has ended.\nA new login replaces it.\n"
    )
    assert "You are signed in" not in result.stderr


def test_accounts_that_have_ended(simulator, ended, run_llm):
    result = run_llm("chatgpt", "accounts")
    assert result.exit_code == 1
    healthy, other = result.stdout.splitlines()[1:]
    assert "renews automatically" in healthy
    assert other.endswith("expired, sign in again")
    report = run_llm("chatgpt", "accounts", "--json")
    assert report.exit_code == 1
    assert [entry["expired"] for entry in json.loads(report.stdout)] == [False, True]


def test_a_new_login_mends_it(simulator, ended, run_llm):
    simulator.approve_after_polls = 0
    assert run_llm("chatgpt", "login", "--account", "work").exit_code == 0
    assert run_llm("chatgpt", "status", "--account", "work").exit_code == 0
    assert run_llm("chatgpt", "accounts").exit_code == 0


def test_a_refused_refresh_before_the_token_expires(simulator, run_llm):
    """A prompt still works with the old token, but nothing promises a renewal."""
    sign_in(simulator, expires_at=time.time() + 60)
    simulator.script("token", error_answer(401, "refresh_token_reused"))
    assert run_llm("-m", "chatgpt-gpt-6-luna", "hi").exit_code == 0
    for command in (["status"], ["accounts"], ["doctor"]):
        result = run_llm("chatgpt", *command)
        assert result.exit_code == 0
        assert re.search(r"expires in \d+ seconds.*; cannot be renewed", result.stdout)
    status = run_llm("chatgpt", "status").stdout
    assert status.startswith("Signed in as ada@example.com")
    assert "Run 'llm chatgpt login' to sign in again." in status.splitlines()[-1]
    report = json.loads(run_llm("chatgpt", "status", "--json").stdout)
    assert (report["signed_in"], report["expired"]) == (True, False)
    assert report["problem"] == status.splitlines()[-1]


@pytest.fixture
def damaged(simulator):
    """The account `work`, whose entry in the login file is damaged; `default` is healthy."""
    sign_in(simulator)
    sign_in(simulator, "work")
    path = llm.user_dir() / "chatgpt-oauth.json"
    data = json.loads(path.read_text())
    data["accounts"]["work"]["access_token"] = 7
    path.write_text(json.dumps(data))


@pytest.mark.parametrize("variable", [False, True])
def test_logout_of_a_damaged_account(damaged, run_llm, monkeypatch, variable):
    arguments = [] if variable else ["--account", "work"]
    if variable:
        monkeypatch.setenv("LLM_CHATGPT_ACCOUNT", "work")
    result = run_llm("chatgpt", "logout", *arguments)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("Signed out of account work.")
    monkeypatch.delenv("LLM_CHATGPT_ACCOUNT", raising=False)
    result = run_llm("chatgpt", "accounts")
    assert result.exit_code == 0
    assert "work" not in result.stdout


def test_logout_of_an_empty_name(simulator, run_llm):
    sign_in(simulator)
    result = run_llm("chatgpt", "logout", "--account", "")
    assert result.exit_code == 1
    assert "No account has this name. Accounts: default." in result.stderr


# Importing


@needs_pty
def test_an_import_asks_once(simulator, start, tmp_path):
    sign_in(simulator, "codex")
    simulator.account = Account(email="bob@example.com", account_id="acc-bob")
    (tmp_path / "auth.json").write_text(json.dumps({"tokens": simulator.sign_in()}))
    terminal = start("chatgpt", "import", str(tmp_path))
    terminal.wait_for("Replace the old login?")
    terminal.type("y")
    terminal.wait_for("Imported as account codex: bob@example.com", 10)
    assert terminal.end() == 0, terminal.screen
    assert terminal.screen.count("Replace the old login?") == 1


def test_an_import_replaces_a_damaged_account(simulator, run_llm, tmp_path):
    sign_in(simulator)
    path = llm.user_dir() / "chatgpt-oauth.json"
    path.write_text(path.read_text().replace('"accounts": {', '"accounts": {"codex": 7,'))
    (tmp_path / "auth.json").write_text(json.dumps({"tokens": simulator.sign_in()}))
    result = run_llm("chatgpt", "import", str(tmp_path))
    assert result.exit_code == 0, result.stderr
    assert "Imported as account codex" in result.stdout


# Signing out


def test_the_last_account_is_the_default_one(simulator, run_llm):
    for name in ("default", "work", "weekend"):
        sign_in(simulator, name)
    result = run_llm("chatgpt", "logout")
    assert "Choose one with 'llm chatgpt use NAME': work, weekend." in result.stdout
    result = run_llm("chatgpt", "logout", "--account", "weekend")
    assert result.stdout.endswith("Now in use: work\n")
    assert run_llm("-m", "chatgpt-gpt-6-luna", "hi").exit_code == 0


@pytest.mark.parametrize(
    "trouble",
    [
        {"LLM_CHATGPT_ISSUER": "http://elsewhere.example"},
        {"LLM_CHATGPT_ISSUER": "https://x.example", "CODEX_CA_CERTIFICATE": "/nowhere"},
        {"LLM_CHATGPT_ISSUER": "https://x.example", "HTTPS_PROXY": "nonsense://"},
        {"LLM_CHATGPT_ORIGINATOR": "caf\u00e9"},
        {},
    ],
)
def test_revoke_signs_out_whatever_goes_wrong(simulator, run_llm, monkeypatch, trouble):
    sign_in(simulator)
    sign_in(simulator, "work")
    simulator.script("revoke", *[Answer(200, b"no such thing", {"Content-Encoding": "gzip"})] * 2)
    for name, value in trouble.items():
        monkeypatch.setenv(name, value)
    result = run_llm("chatgpt", "logout", "--revoke", "--all")
    assert result.exit_code == 0
    assert result.stderr.count("Could not end the session at OpenAI (") == 2
    assert run_llm("chatgpt", "accounts").stdout == ""


def test_logout_of_a_damaged_file(simulator, run_llm):
    path = llm.user_dir() / "chatgpt-oauth.json"
    path.write_text('{"access_token": "Secret"')
    assert run_llm("chatgpt", "logout").exit_code == 0
    assert "Secret" not in path.read_text()
    assert "Not signed in" in run_llm("chatgpt", "status").stdout


def test_logout_of_all_leaves_nothing_about_anybody(simulator, run_llm, monkeypatch):
    simulator.personal_tokens["at-eve"] = Account(email="eve@example.com")
    sign_in(simulator)
    path = llm.user_dir() / "chatgpt-oauth.json"
    # A login sets a damaged file aside.
    path.write_text(path.read_text()[:-5])
    simulator.approve_after_polls = 0
    run_llm("chatgpt", "login")
    run_llm("chatgpt", "usage", "--account", "at-eve")
    files = list(path.parent.glob("chatgpt-oauth*"))
    assert len(files) == 3
    assert "eve@example.com" in path.read_text()
    run_llm("chatgpt", "logout", "--all")
    left = "".join(file.read_text() for file in path.parent.glob("chatgpt-oauth*"))
    assert "@example.com" not in left


def test_a_key_that_is_no_access_token_is_named(simulator, run_llm):
    llm.user_dir().mkdir(exist_ok=True)
    (llm.user_dir() / "keys.json").write_text(json.dumps({"chatgpt": "sk-Secret"}))
    for arguments in (["chatgpt", "status"], ["-m", "chatgpt-gpt-6-luna", "hi"]):
        result = run_llm(*arguments)
        assert result.exit_code == 1
        assert "the key chatgpt in 'llm keys' is not an access token" in result.output
        assert "Secret" not in result.output


def test_the_home_folder_is_shortened(simulator, run_llm, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("CODEX_HOME")
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    sign_in(simulator)
    short_path = os.path.join("~", "llm", "chatgpt-oauth.json")
    assert f"\nStored in: {short_path}\n" in run_llm("chatgpt", "status").stdout
    (llm.user_dir() / "chatgpt-oauth.json").write_text("{")
    result = run_llm("chatgpt", "status")
    assert short_path in result.stderr
    assert str(tmp_path) not in result.output
    result = run_llm("chatgpt", "import")
    assert os.path.join("~", ".codex") in result.stderr
    assert str(tmp_path) not in result.output


# Browsers


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """A folder with modules that must not be run; what has run."""
    folder = tmp_path / "here"
    folder.mkdir()
    for name in ("webbrowser", "antigravity"):
        marker = tmp_path / f"{name}-ran"
        (folder / f"{name}.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    monkeypatch.chdir(folder)
    return lambda: [path.name for path in tmp_path.glob("*-ran")]


@needs_pty
@listens
def test_a_webbrowser_module_in_the_current_folder_is_not_run(simulator, start, browser, planted):
    terminal = start("chatgpt", "login", "--browser")
    url = address_on(terminal)
    wait_until(browser)
    visit(url)
    assert terminal.end() == 0, terminal.screen
    assert planted() == []
    assert browser() == [url]


@needs_pty
def test_a_browser_does_not_write_into_our_output(simulator, in_pipes, browser):
    process, url, printed = in_pipes()
    wait_until(browser)
    visit(url)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 0
    assert stdout.startswith("Signed in as ada@example.com")
    assert "noise" not in stdout + printed + stderr


@needs_pty
@pytest.mark.parametrize("value", ["/nowhere/browser", "'", ""])
def test_where_no_browser_can_be_opened(simulator, in_pipes, monkeypatch, value):
    """A text browser would open in this very terminal."""
    monkeypatch.setenv("BROWSER", value)
    process, url, printed = in_pipes()
    assert "Open this page in a browser" in printed
    visit(url)
    assert process.wait(timeout=30) == 0


def test_windows_opens_the_browser_without_a_command(simulator, run_llm, monkeypatch):
    """A program named rundll32 in the current folder would be run in place of Windows' own."""
    opened, threads = [], []

    def startfile(url):
        opened.append(url)
        threads.append(threading.Thread(target=visit, args=(url,)))
        threads[-1].start()

    monkeypatch.setattr("llm_chatgpt.config.WINDOWS", True)
    monkeypatch.setattr("os.startfile", startfile, raising=False)
    monkeypatch.setattr("subprocess.Popen", None)
    result = run_llm("chatgpt", "login", "--official")
    assert result.exit_code == 0, result.stderr
    assert len(opened) == 1
    assert f"\n  {opened[0]}\n" in result.stderr
    threads[0].join()


# A Windows console, as far as it can be simulated here


def test_a_windows_console_is_read_key_by_key(simulator, start, run_llm, monkeypatch):
    keys = list("http://x/?code=ab\bc\r")
    console = types.SimpleNamespace(kbhit=lambda: bool(keys), getwche=lambda: keys.pop(0))
    monkeypatch.setitem(sys.modules, "msvcrt", console)
    monkeypatch.setattr("llm_chatgpt.config.WINDOWS", True)
    monkeypatch.setattr("llm_chatgpt.config.REDIRECT_PORTS", (0,))
    monkeypatch.setattr("llm_chatgpt.config.BROWSER_LOGIN_SECONDS", 1)
    monkeypatch.setattr("llm_chatgpt.commands.terminal.is_terminal", lambda stream: True)
    result = run_llm("chatgpt", "login", "--browser", "--no-open")
    assert keys == []
    assert "That isn't the right address" in result.stderr


# Pipes and closed streams

COMMANDS = [
    ["login"],
    ["status"],
    ["accounts"],
    ["use", "default"],
    ["models"],
    ["refresh"],
    ["usage"],
    ["doctor"],
    ["import"],
    ["logout", "--revoke"],
]


@pytest.fixture
def omega(simulator, tmp_path, monkeypatch):
    """A login whose names no Western code page has, and Codex CLI's file."""
    simulator.account = Account(
        email="\N{GREEK CAPITAL LETTER OMEGA}@example.com", plan="pl\u0101n"
    )
    simulator.approve_after_polls = 0
    reply = simulator.sign_in()
    (tmp_path / "auth.json").write_text(json.dumps({"tokens": reply}))
    monkeypatch.setenv("CODEX_HOME", str(tmp_path))
    return sign_in(simulator)


# One process for all commands, because to start llm takes longer than they do.
ALL_COMMANDS = f"""
from llm.cli import cli
for arguments in {COMMANDS}:
    print(">", *arguments, flush=True)
    assert not cli(["chatgpt", *arguments], standalone_mode=False)
"""


def outputs_of(done):
    """What each command has printed on stdout, by its name."""
    assert "Traceback" not in done.stderr
    assert done.returncode == 0, done.stdout + done.stderr
    outputs = dict(re.findall(r"^> (\w+).*\n((?:(?!> ).*\n)*)", done.stdout, re.MULTILINE))
    assert list(outputs) == [arguments[0] for arguments in COMMANDS]
    return outputs


@pytest.mark.skipif(os.name == "nt", reason="POSIX shells close streams")
@pytest.mark.parametrize("closing", ["<&-", "<&- 2>&-"])
def test_closed_streams(omega, closing):
    command = ["sh", "-c", f'exec "$@" {closing}', "sh", sys.executable, "-c", ALL_COMMANDS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert all(outputs_of(done).values()), done.stdout


def test_an_old_code_page(omega):
    done = subprocess.run(
        [sys.executable, "-c", ALL_COMMANDS],
        env={**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Signed in as ?@example.com (Pl?n plan)" in outputs_of(done)["status"]
    # Windows has more such code pages, and all of them have these characters.
    assert done.stdout.isascii()


# Colours


@needs_pty
def test_colours_on_a_terminal(simulator, start, monkeypatch, run_llm):
    terminal = start("chatgpt", "doctor")
    terminal.end()
    assert re.search(r"\x1b\[32mok\x1b\[0m +versions", terminal.raw)
    assert re.search(r"\x1b\[31mbroken\x1b\[0m +login", terminal.raw)
    simulator.approve_after_polls = 0
    terminal = start("chatgpt", "login")
    assert terminal.end() == 0
    code = simulator.seen("/deviceauth/token")[0].body["user_code"]
    assert f"\x1b[1m{code}\x1b[0m" in terminal.raw
    assert f"\x1b[1m{simulator.issuer}/codex/device\x1b[0m" in terminal.raw
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = start("chatgpt", "doctor")
    terminal.end()
    assert "\x1b" not in terminal.raw
    monkeypatch.delenv("NO_COLOR")
    assert "\x1b" not in run_llm("chatgpt", "doctor").output


@needs_pty
@pytest.mark.parametrize("columns", [60, 80])
def test_doctor_breaks_lines_between_words(simulator, start, monkeypatch, columns):
    sign_in(simulator, kind="codex", refresh_token=None, expires_at=time.time() - 60)
    terminal = start("chatgpt", "doctor", columns=columns)
    terminal.end()
    lines = terminal.screen.splitlines()
    assert max(len(line) for line in lines if "/" not in line) < columns
    assert "'llm chatgpt import'" in terminal.screen
    assert " ".join(terminal.screen.split()).count("Renew it with Codex CLI, then run") == 1


# Shells


@pytest.mark.parametrize(
    "arguments",
    [["use"], ["status", "--account"], ["login", "--account"], ["logout", "--account"]],
)
def test_shells_complete_accounts(simulator, arguments):
    def offered(incomplete):
        complete = ShellComplete(cli, {}, "llm", "_LLM_COMPLETE")
        found = complete.get_completions(["chatgpt", *arguments], incomplete)
        return [item.value for item in found]

    assert offered("") == []
    for name in ("default", "work", "weekend"):
        sign_in(simulator, name)
    assert offered("w") == ["work", "weekend"]
    (llm.user_dir() / "chatgpt-oauth.json").write_text("{")
    assert offered("w") == []


# Help


def test_help_is_short_and_plain():
    texts = [GROUP.help]
    for command in GROUP.commands.values():
        texts.append(command.help)
        options = [p for p in command.params if isinstance(p, click.Option)]
        texts += [option.help for option in options if option.name != "help"]
    for text in texts:
        first = text.splitlines()[0]
        assert len(first) <= 60, first
        assert not first.endswith("."), first
        assert first[0].isupper(), first


# Models


def test_no_effort_is_starred(signed_in, run_llm):
    result = run_llm("chatgpt", "models")
    assert "*" not in result.stdout
    assert "the service chooses" in result.stderr
    assert "the service chooses" in " ".join(run_llm("chatgpt", "models", "--help").stdout.split())
