"""The device login: the issuer's answers, and what the user sees."""

from __future__ import annotations

import os
import signal

import pytest

import llm_chatgpt_oauth as plugin
from conftest import assert_no_secrets, sign_in, start_llm
from llm_chatgpt import config
from llm_chatgpt.login.login_file import store_path
from simulator import Account, Answer, error_answer, web_page


def approve_at_once(simulator):
    return lambda code: simulator.approve(code.user_code)


class Waits:
    """Replaces sleeping: records the seconds and advances a fake clock."""

    def __init__(self):
        self.seconds = []
        self.now = 0.0

    def __call__(self, seconds, left):
        self.seconds.append(seconds)
        self.now += seconds

    def clock(self):
        return self.now


def test_a_login_from_start_to_end(simulator):
    codes = []

    def show(code):
        codes.append(code)
        simulator.approve(code.user_code)

    tokens = plugin.login(show=show)
    assert plugin.load_tokens() == tokens
    assert (tokens.email, tokens.plan) == ("ada@example.com", "plus")
    assert tokens.account_id == simulator.account.account_id
    assert codes[0].verification_url == f"{simulator.issuer}/codex/device"
    start, poll, exchange, origin = simulator.requests
    assert origin.path.endswith("/wham/accounts/check")
    assert start.body == {"client_id": config.CLIENT_ID}
    assert "json" in start.headers["content-type"]
    assert set(poll.body) == {"device_auth_id", "user_code"}
    assert exchange.body["redirect_uri"] == f"{simulator.issuer}/deviceauth/callback"
    for request in simulator.requests:
        assert request.headers["user-agent"].startswith("llm-chatgpt-oauth/")


def test_a_new_login_is_used_for_prompts(simulator, ask):
    plugin.login(show=approve_at_once(simulator))
    assert ask("hello").text == "This is answer 1. You said: hello"


@pytest.mark.parametrize(
    ("interval", "expected"),
    [("5", 5), (7, 7), ("7.5", 7.5), (None, 5), ("soon", 5), (0, 1), ("600", 60), ([], 5)],
)
def test_each_form_of_the_interval_is_read(simulator, interval, expected):
    simulator.interval = interval
    assert plugin.request_device_code().interval == expected


def test_the_other_name_of_the_user_code_is_read(simulator):
    body = {"device_auth_id": "deviceauth_1", "usercode": "ABCD-EFGH", "interval": "5"}
    simulator.script("usercode", Answer(200, body))
    assert plugin.request_device_code().user_code == "ABCD-EFGH"


@pytest.mark.parametrize(("seconds", "expected"), [(60, 60), (3600, 900), (-5, 900)])
def test_the_server_says_how_long_the_code_lasts(simulator, seconds, expected):
    simulator.device_expires_in = seconds
    assert plugin.request_device_code().expires_in == pytest.approx(expected, abs=2)


@pytest.mark.parametrize("expires_at", [None, "tomorrow", 17, "2026-11-23T10:00:00"])
def test_an_unreadable_expiry_means_fifteen_minutes(simulator, expires_at):
    body = {"device_auth_id": "d", "user_code": "A", "expires_at": expires_at}
    simulator.script("usercode", Answer(200, body))
    assert plugin.request_device_code().expires_in == 900


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (
            Answer(404, {"detail": "Not Found"}),
            plugin.DeviceLoginDisabled,
            "not offer a device code",
        ),
        (
            Answer(404, "<html>", {"Content-Type": "text/html"}),
            plugin.DeviceLoginDisabled,
            "--browser",
        ),
        (web_page(), plugin.LoginFailed, "Cloudflare"),
        (web_page(503), plugin.LoginFailed, "Cloudflare"),
        (Answer(429), plugin.LoginFailed, "in a minute"),
        (Answer(503), plugin.LoginFailed, r"server error \(503\)"),
        (Answer(200, "junk"), plugin.LoginFailed, "did not start a sign-in"),
        (Answer(200, {"user_code": 7}), plugin.LoginFailed, "did not start a sign-in"),
        (error_answer(400, "invalid_client"), plugin.LoginFailed, "invalid_client"),
        (Answer(drop=True), plugin.LoginFailed, "Check the network"),
    ],
)
def test_a_failed_start_is_explained_and_keeps_the_old_login(simulator, answer, kind, words):
    old = sign_in(simulator)
    simulator.script("usercode", answer)
    with pytest.raises(kind, match=words) as caught:
        plugin.login(show=approve_at_once(simulator))
    assert type(caught.value) is kind
    assert plugin.load_tokens() == old


def test_an_unreachable_issuer_is_an_error():
    with pytest.raises(plugin.LoginFailed, match="Could not reach"):
        plugin.request_device_code()


PENDING = [
    error_answer(403, "deviceauth_authorization_pending"),
    error_answer(403, "deviceauth_authorization_unknown"),
    Answer(403, {"error": "authorization_pending"}),
    Answer(403),
    Answer(404),
    Answer(404, {"detail": "Not Found"}),
]


