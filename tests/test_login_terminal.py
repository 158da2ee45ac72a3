"""Signing in at a terminal: what the login shows, opens, copies and reads."""

from __future__ import annotations

import base64
import os
import re
import socket
import subprocess
import sys
import threading
import types

import pytest

import llm_chatgpt_oauth as plugin
from conftest import fetch, sign_in, wait_until
from llm_chatgpt.login.callback import open_listeners
from simulator import Account, Answer
from terminal import needs_pty

listens = pytest.mark.usefixtures("callback_ports")
NO_CODES = Answer(404, {"detail": "Not Found"})


@pytest.fixture
def browser(tmp_path, monkeypatch, start_in_terminal):
    """Install a browser. Returns a function that lists the addresses it was opened with."""
    seen = tmp_path / "opened"
    program = tmp_path / "browser"
    program.write_text(f'#!/bin/sh\necho noise; echo noise >&2; echo "$1" >> {seen}\n')
    program.chmod(0o755)
    monkeypatch.setenv("BROWSER", str(program))
    return lambda: seen.read_text().split() if seen.exists() else []


def approve(simulator):
    simulator.approve(simulator.seen("/deviceauth/token")[0].body["user_code"])


@pytest.fixture
def begin(simulator, start_in_terminal):
    """Start a login with a code in a terminal, and return the terminal when it counts down."""

    def run(*options, **settings):
        simulator.interval = "1"
        terminal = start_in_terminal("chatgpt", "login", *options, **settings)
        terminal.wait_for("14:5")
        return terminal

    return run


# Signing in at a terminal


@needs_pty
def test_enter_opens_the_page(simulator, begin, browser):
    terminal = begin()
    terminal.wait_for("type b and Enter to sign in through the browser")
    terminal.wait_for("Press Enter to open the page")
    assert browser() == []
    terminal.type("")
    terminal.wait_for("Opened the page in a browser")
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
def test_b_switches_to_the_browser(simulator, begin, browser, typed):
    terminal = begin()
    terminal.type("what?")
    terminal.type(typed)
    url = terminal.address()
    terminal.wait_for("Opening your browser")
    wait_until(browser)
    assert browser() == [url]
    assert "Go back to the terminal" in fetch(url)[2]
    assert terminal.end() == 0, terminal.screen
    assert plugin.load_tokens().email == "ada@example.com"


@needs_pty
@listens
def test_without_a_browser_only_b_is_offered(simulator, begin):
    """In a container, for example; the address can be opened on another machine."""
    terminal = begin()
    terminal.wait_for("type b and Enter to sign in through the browser")
    assert "Press Enter" not in terminal.screen
    terminal.type("")
    terminal.type("b")
    assert "Go back to the terminal" in fetch(terminal.address())[2]
    assert "Opening your browser" not in terminal.screen
    assert terminal.end() == 0, terminal.screen


@needs_pty
@listens
def test_no_open_opens_nothing_with_a_code_or_a_browser(simulator, begin, browser):
    terminal = begin("--no-open")
    assert "Press Enter" not in terminal.screen
    terminal.type("")
    terminal.type("b")
    fetch(terminal.address())
    assert terminal.end() == 0, terminal.screen
    assert browser() == []


@needs_pty
def test_device_stays_with_the_code(simulator, begin, browser):
    terminal = begin("--device")
    terminal.wait_for("Press Enter to open the page")
    assert "type b" not in terminal.screen
    terminal.type("b")
    terminal.type("")
    wait_until(browser)
    approve(simulator)
    assert terminal.end() == 0, terminal.screen
    assert not simulator.seen("/oauth/authorize")


@needs_pty
@listens
def test_without_device_codes_the_browser_login_begins_by_itself(
    simulator, start_in_terminal, browser
):
    simulator.script("usercode", NO_CODES)
    terminal = start_in_terminal("chatgpt", "login")
    terminal.wait_for("OpenAI did not offer a device code")
    url = terminal.address()
    wait_until(browser)
    fetch(url)
    assert terminal.end() == 0, terminal.screen
    assert "[Y/n]" not in terminal.screen


@needs_pty
def test_over_ssh_nothing_is_opened_or_offered(
    simulator, start_in_terminal, begin, browser, monkeypatch
):
    monkeypatch.setenv("SSH_CONNECTION", "192.0.2.1 50000 192.0.2.2 22")
    terminal = begin()
    assert "Press Enter" not in terminal.screen
    assert "type b" not in terminal.screen
    assert "llm chatgpt login --browser" in terminal.screen
    approve(simulator)
    assert terminal.end() == 0, terminal.screen
    simulator.script("usercode", NO_CODES)
    terminal = start_in_terminal("chatgpt", "login", "--no-open")
    terminal.wait_for(r"Sign in through the browser now\? \[Y/n\]")
    terminal.type("n")
    assert terminal.end() == 1
    assert not simulator.seen("/oauth/authorize")
    assert browser() == []


