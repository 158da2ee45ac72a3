"""The browser login: the listener, what is pasted, and a real Chromium."""

from __future__ import annotations

import contextlib
import http.client
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import filelock
import pytest

import llm_chatgpt_oauth as plugin
import terminal
from conftest import (
    fetch,
    redirect_of,
    secrets_watch,
    sign_in,
    start_llm,
    wait_until,
    with_query,
)
from llm_chatgpt.login.browser import open_listener
from simulator import Account, Answer, error_answer, web_page

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)


# In one process, so that no other one waits for the ports.
pytestmark = pytest.mark.xdist_group("callback-ports")


@pytest.fixture(autouse=True)
def callback_ports():
    """The registered ports are this machine's, so one test at a time may listen there."""
    with filelock.FileLock(pathlib.Path(tempfile.gettempdir()) / "llm-chatgpt-callback.lock"):
        yield
        for process in STARTED:
            process.kill()
            process.wait()
        STARTED.clear()


needs_pty = pytest.mark.skipif(os.name == "nt", reason="Windows has no such terminals or signals")
AT = "at-3vqkxPoNotShown"
# What a test that fails would leave listening.
STARTED: list[subprocess.Popen] = []


class Login:
    """`llm chatgpt login --browser` in a process of its own, up to the printed address."""

    def __init__(self, *arguments, **options):
        self.process = start_llm("chatgpt", "login", "--browser", *arguments, **options)
        STARTED.append(self.process)
        self.said = ""
        while not (found := re.search(r"^  (http\S+)$", self.said, re.MULTILINE)):
            line = self.process.stderr.readline()
            assert line, self.said
            self.said += line
        self.url = found[1]
        while "Waiting for the browser" not in self.said:
            self.said += self.process.stderr.readline()

    def end(self):
        stdout, stderr = self.process.communicate(timeout=30)
        return self.process.returncode, stdout, self.said + stderr


def test_the_browser_comes_back(simulator):
    login = Login("--no-open")
    status, headers, page = fetch(login.url)
    code, stdout, stderr = login.end()
    assert (status, code) == (200, 0)
    assert "Signed in. You can close this page" in page
    assert "Signed in as ada@example.com" in stdout
    assert "10 minutes" in stderr
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    tokens = plugin.load_tokens()
    assert tokens.email == "ada@example.com"
    asked, exchanged = simulator.seen("/oauth/authorize")[0], simulator.seen("/oauth/token")[0]
    assert asked.query["scope"] == "openid profile email offline_access"
    assert len(asked.query["state"]) == 43
    assert exchanged.body["redirect_uri"] == "http://127.0.0.1:1455/auth/callback"
    assert len(exchanged.body["code_verifier"]) == 86
    assert "x-www-form-urlencoded" in exchanged.headers["content-type"]
    with secrets_watch(simulator) as check:
        check(stdout + stderr + page)
    assert exchanged.body["code"] not in stdout + stderr + page
    assert exchanged.body["code_verifier"] not in stdout + stderr + page


def test_the_address_is_fresh_each_time():
    one, two = plugin.BrowserLogin(1455), plugin.BrowserLogin(1455)
    assert one.state != two.state
    assert one.code_verifier != two.code_verifier
    assert one.code_verifier not in repr(one) + one.url
    assert one.state not in repr(one)


