"""Reading answers: odd characters, odd ends, corrected deltas, and answers that are no stream."""

from __future__ import annotations

import json
import re
import time

import llm
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llm.parts import ReasoningPart, TextPart, ToolCallPart

import llm_chatgpt_oauth as plugin
from conftest import logged
from inputs import MODEL
from llm_chatgpt.backend.passage import Passage, readable_part, without_citations
from llm_chatgpt.backend.translate import EventTranslator
from simulator import Answer, Call, Draw, Say, Search, Stream, Think, sse, web_page

SURROGATE = "\ud83d"


def frames_of(simulator, *items, **changes):
    body = {"model": "gpt-6-luna", "input": [], "reasoning": {"summary": "auto"}}
    body["include"] = ["reasoning.encrypted_content", "web_search_call.action.sources"]
    return list(simulator.frames(list(items), body, **changes))


def without(frames, *kinds):
    return [frame for frame in frames if not any(kind.encode() in frame for kind in kinds)]


def added(item, index=0):
    return sse({"type": "response.output_item.added", "output_index": index, "item": item})


def done(item, index=0):
    return sse({"type": "response.output_item.done", "output_index": index, "item": item})


def sent_back(simulator):
    """Return the texts of the assistant's messages in the last request."""
    return [
        "".join(part["text"] for part in item["content"])
        for item in simulator.prompts[-1]["input"]
        if item.get("role") == "assistant"
    ]


# Surrogates, and JSON that is nested too deep


CITED = {"type": "url_citation", "url": f"https://a.example/{SURROGATE}", "title": SURROGATE}
ODD_ITEMS = {
    "arguments": [Call("add", {"a": SURROGATE})],
    "raw arguments": [Call("add", f'{{"a": "{SURROGATE}"}}')],
    "name": [Call(f"add{SURROGATE}", {})],
    "call id": [Call("add", {}, f"call{SURROGATE}")],
    "citation": [Say("The answer.", annotations=[CITED])],
    "query": [Search(SURROGATE)],
    "sources": [Search("x", [f"https://a.example/{SURROGATE}"])],
    "summary": [Think([f"Hm{SURROGATE}"])],
    "phase": [Say("The answer.", phase=SURROGATE)],
    "revised prompt": [Draw(f"a pelican {SURROGATE}")],
}


@pytest.mark.parametrize("options", [[], ["--async"]])
@pytest.mark.parametrize("place", ODD_ITEMS)
def test_a_lone_surrogate_anywhere_is_replaced(simulator, signed_in, run_llm, place, options):
    frames = frames_of(simulator, *ODD_ITEMS[place], Say("The answer."))
    assert rb"\ud83d" in b"".join(frames)
    simulator.script("responses", Stream(frames))
    result = run_llm("-m", MODEL, "hi", *options)
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith("The answer.\n")
    assert logged(run_llm)[0]["response"].endswith("The answer.")
    assert run_llm("-c", "on", *options).exit_code == 0
    assert r"\ud83d" not in json.dumps(simulator.prompts[-1])


def test_a_surrogate_in_raw_bytes_does_not_break_the_answer(simulator, signed_in, run_llm):
    """UTF-8 of a surrogate, which Python's JSON reader lets pass."""
    frames = frames_of(simulator, Search("a query"), Say("The answer."))
    odd = [frame.replace(b"a query", b"a \xed\xa0\xbd query") for frame in frames]
    simulator.script("responses", Stream(odd))
    assert run_llm("-m", MODEL, "hi").stdout == "The answer.\n"
    assert run_llm("-c", "on").exit_code == 0


def test_a_tool_gets_arguments_without_surrogates(simulator, signed_in, ask):
    got = []

    def note(text: str) -> str:
        got.append(text)
        return "noted"

    simulator.answer(Call("note", {"text": f"a{SURROGATE}b \U0001f600"}))
    simulator.answer(Say("Done."))
    *_, last = ask.chain(ask.model(), "hi", tools=[note])
    assert got == ["a\N{REPLACEMENT CHARACTER}b \U0001f600"]
    assert last.text_or_raise() == "Done."


@pytest.mark.parametrize("levels", [300, 970, 5_000, 100_000])
def test_too_deep_arguments_are_sent_back_but_not_run(simulator, signed_in, ask, levels):
    ran = []

    def note(text: str = "") -> str:
        ran.append(text)
        return "noted"

    arguments = '{"text": ' + "[" * levels + "]" * levels + "}"
    simulator.answer(Call("note", arguments))
    simulator.answer(Say("Sorry."))
    first, last = ask.chain(ask.model(), "hi", tools=[note])
    assert last.text_or_raise() == "Sorry."
    # The tool is not run with other arguments than the model's.
    assert ran == []
    (call,) = first._tool_calls
    assert call.arguments == {"_raw": arguments}
    sent = next(i for i in simulator.prompts[-1]["input"] if i["type"] == "function_call")
    assert sent["arguments"] == arguments