def test_in_a_pipe_nothing_is_opened_or_offered(simulator, start_in_terminal, browser, run_llm):
    simulator.approve_after_polls = 0
    result = run_llm("chatgpt", "login")
    assert result.exit_code == 0
    assert "Press Enter" not in result.stderr
    assert "type b" not in result.stderr
    assert result.stderr.count("Waiting") == 1
    assert browser() == []


@needs_pty
def test_doctor_works_on_a_terminal_without_stderr(simulator, start_in_terminal):
    terminal = start_in_terminal("chatgpt", "doctor", columns=40, preexec_fn=lambda: os.close(2))
    assert terminal.end() == 1
    assert "login: no login to use" in terminal.screen
    assert "-> Not signed in to ChatGPT.\r\n" in terminal.screen


@needs_pty
def test_the_countdown_goes_on_after_the_end_of_input(simulator, begin):
    terminal = begin()
    os.write(terminal.master, b"\x04")
    terminal.wait_for("14:5[0-7]")
    approve(simulator)
    assert terminal.end() == 0, terminal.screen


@needs_pty
def test_the_countdown_runs_though_stdout_is_a_pipe(simulator, begin):
    terminal = begin(stdout=subprocess.PIPE)
    terminal.wait_for("(?s)(left.*){3}")
    approve(simulator)
    assert terminal.end() == 0, terminal.screen
    assert b"Signed in" in terminal.process.stdout.read()
    times = re.findall(r"enter the code, ([\d:]+)", terminal.screen)
    assert len(set(times)) >= 2
    assert times[0] in ("15:00", "14:59", "14:58")


@needs_pty
@pytest.mark.parametrize("columns", [20, 40, 80])
def test_the_countdown_stays_on_its_line(simulator, begin, columns):
    terminal = begin(columns=columns)
    terminal.wait_for("14:5[0-7]")
    counted = terminal.screen.rpartition("code.")[2]
    assert "\n" not in counted.lstrip("\r\n")
    assert max(map(len, counted.split("\r"))) < columns
    assert ("Waiting for you" in counted) == (columns == 80)


@needs_pty
@pytest.mark.parametrize("columns", [60, 80])
def test_the_screen_of_a_login_fits(simulator, begin, browser, columns):
    """The address and the code are alone on their lines, so that they are easy to select."""
    sign_in(simulator)
    terminal = begin(columns=columns)
    lines = re.split(r"[\r\n]+", terminal.screen)
    assert max(map(len, lines)) < columns
    user_code = simulator.seen("/deviceauth/token")[0].body["user_code"]
    assert {f"     {simulator.issuer}/codex/device", f"     {user_code}"} < set(lines)


@pytest.fixture
def clipboard(tmp_path, monkeypatch, start_in_terminal):
    """Install `pbcopy`, not executable yet, as the only command. Returns the file it writes."""
    folder, copied = tmp_path / "bin", tmp_path / "copied"
    folder.mkdir()
    (folder / "pbcopy").write_text(f"#!/bin/sh\n/bin/cat > {copied}\n")
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("TERM", "xterm")
    return copied


def copy_code(simulator, begin):
    """Type c during a login. Returns the message, the code and the raw output."""
    terminal = begin()
    terminal.wait_for("Type c and Enter to copy the code")
    terminal.type("c")
    message = terminal.wait_for(r"((?:Copied|Asked) .*)\r")[1]
    user_code = simulator.seen("/deviceauth/token")[0].body["user_code"]
    approve(simulator)
    assert terminal.end() == 0, terminal.screen
    return message, user_code, terminal.raw


@needs_pty
def test_c_copies_the_code(simulator, begin, clipboard):
    (clipboard.parent / "bin" / "pbcopy").chmod(0o755)
    message, user_code, raw = copy_code(simulator, begin)
    assert message == "Copied the code."
    assert clipboard.read_text() == user_code
    assert "]52;" not in raw


@needs_pty
@pytest.mark.parametrize("where", ["no command", "it fails", "over SSH"])
def test_without_a_command_the_terminal_is_asked_to_copy(
    simulator, begin, clipboard, monkeypatch, where
):
    command = clipboard.parent / "bin" / "pbcopy"
    if where != "no command":
        command.chmod(0o755)
    if where == "it fails":
        command.write_text("#!/bin/sh\nexit 1\n")
    if where == "over SSH":
        monkeypatch.setenv("SSH_TTY", "/dev/pts/1")
    message, user_code, raw = copy_code(simulator, begin)
    assert message == "Asked your terminal to copy the code; not every terminal does."
    assert f"\x1b]52;c;{base64.b64encode(user_code.encode()).decode()}\a" in raw
    assert not clipboard.exists()


@needs_pty
def test_copying_is_not_offered_if_nothing_can_copy(simulator, begin, clipboard, monkeypatch):
    monkeypatch.setenv("TERM", "linux")
    terminal = begin()
    assert "copy" not in terminal.screen


