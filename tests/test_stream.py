"""Bytes to events: the decoder and the translator, pure; then a real socket."""

from __future__ import annotations

import asyncio
import json
import threading
import time

import llm
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import start_llm
from llm_chatgpt.backend.sse import SSEDecoder
from llm_chatgpt.backend.translate import EventTranslator
from simulator import Call, Draw, Refuse, Say, Search, Simulator, Stream, Think, sse

# The decoder -------------------------------------------------------------------------


def decode(*chunks: bytes) -> list[bytes]:
    decoder = SSEDecoder()
    found = [data for chunk in chunks for data in decoder.feed(chunk)]
    return found + decoder.flush()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # The examples of the standard.
        (b"data: YHOO\ndata: +2\ndata: 10\n\n", [b"YHOO\n+2\n10"]),
        (
            b": test\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third\n\n",
            [b"first event", b"second event", b" third"],
        ),
        (b"data\n\ndata\ndata\n\ndata:", [b""]),
        (b"data:test\n\ndata: test\n\n", [b"test", b"test"]),
        # Line ends.
        (b"data: a\r\n\r\ndata: b\r\rdata: c\n\n", [b"a", b"b", b"c"]),
        (b"data: a\r\ndata: b\r\n\r\n", [b"a\nb"]),
        (b"data: a\n\r\ndata: b\n\n", [b"a", b"b"]),
        # A byte order mark, comments, unknown fields, junk.
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b": keepalive\n\nretry: 5\n\njunk\n\ndata: a\n\n", [b"a"]),
        (b"event: x\ndata: a\nwhatever: b\n\n", [b"a"]),
        (b"\n\n\n\ndata: a\n\n\n\n\n", [b"a"]),
        # U+2028, U+0085 and form feeds do not end lines.
        ("data: a\u2028b\u0085c\x0b\x0cd\n\n".encode(), ["a\u2028b\u0085c\x0b\x0cd".encode()]),
        # The end without a blank line.
        (b"data: a\n\ndata: b", [b"a", b"b"]),
        (b"", []),
    ],
)
def test_events_of_a_text(text, expected):
    assert decode(text) == expected
    # One byte at a time.
    assert decode(*(text[i : i + 1] for i in range(len(text)))) == expected


