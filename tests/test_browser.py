"""The browser login: the listener, what is pasted, and a real Chromium."""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import http.client
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

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
from llm_chatgpt import config
from llm_chatgpt.login.callback import open_listeners
from simulator import Account, Answer, error_answer, web_page
from terminal import needs_pty

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)


@pytest.fixture(autouse=True)
def started_programs(callback_ports):
    yield
    for process in STARTED:
        process.kill()
        process.wait()
    STARTED.clear()


def listen_on(port, host="127.0.0.1"):
    taken = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    taken.bind((host, port))
    taken.listen()
    return taken


def has_ipv6():
    try:
        listen_on(0, "::1").close()
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


AT = "at-3vqkxPoNotShown"
# What a test that fails would leave listening.
STARTED: list[subprocess.Popen] = []


class Login:
    """`llm chatgpt login` in a process of its own, up to the printed address."""

    def __init__(self, *arguments, route="--browser", **options):
        self.process = start_llm("chatgpt", "login", route, *arguments, **options)
        STARTED.append(self.process)
        self.printed = ""
        while not (found := re.search(r"^  (http\S+)$", self.printed, re.MULTILINE)):
            line = self.process.stderr.readline()
            assert line, self.printed
            self.printed += line
        self.url = found[1]
        while "Waiting for the browser" not in self.printed:
            self.printed += self.process.stderr.readline()

    def end(self):
        stdout, stderr = self.process.communicate(timeout=30)
        return self.process.returncode, stdout, self.printed + stderr


def failed_login(browse, account=None):
    """The error of a login in this process, and what `browse` returns for its address."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        pages = []
        with pytest.raises(plugin.ChatGPTError) as caught:
            plugin.login_with_browser(
                account, show=lambda request: pages.append(pool.submit(browse, request.url))
            )
        return caught.value, pages[0].result()


def test_the_browser_comes_back(simulator):
    login = Login("--no-open")
    status, headers, page = fetch(login.url)
    code, stdout, stderr = login.end()
    assert (status, code) == (200, 0)
    assert "Go back to the terminal" in page
    assert "Signed in as ada@example.com" in stdout
    assert "10 minutes" in stderr
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    tokens = plugin.load_tokens()
    assert tokens.email == "ada@example.com"
    authorized, exchanged = simulator.seen("/oauth/authorize")[0], simulator.seen("/oauth/token")[0]
    assert authorized.query["scope"] == "openid profile email offline_access"
    assert len(authorized.query["state"]) == 43
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


def send(address, method, *hosts):
    """The listener's status for a request that names these hosts; its answer repeats nothing."""
    connection = http.client.HTTPConnection("127.0.0.1", 1455, timeout=10)
    connection.putrequest(method, address.removeprefix("http://127.0.0.1:1455"), skip_host=True)
    for host in hosts:
        connection.putheader("Host", host)
    connection.endheaders()
    reply = connection.getresponse()
    answer = reply.read().decode() + str(reply.headers)
    words = [method, *hosts, *urllib.parse.parse_qs(address.partition("?")[2]).get("state", [])]
    assert not [word for word in words if len(word) > 3 and word in answer]
    return reply.status


def test_other_requests_to_the_listener_are_answered_and_ignored(simulator):
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
    for method in ("POST", "HEAD", "ECHO<b>"):
        assert send(back, method, "127.0.0.1:1455") == 501
    for host in ("evil.example", "evil.example:1455", "127.0.0.1", "127.0.0.1:1457", "[::1]", ""):
        assert send(back, "GET", host) == 400
    assert send(back, "GET") == send(back, "GET", "localhost:1455", "localhost:1455") == 400
    with socket.create_connection(("127.0.0.1", 1455)) as silent, silent.dup() as rude:
        rude.sendall(b"\x16\x03\x01 no HTTP at all\r\n\r\n")
        assert b"HTTP at all" not in rude.recv(4096)
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
    error, (status, _, page) = failed_login(
        lambda url: fetch(with_query(redirect_of(url), **changes))
    )
    assert status == 200
    assert words in str(error)
    assert "Go back to the terminal" in page
    assert words not in page
    assert "<script>" not in page
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
    error, (_, _, page) = failed_login(fetch)
    assert words in str(error)
    assert "Go back to the terminal" in page
    assert plugin.load_tokens() == old
    # The code may be spent, so it is sent once.
    assert len(simulator.seen("/oauth/token")) == 1


