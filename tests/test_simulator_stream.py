"""The simulator's streams, checked by the models of the `openai` package."""

from __future__ import annotations

import json
from typing import get_args

import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent

from plain_requests import BODY, events_of, message, post
from simulator import Call, Draw, Refuse, Say, Search, Think

# The model of each event, so that an error is about one event and not about sixty.
EVENTS = {
    literal: model
    for model in get_args(get_args(ResponseStreamEvent)[0])
    for literal in get_args(model.model_fields["type"].annotation)
}
EVERYTHING = [
    Think(["**One**", "**Two**"]),
    Search("pelicans", ["https://example.com"]),
    Say("Text", annotations=[]),
    Call("multiply", {"a": 6, "b": 7}),
    Draw("a pelican"),
    Refuse("No."),
]


def check_event(event):
    """Fail unless the package's own model of this event accepts it."""
    item = event.get("item", {})
    if event["type"] == "response.output_item.added" and item["type"] == "web_search_call":
        # The service sends the action only with the finished item.
        assert "action" not in item
        event = {**event, "item": {**item, "action": {"type": "search", "query": "q"}}}
    EVENTS[event["type"]].model_validate(event)


def test_the_openai_package_reads_every_event(simulator, headers):
    simulator.answer(*EVERYTHING)
    client = openai.OpenAI(
        api_key=headers["Authorization"].removeprefix("Bearer "),
        base_url=f"{simulator.base_url}/codex",
        default_headers={"ChatGPT-Account-ID": headers["ChatGPT-Account-ID"]},
    )
    seen = []
    with client.responses.create(
        **{**BODY, "include": [*BODY["include"], "web_search_call.action.sources"]},
        reasoning={"summary": "auto"},
    ) as stream:
        for event in stream:
            # A strict check: the package itself accepts anything.
            check_event(event.to_dict(mode="python"))
            seen.append(event)
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    assert seen[-1].type == "response.completed"
    assert seen[-1].response.output == []
    text = "".join(e.delta for e in seen if e.type == "response.output_text.delta")
    assert text == "Text"
    kinds = {event.type for event in seen}
    for kind in (
        "response.created",
        "response.reasoning_summary_text.delta",
        "response.web_search_call.completed",
        "response.function_call_arguments.done",
        "response.image_generation_call.completed",
        "response.refusal.done",
    ):
        assert kind in kinds


@pytest.mark.parametrize("terminal", ["completed", "incomplete", "failed"])
def test_the_raw_frames_are_valid_events(simulator, terminal):
    changes = {
        "completed": {},
        "incomplete": {"incomplete_details": {"reason": "max_output_tokens"}},
        "failed": {"error": {"code": "server_error", "message": "Broken"}},
    }[terminal]
    body = {**BODY, "reasoning": {"summary": "auto"}}
    for frame in simulator.frames(EVERYTHING, body, terminal=terminal, **changes):
        name, data = frame.decode().strip().split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        check_event(event)
        if "response" in event:
            # The event's model does not check the whole response.
            Response.model_validate(event["response"])


def test_deltas_are_obfuscated_and_arguments_end_without_a_name(simulator, headers):
    simulator.answer(*EVERYTHING)
    seen = events_of(post(simulator, headers, reasoning={"summary": "auto"}))
    deltas = [event for event in seen if event["type"].endswith(".delta")]
    assert len({event["type"] for event in deltas}) == 4
    assert all(event["obfuscation"] for event in deltas)
    for event in seen:
        if event["type"] == "response.function_call_arguments.done":
            fields = set(event)
            assert fields == {"type", "sequence_number", "item_id", "output_index", "arguments"}
    final = seen[-1]["response"]
    for name in ("max_output_tokens", "max_tool_calls", "presence_penalty", "frequency_penalty"):
        assert final[name] is None


def test_a_stream_has_no_content_type(simulator, headers):
    answer = post(simulator, headers)
    assert answer.status_code == 200
    assert "content-type" not in answer.headers
    assert answer.headers["transfer-encoding"] == "chunked"
    assert answer.headers["x-codex-primary-window-minutes"] == "300"
    assert b"[DONE]" not in answer.content


@pytest.mark.parametrize(
    ("phase", "phase_in", "added", "done"),
    [
        ("commentary", "both", "commentary", "commentary"),
        ("commentary", "added", "commentary", "absent"),
        ("a_new_phase", "done", "absent", "a_new_phase"),
        (None, "both", "absent", "absent"),
    ],
)
def test_a_message_has_its_phase_in_the_named_events(
    simulator, headers, phase, phase_in, added, done
):
    simulator.answer(Say("One moment.", phase=phase, phase_in=phase_in), Say("Here."))
    seen = events_of(post(simulator, headers))
    phases = [e["item"].get("phase", "absent") for e in seen if "output_item" in e["type"]]
    assert phases == [added, done, "final_answer", "final_answer"]


@pytest.mark.parametrize(
    ("history", "status"),
    [
        ([message("One moment.", "commentary"), message("42.", "final_answer")], 200),
        ([{**message("One moment.", "commentary"), "content": "One moment."}, message("42.")], 400),
        (
            [message("An older one."), message("One moment.", "commentary"), message("42.", "x")],
            400,
        ),
        ([message("42.", "final_answer"), message("One moment.", "commentary")], 400),
        ([message("One moment.", "commentary")] * 2 + [message("42.", "final_answer")], 400),
        (
            [
                message("One moment.", "commentary"),
                message("One moment."),
                message("42.", "final_answer"),
            ],
            400,
        ),
        ([message("One moment.42.", "final_answer")], 400),
        ([message("One moment.42.")], 400),
        ([], 400),
    ],
)
def test_a_test_can_demand_that_phases_are_sent_back(simulator, headers, history, status):
    simulator.answer(Say("One moment.", phase="commentary"), Say("42.", phase_in="done"))
    post(simulator, headers)
    items = [*BODY["input"], *history, *BODY["input"]]
    assert post(simulator, {**headers, "session-id": "s"}, input=items).status_code == 200
    simulator.demands_phases = True
    assert post(simulator, headers, input=items).status_code == status


def test_an_invented_phase_is_refused(simulator, headers):
    simulator.demands_phases = True
    for phase, status in ((None, 200), ("final_answer", 400)):
        items = [*BODY["input"], message("From an older log.", phase), *BODY["input"]]
        fresh = {**headers, "session-id": str(phase)}
        assert post(simulator, fresh, input=items).status_code == status


def test_an_answer_says_whether_the_turn_ends(simulator, headers):
    simulator.answer(Say("First."), end_turn=False)
    simulator.answer(Say("Second."), end_turn=True)
    simulator.answer(Say("Third."))
    items, ends = [*BODY["input"]], []
    for text in ("First.", "Second.", "Third."):
        events = events_of(post(simulator, headers, input=items))
        assert [e["text"] for e in events if e["type"].endswith("text.done")] == [text]
        ends.append(events[-1]["response"].get("end_turn"))
        items.append(message(text, "final_answer"))
    assert ends == [False, True, None]
    assert "end_turn" not in events[-1]["response"]
    # The default answer to an input without a new question.
    assert "That is all." in post(simulator, headers, input=items).text
