"""The faults of a stream, and when a prompt is sent again."""

from __future__ import annotations

import asyncio
import json
import time
import tracemalloc

import llm
import pytest

import llm_chatgpt_oauth as plugin
import rooms
from simulator import Answer, Call, Say, Stream, Think, error_answer, sse, usage_limit, web_page


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    rooms.replace(monkeypatch, "FIRST_RESEND_PAUSE_SECONDS", 0.001)


def frames_of(simulator, *items, **changes):
    return list(simulator.frames(list(items), **changes))


def failed(code, message="It failed."):
    response = {"status": "failed", "error": {"code": code, "message": message}}
    return Stream([sse({"type": "response.failed", "response": response})])


def error_event(flat, code="server_error", message="It failed."):
    fields = {"code": code, "message": message, "param": None}
    event = fields if flat else {"error": {"type": "server_error", **fields}}
    return Stream([sse({"type": "error", "sequence_number": 1, **event})])


# What is sent again --------------------------------------------------------------------


PASSING = [
    Answer(drop=True),
    Stream([]),
    Stream([], end="cut"),
    Stream([b": keepalive\n\n"], end="cut"),
    Answer(500),
    Answer(502, "<html>Bad gateway</html>", {"Content-Type": "text/html"}),
    Answer(504),
    Answer(520, "<html>"),
    error_answer(503, "server_is_overloaded", "Overloaded."),
    error_answer(503, "slow_down", "Slow down."),
    error_answer(429, "rate_limit_exceeded", "Rate limit reached."),
    Answer(429),
    failed("server_error"),
    failed("server_is_overloaded"),
    failed("slow_down"),
    failed("something_new"),
    failed("rate_limit_exceeded", "Please try again in 2ms."),
    error_event(flat=True),
    error_event(flat=False),
]


@pytest.mark.parametrize("fault", PASSING)
def test_a_passing_fault_is_not_noticed(simulator, signed_in, ask, fault, caplog):
    simulator.script("responses", fault)
    assert ask("hi").text == "This is answer 1. You said: hi"
    first, second = simulator.seen("/codex/responses")
    assert first.raw == second.raw
    assert first.headers["session-id"] == second.headers["session-id"]
    # The first time is nobody's business.
    assert caplog.text == ""


@pytest.mark.parametrize("fault", PASSING)
def test_after_four_resends_the_person_hears(simulator, signed_in, ask, fault, caplog):
    simulator.script("responses", *[fault] * 9)
    with pytest.raises(llm.ModelError) as caught:
        ask("hi")
    assert "\n" not in str(caught.value)
    assert len(simulator.prompts) == 5
    assert [r.message.split("(")[-1] for r in caplog.records] == [
        *("2 of 4)...", "3 of 4)...", "4 of 4)...")
    ]


FINAL = [
    Answer(400, {"detail": "Unsupported parameter: x"}),
    error_answer(400, "invalid_prompt"),
    error_answer(403, "cyber_policy"),
    Answer(402, {"detail": {"code": "deactivated_workspace"}}),
    Answer(403, {"detail": "no"}),
    web_page(),
    Answer(404, {"detail": "Not Found"}),
    Answer(413),
    usage_limit(),
    Answer(429, {"error": {"type": "usage_not_included", "message": "no"}}),
    failed("context_length_exceeded"),
    failed("insufficient_quota"),
    failed("organization_spend_limit_exceeded"),
    failed("usage_not_included"),
    failed("cyber_policy"),
    failed("bio_policy"),
    failed("misalignment_policy_violation"),
    failed("invalid_prompt"),
    error_event(flat=False, code="usage_limit_reached"),
]


@pytest.mark.parametrize("fault", FINAL)
def test_a_final_refusal_is_told_at_once(simulator, signed_in, ask, fault):
    simulator.script("responses", fault)
    with pytest.raises(llm.ModelError) as caught:
        ask("hi")
    assert len(simulator.prompts) == 1
    assert "\n" not in str(caught.value)
    assert str(caught.value).rstrip("]")[-1].isalnum() or str(caught.value).endswith((".", '"'))


SHOWN = {
    "text": lambda s: frames_of(s, Say("Half of the answer"))[:-3],
    "reasoning": lambda s: frames_of(
        s, Think(["Hm."]), body={"model": "m", "input": [], "reasoning": {"summary": "auto"}}
    )[:-2],
    "a tool's name": lambda s: frames_of(s, Call("multiply", {"a": 1}))[:3],
}


@pytest.mark.parametrize("shown", SHOWN)
@pytest.mark.parametrize("end", ["finish", "cut", "failed", "error"])
def test_never_again_after_something_was_shown(simulator, signed_in, ask, shown, end):
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
        assert "cut off" in str(caught.value)
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


class Naps:
    """The modules time and asyncio with sleeps that only take notes."""

    def __init__(self):
        self.seconds = []

    def sleep(self, seconds):
        self.seconds.append(seconds)

    async def sleep_async(self, seconds):
        self.seconds.append(seconds)


@pytest.fixture
def naps(monkeypatch):
    noted = Naps()
    real_time, real_asyncio = time, asyncio

    class Time:
        sleep = staticmethod(noted.sleep)

        def __getattr__(self, name):
            return getattr(real_time, name)

    class Asyncio:
        sleep = staticmethod(noted.sleep_async)

        def __getattr__(self, name):
            return getattr(real_asyncio, name)

    rooms.replace(monkeypatch, "time", Time())
    rooms.replace(monkeypatch, "asyncio", Asyncio())
    return noted.seconds