@pytest.mark.parametrize("levels", [60, 900, 5_000, 100_000])
def test_too_deep_items_do_not_break_the_answer(simulator, signed_in, run_llm, levels):
    deep = b"[" * levels + b"]" * levels
    frames = frames_of(simulator, Search("x", ["https://a.example"]), Say("The answer."))
    odd = [
        frame.replace(b'{"type": "url"', b'{"deep": ' + deep + b', "type": "url"')
        for frame in frames
    ]
    assert odd != frames
    simulator.script("responses", Stream(odd))
    assert run_llm("-m", MODEL, "hi").stdout == "The answer.\n"
    assert run_llm("-c", "on").exit_code == 0


# How an answer ends


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "failed", "error": {"code": "invalid_prompt", "message": "No."}},
        {"status": None, "error": {"code": "invalid_prompt", "message": "No."}},
    ],
)
def test_a_last_event_with_an_error_is_an_error(simulator, signed_in, ask, changes):
    simulator.script("responses", Stream(frames_of(simulator, Say("Half"), **changes)))
    with pytest.raises(llm.ModelError, match=r"policies refuse this prompt: No\."):
        ask("hi")
    assert len(simulator.prompts) == 1


@pytest.mark.parametrize("status", ["completed", "incomplete"])
def test_a_failed_answer_counts_as_failed_whatever_its_status(simulator, signed_in, ask, status):
    error = {"code": "invalid_prompt", "message": "No."}
    frames = frames_of(simulator, Say("Half"), terminal="failed", error=error, status=status)
    simulator.script("responses", Stream(frames))
    with pytest.raises(llm.ModelError, match=r"policies refuse this prompt: No\."):
        ask("hi")


def test_an_error_that_is_only_text_is_quoted(simulator, signed_in, ask, short_pauses):
    frames = frames_of(simulator, status="failed", error="It broke.")
    simulator.script("responses", *[Stream(frames)] * 5)
    with pytest.raises(llm.ModelError, match=r"could not finish the answer: It broke\."):
        ask("hi")


def test_a_last_event_that_is_incomplete_is_noted(simulator, signed_in, run_llm):
    details = {"reason": "max_output_tokens"}
    frames = frames_of(simulator, Say("Half"), status="incomplete", incomplete_details=details)
    simulator.script("responses", Stream(frames))
    result = run_llm("-m", MODEL, "hi")
    assert (result.exit_code, result.stdout) == (0, "Half\n")
    assert result.stderr == "The answer was cut short (max_output_tokens).\n"


@pytest.mark.parametrize("status", ["completed", "incomplete"])
def test_output_that_only_the_last_event_has_is_used(simulator, signed_in, ask, status):
    items = [Think(["Hm."]), Say("The answer."), Call("add", {"a": 1})]
    frames = frames_of(simulator, *items)
    output = [json.loads(f.split(b"data: ")[1])["item"] for f in frames if b"item.done" in f]
    first, *_, last = frames_of(simulator, output=output, status=status)
    simulator.script("responses", Stream([first, last]))
    conversation = ask.model().conversation()
    answered = ask.finish(lambda: conversation.prompt("hi"))
    assert (answered.text, answered.reasoning) == ("The answer.", "Hm.")
    types = [item["type"] for item in answered.json["output"]]
    assert types == ["reasoning", "message", "function_call"]
    assert [type(part) for part in answered.parts] == [ReasoningPart, TextPart, ToolCallPart]
    ask.finish(lambda: conversation.prompt("on"))
    assert sent_back(simulator) == ["The answer."]


def test_output_that_came_already_is_not_repeated(simulator, signed_in, ask):
    output = [{"type": "message", "content": [{"type": "output_text", "text": "Another."}]}]
    simulator.answer(Say("The answer."), output=output)
    assert ask("hi").text == "The answer."


# A finished item corrects its deltas


CORRECTIONS = {
    # The deltas, the text of the finished item, and the text that is shown.
    "end": (["Hello", " wor"], "Hello world", "Hello world"),
    "beginning": (["world"], "Hello world", "world"),
    "middle": (["Hel", " world"], "Hello world", "Hel world"),
    "other": (["Good", "bye"], "Hello world", "Goodbye"),
    "too much": (["Hello world!"], "Hello world", "Hello world!"),
    "nothing in the item": (["Hello"], "", "Hello"),
}


