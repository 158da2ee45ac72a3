"""Banked resets: shown, used once and only on request, and suggested at a reached limit."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time

import llm
import pytest

import llm_chatgpt_oauth as plugin
from conftest import sign_in, sign_in_officially
from simulator import Account, Answer, Stream, error_answer, sse, usage_limit
from terminal import Terminal, needs_pty

pytestmark = pytest.mark.usefixtures("short_pauses")
CONSUME = "/rate-limit-reset-credits/consume"
HINT = "You have 2 banked resets: run 'llm chatgpt reset'."


@pytest.fixture
def banked(simulator, signed_in):
    """The simulator, with a stored login that has two banked resets."""
    simulator.bank_reset()
    simulator.bank_reset()
    return simulator


def request_ids(simulator):
    return [request.body["redeem_request_id"] for request in simulator.seen(CONSUME)]


# `llm chatgpt usage`


def test_usage_shows_the_banked_resets_and_the_first_expiry(banked, run_llm):
    banked.resets[1]["expires_at"] = "2099-01-02T03:04:05.678Z"
    banked.bank_reset(status="redeemed", expires_at="2020-01-01T00:00:00Z")
    output = run_llm("chatgpt", "usage").stdout
    assert re.search(
        r"^Banked resets: 2; the first expires in 30 days \(.*\)$", output, re.MULTILINE
    )
    report = json.loads(run_llm("chatgpt", "usage", "--json").stdout)["banked_resets"]
    assert report["available"] == 2
    assert report["first_expires_at"] == pytest.approx(time.time() + 30 * 86400, abs=60)
    assert not banked.seen(CONSUME)


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        (4070908800, "; the first expires in "),
        ("2099-01-01T00:00:00", "; the first expires in "),
        (None, ""),
        ("soon", ""),
        ({"at": 1}, ""),
        (1e300, ""),
    ],
)
def test_each_form_of_an_expiry_is_read_or_ignored(simulator, signed_in, run_llm, moment, words):
    simulator.bank_reset(expires_at=moment)
    line = re.search(r"^Banked resets: 1(.*)$", run_llm("chatgpt", "usage").stdout, re.MULTILINE)
    assert line[1].startswith(words)
    assert bool(line[1]) == bool(words)
    report = json.loads(run_llm("chatgpt", "usage", "--json").stdout)["banked_resets"]
    assert report["first_expires_at"] == (4070908800 if words else None)


def test_usage_without_resets_requests_no_list(simulator, signed_in, run_llm):
    assert "Banked resets: 0\n" in run_llm("chatgpt", "usage").stdout
    simulator.script("usage", Answer(200, {"plan_type": "plus"}))
    assert "Banked" not in run_llm("chatgpt", "usage").stdout
    assert not simulator.seen("/rate-limit-reset-credits")


def test_a_refused_list_of_resets_does_not_hide_the_usage(banked, run_llm):
    banked.script("resets", error_answer(429, "connector_rate_limit"))
    result = run_llm("chatgpt", "usage")
    assert result.exit_code == 0
    assert "\nBanked resets: 2\n" in result.stdout
    assert "could not find out when a banked reset expires. Too many requests" in result.stderr


# `llm chatgpt reset`


def test_a_reset_is_used_and_the_usage_shown(banked, run_llm):
    result = run_llm("chatgpt", "reset", "--yes")
    assert result.exit_code == 0
    assert "70% left" in result.stderr
    assert result.stdout.startswith("The limits were reset.\nPlan: Plus\n")
    assert "100% left" in result.stdout
    assert "Banked resets: 1;" in result.stdout
    assert len(request_ids(banked)) == 1
    headers = banked.seen(CONSUME)[0].headers
    assert headers["chatgpt-account-id"] == plugin.load_tokens().account_id


def test_a_reset_is_reported_as_json(banked, run_llm):
    answer = json.loads(run_llm("chatgpt", "reset", "--yes", "--json").stdout)
    assert answer["reset"] is True
    assert answer["usage"]["banked_resets"]["available"] == 1
    assert "email" not in answer["usage"]


def test_without_a_terminal_a_reset_needs_yes(banked, run_llm):
    result = run_llm("chatgpt", "reset", input="y\n")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "Nothing was sent" in result.stderr
    assert "use --yes" in result.stderr
    assert not banked.requests


def test_the_official_route_has_no_resets(simulator, run_llm):
    sign_in_officially(simulator)
    result = run_llm("chatgpt", "reset", "--yes")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "official sign-in has no banked resets" in result.stderr
    assert not simulator.requests


@pytest.mark.parametrize(("typed", "used"), [("y\n", 1), ("n\n", 0), ("\n", 0), ("", 0)])
def test_on_a_terminal_the_user_must_confirm(banked, run_llm, monkeypatch, typed, used):
    monkeypatch.setattr("llm_chatgpt.commands.terminal.is_terminal", lambda stream: True)
    result = run_llm("chatgpt", "reset", input=typed)
    assert result.exit_code == (0 if used else 1)
    assert "A reset clears these limits for ada@example.com (Plus plan)." in result.stderr
    assert "Use one banked reset? [y/N]" in result.stderr
    assert ("The limits were reset." in result.stdout) == bool(used)
    assert len(request_ids(banked)) == used


@pytest.mark.parametrize("failure", [Answer(503, "<html>"), Answer(drop=True)])
@pytest.mark.parametrize("repeated", ["already_redeemed", "reset"])
def test_a_lost_answer_uses_one_reset(banked, run_llm, failure, repeated):
    banked.repeated_redeem_code = repeated

    def reset_and_fail(request):
        banked.serve_redeem(request)
        return failure

    banked.script("redeem", reset_and_fail, failure)
    result = run_llm("chatgpt", "reset", "--yes")
    assert result.exit_code == 0, result.stderr
    assert "The limits were reset." in result.stdout
    assert len(request_ids(banked)) == 3
    assert len(set(request_ids(banked))) == 1
    assert [reset["status"] for reset in banked.resets] == ["redeemed", "available"]


@pytest.mark.parametrize(
    ("failure", "words"),
    [(Answer(500), "OpenAI server error (500)"), (Answer(drop=True), "broke off")],
)
def test_after_five_failed_attempts_the_outcome_is_unknown(banked, run_llm, failure, words):
    banked.always["redeem"] = lambda request: failure
    result = run_llm("chatgpt", "reset", "--yes")
    assert (result.exit_code, result.stdout) == (1, "")
    assert words in result.stderr
    assert "not known whether a reset was used: run 'llm chatgpt usage'" in result.stderr
    assert len(request_ids(banked)) == 5
    assert len(set(request_ids(banked))) == 1


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            Answer(200, {"code": "nothing_to_reset", "windows_reset": 0}),
            "There is nothing to reset",
        ),
        (Answer(200, {"code": "no_credit"}), "No reset is banked."),
        (Answer(200, {"code": "already_redeemed"}), "did not say that the limits were reset"),
        (Answer(200, "junk"), "(no code). See 'llm chatgpt usage'."),
        (error_answer(403, "rate_limit_reset_ineligible"), "cannot use a banked reset"),
        (
            Answer(403, {"detail": {"code": "rate_limit_reset_ineligible"}}),
            "until its limits reset",
        ),
        (error_answer(429, "connector_rate_limit"), "Too many requests"),
    ],
)
def test_an_answer_without_a_reset_is_an_error(banked, run_llm, answer, words):
    banked.script("redeem", answer)
    result = run_llm("chatgpt", "reset", "--yes")
    assert (result.exit_code, result.stdout) == (1, "")
    assert words in result.stderr
    assert len(request_ids(banked)) == 1


def test_without_a_banked_reset_none_is_redeemed(simulator, signed_in, run_llm):
    result = run_llm("chatgpt", "reset", "--yes")
    assert result.exit_code == 1
    assert "Error: No reset is banked." in result.stderr
    assert not request_ids(simulator)


def test_a_reset_succeeds_though_the_usage_cannot_be_fetched(banked, run_llm):
    banked.script("usage", None, Answer(500))
    result = run_llm("chatgpt", "reset", "--yes")
    assert (result.exit_code, result.stdout) == (0, "The limits were reset.\n")
    assert "could not fetch the usage after the reset. OpenAI server error" in result.stderr


def test_a_login_that_is_refused_is_renewed_once(banked, run_llm):
    banked.script("redeem", Answer(401))
    assert run_llm("chatgpt", "reset", "--yes").exit_code == 0
    assert len(banked.refreshes) == 1
    assert len(set(request_ids(banked))) == 1
    assert banked.seen(CONSUME)[0].bearer != banked.seen(CONSUME)[1].bearer


# The message of a reached limit


def limit_in_stream():
    error = usage_limit().body["error"] | {"code": "usage_limit_reached"}
    return Stream([sse({"type": "response.failed", "response": {"error": error}})])


@pytest.mark.parametrize("answer", [usage_limit, limit_in_stream])
def test_a_reached_limit_suggests_a_banked_reset(banked, ask, answer):
    banked.script("responses", answer())
    with pytest.raises(plugin.UsageLimitReached) as raised:
        ask("hello")
    assert f"). {HINT} Or wait for the reset, upgrade to Pro, or buy" in str(raised.value)
    assert len(banked.prompts) == len(banked.seen("/wham/usage")) == 1
    assert not banked.seen(CONSUME)


def test_suggested_commands_name_the_account(simulator, signed_in, ask):
    simulator.account = Account(email="bob@example.com", account_id="bob")
    sign_in(simulator, "work")
    simulator.bank_reset()
    simulator.script("responses", usage_limit())
    simulator.reserve_used = 20.0
    with pytest.raises(plugin.UsageLimitReached) as raised:
        ask("hello", key="work")
    assert "You have 1 banked reset: run 'llm chatgpt reset --account work'. " in str(raised.value)
    assert "'llm -m chatgpt-gpt-reserve --key work \"prompt\"'. Or wait" in str(raised.value)


def test_a_suggested_command_names_a_key_of_llm(simulator, ask):
    simulator.personal_tokens["at-eve"] = Account(email="eve@example.com")
    (llm.user_dir() / "keys.json").write_text(json.dumps({"my key": "at-eve"}))
    simulator.bank_reset()
    simulator.script("responses", usage_limit())
    with pytest.raises(plugin.UsageLimitReached) as raised:
        ask("hello", key="my key")
    assert "reset --account 'my key''." in str(raised.value)


def test_no_reset_is_suggested_for_an_access_token_without_a_name(banked, ask):
    banked.personal_tokens["at-eve"] = Account(email="eve@example.com")
    banked.script("responses", usage_limit())
    with pytest.raises(plugin.UsageLimitReached) as raised:
        ask("hello", key="at-eve")
    assert "banked" not in str(raised.value)


WORKSPACE_LIMIT = usage_limit()
WORKSPACE_LIMIT.headers["x-codex-rate-limit-reached-type"] = "workspace_member_usage_limit_reached"


@pytest.mark.parametrize(
    "answer", [WORKSPACE_LIMIT, Answer(429, {"error": {"type": "usage_not_included"}}), Answer(429)]
)
def test_a_limit_that_no_reset_clears_looks_up_no_resets(banked, ask, answer):
    banked.script("responses", answer)
    with pytest.raises(plugin.RequestRefused) as raised:
        ask("hello")
    assert "banked" not in str(raised.value)
    assert not banked.seen("/wham/usage")


TOO_LATE = Answer(200, {"rate_limit_reset_credits": {"available_count": 2}}, delay=1.0)


@pytest.mark.parametrize("usage", [Answer(drop=True), Answer(200, "junk"), Answer(401), TOO_LATE])
def test_a_failed_lookup_of_resets_leaves_the_message_of_the_limit(banked, ask, monkeypatch, usage):
    monkeypatch.setattr("llm_chatgpt.config.RESETS_TIMEOUT_SECONDS", 0.2)
    banked.script("responses", usage_limit())
    banked.script("usage", usage)
    with pytest.raises(plugin.UsageLimitReached) as raised:
        ask("hello")
    assert "banked" not in str(raised.value)
    assert not banked.refreshes


@pytest.mark.parametrize("answer", [usage_limit, limit_in_stream])
def test_the_event_loop_runs_during_the_lookup_of_resets(banked, answer):
    request_arrived, loop_runs, in_time = threading.Event(), threading.Event(), []

    def usage(request):
        request_arrived.set()
        in_time.append(loop_runs.wait(5))

    async def watch():
        while not request_arrived.is_set():
            await asyncio.sleep(0.005)
        loop_runs.set()

    async def run():
        watcher = asyncio.create_task(watch())
        with pytest.raises(plugin.UsageLimitReached, match="You have 2 banked resets"):
            await llm.get_async_model("chatgpt-gpt-6-luna").prompt("hello").text()
        await watcher

    banked.script("usage", usage)
    banked.script("responses", answer())
    asyncio.run(run())
    assert in_time == [True]


@needs_pty
@pytest.mark.parametrize("options", [[], ["--async"]])
def test_a_terminal_shows_that_resets_are_looked_up(banked, options):
    release = threading.Event()

    def slow(request):
        release.wait(20)
        return banked.serve_usage(request)

    banked.script("responses", usage_limit())
    banked.script("usage", slow)
    terminal = Terminal("-m", "chatgpt-gpt-6-luna", "hi", *options)
    terminal.wait_for(r"\rLooking for banked resets, 0:00 ")
    release.set()
    assert terminal.end() == 1
    assert terminal.rows[0].startswith(
        "Error: The usage limit of your ChatGPT Plus plan is reached."
    )


# Luna Reserve


def test_a_reached_limit_suggests_the_reserve_and_does_not_use_it(simulator, signed_in, ask):
    simulator.limit_reached, simulator.reserve_used = True, 20.0
    with pytest.raises(plugin.UsageLimitReached) as raised:
        ask("hello")
    hint = "You have Luna Reserve left: run 'llm -m chatgpt-gpt-reserve \"prompt\"'."
    assert f"). {hint} Or wait for the reset, upgrade" in str(raised.value)
    assert len(simulator.prompts) == len(simulator.seen("/wham/usage")) == 1
    simulator.served_model = "gpt-5.6-luna"
    assert ask("hello", slug="gpt-reserve").text
    assert simulator.prompts[1]["model"] == "gpt-reserve"
    for request in simulator.requests:
        assert "x-openai-codex-luna-reserve" not in request.headers


@pytest.mark.parametrize("used", [None, 100])
def test_a_missing_or_used_up_reserve_is_not_suggested(simulator, signed_in, ask, used):
    simulator.limit_reached, simulator.reserve_used = True, used
    for slug in ("gpt-6-luna", "gpt-reserve"):
        with pytest.raises(llm.ModelError) as raised:
            ask("hello", slug=slug)
        assert "Luna Reserve" not in str(raised.value)


def test_the_reserve_does_not_suggest_itself(simulator, signed_in, ask):
    simulator.reserve_used = 20.0
    simulator.script("responses", usage_limit())
    with pytest.raises(plugin.UsageLimitReached) as raised:
        ask("hello", slug="gpt-reserve")
    assert "Luna Reserve" not in str(raised.value)


def test_a_prompt_to_the_reserve_causes_no_note(simulator, signed_in, run_llm):
    simulator.reserve_used, simulator.served_model = 20.0, "gpt-5.6-luna"
    result = run_llm("-m", "chatgpt-gpt-reserve", "hi", "-R")
    assert (result.exit_code, result.stderr) == (0, "")
