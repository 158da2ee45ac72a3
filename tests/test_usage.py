"""llm chatgpt usage for scripts, for all accounts, and with Luna Reserve."""

from __future__ import annotations

import json

import pytest

from conftest import sign_in, sign_in_officially
from simulator import Account, Answer

REACHED = {"limit_reached": True, "primary_window": None}


def test_usage_explains_the_reserve(simulator, signed_in, run_llm):
    simulator.reserve_used = 20.0
    lines = run_llm("chatgpt", "usage").stdout.splitlines()
    start = lines.index("Luna Reserve, for when these limits are used up:")
    assert lines[start + 1].startswith("weekly   [########..]  80% left, resets in 3 days")
    assert lines[start + 2] == 'Use it: llm -m chatgpt-gpt-reserve "prompt"'
    sign_in(simulator, "work")
    shown = run_llm("chatgpt", "usage", "--account", "work").stdout
    assert 'Use it: llm -m chatgpt-gpt-reserve --key work "prompt"' in shown


@pytest.mark.parametrize(
    ("changes", "least", "words"),
    [
        ({}, 10, ""),
        ({"used_percent": {"primary": 30.0, "secondary": 91.0}}, 10, "weekly limit (9%)"),
        ({"used_percent": {"primary": 30.0, "secondary": 91.0}}, 9, ""),
        ({"limit_reached": True}, 1, "5-hour limit (0%)"),
        # Not what prompts to other models use.
        ({"reserve_used": 100.0}, 50, ""),
    ],
)
def test_a_script_can_stop_in_time(simulator, signed_in, run_llm, changes, least, words):
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
def test_other_limits_count_for_a_script(simulator, signed_in, run_llm, report, words):
    simulator.script("usage", Answer(200, report))
    result = run_llm("chatgpt", "usage", "--min-left", "10", "--json")
    assert result.exit_code == bool(words)
    assert words in result.stderr
    assert json.loads(result.stdout)["banked_resets"] is None


def test_the_official_sign_in_cannot_say_that_enough_is_left(simulator, run_llm):
    sign_in_officially(simulator)
    assert run_llm("chatgpt", "usage").exit_code == 0
    result = run_llm("chatgpt", "usage", "--min-left", "1")
    assert result.exit_code == 1
    assert result.stderr == "OpenAI's official sign-in does not report your plan's usage.\n"


def test_the_usage_of_all_accounts(simulator, signed_in, run_llm):
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


def test_one_account_that_fails_does_not_hide_the_others(simulator, signed_in, run_llm):
    sign_in(simulator, "work")
    simulator.script("usage", Answer(500), None, Answer(500), None)
    result = run_llm("chatgpt", "usage", "--all", "--min-left", "99")
    assert result.exit_code == 1
    assert "Account: default\nOpenAI server error (500)" in result.stdout
    assert "Account: work\nPlan: Plus\n" in result.stdout
    assert result.stderr == "Less than 99% is left of account work: 5-hour limit (70%).\n"
    reports = json.loads(run_llm("chatgpt", "usage", "--all", "--json").stdout)
    assert reports[0] == {"account": "default", "error": reports[0]["error"]}


def test_usage_of_all_accounts_of_nobody(simulator, run_llm):
    result = run_llm("chatgpt", "usage", "--all")
    assert result.exit_code == 1
    assert "Not signed in to ChatGPT" in result.stderr
    assert run_llm("chatgpt", "usage", "--all", "--account", "x").exit_code == 2