@pytest.mark.parametrize("case", CORRECTIONS)
@pytest.mark.parametrize("phase", [None, "final_answer", "commentary"])
@pytest.mark.parametrize("event", [True, False], ids=["done event", "item only"])
def test_a_finished_message_corrects_its_deltas(simulator, signed_in, ask, case, phase, event):
    deltas, text, shown = CORRECTIONS[case]
    frames = frames_of(simulator, Say(text, deltas=deltas, phase=phase), Say("More."))
    if not event:
        frames = without(frames, "output_text.done")
    simulator.script("responses", Stream(frames))
    conversation = ask.model().conversation()
    answered = ask.finish(lambda: conversation.prompt("hi"))
    recorded = text or shown
    part = next(part for part in answered.parts if part.text.strip())
    assert part.text == recorded
    if phase != "commentary":
        # What llm has shown cannot be taken back.
        assert answered.response.text_or_raise().startswith(shown)
    ask.finish(lambda: conversation.prompt("on"))
    assert sent_back(simulator) == [recorded, "More."]


@pytest.mark.parametrize("options", [[], ["--async"]])
def test_the_corrected_text_is_sent_from_the_logs(simulator, signed_in, run_llm, options):
    frames = frames_of(simulator, Say("Hello world", deltas=["Hel", " world"]))
    simulator.script("responses", Stream(without(frames, "output_text.done")))
    assert run_llm("-m", MODEL, "hi", *options).stdout == "Hel world\n"
    assert run_llm("-c", "on", *options).exit_code == 0
    assert sent_back(simulator) == ["Hello world"]
    output = logged(run_llm, 2)[0]["response_json"]["output"]
    assert output[0]["content"][0]["text"] == "Hello world"


@pytest.mark.parametrize("options", [[], ["--async"]])
def test_the_missing_end_of_a_text_is_shown(simulator, signed_in, run_llm, options):
    frames = frames_of(simulator, Think(["Thinking hard."]), Say("Hello world", deltas=["Hello"]))
    frames = [frame.replace(b'"delta": "ing hard."', b'"delta": ""') for frame in frames]
    simulator.script("responses", Stream(without(frames, "text.done")))
    result = run_llm("-m", MODEL, "hi", *options)
    assert result.stdout == "Hello world\n"
    assert result.stderr == "Thinking hard.\n"
    row = logged(run_llm)[0]
    assert (row["response"], row["reasoning"].strip()) == ("Hello world", "Thinking hard.")


@pytest.mark.parametrize("cut", [1, 2, 3, 99])
def test_a_correction_removes_nothing_that_was_shown(simulator, signed_in, ask, cut):
    frames = without(frames_of(simulator, Say("Hello", deltas=["Hel", "o"])), "output_text.done")
    start = next(n for n, frame in enumerate(frames) if b'"Hel"' in frame)
    chunks = [b"".join(frames[: start + cut]), 0.05, b"".join(frames[start + cut :])]
    simulator.script("responses", Stream([chunk for chunk in chunks if chunk]))
    answered = ask("hi")
    assert answered.response.text_or_raise() == "Helo"
    assert answered.parts[0].text == "Hello"


def test_a_finished_call_corrects_its_name_and_id(simulator, signed_in, ask):
    frames = frames_of(simulator, Call("add", {"a": 1}, "call_1"))
    odd = [
        frame.replace(b'"add"', b'"ad"').replace(b"call_1", b"call_")
        if b"item.added" in frame
        else frame
        for frame in frames
    ]
    simulator.script("responses", Stream(odd))
    conversation = ask.model().conversation()
    answered = ask.finish(lambda: conversation.prompt("hi"))
    assert answered.parts == [ToolCallPart("add", {"a": 1}, "call_1")]


def test_events_after_a_finished_item_change_nothing(simulator, signed_in, ask):
    frames = frames_of(simulator, Say("Hello world"), Call("add", {"a": 12345678}, "call_1"))
    finished = [frame for frame in frames if b"item.done" in frame]
    simulator.script("responses", Stream([*finished, *frames]))
    answered = ask("hi")
    assert answered.text == "Hello world"
    assert answered.parts[-1].arguments == {"a": 12345678}


# Citation markup


CITE = "\ue200cite\ue202turn0search0\ue202turn0news1\ue201"


