"""Signing in by the official route, in the real command and in the Python API."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import stat
import urllib.parse

import pytest

import llm_chatgpt_oauth as plugin
from conftest import assert_no_secrets, authorize_queries, exchanges, fetch, redirect_of, with_query
from disk import fill_disk
from llm_chatgpt import config
from llm_chatgpt.login.login_file import read_store, store_path
from simulator import OFFICIAL_SCOPE, RESOURCE, Answer, error_answer
from terminal import needs_pty


def host_id_path():
    return store_path().with_name("chatgpt-host-id")


def host_id():
    return host_id_path().read_text().strip()


def test_the_first_sign_in_registers_and_stores_the_login(simulator, official_login, browser):
    result = official_login()
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("Signed in as ada@example.com (ChatGPT plan, official)\n")
    assert "You're using your ChatGPT plan." in result.stdout
    assert "preview with terms of its own: https://developers.openai.com/siwc" in result.stderr
    assert result.stderr.index("Continue with ChatGPT") < result.stderr.index("Opening")
    # On one line of its own, to be copied.
    assert f"\n  {browser.urls[0]}\n" in result.stderr
    query = authorize_queries(simulator)[0]
    fresh = {name: query.pop(name) for name in ("state", "nonce", "code_challenge")}
    port = urllib.parse.urlsplit(query["redirect_uri"]).port
    assert query == {
        "client_id": "dynamic_agent_client",
        "agent_name_hint": "llm-chatgpt-oauth",
        "ext_agent_host_id": host_id(),
        "response_type": "code",
        "redirect_uri": f"http://127.0.0.1:{port}/auth/callback",
        "scope": OFFICIAL_SCOPE,
        "resource": RESOURCE,
        "code_challenge_method": "S256",
    }
    assert [len(value) for value in fresh.values()] == [43] * 3
    assert len(set(fresh.values())) == 3
    tokens = plugin.load_tokens()
    sent = exchanges(simulator)[0]
    assert set(sent) == {
        "grant_type",
        "client_id",
        "code",
        "code_verifier",
        "redirect_uri",
        "resource",
    }
    assert sent["resource"] == RESOURCE
    assert sent["redirect_uri"] == query["redirect_uri"]
    assert list(simulator.clients) == [tokens.client_id] == [sent["client_id"]]
    assert (tokens.kind, tokens.issuer) == ("official", simulator.issuer)
    assert tokens.account_id is None


def test_the_page_after_the_redirect_is_private(official_login, browser):
    official_login()
    (status, headers, page) = browser.pages[0]
    assert status == 200
    assert "Go back to the terminal" in page
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "default-src 'none'" in headers["Content-Security-Policy"]


def test_a_later_sign_in_reuses_the_registration(simulator, official_login, run_llm):
    official_login()
    first = plugin.load_tokens()
    run_llm("chatgpt", "logout")
    result = official_login()
    assert result.exit_code == 0, result.stderr
    one, two = authorize_queries(simulator)
    assert two["client_id"] == first.client_id
    assert not {"agent_name_hint", "id_token_hint", "prompt"} & set(two)
    assert two["ext_agent_host_id"] == one["ext_agent_host_id"]
    assert two["state"] != one["state"]
    assert two["nonce"] != one["nonce"]
    # Only the first sign-in says so.
    assert "You're using your ChatGPT plan" not in result.output
    assert plugin.load_tokens().account_key == first.account_key


def test_the_host_id_is_created_once(simulator, official_login, run_llm):
    official_login()
    official_login("--account", "work")
    run_llm("chatgpt", "logout", "--all")
    official_login()
    assert {query["ext_agent_host_id"] for query in authorize_queries(simulator)} == {host_id()}
    assert len(simulator.clients) == 2
    path = host_id_path()
    if os.name != "nt":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_host_id_that_cannot_be_stored_is_an_error(simulator, official_login, monkeypatch):
    fill_disk(monkeypatch, "chatgpt-host-id")
    result = official_login()
    assert result.exit_code == 1
    assert "Could not store this installation's id in" in result.stderr
    assert "login file" not in result.stderr
    assert not simulator.requests


def test_a_broken_host_id_is_replaced(simulator, official_login):
    path = host_id_path()
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"\xff\x00")
    assert official_login().exit_code == 0
    assert re.fullmatch(r"urn:uuid:[0-9a-f-]{36}", host_id())


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (error_answer(500, None), "OpenAI server error (500). Try again"),
        (
            Answer(400, {"error": "invalid_grant"}),
            "(invalid_grant): it was used before, or is from an earlier attempt. Run 'llm chatgpt "
            "login --official --account work' again.",
        ),
        (Answer(drop=True), "run 'llm chatgpt login --official --account work' again"),
    ],
)
def test_an_exchange_that_fails_registers_no_second_app(
    simulator, official_login, browser, answer, words
):
    simulator.script("official_token", answer)
    result = official_login("--account", "work")
    assert (result.exit_code, result.stdout) == (1, "")
    assert words in result.stderr
    assert "Go back to the terminal" in browser.pages[0][2]
    assert plugin.load_tokens() is None
    # The code may be spent, so it is sent once.
    assert len(exchanges(simulator)) == 1
    assert official_login("--account", "work").exit_code == 0
    (client_id,) = simulator.clients
    assert authorize_queries(simulator)[1]["client_id"] == client_id
    assert "agent_name_hint" not in authorize_queries(simulator)[1]


# The callback


REFUSED_CALLBACKS = [
    ({"client_id": None}, "has not registered"),
    ({"client_id": "dynamic_agent_client"}, "has not registered"),
    ({"client_id": ["oaiapp_1", "oaiapp_1"]}, "incomplete address"),
    ({"code": None}, "incomplete address"),
    ({"code": ""}, "incomplete address"),
    ({"code": ["one", "two"]}, "incomplete address"),
    ({"iss": "https://auth.example"}, "another issuer"),
    ({"error": "access_denied", "code": None}, "declined in the browser"),
    ({"error": "<b>server_error", "code": None}, "ended the sign-in"),
]


@pytest.mark.parametrize(("changes", "words"), REFUSED_CALLBACKS)
def test_a_wrong_callback_ends_the_sign_in(simulator, official_login, browser, changes, words):
    simulator.official.callback = changes
    result = official_login()
    assert (result.exit_code, result.stdout) == (1, "")
    assert words in result.stderr
    assert "'llm chatgpt login --official'" in result.stderr
    status, _, page = browser.pages[0]
    assert (status, "Go back to the terminal" in page, "<b>" in page) == (200, True, False)
    assert not exchanges(simulator)
    assert not read_store().registrations
    assert plugin.load_tokens() is None


@pytest.mark.parametrize(
    "changes",
    [
        {"error": "access_denied", "code": None},
        {"client_id": "oaiapp_f00"},
        {"client_id": "dynamic_agent_client"},
        {"code": None},
    ],
    ids=str,
)
def test_a_later_callback_that_fails_keeps_the_login(simulator, official_login, changes):
    official_login()
    old = plugin.load_tokens()
    simulator.official.callback = changes
    result = official_login()
    assert (result.exit_code, result.stdout) == (1, "")
    assert len(exchanges(simulator)) == 1
    assert plugin.load_tokens() == old


def test_unknown_parameters_of_a_callback_are_ignored(simulator, official_login):
    more = {"iss": simulator.issuer, "session_state": ["a", "b"], "x": "<b>"}
    simulator.official.callback = more
    assert official_login().exit_code == 0


def request_status(redirect, method="GET", host=None):
    parts = urllib.parse.urlsplit(redirect)
    connection = http.client.HTTPConnection("127.0.0.1", parts.port, timeout=10)
    connection.putrequest(method, f"{parts.path}?{parts.query}", skip_host=True)
    connection.putheader("Host", host or parts.netloc)
    connection.endheaders()
    reply = connection.getresponse()
    assert "no-store" in reply.headers["Cache-Control"]
    answer = reply.read().decode() + str(reply.headers)
    assert parts.query not in answer
    return reply.status, answer


def test_other_requests_are_refused_and_the_wait_goes_on(simulator, official_login, browser):
    seen = {}

    def visit(url):
        redirect = redirect_of(url)
        state = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(redirect).query))["state"]
        for name, wrong, how in (
            ("path", redirect.replace("/auth/callback", "/callback"), {}),
            ("method", redirect, {"method": "POST"}),
            ("host", redirect, {"host": "evil.example"}),
            ("localhost", redirect, {"host": f"localhost:{urllib.parse.urlsplit(redirect).port}"}),
            ("no state", with_query(redirect, state=None), {}),
            ("another state", with_query(redirect, state="another-state-<b>"), {}),
            ("two states", with_query(redirect, state=[state, state]), {}),
            ("declined elsewhere", with_query(redirect, state="other", error="access_denied"), {}),
        ):
            status, answer = request_status(wrong, **how)
            seen[name] = status
            assert state not in answer
            assert "<b>" not in answer
        browser.pages.append(fetch(redirect))

    browser.visit = visit
    assert official_login().exit_code == 0
    assert seen == {
        **dict.fromkeys(("no state", "another state", "two states", "declined elsewhere"), 400),
        **dict.fromkeys(("host", "localhost"), 400),
        "path": 404,
        "method": 501,
    }
    assert len(exchanges(simulator)) == 1


# The ID token


BAD_ID_TOKENS = [
    ({"iss": "https://auth.openai.com"}, "issuer"),
    ({"iss": None}, "issuer"),
    ({"aud": "oaiapp_f00"}, "audience"),
    ({"aud": ["oaiapp_f00"]}, "audience"),
    ({"aud": lambda right: [*right, "oaiapp_f00"]}, "audience"),
    ({"aud": None}, "audience"),
    ({"azp": "oaiapp_f00"}, "authorized party"),
    ({"exp": lambda right: right - 3700}, "expiry"),
    ({"exp": None}, "expiry"),
    ({"nonce": "another"}, "nonce"),
    ({"nonce": None}, "nonce"),
    ({"sub": ""}, "subject"),
    ({"sub": None}, "subject"),
]


@pytest.mark.parametrize(("claims", "problem"), BAD_ID_TOKENS)
def test_an_id_token_of_another_sign_in_is_refused(simulator, official_login, claims, problem):
    simulator.official.id_token = claims
    result = official_login()
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"does not belong to this sign-in ({problem})" in result.stderr
    assert "'llm chatgpt login --official'" in result.stderr
    assert_no_secrets(simulator, store_path().read_text())


@pytest.mark.parametrize(
    "claims", [{"aud": lambda right: right[0]}, {"azp": None}, {"email": None}]
)
def test_other_valid_forms_of_an_id_token_are_accepted(simulator, official_login, claims):
    simulator.official.id_token = claims
    assert official_login().exit_code == 0
    assert plugin.load_tokens().subject == "auth0|user-ada"


def test_a_reply_without_an_id_token_is_refused(simulator, official_login):
    def without_id_token(request):
        reply = simulator.serve_official_token(request)
        del reply.body["id_token"]
        return reply

    simulator.script("official_token", without_id_token)
    result = official_login()
    assert result.exit_code == 1
    assert "does not belong to this sign-in" in result.stderr
    assert plugin.load_tokens() is None


# The command


def test_no_free_port_is_an_error(simulator, official_login, monkeypatch):
    class Socket(socket.socket):
        def bind(self, address):
            raise OSError(98, "Address already in use")

    monkeypatch.setattr(socket, "socket", Socket)
    result = official_login()
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == (
        "Error: No port of 127.0.0.1 is free for the browser's redirect (Address already in use). "
        "Close programs that you do not need, then try again."
    )


def test_ten_minutes_are_the_limit(simulator, monkeypatch):
    assert config.BROWSER_LOGIN_SECONDS == 600
    monkeypatch.setattr(config, "BROWSER_LOGIN_SECONDS", 0.1)
    with pytest.raises(plugin.LoginExpired, match=r"within 0\.1.*'llm chatgpt login --official'"):
        plugin.login_officially(show=lambda request: None)
    assert not simulator.requests


def test_no_secret_is_in_a_repr(simulator, browser):
    requests = []

    def show(request):
        requests.append(request)
        browser.open(request.url)

    tokens = plugin.login_officially(show=show)
    (request,) = requests
    for secret in (request.state, request.nonce, request.code_verifier):
        assert secret not in repr(request) + repr(tokens)
    assert request.code_verifier not in request.url
    query = urllib.parse.urlsplit(redirect_of(request.url)).query
    approved = request.approval(urllib.parse.parse_qs(query))
    assert approved.nonce == request.nonce
    assert repr(approved) == "AuthorizationCode()"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no preexec_fn")
def test_the_sign_in_works_with_a_closed_stdin(simulator, start_login):
    login = start_login("--official", "--no-open", preexec_fn=lambda: os.close(0))
    code, stdout, stderr = login.visit()
    assert code == 0, stderr
    assert "Signed in as ada@example.com" in stdout


@needs_pty
def test_ctrl_c_is_clean_and_frees_the_port(simulator, start_login):
    login = start_login("--official", "--no-open")
    port = urllib.parse.urlsplit(redirect_of(login.url)).port
    login.process.send_signal(signal.SIGINT)
    code, stdout, stderr = login.end()
    assert (code, stdout) == (1, "")
    assert "Traceback" not in stderr
    assert plugin.load_tokens() is None
    with pytest.raises(OSError, match="refused"):
        fetch(f"http://127.0.0.1:{port}/")


@needs_pty
def test_a_pasted_address_completes_the_sign_in(simulator, start_in_terminal):
    terminal = start_in_terminal("chatgpt", "login", "--official", "--no-open")
    redirect = redirect_of(terminal.address())
    terminal.wait_for("paste the address")
    query = redirect.partition("?")[2]
    code = dict(urllib.parse.parse_qsl(query))["code"]
    first_of_two_lines = redirect.partition("&code=")[0]
    wrong_host = redirect.replace("127.0.0.1", "localhost")
    without_client_id = with_query(redirect, client_id=None)
    wrong = ["what?", code, query, wrong_host, first_of_two_lines, without_client_id]
    for number, line in enumerate(wrong, 1):
        terminal.type(line)
        terminal.wait_for("(?s)" + "right address. Copy the whole.*" * number)
    port = urllib.parse.urlsplit(redirect).port
    terminal.type(with_query(redirect, state="another").replace(str(port), str(port - 1)))
    terminal.wait_for("it is from an earlier attempt")
    assert not exchanges(simulator)
    terminal.type(f" '{redirect}' ")
    assert terminal.end() == 0, terminal.screen
    assert "Signed in as ada@example.com" in terminal.screen
    assert "Traceback" not in terminal.screen
    assert plugin.load_tokens().kind == "official"