@pytest.mark.parametrize("answer", PENDING)
def test_while_the_login_is_pending_the_polling_interval_stays(simulator, answer):
    waits = Waits()
    simulator.script("device_token", answer, answer)
    plugin.login(show=approve_at_once(simulator), wait=waits)
    # With a margin of 20%.
    assert waits.seconds == [6, 6]


TROUBLE = [
    error_answer(403, "slow_down"),
    Answer(400, {"error": "slow_down"}),
    error_answer(403, "deviceauth_slow_down"),
    Answer(429),
    Answer(500),
    web_page(503),
    Answer(drop=True),
]


@pytest.mark.parametrize("answer", TROUBLE)
def test_after_slow_down_or_a_fault_polls_are_less_frequent(simulator, answer):
    waits, notices = Waits(), []
    simulator.script("device_token", answer, answer)
    plugin.login(show=approve_at_once(simulator), wait=waits, notify=notices.append)
    assert waits.seconds == [12, 18]
    assert len(notices) == (answer.status in (500, 503) or answer.drop)


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (error_answer(403, "deviceauth_user_code_expired"), plugin.LoginExpired, "code expired"),
        (error_answer(404, "deviceauth_not_found"), plugin.LoginExpired, "a new one"),
        (error_answer(401, "authorization_declined"), plugin.LoginDenied, "declined"),
        (error_answer(403, "access_denied"), plugin.LoginDenied, "declined"),
        (error_answer(403, "deviceauth_denied"), plugin.LoginDenied, "declined"),
        (Answer(403, {"error": "deviceauth_access_denied"}), plugin.LoginDenied, "declined"),
        (web_page(), plugin.LoginFailed, "cf-ray 8f0000000000abcd-FRA"),
        (error_answer(401, "something_new"), plugin.LoginFailed, "something_new"),
        (Answer(200, {"authorization_code": "ac_1"}), plugin.LoginFailed, "hand over"),
        (Answer(200, "<html>"), plugin.LoginFailed, "web page"),
    ],
)
def test_each_final_answer_ends_the_wait_with_its_error(simulator, answer, kind, words):
    old = sign_in(simulator)
    simulator.script("device_token", answer)
    with pytest.raises(kind, match=words) as caught:
        plugin.login(show=approve_at_once(simulator), wait=Waits())
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    assert plugin.load_tokens() == old


@pytest.mark.parametrize("account", [None, "work"])
@pytest.mark.parametrize(
    ("endpoint", "answer"),
    [
        ("device_token", error_answer(404, "deviceauth_not_found")),
        ("device_token", error_answer(403, "access_denied")),
        ("token", Answer(drop=True)),
        ("token", error_answer(400, "token_exchange_user_error")),
    ],
)
def test_the_advice_is_to_sign_in_to_the_same_account(simulator, account, endpoint, answer):
    simulator.script(endpoint, answer)
    with pytest.raises(plugin.LoginFailed) as caught:
        plugin.login(account, show=approve_at_once(simulator), wait=Waits())
    named = " --account work" if account else ""
    assert f"'llm chatgpt login{named}'" in caught.value.advice


def test_the_wait_ends_when_the_code_expires(simulator):
    waits = Waits()
    code = plugin.request_device_code()
    with pytest.raises(plugin.LoginExpired, match="The code expired"):
        plugin.poll_for_token(code, wait=waits, clock=waits.clock)
    assert sum(waits.seconds) == pytest.approx(900, abs=1)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (error_answer(400, "token_exchange_user_error"), "token_exchange_user_error"),
        (Answer(400, {"error": "invalid_grant", "error_description": "no"}), "invalid_grant"),
        (error_answer(403, "unsupported_country_region_territory"), "country or region"),
        (web_page(), "Cloudflare"),
        (Answer(500), r"server error \(500\)"),
        (Answer(200, {"access_token": "a.b.c"}), "did not send the tokens"),
        (Answer(200, "junk"), "did not send the tokens"),
        (Answer(drop=True), "did not finish: run"),
    ],
)
def test_an_exchange_that_fails_is_not_repeated(simulator, answer, words):
    old = sign_in(simulator)
    simulator.script("token", answer)
    with pytest.raises(plugin.LoginFailed, match=words) as caught:
        plugin.login(show=approve_at_once(simulator))
    assert len(simulator.seen("/oauth/token")) == 1
    sent = simulator.seen("/oauth/token")[0].body
    assert sent["code"] not in str(caught.value)
    assert sent["code_verifier"] not in str(caught.value)
    assert plugin.load_tokens() == old


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            {"error": "invalid_client", "error_description": "Unknown client."},
            "(status 400, invalid_client: Unknown client). Try again",
        ),
        (
            {"error": {"code": "odd", "message": "Not\x1b[2J today"}},
            "(status 400, odd: Not\ufffd[2J today). Try again",
        ),
        ({"error_description": "Just no"}, "(status 400: Just no). Try again"),
    ],
)
def test_a_refused_exchange_quotes_the_issuer(simulator, body, words):
    simulator.script("token", Answer(400, body))
    with pytest.raises(plugin.LoginFailed) as caught:
        plugin.login(show=approve_at_once(simulator))
    assert words in str(caught.value)


