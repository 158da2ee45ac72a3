"""The faults of an answer, and when a prompt is sent again."""

from __future__ import annotations

import asyncio
import email.utils
import json
import time
import tracemalloc

import llm
import pytest

import llm_chatgpt_oauth as plugin
from llm_chatgpt.backend.translate import EventTranslator
from llm_chatgpt.text import in_words
from simulator import Answer, Call, Say, Stream, Think, error_answer, sse, usage_limit, web_page

pytestmark = pytest.mark.usefixtures("short_pauses")


def frames_of(simulator, *items, **changes):
    return list(simulator.frames(list(items), **changes))


def failed(code, message="It failed."):
    response = {"status": "failed", "error": {"code": code, "message": message}}
    return Stream([sse({"type": "response.failed", "response": response})])


def error_event(flat, code="server_error", message="It failed."):
    fields = {"code": code, "message": message, "param": None}
    event = fields if flat else {"error": {"type": "server_error", **fields}}
    return Stream([sse({"type": "error", "sequence_number": 1, **event})])


def model_not_found():
    return error_answer(404, None, "Model not found gpt-6-luna", param="model")


def undecodable(status):
    return Answer(status, "this is not gzip", {"Content-Encoding": "gzip"})


# What is sent again --------------------------------------------------------------------


TEMPORARY = [
    Answer(drop=True),
    Stream([]),
    Stream([], end="cut"),
    Stream([b": keepalive\n\n"], end="cut"),
    Stream([b"this is not gzip"], headers={"Content-Encoding": "gzip"}),
    Answer(500),
    Answer(502, "<html>Bad gateway</html>", {"Content-Type": "text/html"}),
    Answer(504),
    Answer(520, "<html>"),
    undecodable(503),
    error_answer(503, "server_is_overloaded", "Overloaded."),
    error_answer(503, "slow_down", "Slow down."),
    Answer(429, headers={"Retry-After": "0"}),
    failed("server_error"),
    failed("server_is_overloaded"),
    failed("slow_down"),
    failed("something_new"),
    failed("rate_limit_exceeded", "Please try again in 2ms."),
    error_event(flat=True),
    error_event(flat=False),
]


@pytest.mark.parametrize("fault", TEMPORARY)
def test_after_a_temporary_fault_the_prompt_is_sent_again(simulator, signed_in, ask, fault, caplog):
    simulator.script("responses", fault)
    assert ask("hi").text == "This is answer 1. You said: hi"
    first, second = simulator.seen("/codex/responses")
    assert first.raw == second.raw
    assert first.headers["session-id"] == second.headers["session-id"]
    [record] = caplog.records
    assert "retrying" in record.message
    assert record.message.endswith("(1 of 4)...")


@pytest.mark.parametrize("fault", TEMPORARY)
def test_a_prompt_is_sent_again_at_most_four_times(simulator, signed_in, ask, fault, caplog):
    simulator.script("responses", *[fault] * 9)
    with pytest.raises(llm.ModelError) as caught:
        ask("hi")
    assert "\n" not in str(caught.value)
    assert len(simulator.prompts) == 5
    assert [r.message.split("(")[-1] for r in caplog.records] == [
        f"{n} of 4)..." for n in (1, 2, 3, 4)
    ]


@pytest.mark.parametrize("fault", [web_page(), model_not_found()])
def test_a_web_page_and_an_unknown_model_are_tried_once_more(simulator, signed_in, ask, fault):
    simulator.script("responses", fault)
    assert ask("hi").text
    assert len(simulator.prompts) == 2
    simulator.script("responses", fault, fault)
    with pytest.raises(llm.ModelError):
        ask("hi")
    assert len(simulator.prompts) == 4


FINAL = [
    Answer(400, {"detail": "Unsupported parameter: x"}),
    error_answer(400, "invalid_prompt"),
    error_answer(403, "cyber_policy"),
    Answer(402, {"detail": {"code": "deactivated_workspace"}}, {"Retry-After": "1"}),
    Answer(403, {"detail": "no"}),
    Answer(404, {"detail": "Not Found"}),
    Answer(413),
    Answer(429),
    error_answer(429, "rate_limit_exceeded", "Rate limit reached. Try again in 1.5s."),
    usage_limit(),
    Answer(429, {"error": {"type": "usage_limit_reached"}}, {"Retry-After": "1"}),
    Answer(429, {"error": {"type": "usage_not_included", "message": "no"}}),
    failed("context_length_exceeded"),
    failed("insufficient_quota"),
    error_answer(429, "organization_usage_limit_exceeded"),
    Answer(429, {"error": {"type": "organization_spend_limit_exceeded"}}, {"Retry-After": "1"}),
    error_answer(403, "access_program_not_enabled"),
    error_answer(403, "inference_hook_denied"),
    error_answer(400, "tool_collision"),
    error_answer(400, "invalid_image_request"),
    failed("organization_spend_limit_exceeded"),
    failed("organization_usage_limit_exceeded"),
    failed("policy_capacity_unavailable"),
    failed("access_program_not_enabled"),
    failed("inference_hook_denied"),
    failed("tool_collision"),
    failed("invalid_image_request"),
    failed("usage_not_included"),
    failed("cyber_policy"),
    failed("bio_policy"),
    failed("misalignment_policy_violation"),
    failed("invalid_prompt"),
    error_event(flat=False, code="usage_limit_reached"),
]


