"""The plugin and OpenAI's own `openai` package read the same streams; both must find the same."""

from __future__ import annotations

import itertools
import json

import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llm.parts import ReasoningPart, TextPart, ToolCallPart

from simulator import Call, Refuse, Say, Search, Stream, Think

# Without surrogates and citation markup: the package leaves both in its texts.
TEXT = st.text(st.characters(exclude_categories=["Cs", "Co"]), max_size=30)
SOME_TEXT = TEXT.filter(str.strip)
PHASES = st.sampled_from([None, "final_answer", "commentary"])
ARGUMENTS = st.dictionaries(
    SOME_TEXT,
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
        max_leaves=6,
    ),
    max_size=3,
)


@st.composite
def messages(draw):
    """A message, whose deltas may differ from its text: cut anywhere, lost or changed."""
    text = draw(TEXT)
    ends = sorted({*draw(st.lists(st.integers(0, len(text)), max_size=4)), len(text)})
    deltas = [text[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    # If the finished item has no text, the text of its deltas stays.
    if text and draw(st.booleans()):
        deltas = draw(st.lists(st.sampled_from([*deltas, "x"]), min_size=1, max_size=5))
    return Say(text, deltas=deltas, phase=draw(PHASES))


ITEMS = st.one_of(
    messages(),
    st.builds(Refuse, SOME_TEXT, phase=PHASES),
    st.builds(Think, st.lists(SOME_TEXT, max_size=3)),
    st.builds(Call, st.sampled_from(["add", "note"]), ARGUMENTS),
    st.builds(Search, SOME_TEXT, st.lists(st.just("https://a.example"), max_size=2)),
)
# Events whose content other events repeat. A stream may lack them.
DISPENSABLE = ("output_text.done", "summary_text.done", "summary_part", "arguments.done")


def interleaved(draw, groups):
    """Mix the frames of several items. Each item's frames stay in order."""
    waiting = [list(group) for group in groups]
    while any(waiting):
        group = draw(st.sampled_from([group for group in waiting if group]))
        yield group.pop(0)


def grouped(frames):
    """Split frames: those before the items, a list for each item, and the last frame."""
    events = [json.loads(frame.split(b"data: ")[1]) for frame in frames]
    items = {}
    for event, frame in zip(events, frames, strict=True):
        items.setdefault(event.get("output_index"), []).append(frame)
    *first, last = items.pop(None)
    return first, list(items.values()), last


@st.composite
def streams(draw, simulator, final_output):
    """The frames of an answer, as the package and as the plugin get them."""
    items = [*draw(st.lists(ITEMS, max_size=4)), Say("The end.")]
    body = {"model": "gpt-6-luna", "input": [], "reasoning": {"summary": "auto"}}
    body["include"] = ["reasoning.encrypted_content", "web_search_call.action.sources"]
    first, groups, last = grouped(list(simulator.frames(items, body)))
    lost = draw(st.sets(st.sampled_from(DISPENSABLE)))
    groups = [[f for f in g if not any(kind.encode() in f for kind in lost)] for g in groups]
    in_turn = itertools.chain.from_iterable(groups)
    between = list(interleaved(draw, groups) if draw(st.booleans()) else in_turn)
    # The package collects the items itself only if `output` is null.
    for_package = last.replace(b'"output": []', b'"output": null')
    if final_output == "all":
        found = [f.split(b'"item": ')[1].removesuffix(b"}\n\n") for g in groups for f in g[-1:]]
        last = for_package = last.replace(b'"output": []', b'"output": [%s]' % b", ".join(found))
    return [*first, *between, for_package], [*first, *between, last]


def read_by_package(simulator, frames):
    simulator.script("responses", Stream(frames))
    client = openai.OpenAI(api_key="x", base_url=f"{simulator.base_url}/codex", max_retries=0)
    with client.responses.stream(model="gpt-6-luna", input="hi") as stream:
        return stream.get_final_response()


def found_by_package(response):
    output = [item.to_dict(mode="json") for item in response.output]
    for item in output:
        item.pop("encrypted_content", None)
        item.pop("parsed_arguments", None)
        for part in item.get("content") or ():
            part.pop("parsed", None)
    texts = ["".join(p.get("text", p.get("refusal")) for p in i.get("content", ())) for i in output]
    summaries = ["\n\n".join(part["text"] for part in i.get("summary") or ()) for i in output]
    calls = [
        (item.call_id, item.name, json.loads(item.arguments))
        for item in response.output
        if item.type == "function_call"
    ]
    return {
        "messages": sorted(filter(None, texts)),
        "reasoning": sorted(filter(None, summaries)),
        "calls": sorted(calls, key=str),
        "output": plain(output),
        "usage": (response.usage.input_tokens, response.usage.output_tokens),
    }


def found_by_plugin(answered):
    response, parts = answered.response, answered.parts
    # Parts that are only shown, such as blank lines and repeated commentary, do not count.
    shared = [(p, (p.provider_metadata or {}).get("chatgpt", {})) for p in parts]
    shared = [(part, metadata) for part, metadata in shared if metadata != {"replay": False}]
    messages, reasoning = [], []
    for part, metadata in shared:
        if isinstance(part, TextPart) or metadata.get("type") == "message":
            messages += [part.text] if isinstance(part, (TextPart, ReasoningPart)) else []
        elif isinstance(part, ReasoningPart):
            reasoning.append(part.text.removesuffix("\n\n"))
    calls = [(c.tool_call_id, c.name, c.arguments) for c in response.tool_calls_or_raise()]
    recorded = [
        (part.tool_call_id, part.name, part.arguments)
        for part in parts
        if isinstance(part, ToolCallPart) and not part.server_executed
    ]
    assert sorted(recorded, key=str) == sorted(calls, key=str)
    return {
        "messages": sorted(messages),
        "reasoning": sorted(filter(None, reasoning)),
        "calls": sorted(calls, key=str),
        "output": plain(answered.json["output"]),
        "usage": (response.input_tokens, response.output_tokens),
    }


def plain(value):
    """JSON without nulls, which the package adds."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items() if v is not None}
    return [plain(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize("final_output", ["none", "all"])
def test_both_read_the_same(simulator, signed_in, ask, final_output):
    @settings(suppress_health_check=list(HealthCheck), max_examples=30)
    @given(st.data())
    def check(data):
        for_package, for_plugin = data.draw(streams(simulator, final_output))
        expected = found_by_package(read_by_package(simulator, for_package))
        simulator.script("responses", Stream(for_plugin))
        conversation = ask.model().conversation()
        answered = ask.finish(lambda: conversation.prompt("hi"))
        assert found_by_plugin(answered) == expected
        # The next request sends the same messages back.
        ask.finish(lambda: conversation.prompt("on"))
        sent = [item for item in simulator.prompts[-1]["input"] if item.get("role") == "assistant"]
        texts = ["".join(part["text"] for part in item["content"]) for item in sent]
        assert sorted(texts) == expected["messages"]

    check()
