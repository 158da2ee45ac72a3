"""`llm chatgpt usage` for users and scripts, for all accounts, and with Luna Reserve."""

from __future__ import annotations

import json
import re
import time

import pytest

from conftest import sign_in, sign_in_officially
from llm_chatgpt.backend.usage import UsageWindow, reset_words
from simulator import Account, Answer

REACHED = {"limit_reached": True, "primary_window": None}


def test_usage_explains_the_reserve(simulator, signed_in, run_llm):
    simulator.reserve_used = 20.0
    lines = run_llm("chatgpt", "usage").stdout.splitlines()
    start = lines.index("Luna Reserve, for when these limits are used up:")
    assert lines[start + 1].startswith("weekly   [########..]  80% left, resets in 3 days")
    assert lines[start + 2] == 'Use it: llm -m chatgpt-gpt-reserve "prompt"'
    sign_in(simulator, "work")
    output = run_llm("chatgpt", "usage", "--account", "work").stdout
    assert 'Use it: llm -m chatgpt-gpt-reserve --key work "prompt"' in output


@pytest.mark.parametrize(
    ("changes", "least", "words"),
    [
        ({}, 10, ""),
        ({"used_percent": {"primary": 30.0, "secondary": 91.0}}, 10, "weekly limit (9%)"),
        ({"used_percent": {"primary": 30.0, "secondary": 91.0}}, 9, ""),
        ({"limit_reached": True}, 1, "5-hour limit (0%)"),
        # Prompts to other models do not use Luna Reserve.
        ({"reserve_used": 100.0}, 50, ""),
    ],
)
def test_min_left_fails_if_less_is_left(simulator, signed_in, run_llm, changes, least, words):
    for name, value in changes.items():
        setattr(simulator, name, value)
    result = run_llm("chatgpt", "usage", "--min-left", str(least))
    assert result.exit_code == bool(words)
    assert result.stdout.startswith("Plan: Plus\n5-hour ")
    assert result.stderr == (f"Less than {least}% is left: {words}.\n" if words else "")


@pytest.mark.parametrize(
    ("report", "words"),
    [
        (
            {"additional_rate_limits": [{"limit_name": "a\nb", "rate_limit": REACHED}]},
            "a b limit (0",
        ),
        ({"rate_limit": REACHED}, "plan's limit (0%)"),
        (
            {"spend_control": {"individual_limit": {"limit": "50", "used": "49"}}},
            "spending limit (2%",
        ),
        ({"spend_control": {"reached": True}}, "spending limit (0%)"),
        ({"spend_control": {"individual_limit": {"limit": [], "used": "x"}}}, ""),
        ({"spend_control": {"individual_limit": {"limit": "0"}}}, ""),
        ([7], ""),
    ],
)
def test_min_left_counts_all_limits_that_prompts_use(simulator, signed_in, run_llm, report, words):
    simulator.script("usage", Answer(200, report))
    result = run_llm("chatgpt", "usage", "--min-left", "10", "--json")
    assert result.exit_code == bool(words)
    assert words in result.stderr
    assert json.loads(result.stdout)["banked_resets"] is None


def test_min_left_fails_with_the_official_sign_in(simulator, run_llm):
    sign_in_officially(simulator)
    sent = len(simulator.requests)
    assert run_llm("chatgpt", "usage").exit_code == 0
    unreported = "OpenAI's official sign-in does not report your plan's usage.\n"
    for options in ([], ["--all"]):
        result = run_llm("chatgpt", "usage", "--min-left", "1", *options)
        assert (result.exit_code, result.stderr) == (1, "")
        assert result.stdout.count(unreported) == 1
    result = run_llm("chatgpt", "usage", "--min-left", "1", "--json")
    assert (result.exit_code, result.stderr) == (1, unreported)
    assert json.loads(result.stdout)["kind"] == "official"
    assert len(simulator.requests) == sent


def test_usage_of_all_shows_each_account(simulator, signed_in, run_llm):
    simulator.account = Account(email="bob@example.com", account_id="bob", plan="pro")
    sign_in(simulator, "work")
    sign_in_officially(simulator, "app")
    simulator.reserve_used = 20.0
    result = run_llm("chatgpt", "usage", "--all")
    assert (result.exit_code, result.stderr) == (0, "")
    first, second, third = result.stdout.split("\n\n")
    assert first.startswith("Account: default\nPlan: Plus\n5-hour ")
    assert first.endswith('Use it: llm -m chatgpt-gpt-reserve "prompt"\nBanked resets: 0')
    assert second.startswith("Account: work\nPlan: Pro\n5-hour ")
    assert 'Use it: llm -m chatgpt-gpt-reserve --key work "prompt"' in second
    assert third.startswith("Account: app\nOpenAI's official sign-in does not report")
    assert third.endswith("Details: https://chatgpt.com/settings/usage\n")
    reports = json.loads(run_llm("chatgpt", "usage", "--all", "--json").stdout)
    assert [report["account"] for report in reports] == ["default", "work", "app"]
    assert reports[1]["plan_type"] == "pro"


def test_an_account_that_fails_does_not_hide_the_others(simulator, signed_in, run_llm):
    sign_in(simulator, "work")
    simulator.script("usage", Answer(500), None, Answer(500), None)
    result = run_llm("chatgpt", "usage", "--all", "--min-left", "99")
    assert result.exit_code == 1
    assert "Account: default\nOpenAI server error (500)" in result.stdout
    assert "Account: work\nPlan: Plus\n" in result.stdout
    assert result.stderr == "Less than 99% is left for account work: 5-hour limit (70%).\n"
    reports = json.loads(run_llm("chatgpt", "usage", "--all", "--json").stdout)
    assert reports[0] == {"account": "default", "error": reports[0]["error"]}