@pytest.mark.parametrize("options", [[], ["--async"]])
@pytest.mark.parametrize("size", [1, 3, 7, 999])
def test_citation_markup_is_neither_shown_nor_logged(simulator, signed_in, run_llm, options, size):
    text = f"Pelicans fly{CITE}. They \U0001f600 fish{CITE}{CITE}.{CITE}"
    deltas = [text[i : i + size] for i in range(0, len(text), size)]
    annotation = {"type": "url_citation", "url": "https://a.example", "title": "A"}
    places = {"start_index": text.index("fish"), "end_index": text.index("fish") + 4}
    simulator.answer(
        Say(f"Looking{CITE}.", phase="commentary"),
        Say(text, deltas=deltas, annotations=[{**annotation, **places}]),
    )
    result = run_llm("-m", MODEL, "hi", *options)
    shown = "Pelicans fly. They \U0001f600 fish."
    assert (result.stdout, result.stderr) == (f"{shown}\n", "Looking.\n")
    (row,) = logged(run_llm)
    assert (row["response"], row["reasoning"].strip()) == (shown, "Looking.")
    assert "\ue200" not in json.dumps(row, ensure_ascii=False)
    content = row["response_json"]["output"][1]["content"][0]
    found = content["annotations"][0]
    assert content["text"][found["start_index"] : found["end_index"]] == "fish"
    run_llm("-c", "on", *options)
    assert sent_back(simulator) == ["Looking.", shown]


@pytest.mark.parametrize(
    "text", ["One \ue200 two", f"One \ue200{'x' * 1500}\ue201", "\ue201\ue200"]
)
def test_a_stray_citation_mark_is_shown_as_text(simulator, signed_in, ask, text):
    simulator.answer(Say(text))
    assert ask("hi").text == text
    # The same without a finished item.
    frames = without(frames_of(simulator, Say(text)), "text.done", "item.done", "part.done")
    simulator.script("responses", Stream(frames))
    assert ask("hi").text == text


def test_text_after_a_stray_mark_is_not_held_back():
    passage = Passage()
    visible = [passage.add("word ") for _ in range(3)] + [passage.add("\ue200")]
    visible += [passage.add("word ") for _ in range(1000)]
    assert len("".join(visible)) > 3900


@given(
    st.lists(st.sampled_from(["a", "\ue200", "\ue201", "\ue202", "cite", "\U0001f600", "x" * 700])),
    st.lists(st.integers(0, 3000)),
)
def test_a_text_may_be_cut_anywhere(pieces, cuts):
    text = "".join(pieces)
    ends = sorted({min(cut, len(text)) for cut in cuts} | {len(text)})
    passage = Passage()
    visible = [passage.add(text[a:b]) for a, b in zip([0, *ends], ends, strict=False)]
    assert "".join(visible) + passage.held_back == without_citations(text)


@given(st.lists(st.sampled_from(["ab", CITE, "cd ", "\ue200"]), max_size=6), st.data())
def test_annotations_keep_the_text_they_refer_to(pieces, data):
    text = "".join(pieces)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    part = readable_part({"text": text, "annotations": [{"start_index": start, "end_index": end}]})
    (found,) = part["annotations"]
    words = part["text"][found["start_index"] : found["end_index"]]
    citations = [match.span() for match in re.finditer("\ue200[^\ue201]*\ue201", text)]
    if not any(first < end and start < last for first, last in citations):
        assert words == text[start:end]


# Hosted tools


@pytest.mark.parametrize("kind", ["image_generation_call", "code_interpreter_call", "mcp_call"])
@pytest.mark.parametrize("event", [added, done])
def test_a_prompt_is_not_sent_again_after_a_hosted_call_other_than_a_search(
    simulator, signed_in, ask, short_pauses, kind, event
):
    frames = [event({"type": kind, "id": "x_1", "status": "in_progress"})]
    simulator.script("responses", *[Stream(frames, end="cut")] * 5)
    with pytest.raises(llm.ModelError, match="The answer was cut off"):
        ask("hi")
    assert len(simulator.prompts) == 1


@pytest.mark.parametrize("kind", ["web_search_call", "file_search_call"])
@pytest.mark.parametrize("event", [added, done])
def test_a_prompt_is_sent_again_after_a_search(
    simulator, signed_in, ask, short_pauses, kind, event
):
    frames = [event({"type": kind, "id": "x_1", "status": "in_progress"})]
    simulator.script("responses", Stream(frames, end="cut"))
    simulator.answer(Search("x"), Say("Found."))
    answered = ask("hi")
    assert answered.text == "Found."
    assert len(simulator.prompts) == 2
    calls = [part.name for part in answered.parts if isinstance(part, ToolCallPart)]
    assert calls == ["web_search"]