def test_strangers_are_answered_and_ignored(simulator):
    login = Login("--no-open")
    back = redirect_of(login.url)
    root = "http://127.0.0.1:1455"
    for path in ("/", "/favicon.ico", "/cancel", "/success?id_token=x", "/auth/callback/x"):
        assert fetch(root + path)[0] == 404
    for wrong in (
        {"state": "another"},
        {"state": None},
        {"state": ""},
        {"state": "\N{LATIN SMALL LETTER E WITH ACUTE}"},
    ):
        status, _, page = fetch(with_query(back, **wrong))
        assert status == 400
        assert "another sign-in" in page
    state = urllib.parse.parse_qs(urllib.parse.urlsplit(back).query)["state"][0]
    assert fetch(f"{back}&state={state}")[0] == 400
    connection = http.client.HTTPConnection("127.0.0.1", 1455, timeout=10)
    connection.request("POST", "/auth/callback", body=b"x")
    assert connection.getresponse().status == 501
    with socket.create_connection(("127.0.0.1", 1455)) as silent, silent.dup() as rude:
        rude.sendall(b"\x16\x03\x01 no HTTP at all\r\n\r\n")
        assert login.process.poll() is None
        assert fetch(back)[0] == 200
    code, _, stderr = login.end()
    assert code == 0, stderr
    assert "Traceback" not in stderr
    assert len(simulator.seen("/oauth/token")) == 1


def test_the_suffix_that_the_issuer_is_known_to_add(simulator):
    login = Login("--no-open")
    back = redirect_of(login.url)
    state = urllib.parse.parse_qs(urllib.parse.urlsplit(back).query)["state"][0]
    suffix = ".onboarding_entrypoint=life_sciences"
    assert fetch(with_query(back, state=state + suffix))[0] == 200
    assert login.end()[0] == 0


REFUSALS = [
    ({"error": "access_denied", "code": None}, "declined in the browser"),
    (
        {
            "error": "access_denied",
            "error_description": "missing_codex_entitlement",
            "code": None,
        },
        "not enabled for this workspace",
    ),
    ({"error": "<script>alert(1)</script>", "code": None}, "ended the sign-in"),
    ({"code": None}, "without a code"),
    ({"code": ["one", "two"]}, "without a code"),
]


@pytest.mark.parametrize(("changes", "words"), REFUSALS)
def test_a_refusal_ends_it_and_leaves_the_old_login(simulator, changes, words):
    old = sign_in(simulator)
    login = Login("--no-open")
    status, _, page = fetch(with_query(redirect_of(login.url), **changes))
    code, stdout, stderr = login.end()
    assert (status, code, stdout) == (200, 1, "")
    assert words in stderr
    assert words in page
    assert "<script>" not in page
    assert "Traceback" not in stderr
    assert plugin.load_tokens() == old
    assert not simulator.seen("/oauth/token")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (error_answer(400, "token_exchange_user_error"), "token_exchange_user_error"),
        (Answer(200, {"access_token": "eyJ"}), "did not send the tokens"),
        (error_answer(403, "unsupported_country_region_territory"), "your country or region"),
        (web_page(), "Cloudflare"),
        (Answer(drop=True), "broke off"),
    ],
)
def test_an_exchange_that_fails(simulator, answer, words):
    old = sign_in(simulator)
    simulator.script("token", answer)
    login = Login("--no-open")
    page = fetch(login.url)[2]
    code, _, stderr = login.end()
    assert code == 1
    assert words in stderr
    assert words in page
    assert "did not work" in page
    assert plugin.load_tokens() == old
    # The code may be spent, so it is sent once.
    assert len(simulator.seen("/oauth/token")) == 1