PIECES = st.sampled_from(
    [
        *(b"data: ", b"data:", b"data", b": c", b"event: x", b"\n", b"\n\n", b"\r", b"\r\n"),
        *("\u00e9".encode(), "\u2028".encode(), b"{}", b" ", b"\xff", b"\xef\xbb\xbf", b"x" * 50),
    ]
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(PIECES, max_size=40), st.lists(st.integers(0, 400), max_size=10))
def test_where_the_bytes_are_cut_does_not_matter(pieces, cuts):
    text = b"".join(pieces)
    ends = sorted({min(cut, len(text)) for cut in cuts} | {len(text)})
    chunks = [text[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    assert decode(*chunks) == decode(text)


def test_an_event_leaves_as_soon_as_it_is_complete():
    decoder = SSEDecoder()
    assert decoder.feed(b"data: a\n") == []
    assert decoder.feed(b"\n") == [b"a"]
    # After CR CR nothing more needs to come.
    assert decoder.feed(b"data: b\r\r") == [b"b"]
    assert decoder.feed(b"\ndata: c\n\n") == [b"c"]


def test_a_very_long_event_takes_linear_time():
    def seconds(size: int) -> float:
        decoder = SSEDecoder()
        start = time.perf_counter()
        decoder.feed(b"data: ")
        for _ in range(size // 65536):
            assert decoder.feed(b"x" * 65536) == []
        assert len(decoder.feed(b"\n\n")[0]) == size // 65536 * 65536
        return time.perf_counter() - start

    small = min(seconds(2_000_000) for _ in range(3))
    assert seconds(20_000_000) < 40 * small + 0.5


# The translator ------------------------------------------------------------------------


def translate(*chunks: bytes, **options):
    translator = EventTranslator(**options)
    events = [event for chunk in chunks for event in translator.feed(chunk)]
    return translator, events + translator.finish()


def answer(*items, terminal="completed", body=None, **changes) -> list[bytes]:
    simulator = Simulator()
    simulator.close()
    body = body or {
        "model": "m",
        "input": [],
        "include": ["reasoning.encrypted_content", "web_search_call.action.sources"],
        "reasoning": {"summary": "auto"},
    }
    return list(simulator.frames(list(items), body, terminal=terminal, **changes))


def kinds(events):
    return [event.type for event in events if event.chunk or event.provider_metadata]


def text_of(events, kind="text"):
    return "".join(event.chunk for event in events if event.type == kind)


def test_text_as_it_comes():
    translator, events = translate(*answer(Say("Hello, wide world of pelicans")))
    assert text_of(events) == "Hello, wide world of pelicans"
    assert len(events) == 3
    assert translator.ended == "completed"


def test_text_that_never_came_as_deltas():
    frames = answer(Say("whole"))
    without = [frame for frame in frames if b"output_text.delta" not in frame]
    assert text_of(translate(*without)[1]) == "whole"
    only_the_item = [frame for frame in without if b"output_text.done" not in frame]
    assert text_of(translate(*only_the_item)[1]) == "whole"


def test_a_refusal_is_shown():
    assert text_of(translate(*answer(Refuse("I cannot do that.")))[1]) == "I cannot do that."


def test_reasoning_parts_stay_apart():
    _, events = translate(*answer(Think(["one", "two"]), Think(["three"]), Say("x")))
    assert text_of(events, "reasoning") == "one\n\ntwo\n\nthree"
    aside = [event for event in events if event.type == "reasoning"]
    metadata = [e.provider_metadata["chatgpt"] for e in aside if e.provider_metadata]
    assert [len(m["summary"]) for m in metadata] == [2, 1]
    assert {e.part_index for e in events if e.type == "reasoning"} == {0, 1}


def reasoning(kind: str, step: str, **fields) -> bytes:
    text = {"delta" if step == "delta" else "text": fields.pop("text")}
    event = {"type": f"response.reasoning_{kind}.{step}", "output_index": 0, "item_id": "rs_1"}
    return sse({**event, **text, **fields})


@pytest.mark.parametrize("dones", [True, False])
@pytest.mark.parametrize("item", [True, False])
def test_raw_reasoning_is_emitted_once(dones, item):
    frames, content = [], []
    for index, text in enumerate(["First thought.", "Second thought."]):
        for piece in (text[:5], text[5:]):
            frames.append(reasoning("text", "delta", content_index=index, text=piece))
        if dones:
            frames.append(reasoning("text", "done", content_index=index, text=text))
        content.append({"type": "reasoning_text", "text": text})
    if item:
        done = {"type": "reasoning", "id": "rs_1", "summary": [], "content": content}
        frames.append(sse({"type": "response.output_item.done", "output_index": 0, "item": done}))
    _, events = translate(*frames)
    assert text_of(events, "reasoning") == "First thought.\n\nSecond thought."
    assert {event.part_index for event in events} == {0}


def test_a_summary_beside_raw_reasoning_and_pieces_that_only_end():
    frames = [
        reasoning("text", "delta", content_index=0, text="Raw."),
        reasoning("summary_text", "done", summary_index=0, text="Short."),
        reasoning("text", "done", content_index=0, text="Raw."),
        reasoning("text", "done", content_index=1, text="More."),
    ]
    assert text_of(translate(*frames)[1], "reasoning") == "Raw.\n\nShort.\n\nMore."


def test_what_deltas_left_out_comes_from_the_finished_item():
    content = [{"type": "output_text", "text": text} for text in ("one ", "two ", "three")]
    item = {"type": "message", "content": content}
    place = {"output_index": 0, "content_index": 1}
    frames = [
        sse({"type": "response.output_text.delta", **place, "delta": "two "}),
        sse({"type": "response.output_item.done", "output_index": 0, "item": item}),
    ]
    translator = EventTranslator()
    assert text_of(translator.feed(frames[0])) == "two "
    # What was shown stays shown, but the record is in order.
    _, events = translate(*frames)
    assert text_of(events) == "one two three"


# What leaves, and when -----------------------------------------------------------------


@pytest.mark.parametrize("terminal", ["failed", "completed"])
def test_nothing_leaves_before_something_can_be_seen(terminal):
    translator = EventTranslator(account_key="k")
    *frames, end = answer(Think(), Think(), terminal=terminal)
    for frame in frames:
        assert translator.feed(frame) == []
    assert not translator.started
    assert translator.feed(end) == []
    assert not translator.started
    # Nor does an empty answer, which is also tried again.
    assert [event.part_index for event in translator.answer.events] == [0, 1]


@pytest.mark.parametrize("item", [Say("x"), Refuse("x"), Call("f", {}), Draw("x"), Think(["x"])])
def test_what_was_held_back_leaves_with_the_first_thing_to_see(item):
    translator = EventTranslator(account_key="k")
    parts = []
    for frame in answer(Think(), item):
        events = translator.feed(frame)
        assert translator.started or not events
        parts += [event.part_index for event in events]
    assert parts[:2] == [0, 1]


def test_a_stream_that_stops_early_has_let_nothing_leave():
    translator, events = translate(*answer(Think())[:-1])
    assert events == []
    assert not translator.started


def test_the_encrypted_content_is_that_of_the_finished_item():
    frames = answer(Think())
    done = next(f for f in frames if b"output_item.done" in f)
    item = json.loads(done.split(b"data: ")[1])["item"]
    translator, _ = translate(*frames, account_key="k")
    assert translator.answer.events[0].provider_metadata == {
        "chatgpt": {"encrypted_content": item["encrypted_content"], "account": "k"}
    }


def test_calls_in_parallel():
    translator, events = translate(
        *answer(Call("add", {"a": 1, "b": 22222}, "call_1"), Call("now", {}, "call_2"))
    )
    assert [(c.name, c.arguments, c.tool_call_id) for c in translator.answer.tool_calls] == [
        ("add", {"a": 1, "b": 22222}, "call_1"),
        ("now", {}, "call_2"),
    ]
    names = [e.chunk for e in events if e.type == "tool_call_name"]
    assert names == ["add", "now"]
    assert events[0].type == "tool_call_name"
    arguments = [e for e in events if e.type == "tool_call_args" and e.tool_call_id == "call_1"]
    assert len(arguments) > 1
    assert json.loads("".join(e.chunk for e in arguments)) == {"a": 1, "b": 22222}


def test_the_finished_call_has_the_last_word():
    frames = answer(Call("add", {"a": 12345, "b": 2}, "call_1"))
    damaged = [f for i, f in enumerate(frames) if i != 4]
    assert damaged != frames
    translator, events = translate(*damaged)
    assert json.loads(text_of(events, "tool_call_args")) == {"a": 12345, "b": 2}
    assert translator.answer.tool_calls[0].arguments == {"a": 12345, "b": 2}
    # Neither deltas nor a first event.
    last = [f for f in frames if b"output_item.done" in f or b"response.completed" in f]
    translator, events = translate(*last)
    assert kinds(events) == ["tool_call_name", "tool_call_args"]
    assert translator.answer.tool_calls[0].name == "add"


@pytest.mark.parametrize("arguments", ["{broken", "[1]", "7", '"text"'])
def test_arguments_that_are_no_object(arguments):
    translator, _ = translate(*answer(Call("add", arguments, "call_1")))
    assert translator.answer.tool_calls[0].arguments == {"_raw": arguments}


def test_a_search_and_its_sources():
    _, events = translate(*answer(Search("pelicans", ["https://a.example"]), Say("Found.")))
    assert kinds(events) == ["tool_call_name", "tool_call_args", "tool_result", "text"]
    assert all(e.server_executed for e in events[:3])
    action = json.loads(events[1].chunk)
    assert action["query"] == "pelicans"
    assert action["sources"] == [{"type": "url", "url": "https://a.example"}]


def test_citations_survive():
    citation = {"type": "url_citation", "url": "https://a.example", "title": "A"}
    _, events = translate(*answer(Say("Found.", annotations=[citation])))
    assert events[-1].provider_metadata == {
        "chatgpt": {"phase": "final_answer", "annotations": [citation]}
    }


def test_sources_are_collected_in_order_and_once():
    def cite(name, title=None):
        return {"type": "url_citation", "url": f"https://{name}.example", "title": title}

    frames = answer(
        Search("x", ["https://c.example", "https://a.example"]),
        Say("Found.", annotations=[cite("b", "B"), cite("a", "A"), {"type": "file_citation"}]),
        Say("More.", annotations=[cite("b", "Another title"), {**cite("d"), "url": 7}]),
    )
    translator, _ = translate(*frames)
    assert translator.answer.sources == [("B", "https://b.example"), ("A", "https://a.example")]


def test_a_citation_that_only_an_event_brings():
    citation = {"type": "url_citation", "url": "https://a.example", "title": "A"}
    frames = answer(Say("Found."))
    added = {"type": "response.output_text.annotation.added", "output_index": 0}
    translator, _ = translate(*frames[:4], sse({**added, "annotation": citation}), *frames[4:])
    assert translator.answer.sources == [("A", "https://a.example")]


def test_a_search_without_citations_has_the_sources_it_read():
    sources = ["https://c.example", "https://a.example", "https://c.example"]
    translator, _ = translate(*answer(Search("x", sources), Say("Found.")))
    assert translator.answer.sources == [("", "https://c.example"), ("", "https://a.example")]


def test_a_picture_is_handed_over():
    saved = []

    def save(data, suffix):
        saved.append((data[:4], suffix))
        return "/somewhere/p.png"

    _, events = translate(*answer(Draw("a pelican")), save_image=save)
    assert saved == [(b"\x89PNG", "png")]
    assert text_of(events, "tool_result") == "/somewhere/p.png"


def test_several_messages_are_told_apart():
    _, events = translate(*answer(Say("one"), Search("x"), Say("two")))
    assert [(e.chunk, e.message_index) for e in events if e.type == "text"] == [
        ("one", 0),
        ("\n\n", 1),
        ("two", 1),
    ]


@pytest.mark.parametrize(
    "junk",
    [
        b"data: [DONE]\n\n",
        b"data: {broken\n\n",
        b"data: \xff\xfe\n\n",
        b"data: [1, 2]\n\n",
        b"data: null\n\n",
        b'data: {"type": 7}\n\n',
        b'data: {"type": "response.something.new", "x": 1}\n\n',
        b'data: {"type": "keepalive"}\n\n',
        b": comment\n\n",
        b"data: " + b"[" * 100_000 + b"\n\n",
        b'data: {"type": "response.output_text.delta", "delta": 7}\n\n',
        b'data: {"type": "response.output_item.done", "item": []}\n\n',
        b'data: {"type": "codex.rate_limits", "limits": {}}\n\n',
    ],
)
def test_junk_between_the_events_changes_nothing(junk):
    frames = answer(Think(["thinking"]), Say("Hello, world of birds"), Call("f", {"a": 1}, "c"))
    _, expected = translate(*frames)
    mixed = [piece for frame in frames for piece in (junk, frame)]
    translator, events = translate(*mixed)
    assert text_of(events) == text_of(expected)
    assert len(translator.answer.tool_calls) == 1
    assert translator.ended == "completed"


def test_what_comes_after_the_end_is_not_read():
    late = sse({"type": "response.output_text.delta", "output_index": 0, "delta": " More."})
    translator, events = translate(b"".join([*answer(Say("All.")), late]), late)
    assert text_of(events) == "All."
    assert translator.ended == "completed"


def test_half_characters_wait_for_their_other_half():
    frames = [
        sse({"type": "response.output_text.delta", "output_index": 0, "delta": delta})
        for delta in ("a\ud83d", "\ude00b", "\udc00c")
    ]
    assert text_of(translate(*frames)[1]) == "a\U0001f600b\N{REPLACEMENT CHARACTER}c"


EVENTS = [
    "error",
    *(
        f"response.{name}"
        for name in (
            *("output_item.added", "output_item.done", "function_call_arguments.delta"),
            *("output_text.delta", "output_text.done", "refusal.delta", "refusal.done"),
            *("reasoning_summary_text.delta", "reasoning_summary_text.done"),
            *("reasoning_text.delta", "reasoning_text.done"),
            *("completed", "incomplete", "failed"),
        )
    ),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *(
                        "type",
                        "item",
                        "delta",
                        "text",
                        "output_index",
                        "item_id",
                        "call_id",
                        "name",
                    ),
                    *(
                        "arguments",
                        "summary",
                        "content",
                        "id",
                        "response",
                        "error",
                        "code",
                        "action",
                    ),
                    *("annotations", "status", "usage", "result", "sources", "summary_index"),
                    *("content_index", "annotation", "url", "title", "refusal"),
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(st.tuples(st.sampled_from(EVENTS), JSON), max_size=8))
def test_no_event_however_odd_is_too_much(events):
    frames = [
        sse(
            {**fields, "type": kind} if isinstance(fields, dict) else {"type": kind, "item": fields}
        )
        for kind, fields in events
    ]
    translator, found = translate(*frames)
    assert all(isinstance(event.chunk, str) for event in found)
    _ = translator.answer.output


def test_output_is_rebuilt_in_its_order():
    frames = answer(Say("one"), Say("two"))
    done = [f for f in frames if b"output_item.done" in f]
    translator, _ = translate(*reversed(done), *frames)
    assert [item["content"][0]["text"] for item in translator.answer.output] == ["one", "two"]


# On a real socket ---------------------------------------------------------------------


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
def test_frames_cut_anywhere(simulator, signed_in, ask, cut):
    text = "Gr\u00fc\u00dfe \U0001f600 and a line separator \u2028 here"
    data = b"".join(frames_of(simulator, Say(text)))
    simulator.script("responses", Stream(cut(data.replace(rb"\u", rb"\u"))))
    assert ask("hi").text == text


def test_raw_utf8_is_never_split(simulator, signed_in, ask):
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


def test_a_finished_stream_leaves_its_connection_usable(simulator, signed_in):
    model = llm.get_model("chatgpt-gpt-6-luna")
    for number in range(5):
        assert model.prompt(f"p{number}").text()
    # The model list may be fetched beside the first prompt, over a connection of its own.
    assert len({request.connection for request in simulator.seen("/codex/responses")}) <= 2


def test_nobody_waits_for_the_end_of_a_stream_but_the_next_prompt(
    simulator, signed_in, monkeypatch
):
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


def test_no_second_connection_for_async_either(simulator, signed_in):

    async def run():
        model = llm.get_async_model("chatgpt-gpt-6-luna")
        for number in range(5):
            assert await model.prompt(f"p{number}").text()

    asyncio.run(run())
    assert len({request.connection for request in simulator.seen("/codex/responses")}) == 1


@pytest.mark.parametrize("end", ["finish", "cut"])
def test_an_answer_without_an_end_is_an_error_whatever_was_shown(simulator, signed_in, ask, end):
    frames = frames_of(simulator, Say("Half of the answer"))[:-1]
    simulator.script("responses", Stream(frames, end=end))
    with pytest.raises(llm.ModelError, match="cut off"):
        ask("hi")
    assert len(simulator.prompts) == 1


def test_nothing_of_a_dropped_attempt_reaches_llm(simulator, signed_in, ask):
    dropped = frames_of(simulator, Think(), Say("x"))
    # Up to the end of the reasoning, of which only the metadata would be passed on.
    end = next(n for n, frame in enumerate(dropped) if b"output_item.done" in frame) + 1
    simulator.script("responses", Stream(dropped[:end], end="cut"))
    simulator.answer(Say("Hello."))
    conversation = ask.model().conversation()
    answered = ask.finish(lambda: conversation.prompt("hi"))
    assert len(simulator.prompts) == 2
    assert [type(part).__name__ for part in answered.parts] == ["TextPart"]
    assert ask.finish(lambda: conversation.prompt("more")).text
    assert [item["role"] for item in simulator.prompts[-1]["input"]] == [
        "user",
        "assistant",
        "user",
    ]


@pytest.mark.parametrize("place", ["response", "search", "annotation", "arguments"])
def test_json_of_six_hundred_levels(simulator, signed_in, run_llm, place):
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
