"""The browser login: the listener, refusals, workspaces, and a real Chromium."""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import http.client
import shutil
import signal
import socket
import struct
import threading
import urllib.error
import urllib.parse
import urllib.request

import pytest

import llm_chatgpt_oauth as plugin
from conftest import assert_no_secrets, fetch, redirect_of, sign_in, wait_until, with_query
from llm_chatgpt import config
from simulator import Account, Answer, error_answer, web_page
from terminal import needs_pty

# One test at a time listens on the ports.
pytestmark = pytest.mark.usefixtures("callback_ports")


CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)


def listen_on(port, host="127.0.0.1"):
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen()
    return listener


def has_ipv6():
    try:
        listen_on(0, "::1").close()
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


def failed_login(browse, account=None):
    """Run a login that fails; return its error and the result of `browse` for its address."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        pages = []
        with pytest.raises(plugin.ChatGPTError) as caught:
            plugin.login_with_browser(
                account, show=lambda request: pages.append(pool.submit(browse, request.url))
            )
        return caught.value, pages[0].result()


def test_the_redirect_completes_the_login_and_no_secret_is_shown(simulator, start_login):
    login = start_login("--browser", "--no-open")
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
    assert_no_secrets(simulator, stdout + stderr + page)
    assert exchanged.body["code"] not in stdout + stderr + page
    assert exchanged.body["code_verifier"] not in stdout + stderr + page


def send(address, method, *hosts):
    """Send a request with these Host headers and return the status.

    The answer must not contain the request's method, hosts or state.
    """
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


def test_other_requests_to_the_listener_are_answered_and_ignored(simulator, start_login):
    login = start_login("--browser", "--no-open")
    redirect = redirect_of(login.url)
    root = "http://127.0.0.1:1455"
    for path in ("/", "/favicon.ico", "/cancel", "/success?id_token=x", "/auth/callback/x"):
        assert fetch(root + path)[0] == 404
    for wrong in (
        {"state": "another"},
        {"state": None},
        {"state": ""},
        {"state": "\N{LATIN SMALL LETTER E WITH ACUTE}"},
    ):
        status, _, page = fetch(with_query(redirect, **wrong))
        assert status == 400
        assert "another sign-in" in page
    state = urllib.parse.parse_qs(urllib.parse.urlsplit(redirect).query)["state"][0]
    assert fetch(f"{redirect}&state={state}")[0] == 400
    for method in ("POST", "HEAD", "ECHO<b>"):
        assert send(redirect, method, "127.0.0.1:1455") == 501
    for host in ("evil.example", "evil.example:1455", "127.0.0.1", "127.0.0.1:1457", "[::1]", ""):
        assert send(redirect, "GET", host) == 400
    assert send(redirect, "GET") == send(redirect, "GET", "localhost:1455", "localhost:1455") == 400
    with socket.create_connection(("127.0.0.1", 1455)) as silent, silent.dup() as rude:
        rude.sendall(b"\x16\x03\x01 no HTTP at all\r\n\r\n")
        assert b"HTTP at all" not in rude.recv(4096)
        assert login.process.poll() is None
        assert fetch(redirect)[0] == 200
    code, _, stderr = login.end()
    assert code == 0, stderr
    assert "Traceback" not in stderr
    assert len(simulator.seen("/oauth/token")) == 1


def test_a_known_suffix_of_the_state_is_accepted(simulator, start_login):
    login = start_login("--browser", "--no-open")
    redirect = redirect_of(login.url)
    state = urllib.parse.parse_qs(urllib.parse.urlsplit(redirect).query)["state"][0]
    suffix = ".onboarding_entrypoint=life_sciences"
    assert login.visit(with_query(redirect, state=state + suffix))[0] == 0


REFUSALS = [
    ({"error": "access_denied", "code": None}, "declined in the browser"),
    (
        {"error": "access_denied", "error_description": "missing_codex_entitlement", "code": None},
        "not enabled for this workspace",
    ),
    ({"error": "<script>alert(1)</script>", "code": None}, "ended the sign-in"),
    ({"code": None}, "without a code"),
    ({"code": ["one", "two"]}, "without a code"),
]


@pytest.mark.parametrize(("changes", "words"), REFUSALS)
def test_a_refusal_ends_the_sign_in_and_keeps_the_old_login(simulator, changes, words):
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
def test_a_failed_exchange_is_not_repeated_and_keeps_the_old_login(simulator, answer, words):
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


def test_the_browser_is_answered_before_anything_else_happens(simulator, start_login):
    answered = threading.Event()

    def exchange(request):
        assert answered.wait(10)

    simulator.script("token", exchange)
    login = start_login("--browser", "--no-open")
    assert fetch(login.url)[0] == 200
    answered.set()
    assert login.end()[0] == 0


def test_a_browser_that_disconnects_early_does_not_stop_the_login(simulator, start_login):
    login = start_login("--browser", "--no-open")
    parts = urllib.parse.urlsplit(redirect_of(login.url))
    with socket.create_connection(("127.0.0.1", 1455)) as rude:
        rude.sendall(
            f"GET {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode()
        )
        rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    code, stdout, stderr = login.end()
    assert code == 0, stderr
    assert stdout.startswith("Signed in as ada@example.com")


def test_the_second_port_is_used_if_the_first_is_in_use(simulator, start_login):
    with contextlib.closing(listen_on(1455)):
        login = start_login("--browser", "--no-open")
        assert "%3A1457" in login.url
        assert login.visit()[0] == 0


def test_the_official_sign_in_needs_neither_port(simulator, start_login):
    with contextlib.closing(listen_on(1455)), contextlib.closing(listen_on(1457)):
        login = start_login("--official", "--no-open")
        code, stdout, stderr = login.visit()
    assert code == 0, stderr
    assert stdout.startswith("Signed in as ada@example.com (ChatGPT plan, official)")


def test_two_ports_in_use_are_an_error_that_suggests_device(simulator, run_llm):
    with contextlib.closing(listen_on(1455)), contextlib.closing(listen_on(1457)):
        result = run_llm("chatgpt", "login", "--browser", "--no-open")
    assert result.exit_code == 1
    assert "Could not listen on ports 1455 and 1457 (Address already in use)" in result.stderr
    assert "use --device" in result.stderr
    assert not simulator.requests


# Workspaces


ACME = Account(name="Acme", account_id="acme")
ELSEWHERE = Account(name="Personal", account_id="personal", workspaces=(ACME,))


def test_workspace_is_requested_and_stored(simulator, start_login):
    simulator.account = ELSEWHERE
    login = start_login("--browser", "--no-open", "--workspace", "acme")
    assert login.visit()[0] == 0
    assert simulator.seen("/oauth/authorize")[0].query["allowed_workspace_id"] == "acme"
    tokens = plugin.load_tokens()
    assert (tokens.account_id, tokens.workspace) == ("acme", "Acme")


def test_another_workspace_is_not_stored(simulator, start_login):
    old = sign_in(simulator)
    simulator.account = ELSEWHERE
    login = start_login("--browser", "--no-open", "--workspace", "globex")
    code, stdout, stderr = login.visit()
    assert (code, stdout) == (1, "")
    assert "signed you in to the workspace Personal (personal), not to globex." in stderr
    assert plugin.load_tokens() == old


# localhost instead of 127.0.0.1


@pytest.fixture
def to_localhost(monkeypatch):
    monkeypatch.setenv("LLM_CHATGPT_REDIRECT_HOST", "localhost")


def test_localhost_is_suggested_and_works(simulator, start_login, monkeypatch):
    simulator.redirect_hosts = {"localhost"}
    refused = start_login("--browser", "--no-open")
    status, _, page = fetch(refused.url)
    assert status == 400
    assert "authorize_hydra_invalid_request" in page
    advice = "Error instead of a sign-in? Set LLM_CHATGPT_REDIRECT_HOST=localhost and retry.\n"
    assert f"  {refused.url}\n\n{advice}" in refused.printed
    refused.process.kill()
    refused.end()

    monkeypatch.setenv("LLM_CHATGPT_REDIRECT_HOST", "localhost")
    login = start_login("--browser", "--no-open")
    assert "\nError instead of a sign-in? Set LLM_CHATGPT_REDIRECT_HOST=127.0.0.1" in login.printed
    assert login.visit()[0] == 0
    assert plugin.load_tokens().email == "ada@example.com"
    exchanged = simulator.seen("/oauth/token")[0].body
    assert exchanged["redirect_uri"] == "http://localhost:1455/auth/callback"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_localhost_is_answered_under_both_names(simulator, start_login, to_localhost, host):
    login = start_login("--browser", "--no-open")
    redirect = redirect_of(login.url).replace("localhost", host)
    assert login.visit(redirect)[0] == 0


@needs_ipv6
def test_localhost_is_answered_on_ipv6(simulator, start_login, to_localhost):
    login = start_login("--browser", "--no-open")
    redirect = urllib.parse.urlsplit(redirect_of(login.url))
    with contextlib.closing(http.client.HTTPConnection("::1", 1455, timeout=10)) as browser:
        browser.request(
            "GET", f"{redirect.path}?{redirect.query}", headers={"Host": "localhost:1455"}
        )
        assert browser.getresponse().status == 200
    assert login.end()[0] == 0


@needs_ipv6
def test_a_port_must_be_free_on_both_addresses(simulator, start_login, to_localhost):
    with contextlib.closing(listen_on(1455, "::1")):
        login = start_login("--browser", "--no-open")
        assert "%3A1457" in login.url
        assert login.visit()[0] == 0
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
def test_ctrl_c_is_clean_and_frees_the_port(simulator, start_login):
    old = sign_in(simulator)
    login = start_login("--browser", "--no-open")
    login.process.send_signal(signal.SIGINT)
    code, stdout, stderr = login.end()
    assert (code, stdout) == (1, "")
    assert "Aborted!" in stderr
    assert "Traceback" not in stderr
    assert plugin.load_tokens() == old
    listen_on(1455).close()


def test_an_invalid_issuer_is_refused(run_llm, monkeypatch):
    monkeypatch.setenv("LLM_CHATGPT_ISSUER", "http://elsewhere.example")
    result = run_llm("chatgpt", "login", "--browser")
    assert result.exit_code == 1
    assert "LLM_CHATGPT_ISSUER must be" in result.stderr
    listen_on(1455).close()


def test_ten_minutes_are_the_limit(simulator, monkeypatch):
    assert config.BROWSER_LOGIN_SECONDS == 600
    monkeypatch.setattr(config, "BROWSER_LOGIN_SECONDS", 0.1)
    with pytest.raises(plugin.LoginExpired, match=r"within 0\.1 seconds"):
        plugin.login_with_browser(show=lambda request: None)
    listen_on(1455).close()


# Browsers


@pytest.fixture
def chromium(tmp_path, monkeypatch):
    """Let the command open Chromium. Returns the file that gets the last page."""
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
def test_a_real_browser_follows_the_redirect(simulator, start_login, chromium, route):
    login = start_login(route)
    assert "Opening your browser" in login.printed
    code, stdout, stderr = login.end()
    assert code == 0, stderr
    assert stdout.startswith("Signed in as ada@example.com")
    assert "noise" not in stdout + stderr
    wait_until(lambda: chromium.exists() and "</html>" in chromium.read_text())
    assert "Go back to the terminal" in chromium.read_text()
    (request,) = (r for r in simulator.requests if r.path.endswith("/authorize"))
    assert "Chrome" in request.headers["user-agent"]