@needs_pty
@listens
def test_advice_about_the_redirect_is_below_the_address(simulator, start_in_terminal):
    terminal = start_in_terminal("chatgpt", "login", "--browser", "--no-open", columns=60)
    terminal.wait_for("fails to load:")
    before, _, after = terminal.screen.partition(terminal.address())
    assert before == "Open this page in a browser:\r\n\r\n  "
    assert "LLM_CHATGPT_REDIRECT_HOST=localhost" in after
    assert max(map(len, re.split(r"[\r\n]+", after))) < 60


def test_a_login_names_the_accounts_already_signed_in(simulator, run_llm):
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


def test_a_first_login_mentions_no_account(simulator, run_llm):
    simulator.approve_after_polls = 0
    assert "signed in" not in run_llm("chatgpt", "login").stderr.lower()


def test_the_suggested_commands_work(simulator, run_llm):
    simulator.approve_after_polls = 0
    stdout = run_llm("chatgpt", "login").stdout
    assert "\n  llm -m chatgpt-gpt-6.2-sol " in stdout
    assert "\n  llm models default chatgpt-gpt-6.2-sol\n" in stdout
    assert run_llm("models", "default", "chatgpt-gpt-6.2-sol").exit_code == 0
    assert run_llm("hi").exit_code == 0


def test_a_model_that_the_account_lacks_is_not_suggested(simulator, run_llm):
    simulator.approve_after_polls = 0
    simulator.script("models", Answer(200, {"models": [{"slug": "gpt-7"}]}), Answer(500))
    assert "llm models default chatgpt-gpt-7" in run_llm("chatgpt", "login").stdout
    assert "llm models default chatgpt-gpt-6.1-sol" in run_llm("chatgpt", "login").stdout


# Browsers


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """Enter a folder with modules that must not run. Returns a function that names any that ran."""
    folder = tmp_path / "here"
    folder.mkdir()
    for name in ("webbrowser", "antigravity"):
        marker = tmp_path / f"{name}-ran"
        (folder / f"{name}.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    monkeypatch.chdir(folder)
    return lambda: [path.name for path in tmp_path.glob("*-ran")]


@needs_pty
@listens
def test_a_webbrowser_module_in_the_current_folder_is_not_run(
    simulator, start_in_terminal, browser, planted
):
    terminal = start_in_terminal("chatgpt", "login", "--browser")
    url = terminal.address()
    wait_until(browser)
    fetch(url)
    assert terminal.end() == 0, terminal.screen
    assert planted() == []
    assert browser() == [url]


@needs_pty
@listens
def test_output_of_the_browser_is_not_shown(simulator, start_login, browser):
    login = start_login("--browser")
    wait_until(browser)
    code, stdout, stderr = login.visit()
    assert code == 0
    assert stdout.startswith("Signed in as ada@example.com")
    assert "noise" not in stdout + stderr


@needs_pty
@listens
@pytest.mark.parametrize("value", ["/nowhere/browser", "'", ""])
def test_without_a_browser_the_address_is_printed(
    simulator, start_in_terminal, start_login, monkeypatch, value
):
    """A text browser is not used, because it would open in this terminal."""
    monkeypatch.setenv("BROWSER", value)
    login = start_login("--browser")
    assert "Open this page in a browser" in login.printed
    assert login.visit()[0] == 0


def test_windows_opens_the_browser_without_a_command(simulator, run_llm, monkeypatch):
    """A program named rundll32 in the current folder would be run in place of Windows' own."""
    opened, threads = [], []

    def startfile(url):
        opened.append(url)
        threads.append(threading.Thread(target=fetch, args=(url,)))
        threads[-1].start()

    monkeypatch.setattr("llm_chatgpt.config.WINDOWS", True)
    monkeypatch.setattr("os.startfile", startfile, raising=False)
    monkeypatch.setattr("subprocess.Popen", None)
    result = run_llm("chatgpt", "login", "--official")
    assert result.exit_code == 0, result.stderr
    assert len(opened) == 1
    assert f"\n  {opened[0]}\n" in result.stderr
    threads[0].join()


# Windows, as far as it can be simulated here


def test_a_windows_console_is_read_key_by_key(simulator, start_in_terminal, run_llm, monkeypatch):
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


def test_windows_binds_the_port_for_itself_alone(monkeypatch):
    calls = []

    class Socket(socket.socket):
        def setsockopt(self, *arguments):
            calls.append(arguments)

    monkeypatch.setattr("llm_chatgpt.config.WINDOWS", True)
    monkeypatch.setattr(socket, "SO_EXCLUSIVEADDRUSE", -5, raising=False)
    monkeypatch.setattr(socket, "socket", Socket)
    (listener,) = open_listeners("127.0.0.1", (0,))
    listener.server_close()
    assert calls.count((socket.SOL_SOCKET, -5, 1)) == 1
    assert not any(call[1] == socket.SO_REUSEADDR for call in calls)