@pytest.mark.parametrize("account", [None, "work"])
def test_the_advice_is_to_sign_in_to_the_same_account(simulator, account):
    command = f"'llm chatgpt login{' --account work' if account else ''} --browser' again"
    error, _ = failed_login(
        lambda url: fetch(with_query(redirect_of(url), error="access_denied", code=None)), account
    )
    assert command in error.advice
    simulator.script("token", Answer(drop=True))
    error, _ = failed_login(fetch, account)
    assert command in error.advice


def test_the_browser_is_answered_before_anything_else_happens(simulator):
    answered = threading.Event()

    def exchange(request):
        assert answered.wait(10)

    simulator.script("token", exchange)
    login = Login("--no-open")
    assert fetch(login.url)[0] == 200
    answered.set()
    assert login.end()[0] == 0


def test_a_browser_that_does_not_wait_for_its_answer(simulator):
    login = Login("--no-open")
    parts = urllib.parse.urlsplit(redirect_of(login.url))
    with socket.create_connection(("127.0.0.1", 1455)) as rude:
        rude.sendall(
            f"GET {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode()
        )
        rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    code, stdout, stderr = login.end()
    assert code == 0, stderr
    assert stdout.startswith("Signed in as ada@example.com")


def test_the_second_port_where_the_first_is_taken(simulator):
    with contextlib.closing(listen_on(1455)):
        login = Login("--no-open")
        assert "%3A1457" in login.url
        assert fetch(login.url)[0] == 200
        assert login.end()[0] == 0


def test_the_official_sign_in_needs_neither_port(simulator):
    with contextlib.closing(listen_on(1455)), contextlib.closing(listen_on(1457)):
        login = Login("--no-open", route="--official")
        assert fetch(login.url)[0] == 200
        code, stdout, stderr = login.end()
    assert code == 0, stderr
    assert stdout.startswith("Signed in as ada@example.com (ChatGPT plan, official)")


def test_both_ports_taken(simulator, run_llm):
    with contextlib.closing(listen_on(1455)), contextlib.closing(listen_on(1457)):
        result = run_llm("chatgpt", "login", "--browser", "--no-open")
    assert result.exit_code == 1
    assert "Could not listen on ports 1455 and 1457 (Address already in use)" in result.stderr
    assert "use --device" in result.stderr
    assert not simulator.requests


# Workspaces


ACME = Account(name="Acme", account_id="acme")
ELSEWHERE = Account(name="Personal", account_id="personal", workspaces=(ACME,))


def test_a_certain_workspace_is_asked_for(simulator):
    simulator.account = ELSEWHERE
    login = Login("--no-open", "--workspace", "acme")
    assert fetch(login.url)[0] == 200
    assert login.end()[0] == 0
    assert simulator.seen("/oauth/authorize")[0].query["allowed_workspace_id"] == "acme"
    tokens = plugin.load_tokens()
    assert (tokens.account_id, tokens.workspace) == ("acme", "Acme")


def test_another_workspace_is_not_stored(simulator):
    old = sign_in(simulator)
    simulator.account = ELSEWHERE
    login = Login("--no-open", "--workspace", "globex")
    assert fetch(login.url)[0] == 200
    code, stdout, stderr = login.end()
    assert (code, stdout) == (1, "")
    assert "signed you in to the workspace Personal (personal), not to globex." in stderr
    assert plugin.load_tokens() == old


# localhost instead of 127.0.0.1


@pytest.fixture
def to_localhost(monkeypatch):
    monkeypatch.setenv("LLM_CHATGPT_REDIRECT_HOST", "localhost")


def test_an_account_whose_issuer_accepts_only_localhost(simulator, monkeypatch):
    simulator.redirect_hosts = {"localhost"}
    refused = Login("--no-open")
    status, _, page = fetch(refused.url)
    assert status == 400
    assert "authorize_hydra_invalid_request" in page
    advice = "Error instead of a sign-in? Set LLM_CHATGPT_REDIRECT_HOST=localhost and retry.\n"
    assert f"  {refused.url}\n\n{advice}" in refused.printed
    refused.process.kill()
    refused.end()

    monkeypatch.setenv("LLM_CHATGPT_REDIRECT_HOST", "localhost")
    login = Login("--no-open")
    assert "\nError instead of a sign-in? Set LLM_CHATGPT_REDIRECT_HOST=127.0.0.1" in login.printed
    assert fetch(login.url)[0] == 200
    assert login.end()[0] == 0
    assert plugin.load_tokens().email == "ada@example.com"
    exchanged = simulator.seen("/oauth/token")[0].body
    assert exchanged["redirect_uri"] == "http://localhost:1455/auth/callback"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_localhost_is_answered_under_both_names(simulator, to_localhost, host):
    login = Login("--no-open")
    back = redirect_of(login.url).replace("localhost", host)
    assert fetch(back)[0] == 200
    assert login.end()[0] == 0


