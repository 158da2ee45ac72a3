"""The translation of the service's events into llm's events and records."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from junk import json_values
from llm_chatgpt.backend.answer import Answer
from llm_chatgpt.backend.record import pages
from llm_chatgpt.backend.translate import EventTranslator
from llm_chatgpt.live.known_names import EVENTS
from simulator import Call, Draw, Refuse, Say, Search, Simulator, Think, sse


def translate(*chunks: bytes, **options):
    translator = EventTranslator(**options)
    events = [event for chunk in chunks for event in translator.feed(chunk)]
    return translator, events + translator.finish()


def frames_of(*items, terminal="completed", body=None, **changes) -> list[bytes]:
    simulator = Simulator()
    simulator.close()
    body = body or {
        "model": "m",
        "input": [],
        "include": ["reasoning.encrypted_content", "web_search_call.action.sources"],
        "reasoning": {"summary": "auto"},
    }
    return list(simulator.frames(list(items), body, terminal=terminal, **changes))


def output_of(translator):
    """Return the finished items of an answer."""
    whole = Answer()
    whole.rounds.append(translator.round)
    return whole.output


def kinds(events):
    return [event.type for event in events if event.chunk or event.provider_metadata]


def text_of(events, kind="text"):
    return "".join(event.chunk for event in events if event.type == kind)


def test_each_delta_is_emitted_at_once():
    translator, events = translate(*frames_of(Say("Hello, wide world of pelicans")))
    assert text_of(events) == "Hello, wide world of pelicans"
    assert len(events) == 3
    assert translator.ended == "completed"


def test_text_without_deltas_is_emitted_at_the_end():
    frames = frames_of(Say("whole"))
    without = [frame for frame in frames if b"output_text.delta" not in frame]
    assert text_of(translate(*without)[1]) == "whole"
    only_the_item = [frame for frame in without if b"output_text.done" not in frame]
    assert text_of(translate(*only_the_item)[1]) == "whole"


def test_a_refusal_is_shown():
    assert text_of(translate(*frames_of(Refuse("I cannot do that.")))[1]) == "I cannot do that."


def test_each_reasoning_item_is_a_part():
    _, events = translate(*frames_of(Think(["one", "two"]), Think(["three"]), Say("x")))
    assert text_of(events, "reasoning") == "one\n\ntwo\n\nthree"
    thoughts = [event for event in events if event.type == "reasoning"]
    metadata = [e.provider_metadata["chatgpt"] for e in thoughts if e.provider_metadata]
    assert [len(m["summary"]) for m in metadata] == [2, 1]
    assert len({event.part_index for event in thoughts}) == 2


def reasoning(kind: str, step: str, **fields) -> bytes:
    text = {"delta" if step == "delta" else "text": fields.pop("text")}
    event = {"type": f"response.reasoning_{kind}.{step}", "output_index": 0, "item_id": "rs_1"}
    return sse({**event, **text, **fields})


@pytest.mark.parametrize("with_done", [True, False])
@pytest.mark.parametrize("with_item", [True, False])
def test_raw_reasoning_is_emitted_once(with_done, with_item):
    frames, content = [], []
    for index, text in enumerate(["First thought.", "Second thought."]):
        for piece in (text[:5], text[5:]):
            frames.append(reasoning("text", "delta", content_index=index, text=piece))
        if with_done:
            frames.append(reasoning("text", "done", content_index=index, text=text))
        content.append({"type": "reasoning_text", "text": text})
    if with_item:
        done = {"type": "reasoning", "id": "rs_1", "summary": [], "content": content}
        frames.append(sse({"type": "response.output_item.done", "output_index": 0, "item": done}))
    _, events = translate(*frames)
    assert text_of(events, "reasoning") == "First thought.\n\nSecond thought."
    assert len({event.part_index for event in events}) == 1


def test_summary_and_raw_reasoning_are_separated_by_blank_lines():
    frames = [
        reasoning("text", "delta", content_index=0, text="Raw."),
        reasoning("summary_text", "delta", summary_index=0, text="Short."),
        reasoning("text", "delta", content_index=1, text="More."),
    ]
    assert text_of(translate(*frames)[1], "reasoning") == "Raw.\n\nShort.\n\nMore."


def test_missing_text_comes_from_the_finished_item():
    content = [{"type": "output_text", "text": text} for text in ("one ", "two ", "three")]
    item = {"type": "message", "content": content}
    place = {"output_index": 0, "content_index": 1}
    frames = [
        sse({"type": "response.output_text.delta", **place, "delta": "two "}),
        sse({"type": "response.output_item.done", "output_index": 0, "item": item}),
    ]
    translator = EventTranslator()
    assert text_of(translator.feed(frames[0])) == "two "
    # The finished item corrects the event that was emitted before it.
    _, events = translate(*frames)
    assert text_of(events) == "one two three"


@pytest.mark.parametrize("terminal", ["failed", "completed"])
def test_nothing_is_emitted_before_something_can_be_shown(terminal):
    translator = EventTranslator()
    *frames, end = frames_of(Think(), Think(), terminal=terminal)
    for frame in frames:
        assert translator.feed(frame) == []
    assert not translator.started
    assert translator.feed(end) == []
    assert not translator.started
    # An empty answer emits nothing, either, because the prompt is sent again.
    assert len({event.part_index for event in translator.round.take_events()}) == 2


@pytest.mark.parametrize("item", [Say("x"), Refuse("x"), Call("f", {}), Draw("x"), Think(["x"])])
def test_held_back_events_are_emitted_with_the_first_shown_one(item):
    translator = EventTranslator()
    parts = []
    for frame in frames_of(Think(), item):
        events = translator.feed(frame)
        assert translator.started or not events
        parts += [event.part_index for event in events]
    assert parts[1] == parts[0] + 1


def test_a_stream_that_stops_early_emits_nothing():
    translator, events = translate(*frames_of(Think())[:-1])
    assert events == []
    assert not translator.started


def test_the_encrypted_content_comes_from_the_finished_item():
    frames = frames_of(Think())
    done = next(f for f in frames if b"output_item.done" in f)
    item = json.loads(done.split(b"data: ")[1])["item"]
    translator, _ = translate(*frames, origin={"account": "k", "model": "m"})
    assert translator.round.take_events()[0].provider_metadata == {
        "chatgpt": {"encrypted_content": item["encrypted_content"], "account": "k", "model": "m"}
    }


def test_parallel_calls_keep_their_own_arguments():
    translator, events = translate(
        *frames_of(Call("add", {"a": 1, "b": 22222}, "call_1"), Call("now", {}, "call_2"))
    )
    assert [(c.name, c.arguments, c.tool_call_id) for c in translator.round.tool_calls] == [
        ("add", {"a": 1, "b": 22222}, "call_1"),
        ("now", {}, "call_2"),
    ]
    names = [e.chunk for e in events if e.type == "tool_call_name"]
    assert names == ["add", "now"]
    assert events[0].type == "tool_call_name"
    arguments = [e for e in events if e.type == "tool_call_args" and e.tool_call_id == "call_1"]
    assert len(arguments) > 1
    assert json.loads("".join(e.chunk for e in arguments)) == {"a": 1, "b": 22222}


def test_the_finished_call_corrects_its_deltas():
    frames = frames_of(Call("add", {"a": 12345, "b": 2}, "call_1"))
    # Without the second delta.
    damaged = [f for i, f in enumerate(frames) if i != 4]
    assert damaged != frames
    translator, events = translate(*damaged)
    assert json.loads(text_of(events, "tool_call_args")) == {"a": 12345, "b": 2}
    assert translator.round.tool_calls[0].arguments == {"a": 12345, "b": 2}
    # Only the finished item, without deltas or an `added` event.
    last = [f for f in frames if b"output_item.done" in f or b"response.completed" in f]
    translator, events = translate(*last)
    assert kinds(events) == ["tool_call_name", "tool_call_args"]
    assert translator.round.tool_calls[0].name == "add"


@pytest.mark.parametrize("arguments", ["{broken", "[1]", "7", '"text"'])
def test_arguments_that_are_no_object_are_recorded_as_raw(arguments):
    translator, _ = translate(*frames_of(Call("add", arguments, "call_1")))
    assert translator.round.tool_calls[0].arguments == {"_raw": arguments}


def test_a_search_is_a_call_with_a_result():
    _, events = translate(*frames_of(Search("pelicans", ["https://a.example"]), Say("Found.")))
    assert kinds(events) == ["tool_call_name", "tool_call_args", "tool_result", "text"]
    assert all(e.server_executed for e in events[:3])
    action = json.loads(events[1].chunk)
    assert action["query"] == "pelicans"
    assert action["sources"] == [{"type": "url", "url": "https://a.example"}]


def test_citations_are_recorded_as_metadata():
    citation = {"type": "url_citation", "url": "https://a.example", "title": "A"}
    _, events = translate(*frames_of(Say("Found.", annotations=[citation])))
    assert events[-1].provider_metadata == {
        "chatgpt": {"phase": "final_answer", "annotations": [citation]}
    }


def test_each_cited_source_is_listed_once_and_in_order():
    def cite(name, title=None):
        return {"type": "url_citation", "url": f"https://{name}.example", "title": title}

    frames = frames_of(
        Search("x", ["https://c.example", "https://a.example"]),
        Say("Found.", annotations=[cite("b", "B"), cite("a", "A"), {"type": "file_citation"}]),
        Say("More.", annotations=[cite("b", "Another title"), {**cite("d"), "url": 7}]),
    )
    translator, _ = translate(*frames)
    assert pages(output_of(translator)) == ["B: https://b.example", "A: https://a.example"]


def test_a_search_without_citations_has_the_sources_it_read():
    sources = ["https://c.example", "https://a.example", "https://c.example"]
    translator, _ = translate(*frames_of(Search("x", sources), Say("Found.")))
    assert pages(output_of(translator)) == ["https://c.example", "https://a.example"]


def test_an_image_is_passed_to_save_image():
    saved = []

    def save(data, suffix):
        saved.append((data[:4], suffix))
        return "/somewhere/p.png"

    _, events = translate(*frames_of(Draw("a pelican")), save_image=save)
    assert saved == [(b"\x89PNG", "png")]
    assert text_of(events, "tool_result") == "/somewhere/p.png"


def test_several_messages_have_their_own_index():
    _, events = translate(*frames_of(Say("one"), Search("x"), Say("two")))
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
    frames = frames_of(Think(["thinking"]), Say("Hello, world of birds"), Call("f", {"a": 1}, "c"))
    _, expected = translate(*frames)
    mixed = [piece for frame in frames for piece in (junk, frame)]
    translator, events = translate(*mixed)
    assert text_of(events) == text_of(expected)
    assert len(translator.round.tool_calls) == 1
    assert translator.ended == "completed"


def test_events_after_the_last_one_are_not_read():
    late = sse({"type": "response.output_text.delta", "output_index": 0, "delta": " More."})
    translator, events = translate(b"".join([*frames_of(Say("All.")), late]), late)
    assert text_of(events) == "All."
    assert translator.ended == "completed"


def test_surrogates_in_two_deltas_are_joined():
    frames = [
        sse({"type": "response.output_text.delta", "output_index": 0, "delta": delta})
        for delta in ("a\ud83d", "\ude00b", "\udc00c")
    ]
    assert text_of(translate(*frames)[1]) == "a\U0001f600b\N{REPLACEMENT CHARACTER}c"


JSON = json_values(
    "type item delta text output_index item_id call_id name arguments summary content id "
    "response error code action annotations status usage result sources summary_index "
    "content_index annotation url title refusal"
)


@given(st.lists(st.tuples(st.sampled_from(EVENTS.split()), JSON), max_size=8))
def test_odd_events_never_raise_an_error(events):
    frames = [
        sse(
            {**fields, "type": kind} if isinstance(fields, dict) else {"type": kind, "item": fields}
        )
        for kind, fields in events
    ]
    translator, found = translate(*frames)
    assert all(isinstance(event.chunk, str) for event in found)
    assert isinstance(pages(output_of(translator)), list)


def test_output_is_rebuilt_in_its_order():
    frames = frames_of(Say("one"), Say("two"))
    done = [f for f in frames if b"output_item.done" in f]
    translator, _ = translate(*reversed(done), *frames)
    assert [item["content"][0]["text"] for item in output_of(translator)] == ["one", "two"]


def done(item, index=0):
    return sse({"type": "response.output_item.done", "output_index": index, "item": item})


def test_a_surrogate_at_the_end_is_not_shown():
    delta = {"type": "response.output_text.delta", "output_index": 0, "delta": "\ud83d"}
    assert translate(sse(delta))[1] == []


def test_a_nameless_or_unfinished_call_is_not_run():
    call = {"type": "function_call", "call_id": "c", "arguments": "{}"}
    assert translate(done(call))[0].round.tool_calls == []
    unfinished = {**call, "name": "f", "status": "incomplete"}
    translator, events = translate(done(unfinished))
    assert translator.round.tool_calls == []
    assert events[0].type == "tool_call_name"


def test_empty_reasoning_leaves_no_part():
    translator, events = translate(done({"type": "reasoning", "summary": []}))
    assert events == []
    assert [item["type"] for item in output_of(translator)] == ["reasoning"]


def test_raw_reasoning_of_a_finished_item_is_emitted():
    item = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "raw"}]}
    assert [event.chunk for event in translate(done(item))[1]] == ["raw"]


def test_an_image_that_is_no_base64_is_not_saved():
    item = {"type": "image_generation_call", "id": "ig_1", "result": "!!!"}
    assert translate(done(item))[1][-1].chunk == "no image received"


def test_an_item_of_a_new_kind_is_kept_in_the_output():
    translator, events = translate(done({"type": "something_new", "x": 1}), done(7))
    assert events == []
    assert output_of(translator) == [{"type": "something_new", "x": 1}]


def test_items_without_an_index_keep_their_order():
    items = [{"type": "new", "id": f"i{n}", "n": n} for n in range(3)]
    events = [{"type": "response.output_item.done", "item": item} for item in items]
    assert [item["n"] for item in output_of(translate(*map(sse, events))[0])] == [0, 1, 2]
