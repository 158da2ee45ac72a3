"""Streams on real sockets: cut anywhere, ended early, and shown while they arrive."""

from __future__ import annotations

import asyncio
import json
import threading
import time

import llm
import pytest

from conftest import start_llm
from simulator import Say, Stream, sse


def frames_of(simulator, *items, **changes):
    return list(simulator.frames(list(items), **changes))


@pytest.mark.parametrize(
    "cut",
    [
        lambda data: [data],
        lambda data: [data[i : i + 1] for i in range(len(data))],
        lambda data: [data[i : i + 7] for i in range(0, len(data), 7)],
        lambda data: [data.replace(b"\n", b"\r\n")],
        lambda data: [data.replace(b"\n", b"\r")],
        lambda data: [b": hello\n\n" + data + b"data: [DONE]\n\n"],
    ],
)
def test_frames_may_be_cut_anywhere(simulator, signed_in, ask, cut):
    text = "Gr\u00fc\u00dfe \U0001f600 and a line separator \u2028 here"
    data = b"".join(frames_of(simulator, Say(text)))
    simulator.script("responses", Stream(cut(data)))
    assert ask("hi").text == text


def test_raw_utf8_in_single_bytes_is_read(simulator, signed_in, ask):
    text = "\u00e9\u2028\U0001f600"
    event = {"type": "response.output_text.delta", "output_index": 0, "delta": text}
    raw = f"data: {json.dumps(event, ensure_ascii=False)}\n\n".encode()
    end = frames_of(simulator)[-1]
    simulator.script("responses", Stream([raw[i : i + 1] for i in range(len(raw))] + [end]))
    assert ask("hi").text == text


def test_the_last_event_ends_the_answer_though_the_socket_stays_open(simulator, signed_in, ask):
    frames = frames_of(simulator, Say("done"))
    simulator.script("responses", Stream(frames, end="open"))
    start = time.monotonic()
    assert ask("hi").text == "done"
    assert time.monotonic() - start < 5
    assert ask("again").text


def test_a_stream_that_never_ends_is_closed(simulator, signed_in, ask):
    closed = threading.Event()

    def pieces():
        try:
            yield from frames_of(simulator, Say("done"))
            while True:
                yield 0.02
                yield b": ping\n\n"
        finally:
            closed.set()

    simulator.script("responses", Stream(pieces()))
    assert ask("hi").text == "done"
    assert closed.wait(5)


def test_a_finished_stream_leaves_its_connection_usable(simulator, signed_in):
    model = llm.get_model("chatgpt-gpt-6-luna")
    for number in range(5):
        assert model.prompt(f"p{number}").text()
    # The list of models may be fetched during the first prompt, over another connection.
    assert len({request.connection for request in simulator.seen("/codex/responses")}) <= 2


def test_the_next_prompt_waits_to_reuse_a_streams_connection(simulator, signed_in, monkeypatch):
    monkeypatch.setattr("llm_chatgpt.config.DRAIN_SECONDS", 10)
    go_on = threading.Event()

    def pieces():
        yield from frames_of(simulator, Say("done"))
        go_on.wait(10)

    simulator.script("responses", Stream(pieces()))
    model = llm.get_model("chatgpt-gpt-6-luna")
    start = time.monotonic()
    assert model.prompt("hi").text() == "done"
    assert time.monotonic() - start < 5
    threading.Timer(0.1, go_on.set).start()
    assert model.prompt("again").text()
    assert len({request.connection for request in simulator.seen("/codex/responses")}) == 1


def test_async_prompts_share_one_connection(simulator, signed_in):
    async def run():
        model = llm.get_async_model("chatgpt-gpt-6-luna")
        for number in range(5):
            assert await model.prompt(f"p{number}").text()

    asyncio.run(run())
    assert len({request.connection for request in simulator.seen("/codex/responses")}) == 1


@pytest.mark.parametrize("end", ["finish", "cut"])
def test_an_answer_that_is_cut_off_after_some_text_is_an_error(simulator, signed_in, ask, end):
    frames = frames_of(simulator, Say("Half of the answer"))[:-1]
    simulator.script("responses", Stream(frames, end=end))
    with pytest.raises(llm.ModelError, match="cut off"):
        ask("hi")
    assert len(simulator.prompts) == 1


@pytest.mark.parametrize("place", ["response", "search", "annotation", "arguments"])
def test_json_of_six_hundred_levels_does_not_break_the_answer(simulator, signed_in, run_llm, place):
    deep = json.loads('[{"a":' * 300 + "1" + "}]" * 300)
    items = {
        "search": {
            "type": "web_search_call",
            "id": "ws_1",
            "action": {"type": "search", "query": "x", "sources": deep},
        },
        "annotation": {
            "type": "message",
            "content": [{"type": "output_text", "text": "", "annotations": deep}],
        },
        "arguments": {
            "type": "function_call",
            "call_id": "c",
            "name": "f",
            "arguments": json.dumps({"x": deep}),
        },
    }
    item = items.get(place, {"type": "something_new", "x": deep})
    done = {"type": "response.output_item.done", "output_index": 1, "item": item}
    *frames, _ = frames_of(simulator, Say("Hello."))
    end = frames_of(simulator, **({"metadata": deep} if place == "response" else {}))[-1]
    simulator.script("responses", Stream([*frames, sse(done), end]))
    result = run_llm("-m", "chatgpt-gpt-6-luna", "hi", "-R")
    assert (result.exit_code, result.stdout) == (0, "Hello.\n")
    assert run_llm("-c", "more").exit_code == 0
    assert json.loads(run_llm("logs", "-n", "2", "--json").stdout)[0]["response"] == "Hello."


def test_text_is_on_stdout_before_the_answer_ends(simulator, signed_in):
    release = threading.Event()
    frames = frames_of(simulator, Say("early bird", deltas=["early ", "bird"]))

    def pieces():
        for frame in frames:
            if b'"bird"' in frame:
                release.wait(20)
            yield frame

    simulator.script("responses", Stream(pieces()))
    process = start_llm("-m", "chatgpt-gpt-6-luna", "hi", "--no-log")
    assert process.stdout.read(6) == "early "
    release.set()
    out, _ = process.communicate(timeout=20)
    assert out == "bird\n"