@needs_ipv6
def test_localhost_is_answered_on_ipv6(simulator, to_localhost):
    login = Login("--no-open")
    back = urllib.parse.urlsplit(redirect_of(login.url))
    with contextlib.closing(http.client.HTTPConnection("::1", 1455, timeout=10)) as browser:
        browser.request("GET", f"{back.path}?{back.query}", headers={"Host": "localhost:1455"})
        assert browser.getresponse().status == 200
    assert login.end()[0] == 0


@needs_ipv6
def test_a_port_must_be_free_on_both_addresses(simulator, to_localhost):
    with contextlib.closing(listen_on(1455, "::1")):
        login = Login("--no-open")
        assert "%3A1457" in login.url
        assert fetch(login.url)[0] == 200
        assert login.end()[0] == 0
    listen_on(1455).close()


def test_without_ipv6_the_other_address_suffices(simulator, to_localhost, monkeypatch):
    class Socket(socket.socket):
        def bind(self, address):
            if address[0] == "::1":
                raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
            super().bind(address)

    monkeypatch.setattr(socket, "socket", Socket)
    tokens = plugin.login_with_browser(
        show=lambda request: threading.Thread(target=fetch, args=(request.url,)).start()
    )
    assert tokens.email == "ada@example.com"


@needs_pty
def test_pasting_what_the_browser_ended_on_at_localhost(simulator, to_localhost):
    terminal = Terminal("chatgpt", "login", "--browser", "--no-open")
    back = redirect_of(address_on(terminal))
    terminal.type(back.replace("localhost", "127.0.0.1"))
    terminal.wait_for("starting with http://localhost:1455/")
    terminal.type(back)
    assert terminal.end() == 0, terminal.screen
    assert simulator.seen("/oauth/token")[0].body["redirect_uri"].startswith("http://localhost:")


def test_another_host_for_the_redirect_is_refused(simulator, run_llm, monkeypatch):
    monkeypatch.setenv("LLM_CHATGPT_REDIRECT_HOST", "example.com")
    result = run_llm("chatgpt", "login", "--browser", "--no-open")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: LLM_CHATGPT_REDIRECT_HOST must be 127.0.0.1 or")
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


def test_ten_minutes_are_the_limit(simulator, monkeypatch):
    assert config.BROWSER_LOGIN_SECONDS == 600
    monkeypatch.setattr(config, "BROWSER_LOGIN_SECONDS", 0.1)
    with pytest.raises(plugin.LoginExpired, match=r"within 0\.1 seconds"):
        plugin.login_with_browser(show=lambda request: None)
    listen_on(1455).close()


def test_an_invalid_issuer_is_refused(run_llm, monkeypatch):
    monkeypatch.setenv("LLM_CHATGPT_ISSUER", "http://elsewhere.example")
    result = run_llm("chatgpt", "login", "--browser")
    assert result.exit_code == 1
    assert "LLM_CHATGPT_ISSUER must be" in result.stderr
    listen_on(1455).close()


def test_two_ways_to_sign_in_exclude_each_other(run_llm):
    result = run_llm("chatgpt", "login", "--browser", "--device")
    assert result.exit_code == 2
    assert "either --browser or --device" in result.stderr


# Pasting