def test_usage_of_all_without_a_login_is_an_error(simulator, run_llm):
    result = run_llm("chatgpt", "usage", "--all")
    assert result.exit_code == 1
    assert "Not signed in to ChatGPT" in result.stderr
    assert run_llm("chatgpt", "usage", "--all", "--account", "x").exit_code == 2


def test_usage_shows_each_limit_and_when_it_resets(simulator, signed_in, run_llm):
    result = run_llm("chatgpt", "usage")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "Plan: Plus"
    assert re.fullmatch(
        r"5-hour +\[#{7}\.{3}\]  70% left, resets in 2 hours 30 minutes "
        r"\((\d{4}-\d\d-\d\d )?\d\d:\d\d\)",
        lines[1],
    )
    assert lines[2].startswith("weekly   [#########.]  88% left, resets ")
    assert max(map(len, lines)) <= 80
    data = json.loads(run_llm("chatgpt", "usage", "--json").stdout)
    assert data["rate_limit"]["primary_window"]["used_percent"] == 30.0
    assert not {"email", "account_id", "user_id"} & set(data)


def test_usage_shows_other_limits_credits_and_spending(simulator, signed_in, run_llm):
    now = int(time.time())
    monthly = {
        "used_percent": 99.6,
        "limit_window_seconds": 2592000,
        "reset_after_seconds": 86400 * 3 + 60,
        "reset_at": now + 86400 * 3 + 60,
    }
    report = {
        "plan_type": "team\x1b[2J",
        "rate_limit": {"primary_window": monthly, "secondary_window": None},
        "additional_rate_limits": [
            {"limit_name": "gpt-6-astra", "rate_limit": {"primary_window": monthly}}
        ],
        "credits": {"has_credits": True, "unlimited": False, "balance": "12.5"},
        "spend_control": {
            "reached": False,
            "individual_limit": {"limit": "50", "used": "20", "reset_at": now + 7260},
        },
    }
    simulator.script("usage", Answer(200, report))
    text = run_llm("chatgpt", "usage").stdout
    assert "\x1b" not in text
    assert "30-day   [..........]   0% left" in text
    assert "in 3 days" in text
    assert "gpt-6-astra, 30-day [" in text
    assert "Credits: 12.5" in text
    assert "Spending: 20 of 50, resets " in text
    for odd in ({}, {"rate_limit": None, "credits": None}, {"credits": {"unlimited": True}}, [1]):
        simulator.script("usage", Answer(200, odd))
        assert run_llm("chatgpt", "usage").exit_code == 0


@pytest.mark.parametrize(
    ("reset", "words"),
    [
        ({}, ""),
        ({"reset_after_seconds": 9000}, ", resets in 2 hours 30 minutes"),
        ({"reset_at": 480, "reset_after_seconds": 9000}, ", resets in 2 hours 30 minutes"),
        # Resets in the past.
        ({"reset_at": 480}, ""),
        ({"reset_after_seconds": -480}, ""),
    ],
)
def test_only_a_reset_in_the_future_is_shown(simulator, signed_in, run_llm, reset, words):
    window = {"used_percent": 95, "limit_window_seconds": 18000, **reset}
    spending = {"individual_limit": {"limit": "50", "used": "20", **reset}}
    report = {"rate_limit": {"primary_window": window}, "spend_control": spending}
    simulator.script("usage", Answer(200, report))
    lines = run_llm("chatgpt", "usage").stdout.splitlines()
    assert lines[1].split("left", 1)[1].startswith(words)
    assert lines[2].split("of 50", 1)[1].startswith(words)
    headers = {f"x-codex-primary-{k.replace('_', '-')}": str(v) for k, v in reset.items()}
    empty = {"x-codex-primary-reset-at": "", "x-codex-primary-reset-after-seconds": ""}
    simulator.response_headers = {**empty, **headers, "x-codex-primary-used-percent": "95"}
    note = run_llm("-m", "chatgpt-gpt-6-luna", "hi", "-R").stderr
    assert note.startswith(f"Note: 5% of your 5-hour limit left{words}")
    assert "ago" not in "".join([note, *lines])
    if not words:
        assert "resets" not in "".join([note, *lines])


def test_a_low_allowance_is_noted(simulator, signed_in, run_llm, monkeypatch):
    simulator.used_percent = {"primary": 92.0, "secondary": 20.0}
    result = run_llm("-m", "chatgpt-gpt-6-luna", "hi", "-R")
    assert re.fullmatch(
        r"Note: 8% of your 5-hour limit left, resets in 2 hours 30 minutes \(.+\)\.\n",
        result.stderr,
    )
    assert result.stdout == "This is answer 1. You said: hi\n"
    monkeypatch.setenv("LLM_CHATGPT_USAGE_NOTE", "0")
    assert run_llm("-m", "chatgpt-gpt-6-luna", "hi", "-R").stderr == ""


def test_odd_limit_headers_are_ignored(simulator, signed_in, run_llm):
    simulator.response_headers = {
        "x-codex-primary-used-percent": "a lot",
        "x-codex-secondary-used-percent": "99",
        "x-codex-secondary-window-minutes": "0",
    }
    assert run_llm("-m", "chatgpt-gpt-6-luna", "hi", "-R").stderr == ""


def test_a_window_without_a_reset_has_no_words_for_it():
    assert reset_words(UsageWindow(3600, 10).resets_at) == ""
    assert UsageWindow(3600, 10).name == "1-hour"