def test_pauses_grow(simulator, signed_in, ask, naps, monkeypatch):
    rooms.replace(monkeypatch, "FIRST_RESEND_PAUSE_SECONDS", 0.2)
    simulator.script("responses", *[Answer(500)] * 4)
    assert ask("hi").text
    assert naps == [pytest.approx(pause, rel=0.11) for pause in (0.2, 0.4, 0.8, 1.6)]
    assert len(set(naps)) == 4


@pytest.mark.parametrize(
    ("fault", "seconds"),
    [
        (Answer(429, headers={"Retry-After": "7"}), 7.0),
        (Answer(503, headers={"Retry-After": "0"}), 0.0),
        (error_answer(429, "rate_limit_exceeded", "Please try again in 1.5s."), 1.5),
        (failed("rate_limit_exceeded", "Rate limit. Please try again in 250ms."), 0.25),
        (failed("rate_limit_exceeded", "Try again in 3 seconds"), 3.0),
    ],
)
def test_the_servers_wish_counts(simulator, signed_in, ask, naps, fault, seconds):
    simulator.script("responses", fault)
    assert ask("hi").text
    assert naps == ([seconds] if seconds else [])


@pytest.mark.parametrize("header", ["Wed, 21 Oct 2026 07:28:00 GMT", "soon", "-5", "nan"])
def test_an_odd_wish_is_no_wish(simulator, signed_in, ask, naps, header):
    simulator.script("responses", Answer(503, headers={"Retry-After": header}))
    assert ask("hi").text
    assert sum(naps) < 1


def test_a_long_wait_is_reported_instead(simulator, signed_in, ask, naps):
    simulator.script("responses", Answer(429, headers={"Retry-After": "120"}))
    with pytest.raises(llm.ModelError, match=r"asks to wait 2 minutes\."):
        ask("hi")
    assert naps == []
    assert len(simulator.prompts) == 1


def test_thirty_seconds_in_all(simulator, signed_in, ask, naps):
    simulator.script("responses", *[Answer(429, headers={"Retry-After": "14"})] * 9)
    with pytest.raises(llm.ModelError):
        ask("hi")
    assert naps == [14.0, 14.0]


# Stalls and sizes ---------------------------------------------------------------------------


@pytest.mark.parametrize("shown", [True, False])
def test_a_stalled_stream_is_given_up(simulator, signed_in, ask, monkeypatch, shown):
    monkeypatch.setenv("LLM_CHATGPT_TIMEOUT", "0.2")
    frames = frames_of(simulator, Say("Half"))[: 5 if shown else 1]
    simulator.script("responses", Stream(frames, end="open"))
    start = time.monotonic()
    with pytest.raises(llm.ModelError, match=r"nothing came for 0\.2 seconds"):
        ask("hi")
    assert time.monotonic() - start < 10
    # Who has waited that long should not do so again.
    assert len(simulator.prompts) == 1


@pytest.mark.parametrize("value", ["soon", "0", "-1", "nan", "inf"])
def test_an_odd_timeout_is_a_sentence(simulator, signed_in, ask, monkeypatch, value):
    monkeypatch.setenv("LLM_CHATGPT_TIMEOUT", value)
    with pytest.raises(llm.ModelError, match="LLM_CHATGPT_TIMEOUT must be a number"):
        ask("hi")


def test_an_event_of_twenty_megabytes(simulator, signed_in, ask):
    big = sse({"type": "response.something", "x": "y" * 20_000_000})
    text = "x" * 5_000_000
    frames = frames_of(simulator, Say(text, deltas=[text]))
    simulator.script("responses", Stream([big, *frames]))
    assert ask("hi").text == text


def test_memory_stays_flat_beyond_what_llm_keeps(simulator, signed_in):
    """llm keeps an event for each piece of text; we keep nothing of them."""
    count = 20_000
    frames = frames_of(simulator, Say("word " * count, deltas=["word "] * count))
    translator = rooms.EventTranslator()
    tracemalloc.start()
    for frame in frames[:2000]:
        list(translator.feed(frame))
    before, _ = tracemalloc.get_traced_memory()
    for frame in frames[2000:-4]:
        list(translator.feed(frame))
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 20_000


def test_what_the_server_redirects_to_is_not_followed(simulator, signed_in, ask):
    simulator.script("responses", Answer(302, "", {"Location": "http://127.0.0.1:9/somewhere"}))
    with pytest.raises(llm.ModelError, match="status 302"):
        ask("hi")
    assert len(simulator.requests) == 1


# The clock -------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [-86400.0, 86400.0])
def test_a_clock_that_is_wrong_by_a_day(simulator, ask, monkeypatch, offset):
    """At the login, and then set right: one more refresh at most."""
    real_time = time

    class Skewed:
        shift = offset

        def time(self):
            return real_time.time() + self.shift

        def __getattr__(self, name):
            return getattr(real_time, name)

    clock = Skewed()
    rooms.replace(monkeypatch, "time", clock)
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


def test_a_clock_set_forward_past_the_end(simulator, signed_in, ask, monkeypatch):
    real_time = time

    class Forward:
        def time(self):
            return real_time.time() + 40 * 86400

        def __getattr__(self, name):
            return getattr(real_time, name)

    rooms.replace(monkeypatch, "time", Forward())
    for _ in range(3):
        assert ask("hi").text
    assert len(simulator.refreshes) == 1