class Terminal(terminal.Terminal):
    """A terminal that ends with its test."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        STARTED.append(self.process)


def query_of(address):
    return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(address).query))


def address_on(terminal):
    return terminal.wait_for(r"\n  (http://127\S+)\r")[1]


@needs_pty
@pytest.mark.parametrize("form", ["{}", "  '{}' ", "{}#", pytest.param("", id="the code")])
def test_pasting_what_the_browser_ended_on(simulator, form):
    terminal = Terminal("chatgpt", "login", "--browser", "--no-open")
    url = address_on(terminal)
    terminal.wait_for("paste the address")
    back = redirect_of(url)
    code = urllib.parse.parse_qs(urllib.parse.urlsplit(back).query)["code"][0]
    terminal.type(back.partition("&")[0])
    terminal.wait_for("isn't the right address. Copy the whole")
    query = back.partition("?")[2]
    for number, junk in enumerate(["what?", "http://[x?code=", query, AT], 2):
        terminal.type(junk)
        terminal.wait_for("(?s)" + "right address.*" * number)
    assert not simulator.seen("/oauth/token")
    terminal.type(form.format(back) if form else code)
    assert terminal.end() == 0, terminal.screen
    assert "Signed in as ada@example.com" in terminal.screen
    assert plugin.load_tokens().email == "ada@example.com"
    assert "Traceback" not in terminal.screen


@needs_pty
def test_a_code_of_an_earlier_attempt_is_named_as_one(simulator):
    earlier = query_of(redirect_of(plugin.BrowserLogin(1455).url))["code"]
    terminal = Terminal("chatgpt", "login", "--browser", "--no-open")
    address_on(terminal)
    terminal.wait_for("fails to load")
    terminal.type(earlier)
    assert terminal.end() == 1
    assert "is from an earlier attempt. Run 'llm chatgpt login" in " ".join(terminal.screen.split())


@needs_pty
@pytest.mark.parametrize(
    ("end", "at_once"),
    [("&code", True), ("&code", False), ("&code=ac_0", True), ("?state=abc", False)],
)
def test_an_address_in_two_lines_is_asked_for_again(simulator, end, at_once):
    terminal = Terminal("chatgpt", "login", "--browser", "--no-open")
    back = redirect_of(address_on(terminal))
    terminal.wait_for("fails to load")
    query = query_of(back)
    # In this order the first line alone has a state that fits.
    address = f"{back.partition('?')[0]}?state={query['state']}&code={query['code']}"
    place = address.index(end[:5]) + len(end)
    lines = [address[:place], address[place:]]
    for number, line in enumerate(["\n".join(lines)] if at_once else lines, 1):
        terminal.type(line)
        terminal.wait_for("(?s)" + "right address. Copy the whole.*" * number)
    assert not simulator.seen("/oauth/token")
    terminal.type(address)
    assert terminal.end() == 0, terminal.screen


@needs_pty
def test_an_address_of_an_earlier_attempt_is_named_as_one(simulator):
    earlier = redirect_of(plugin.BrowserLogin(1455).url)
    terminal = Terminal("chatgpt", "login", "--browser", "--no-open")
    back = redirect_of(address_on(terminal))
    terminal.wait_for("fails to load")
    terminal.type(earlier)
    terminal.wait_for("it is from an earlier attempt")
    assert not simulator.seen("/oauth/token")
    terminal.type(back)
    assert terminal.end() == 0, terminal.screen


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
def test_replacing_another_user_needs_a_yes(simulator):
    old = sign_in(simulator)
    simulator.account = Account(email="bob@example.com", account_id="other")
    terminal = Terminal("chatgpt", "login", "--browser", "--no-open")
    page = fetch(address_on(terminal))[2]
    assert "Go back to the terminal" in page
    terminal.wait_for(r"(?s)ada@example.com.*bob@example.com.*Replace the old login\?")
    terminal.type("n")
    assert terminal.end() == 1
    assert "Kept the login of ada@example.com" in terminal.screen
    assert plugin.load_tokens() == old


def test_pasting_stops_before_a_question_is_asked(simulator):
    sign_in(simulator)
    simulator.account = Account(email="bob@example.com", account_id="other")
    ended, reader_had_ended = threading.Event(), []

    def read_lines(line, stop):
        stop.wait()
        time.sleep(0.2)
        ended.set()

    def replace(old, new):
        reader_had_ended.append(ended.is_set())
        return True

    plugin.login_with_browser(
        show=lambda request: threading.Thread(target=fetch, args=(request.url,)).start(),
        read_lines=read_lines,
        replace=replace,
    )
    assert reader_had_ended == [True]
    assert plugin.load_tokens().email == "bob@example.com"


# Browsers


@pytest.fixture
def chromium(tmp_path, monkeypatch):
    """A real browser, as the one that the command opens; the file with its last page."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (apt: chromium)")
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
    return dom


@needs_pty
@pytest.mark.parametrize("route", ["--browser", "--official"])
def test_a_real_browser_follows_the_redirect(simulator, chromium, route):
    login = Login(route=route)
    assert "Opening your browser" in login.printed
    code, stdout, stderr = login.end()
    assert code == 0, stderr
    assert stdout.startswith("Signed in as ada@example.com")
    assert "noise" not in stdout + stderr
    wait_until(lambda: chromium.exists() and "</html>" in chromium.read_text())
    assert "Go back to the terminal" in chromium.read_text()
    (request,) = (r for r in simulator.requests if r.path.endswith("/authorize"))
    assert "Chrome" in request.headers["user-agent"]


# Windows, as far as it can be played here


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
