"""Pasting the address of the redirect, or its code, into a terminal."""

from __future__ import annotations

import os
import signal
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import pytest

import llm_chatgpt_oauth as plugin
from conftest import PERSONAL_TOKEN, fetch, redirect_of, sign_in, with_query
from simulator import Account
from terminal import needs_pty

# One test at a time listens on the ports.
pytestmark = pytest.mark.usefixtures("callback_ports")


@pytest.fixture
def begin(simulator, start_in_terminal):
    """Start a login in a terminal; return the terminal and the address of the redirect."""

    def run():
        terminal = start_in_terminal("chatgpt", "login", "--browser", "--no-open")
        terminal.wait_for("paste the address")
        return terminal, redirect_of(terminal.address())

    return run


def query_of(address):
    return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(address).query))


@needs_pty
@pytest.mark.parametrize("form", ["{}", "  '{}' ", "{}#", pytest.param("", id="the code")])
def test_a_pasted_address_or_code_completes_the_login(simulator, begin, form):
    terminal, redirect = begin()
    code = query_of(redirect)["code"]
    terminal.type(redirect.partition("&")[0])
    terminal.wait_for("isn't the right address. Copy the whole")
    query = redirect.partition("?")[2]
    for number, junk in enumerate(["what?", "http://[x?code=", query, PERSONAL_TOKEN], 2):
        terminal.type(junk)
        terminal.wait_for("(?s)" + "right address.*" * number)
    assert not simulator.seen("/oauth/token")
    terminal.type(form.format(redirect) if form else code)
    assert terminal.end() == 0, terminal.screen
    assert "Signed in as ada@example.com" in terminal.screen
    assert plugin.load_tokens().email == "ada@example.com"
    assert "Traceback" not in terminal.screen


@needs_pty
def test_a_pasted_code_of_an_earlier_attempt_is_recognized(simulator, begin):
    earlier = query_of(redirect_of(plugin.BrowserLogin(1455).url))["code"]
    terminal, _ = begin()
    terminal.type(earlier)
    assert terminal.end() == 1
    assert "is from an earlier attempt. Run 'llm chatgpt login" in " ".join(terminal.screen.split())


@needs_pty
@pytest.mark.parametrize(
    ("end", "at_once"),
    [("&code", True), ("&code", False), ("&code=ac_0", True), ("?state=abc", False)],
)
def test_an_address_in_two_lines_is_asked_for_again(simulator, begin, end, at_once):
    terminal, redirect = begin()
    query = query_of(redirect)
    # With the state first, the first line can contain all of it.
    address = f"{redirect.partition('?')[0]}?state={query['state']}&code={query['code']}"
    place = address.index(end[:5]) + len(end)
    lines = [address[:place], address[place:]]
    for number, line in enumerate(["\n".join(lines)] if at_once else lines, 1):
        terminal.type(line)
        terminal.wait_for("(?s)" + "right address. Copy the whole.*" * number)
    assert not simulator.seen("/oauth/token")
    terminal.type(address)
    assert terminal.end() == 0, terminal.screen


@needs_pty
def test_a_pasted_address_of_an_earlier_attempt_is_recognized(simulator, begin):
    earlier = redirect_of(plugin.BrowserLogin(1455).url)
    terminal, redirect = begin()
    terminal.type(earlier)
    terminal.wait_for("it is from an earlier attempt")
    assert not simulator.seen("/oauth/token")
    terminal.type(redirect)
    assert terminal.end() == 0, terminal.screen


@needs_pty
def test_a_pasted_refusal_ends_the_sign_in(simulator, begin):
    terminal, redirect = begin()
    terminal.type(with_query(redirect, code=None, error="access_denied"))
    assert terminal.end() == 1
    assert "declined in the browser" in terminal.screen


@needs_pty
def test_ctrl_c_while_waiting_for_a_paste_is_clean(simulator, begin):
    terminal, _ = begin()
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.end() == 1
    assert "Aborted!" in terminal.screen
    assert "Fatal" not in terminal.screen


@needs_pty
def test_the_listener_goes_on_after_the_end_of_input(simulator, begin):
    terminal, redirect = begin()
    os.write(terminal.master, b"\x04")
    assert fetch(redirect)[0] == 200
    assert terminal.end() == 0


@needs_pty
def test_replacing_another_user_needs_a_yes(simulator, begin):
    old = sign_in(simulator)
    simulator.account = Account(email="bob@example.com", account_id="other")
    terminal, redirect = begin()
    page = fetch(redirect)[2]
    assert "Go back to the terminal" in page
    terminal.wait_for(r"(?s)ada@example.com.*bob@example.com.*Replace the old login\?")
    terminal.type("n")
    assert terminal.end() == 1
    assert "Kept the login of ada@example.com" in terminal.screen
    assert plugin.load_tokens() == old


@needs_pty
def test_a_pasted_localhost_address_is_accepted(simulator, begin, monkeypatch):
    monkeypatch.setenv("LLM_CHATGPT_REDIRECT_HOST", "localhost")
    terminal, redirect = begin()
    terminal.type(redirect.replace("localhost", "127.0.0.1"))
    terminal.wait_for("starting with http://localhost:1455/")
    terminal.type(redirect)
    assert terminal.end() == 0, terminal.screen
    assert simulator.seen("/oauth/token")[0].body["redirect_uri"].startswith("http://localhost:")


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