def test_a_page_that_is_loaded_twice_is_answered_twice(simulator):
    arrived = threading.Event()

    def slow(request):
        arrived.set()
        return Answer(delay=0.3, **vars_of(simulator.serve_token(request)))

    def vars_of(answer):
        return {"status": answer.status, "body": answer.body}

    simulator.script("token", slow)
    login = Login("--no-open")
    back = redirect_of(login.url)
    pages = []
    threads = [threading.Thread(target=lambda: pages.append(fetch(back)[2])) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert login.end()[0] == 0
    assert len(simulator.seen("/oauth/token")) == 1
    assert "Signed in" in pages[0]
    assert pages[0] == pages[1]


def listen_on(port):
    taken = socket.socket()
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    taken.bind(("127.0.0.1", port))
    taken.listen()
    return taken


def test_the_second_port_where_the_first_is_taken(simulator):
    with contextlib.closing(listen_on(1455)):
        login = Login("--no-open")
        assert "%3A1457" in login.url
        assert fetch(login.url)[0] == 200
        assert login.end()[0] == 0


def test_both_ports_taken(simulator, run_llm):
    with contextlib.closing(listen_on(1455)), contextlib.closing(listen_on(1457)):
        result = run_llm("chatgpt", "login", "--browser", "--no-open")
    assert result.exit_code == 1
    assert "Ports 1455 and 1457 are both in use" in result.stderr
    assert "login --device" in result.stderr
    assert not simulator.requests


@needs_pty
def test_ctrl_c_is_clean_and_frees_the_port(simulator):
    old = sign_in(simulator)
    login = Login("--no-open")
    login.process.send_signal(signal.SIGINT)
    code, stdout, stderr = login.end()
    assert (code, stdout) == (1, "")
    assert "Aborted!" in stderr
    assert "Traceback" not in stderr
    assert plugin.load_tokens() == old
    listen_on(1455).close()


def test_ten_minutes_are_the_limit(simulator):
    moments = iter([0.0, 1.0, 599.0, 600.0])
    with pytest.raises(plugin.LoginExpired, match="10 minutes"):
        plugin.login_with_browser(show=lambda request: None, clock=lambda: next(moments))
    listen_on(1455).close()


def test_an_issuer_that_is_none(run_llm, monkeypatch):
    monkeypatch.setenv("LLM_CHATGPT_ISSUER", "http://elsewhere.example")
    result = run_llm("chatgpt", "login", "--browser")
    assert result.exit_code == 1
    assert "LLM_CHATGPT_ISSUER must be" in result.stderr
    listen_on(1455).close()


def test_two_ways_at_once_are_one_too_many(run_llm):
    result = run_llm("chatgpt", "login", "--browser", "--device")
    assert result.exit_code == 2
    assert "either --browser or --device" in result.stderr


# Pasting


class Terminal(terminal.Terminal):
    """A terminal that ends with its test."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        STARTED.append(self.process)


def address_on(terminal):
    return terminal.wait_for(r"\n  (http://127\S+)\r")[1]


@needs_pty
@pytest.mark.parametrize("how", ["address", "quoted", "query", "code"])
def test_pasting_what_the_browser_ended_on(simulator, how):
    terminal = Terminal("chatgpt", "login", "--browser", "--no-open")
    url = address_on(terminal)
    terminal.wait_for("paste the address")
    back = redirect_of(url)
    code = urllib.parse.parse_qs(urllib.parse.urlsplit(back).query)["code"][0]
    forms = {
        "address": back,
        "quoted": f"  '{back}' ",
        "query": back.partition("?")[2],
        "code": code,
    }
    terminal.type(with_query(back, state="another"))
    terminal.wait_for("isn't the right address")
    for number, junk in enumerate(["what?", "http://[x?code=", "password1234567890", AT], 2):
        terminal.type(junk)
        terminal.wait_for("(?s)" + "right address.*" * number)
    assert not simulator.seen("/oauth/token")
    terminal.type(forms[how])
    assert terminal.end() == 0, terminal.screen
    assert "Signed in as ada@example.com" in terminal.screen
    assert plugin.load_tokens().email == "ada@example.com"
    assert "Traceback" not in terminal.screen


@needs_pty
def test_a_pasted_refusal(simulator):
    terminal = Terminal("chatgpt", "login", "--browser", "--no-open")
    back = redirect_of(address_on(terminal))
    terminal.type(with_query(back, code=None, error="access_denied"))
    assert terminal.end() == 1
    assert "declined in the browser" in terminal.screen


@needs_pty
def test_ctrl_c_while_a_terminal_is_read(simulator):
    terminal = Terminal("chatgpt", "login", "--browser", "--no-open")
    address_on(terminal)
    terminal.wait_for("fails to load")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.end() == 1
    assert "Aborted!" in terminal.screen
    assert "Fatal" not in terminal.screen


@needs_pty
def test_the_end_of_input_leaves_the_listener(simulator):
    terminal = Terminal("chatgpt", "login", "--browser", "--no-open")
    url = address_on(terminal)
    terminal.wait_for("fails to load")
    os.write(terminal.master, b"\x04")
    assert fetch(url)[0] == 200
    assert terminal.end() == 0


@pytest.mark.parametrize("arguments", [[], ["--device"]])
def test_without_a_terminal_the_browser_is_only_named(simulator, run_llm, arguments):
    simulator.script("usercode", Answer(404, {"detail": "Not Found"}))
    result = run_llm("chatgpt", "login", *arguments)
    assert result.exit_code == 1
    assert "llm chatgpt login --browser" in result.stderr


@needs_pty
def test_somebody_else_under_a_taken_name_is_asked_about(simulator):
    old = sign_in(simulator)
    simulator.account = Account(email="bob@example.com", account_id="other")
    terminal = Terminal("chatgpt", "login", "--browser", "--no-open")
    page = fetch(address_on(terminal))[2]
    assert "Go back to the terminal" in page
    terminal.wait_for(r"(?s)ada@example.com.*bob@example.com.*Replace the old login\?")
    terminal.type("n")
    assert terminal.end() == 1
    assert "Kept ada@example.com" in terminal.screen
    assert plugin.load_tokens() == old


def test_nobody_reads_the_terminal_while_a_question_is_asked(simulator):
    sign_in(simulator)
    simulator.account = Account(email="bob@example.com", account_id="other")
    ended, asked = threading.Event(), []

    def read_lines(line, stop):
        stop.wait()
        time.sleep(0.2)
        ended.set()

    def replace(old, new):
        asked.append(ended.is_set())
        return True

    plugin.login_with_browser(
        show=lambda request: threading.Thread(target=fetch, args=(request.url,)).start(),
        read_lines=read_lines,
        replace=replace,
    )
    assert asked == [True]
    assert plugin.load_tokens().email == "bob@example.com"


# Browsers


@needs_pty
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (apt: chromium)")
def test_a_real_browser_follows_the_redirect(simulator, tmp_path, monkeypatch):
    dom = tmp_path / "dom.html"
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
        "--disable-background-networking --disable-component-update "
        f"--user-data-dir={tmp_path / 'profile'} --dump-dom"
    )
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho noise\nexec {CHROMIUM} {flags} "$1" > {dom}\n')
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER", f"{browser} %s")
    login = Login()
    assert "Opening your browser" in login.said
    code, stdout, stderr = login.end()
    assert code == 0, stderr
    assert stdout.startswith("Signed in as ada@example.com")
    assert "noise" not in stdout + stderr
    wait_until(lambda: dom.exists() and "</html>" in dom.read_text())
    assert "Signed in. You can close this page" in dom.read_text()
    assert "Chrome" in simulator.seen("/oauth/authorize")[0].headers["user-agent"]


# Windows, as far as it can be played here


def test_windows_binds_the_port_for_itself_alone(monkeypatch):
    calls = []

    class Socket(socket.socket):
        def setsockopt(self, *arguments):
            calls.append(arguments)

    monkeypatch.setattr("llm_chatgpt.config.WINDOWS", True)
    monkeypatch.setattr("llm_chatgpt.config.REDIRECT_PORTS", (0,))
    monkeypatch.setattr(socket, "SO_EXCLUSIVEADDRUSE", -5, raising=False)
    monkeypatch.setattr(socket, "socket", Socket)
    listener = open_listener(lambda query: (200, ""), threading.Event())
    listener.server_close()
    assert (socket.SOL_SOCKET, -5, 1) in calls
    assert not any(call[1] == socket.SO_REUSEADDR for call in calls)