@pytest.mark.parametrize("fault", FINAL)
def test_a_final_refusal_is_an_error_at_once(simulator, signed_in, ask, fault):
    simulator.script("responses", fault)
    with pytest.raises(llm.ModelError) as caught:
        ask("hi")
    assert len(simulator.prompts) == 1
    assert "\n" not in str(caught.value)


SHOWN = {
    "text": lambda s: frames_of(s, Say("Half of the answer"))[:-3],
    "reasoning": lambda s: frames_of(
        s, Think(["Hm."]), body={"model": "m", "input": [], "reasoning": {"summary": "auto"}}
    )[:-2],
    "a tool's name": lambda s: frames_of(s, Call("multiply", {"a": 1}))[:3],
}


@pytest.mark.parametrize("shown", SHOWN)
@pytest.mark.parametrize("end", ["finish", "cut", "failed", "error"])
def test_a_prompt_is_not_sent_again_once_something_was_shown(simulator, signed_in, ask, shown, end):
    frames = SHOWN[shown](simulator)
    if end == "failed":
        frames += failed("server_error").pieces
    if end == "error":
        frames += error_event(flat=True).pieces
    simulator.script("responses", Stream(frames, end="cut" if end == "cut" else "finish"))
    with pytest.raises(llm.ModelError) as caught:
        ask("hi")
    assert len(simulator.prompts) == 1
    if end in ("finish", "cut"):
        assert "The answer was cut off: the " in str(caught.value)
    else:
        assert "It failed" in str(caught.value)


def test_nothing_of_a_failed_answer_is_logged(simulator, signed_in, run_llm):
    simulator.script("responses", Stream(frames_of(simulator, Say("Half"))[:-2]))
    result = run_llm("-m", "chatgpt-gpt-6-luna", "hi", "-R")
    assert result.exit_code == 1
    assert result.stdout == "Half"
    assert "cut off" in result.stderr
    assert json.loads(run_llm("logs", "--json").stdout) == []


# How long it waits -----------------------------------------------------------------------


@pytest.fixture
def pauses(monkeypatch):
    """Skip the pauses between attempts. Returns the list of their lengths."""
    seconds = []

    def note(pause):
        if pause:
            seconds.append(pause)

    async def sleep(pause):
        note(pause)

    monkeypatch.setattr(time, "sleep", note)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    return seconds


def test_pauses_grow(simulator, signed_in, ask, pauses, monkeypatch):
    monkeypatch.setattr("llm_chatgpt.config.FIRST_RESEND_PAUSE_SECONDS", 0.2)
    simulator.script("responses", *[Answer(500)] * 4)
    assert ask("hi").text
    assert pauses == [pytest.approx(seconds, rel=0.11) for seconds in (0.2, 0.4, 0.8, 1.6)]
    assert len(set(pauses)) == 4


@pytest.mark.parametrize(
    ("fault", "seconds"),
    [
        (Answer(429, headers={"Retry-After": "7"}), 7.0),
        (Answer(429, headers={"Retry-After": "60"}), 60.0),
        (Answer(503, headers={"Retry-After": "0"}), 0.0),
        (Answer(503, headers={"Retry-After": " 2.5 "}), 2.5),
        (failed("rate_limit_exceeded", "Please try again in 1.5s."), 1.5),
        (failed("rate_limit_exceeded", "Rate limit. Please try again in 250ms."), 0.25),
        (failed("rate_limit_exceeded", "Try again in 3 seconds"), 3.0),
    ],
)
def test_the_server_can_set_the_pause(simulator, signed_in, ask, pauses, fault, seconds, caplog):
    simulator.script("responses", fault)
    assert ask("hi").text
    assert pauses == ([seconds] if seconds else [])
    wait = f" in {in_words(seconds)}" if seconds else ""
    assert f"; retrying{wait} (1 of 4)..." in caplog.text


def test_retry_after_may_be_a_date(simulator, signed_in, ask, pauses):
    moment = email.utils.formatdate(time.time() + 30, usegmt=True)
    simulator.script("responses", Answer(503, headers={"Retry-After": moment}))
    assert ask("hi").text
    assert pauses == [pytest.approx(30, abs=2)]