def test_a_refused_exchange_tells_no_secret(simulator):
    def refuse(request):
        description = (
            f"Code {request.body['code']} or verifier {request.body['code_verifier']} is bad"
        )
        return Answer(400, {"error": "invalid_client", "error_description": description})

    simulator.script("token", refuse)
    with pytest.raises(plugin.LoginFailed) as caught:
        plugin.login(show=approve_at_once(simulator))
    sent = simulator.seen("/oauth/token")[0].body
    assert "invalid_client: Code ... or verifier ... is bad" in str(caught.value)
    assert sent["code"] not in str(caught.value)
    assert sent["code_verifier"] not in str(caught.value)


@pytest.mark.parametrize(
    "account",
    [
        Account(email=None),
        Account(plan=None),
        Account(auth_object=False),
        Account(account_id=None, organizations=("org-1",)),
        Account(fedramp=True),
    ],
)
def test_unusual_claims_are_accepted(simulator, account, run_llm):
    simulator.account = account
    simulator.require_account_header = account.account_id is not None and account.auth_object
    simulator.approve_after_polls = 0
    result = run_llm("chatgpt", "login")
    assert result.exit_code == 0, result.output
    result = run_llm("-m", "chatgpt-gpt-6-luna", "hi", "--no-log")
    if account.auth_object:
        assert result.exit_code == 0, result.output
    for request in simulator.seen("/codex/responses"):
        assert not request.headers.get("chatgpt-account-id", "").startswith("org-")


def test_the_caller_can_end_the_wait(simulator):
    class Enough(Exception):
        pass

    def wait(seconds, left):
        raise Enough

    with pytest.raises(Enough):
        plugin.login(show=lambda code: None, wait=wait)
    assert len(simulator.seen("/deviceauth/token")) == 1
    assert plugin.load_tokens() is None


# The command


def test_the_command_shows_address_code_and_next_steps(simulator, run_llm):
    simulator.approve_after_polls = 0
    result = run_llm("chatgpt", "login")
    assert result.exit_code == 0
    assert f"{simulator.issuer}/codex/device" in result.stderr
    assert "15 minutes" in result.stderr
    assert "Only continue if you started this" in result.stderr
    assert "Settings > Security" in result.stderr
    code = simulator.seen("/deviceauth/token")[0].body["user_code"]
    assert f"(expires in 15 minutes):\n\n     {code}\n\n" in result.stderr
    account = simulator.account
    assert f"Signed in as {account.email} (Plus plan)" in result.stdout
    assert account.account_id not in result.stdout
    commands = [line.strip() for line in result.stdout.splitlines() if line.startswith("  llm")]
    assert len(commands) == 2
    assert commands[0].startswith("llm -m chatgpt-gpt-6.2-sol ")
    assert_no_secrets(simulator, result.output)
    assert simulator.seen("/codex/models")


def test_the_command_waits_with_one_plain_line(simulator, run_llm):
    simulator.approve_after_polls, simulator.interval = 2, "1"
    result = run_llm("chatgpt", "login")
    assert result.exit_code == 0
    assert result.stderr.count("Waiting") == 1
    assert len(simulator.seen("/deviceauth/token")) == 3
    # The code is shown before the waiting line.
    assert result.stderr.index("Enter") < result.stderr.index("Waiting")


def test_a_login_that_fails_says_so_in_one_line(simulator, run_llm):
    simulator.script("usercode", Answer(404))
    result = run_llm("chatgpt", "login")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert len(result.stderr.splitlines()) == 1


def test_a_login_succeeds_without_a_model_list(simulator, run_llm):
    simulator.approve_after_polls = 0
    simulator.script("models", Answer(500))
    result = run_llm("chatgpt", "login")
    assert result.exit_code == 0
    assert "Signed in, but could not fetch the model list" in result.stderr
    assert plugin.load_tokens() is not None


def test_a_hostile_code_cannot_control_the_terminal(simulator, run_llm):
    body = {"device_auth_id": "d", "user_code": "\x1b[2J\x1b]0;pwned\x07AB", "interval": "5"}
    simulator.script("usercode", Answer(200, body))
    simulator.script("device_token", error_answer(401, "authorization_declined"))
    result = run_llm("chatgpt", "login")
    assert "\x1b" not in result.output
    assert "\x07" not in result.output


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_leaves_everything_as_it_was(simulator):
    old = sign_in(simulator)
    process = start_llm("chatgpt", "login")
    line = ""
    while "Waiting" not in line:
        line = process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "Traceback" not in err
    assert "Aborted!" in err
    assert plugin.load_tokens() == old
    assert not list(store_path().parent.glob("*.tmp"))


@pytest.mark.parametrize("arguments", [[], ["--device"]])
def test_without_a_terminal_the_browser_login_is_only_suggested(simulator, run_llm, arguments):
    simulator.script("usercode", Answer(404, {"detail": "Not Found"}))
    result = run_llm("chatgpt", "login", *arguments)
    assert result.exit_code == 1
    assert "Use --browser to sign in without one." in result.stderr