# Size


def test_a_long_commentary_takes_linear_time(simulator, signed_in):
    def seconds(count):
        frames = frames_of(
            simulator, Say("x" * 40 * count, deltas=["x" * 40] * count, phase="commentary")
        )
        translator = EventTranslator()
        # The time of this process alone, so that a busy machine does not matter.
        start = time.process_time()
        for frame in frames:
            translator.feed(frame)
        return time.process_time() - start

    assert seconds(32_000) < 16 * seconds(4_000) + 0.5


# Answers that are no stream


JSON_TYPE = {"Content-Type": "application/json"}
NO_STREAM = {
    "page": (web_page(200), "answered with a web page: Cloudflare or a proxy blocks this network"),
    "page without a type": (Stream([b"\n<html>", b"</html>"]), "answered with a web page"),
    "detail": (Answer(200, {"detail": "Not today."}), "OpenAI refused the request: Not today."),
    "error": (
        Answer(200, {"error": {"message": "Too long.", "code": "context_length_exceeded"}}),
        "The conversation is longer than the model's context: Too long. Start a new one",
    ),
    "error in pieces": (
        Stream([b'{"error": ', b'"It is late."}'], headers=JSON_TYPE),
        "OpenAI refused the request: It is late.",
    ),
    "error without a type": (Stream([b'{"detail": "No."}']), "OpenAI refused the request: No."),
    "nonsense": (Answer(200, b"no upstream", {"Content-Type": "text/plain"}), "status 200"),
    "words like a field": (
        Stream([b"error: no upstream"], headers={"Content-Type": "text/plain"}),
        "status 200",
    ),
}


@pytest.mark.parametrize("case", NO_STREAM)
def test_an_answer_that_is_no_stream_is_an_error_at_once(
    simulator, signed_in, ask, short_pauses, case
):
    reply, words = NO_STREAM[case]
    simulator.script("responses", *[reply] * 5)
    with pytest.raises(plugin.RequestRefused, match=re.escape(words)) as caught:
        ask("hi")
    assert "\n" not in str(caught.value)
    assert len(simulator.prompts) == 1


def test_a_login_that_is_refused_without_an_error_status_is_renewed(simulator, signed_in, ask):
    error = {"code": "subscription_sharing_invalid_user", "message": "Unknown user."}
    simulator.script("responses", Answer(200, {"error": error}))
    assert ask("hi").text
    assert len(simulator.prompts) == 2


@pytest.mark.parametrize("options", [[], ["--async"]])
@pytest.mark.parametrize("status", ["completed", "incomplete"])
def test_a_response_in_place_of_a_stream_is_read(simulator, signed_in, run_llm, options, status):
    items = [Think(["Hm."]), Say("The answer.", phase=None)]
    frames = frames_of(simulator, *items)
    output = [json.loads(f.split(b"data: ")[1])["item"] for f in frames if b"item.done" in f]
    *_, last = frames_of(simulator, *items, output=output, status=status)
    simulator.script("responses", Answer(200, json.loads(last.split(b"data: ")[1])["response"]))
    result = run_llm("-m", MODEL, "hi", *options)
    assert (result.exit_code, result.stdout) == (0, "The answer.\n")
    (row,) = logged(run_llm)
    assert (row["response"], row["output_tokens"]) == ("The answer.", 66)
    assert ("cut short" in result.stderr) == (status == "incomplete")
    run_llm("-c", "on", *options)
    assert sent_back(simulator) == ["The answer."]


def test_a_failed_response_in_place_of_a_stream_is_an_error(simulator, signed_in, ask):
    response = {"object": "response", "status": "failed", "error": {"code": "cyber_policy"}}
    simulator.script("responses", Answer(200, response))
    with pytest.raises(llm.ModelError, match="policies refuse this prompt"):
        ask("hi")


@pytest.mark.parametrize("begin", [b"junk\n\n", b"\xef\xbb\xbf"])
def test_a_stream_without_a_type_may_begin_with_junk(simulator, signed_in, ask, begin):
    simulator.script("responses", Stream([begin, *frames_of(simulator, Say("The answer."))]))
    assert ask("hi").text == "The answer."


@pytest.mark.parametrize("kind", ["text/event-stream; charset=utf-8", "text/plain", "TEXT/HTML"])
def test_a_stream_with_any_content_type_is_read(simulator, signed_in, ask, kind):
    frames = frames_of(simulator, Say("The answer."))
    simulator.script("responses", Stream([b"\n", *frames], headers={"Content-Type": kind}))
    assert ask("hi").text == "The answer."