@pytest.mark.parametrize(
    "header", ["soon", "-5", "nan", "inf", "1e3", "9" * 400, "", "Wed, 99 Nov 2026 07:28:00 GMT"]
)
def test_an_invalid_retry_after_is_ignored(simulator, signed_in, ask, pauses, header):
    simulator.script("responses", Answer(503, headers={"Retry-After": header}))
    assert ask("hi").text
    assert sum(pauses) < 1
    # A 429 with an invalid Retry-After counts as one without the header.
    simulator.script("responses", Answer(429, headers={"Retry-After": header}))
    with pytest.raises(llm.ModelError, match=r"Wait a minute and try again\."):
        ask("hi")
    assert len(simulator.prompts) == 3


@pytest.mark.parametrize("status", [429, 503])
def test_a_wait_of_more_than_a_minute_is_an_error(simulator, signed_in, ask, pauses, status):
    simulator.script("responses", Answer(status, headers={"Retry-After": "61"}))
    with pytest.raises(llm.ModelError, match=r" 1 minute") as caught:
        ask("hi")
    assert caught.value.retry_after == 61
    assert pauses == []
    assert len(simulator.prompts) == 1


def test_a_prompt_waits_at_most_ninety_seconds_in_total(simulator, signed_in, ask, pauses):
    simulator.script("responses", *[Answer(429, headers={"Retry-After": "40"})] * 9)
    with pytest.raises(llm.ModelError, match="Wait 40 seconds"):
        ask("hi")
    assert pauses == [40.0, 40.0]


def test_the_wait_is_printed_on_stderr(simulator, signed_in, run_llm, pauses):
    simulator.script("responses", Answer(503, headers={"Retry-After": "7"}))
    result = run_llm("-m", "chatgpt-gpt-6-luna", "hi", "-R")
    assert result.stderr == "OpenAI server error (503); retrying in 7 seconds (1 of 4)...\n"


# Stalls and sizes ---------------------------------------------------------------------------


@pytest.mark.parametrize("shown", [True, False])
def test_a_stalled_stream_is_given_up(simulator, signed_in, ask, monkeypatch, shown):
    monkeypatch.setenv("LLM_CHATGPT_TIMEOUT", "0.2")
    frames = frames_of(simulator, Say("Half"))[: 5 if shown else 1]
    simulator.script("responses", Stream(frames, end="open"))
    start = time.monotonic()
    with pytest.raises(llm.ModelError, match=r"no data for 0\.2 seconds"):
        ask("hi")
    assert time.monotonic() - start < 10
    # A prompt that stalled is not sent again.
    assert len(simulator.prompts) == 1


@pytest.mark.parametrize("value", ["soon", "0", "-1", "nan", "inf"])
def test_an_invalid_timeout_names_the_setting(simulator, signed_in, ask, monkeypatch, value):
    monkeypatch.setenv("LLM_CHATGPT_TIMEOUT", value)
    with pytest.raises(llm.ModelError, match="LLM_CHATGPT_TIMEOUT must be a number"):
        ask("hi")


def test_an_event_of_twenty_megabytes_is_read(simulator, signed_in, ask):
    big = sse({"type": "response.something", "x": "y" * 20_000_000})
    text = "x" * 5_000_000
    frames = frames_of(simulator, Say(text, deltas=[text]))
    simulator.script("responses", Stream([big, *frames]))
    assert ask("hi").text == text


def test_no_second_copy_of_a_long_answer_is_kept(simulator, signed_in):
    """llm keeps an event for each piece of text; the plugin keeps only pointers to them."""
    count = 20_000
    frames = frames_of(simulator, Say("word " * count, deltas=["word "] * count))
    translator = EventTranslator()
    kept_by_llm = []
    tracemalloc.start()
    for frame in frames[:-4]:
        kept_by_llm += translator.feed(frame)
    with_events, _ = tracemalloc.get_traced_memory()
    translator.round.items.clear()
    del translator
    without_plugin, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(kept_by_llm) == count
    assert with_events - without_plugin < 24 * count


def test_redirects_are_not_followed(simulator, signed_in, ask):
    simulator.script("responses", Answer(302, "", {"Location": "http://127.0.0.1:9/somewhere"}))
    with pytest.raises(llm.ModelError, match="status 302"):
        ask("hi")
    assert len(simulator.requests) == 1


# The clock -------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [-86400.0, 86400.0])
def test_a_clock_that_is_wrong_by_a_day_causes_at_most_one_refresh(simulator, ask, clock, offset):
    """The clock is wrong during the login, then right, then wrong the other way."""
    clock.shift = offset
    plugin.login(show=lambda code: simulator.approve(code.user_code))
    for _ in range(3):
        assert ask("hi").text
    assert simulator.refreshes == []
    clock.shift = 0.0
    for _ in range(3):
        assert ask("hi").text
    assert len(simulator.refreshes) <= 1
    clock.shift = -offset
    for _ in range(3):
        assert ask("hi").text
    assert len(simulator.refreshes) <= 1


def test_a_clock_set_forward_past_the_expiry_causes_one_refresh(simulator, signed_in, ask, clock):
    clock.shift = 40 * 86400.0
    for _ in range(3):
        assert ask("hi").text
    assert len(simulator.refreshes) == 1
