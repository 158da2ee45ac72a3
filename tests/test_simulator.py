"""The simulator, checked by something this project did not write: the `openai` package.

And by plain requests of another client's kind, for what the plugin itself never sends.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import struct
import time
import uuid
import zlib
from typing import get_args

import httpx
import openai
import pytest
import zstandard
from openai.types.responses import Response, ResponseStreamEvent

import llm_chatgpt_oauth as plugin
from llm_chatgpt.login.tokens import AUTH_CLAIM, PROFILE_CLAIM
from simulator import (
    CLIENT_ID,
    PNG,
    Account,
    Answer,
    Call,
    Draw,
    Refuse,
    Say,
    Search,
    Stream,
    Think,
    error_answer,
)

# Each event's own model, so that a fault is named and not those of sixty other events.
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
BODY = {
    "model": "gpt-6-luna",
    "instructions": "Be brief.",
    "store": False,
    "stream": True,
    "input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}],
    "include": ["reasoning.encrypted_content"],
}


@pytest.fixture
def headers(simulator):
    return {
        "Authorization": f"Bearer {simulator.sign_in()['access_token']}",
        "ChatGPT-Account-ID": simulator.account.account_id,
        "User-Agent": "another-client/1.0",
        "session-id": "a-session",
    }


def post(simulator, headers, **changes):
    body = {k: v for k, v in {**BODY, **changes}.items() if v is not None}
    return httpx.post(f"{simulator.base_url}/codex/responses", json=body, headers=headers)


def check_event(event):
    """Fails unless the package's own model of this event accepts it."""
    item = event.get("item", {})
    if event["type"] == "response.output_item.added" and item["type"] == "web_search_call":
        # The service sends the action only with the finished item.
        assert "action" not in item
        event = {**event, "item": {**item, "action": {"type": "search", "query": "q"}}}
    EVENTS[event["type"]].model_validate(event)


def events_of(answer):
    frames = answer.text.strip().split("\n\n")
    return [json.loads(frame.split("data: ")[1]) for frame in frames]


def test_the_official_package_reads_every_event(simulator, headers):
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
            # Strictly: the package itself would take anything.
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
            # Beyond the event: a whole, valid response object.
            Response.model_validate(event["response"])


def test_deltas_are_obfuscated_and_arguments_end_without_a_name(simulator, headers):
    simulator.answer(*EVERYTHING)
    seen = events_of(post(simulator, headers, reasoning={"summary": "auto"}))
    deltas = [event for event in seen if event["type"].endswith(".delta")]
    assert len({event["type"] for event in deltas}) == 4
    assert all(event["obfuscation"] for event in deltas)
    for event in seen:
        if event["type"] == "response.function_call_arguments.done":
            assert set(event) == {
                *("type", "sequence_number", "item_id", "output_index", "arguments"),
            }
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
    ("changes", "status", "words"),
    [
        ({"store": True}, 400, "Store must be set to false"),
        ({"store": None}, 400, "Store must be set to false"),
        ({"stream": False}, 400, "Stream must be set to true"),
        ({"temperature": 1}, 400, "Unsupported parameter: temperature"),
        ({"max_output_tokens": 1}, 400, "Unsupported parameter: max_output_tokens"),
        ({"previous_response_id": "r"}, 400, "Unsupported parameter: previous_response_id"),
        ({"service_tier": "flex"}, 400, "Unsupported service_tier: flex"),
        ({"input": "text"}, 400, "Input must be a list"),
        ({"model": "gpt-5.5", "instructions": None}, 400, "Instructions are required"),
        ({"model": "gpt-5.5", "instructions": ""}, 400, "Instructions are required"),
        ({"model": "gpt-5.2-codex", "instructions": None}, 400, "Instructions are required"),
        ({"model": "gpt-5.4", "instructions": None}, 400, "Instructions are required"),
        ({"model": None}, 400, "Missing required parameter: 'model'"),
        ({"input": [{"role": "system", "content": "x"}]}, 400, "System messages are not allowed"),
        ({"model": "gpt-5.1-codex"}, 400, "is not supported when using Codex with a ChatGPT"),
        ({"model": "gpt-99"}, 404, "Model not found gpt-99"),
        ({"reasoning": {"effort": "minimal"}}, 400, "Unsupported value: 'minimal'"),
        ({"reasoning": {"mode": "pro"}}, 400, "reasoning.mode"),
        (
            {"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]},
            400,
            "No tool call found for function call output with call_id c.",
        ),
        (
            {"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}]},
            400,
            "No tool output found for function call c.",
        ),
        (
            {"input": [{"type": "custom_tool_call_output", "call_id": "c", "output": "x"}]},
            400,
            "No tool call found for custom tool call output with call_id c.",
        ),
        (
            {"input": [{"type": "custom_tool_call", "call_id": "c", "name": "f", "input": "x"}]},
            400,
            "No tool output found for custom tool call c.",
        ),
        (
            {"input": [*BODY["input"], {"type": "additional_tools", "role": "developer"}]},
            400,
            "Invalid input[1].type",
        ),
        ({"tools": [{"type": "namespace", "name": "n"}]}, 400, "tools"),
        ({"input": [{"type": "reasoning", "id": "rs_1", "summary": []}]}, 404, "rs_1"),
        (
            {"input": [{"type": "reasoning", "encrypted_content": "x", "summary": []}]},
            400,
            "invalid_encrypted_content",
        ),
        ({"input": [{**BODY["input"][0], "phase": 1}]}, 400, "input[0].phase"),
        ({"tools": [{"type": "image_generation", "n": 2}]}, 400, "Unknown parameter: 'n'."),
        ({"tools": [{"type": "image_generation", "size": "7x7"}]}, 400, "Invalid size '7x7'"),
        (
            {
                "text": {
                    "format": {
                        "type": "json_schema",
                        "name": "o",
                        "strict": True,
                        "schema": {"type": "object", "properties": {"a": {}}},
                    }
                }
            },
            400,
            "invalid_json_schema",
        ),
    ],
)
def test_what_the_service_refuses(simulator, headers, changes, status, words):
    answer = post(simulator, headers, **changes)
    assert answer.status_code == status
    assert words in answer.text
    assert "json" in answer.headers["content-type"]
    assert answer.headers["x-request-id"]


OBJECT = {"type": "object", "additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "array", "items": {}}, "got 'type: \"array\"'"),
        ({**OBJECT, "anyOf": [OBJECT]}, "at the top level"),
        ({**OBJECT, "properties": {"a": {}}, "required": ["a"]}, "must have a 'type' key"),
        ({**OBJECT, "properties": {"a": {"type": "null"}}}, "'required' is required"),
        ({"type": "object", "properties": {}}, "'additionalProperties' is required"),
        (
            {**OBJECT, "properties": {"a": {"type": "array"}}, "required": ["a"]},
            "array schema missing items",
        ),
        (
            {**OBJECT, "properties": {"a": {"type": "null", "default": 1}}, "required": ["a"]},
            "'default' is not permitted",
        ),
        (
            {**OBJECT, "properties": {"a": {"$ref": "#", "title": "A"}}, "required": ["a"]},
            "$ref cannot have keywords {'title'}",
        ),
        (
            {**OBJECT, "properties": {"a": {"$ref": "https://x/y"}}, "required": ["a"]},
            "was not found in the schema",
        ),
    ],
)
def test_what_strict_mode_refuses(simulator, headers, schema, words):
    simulator.answer(Say("{}"))
    for strict, status in ((True, 400), (False, 200)):
        form = {"type": "json_schema", "name": "o", "strict": strict, "schema": schema}
        answer = post(simulator, headers, text={"format": form})
        assert answer.status_code == status
        if strict:
            error = answer.json()["error"]
            assert words in error["message"]
            assert error["code"] == "invalid_json_schema"


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"type": None}, "got 'type: \"None\"'"),
        ({"type": ["object"]}, "must be a JSON Schema of"),
        ({"type": "object", "oneOf": [{}]}, "at the top level"),
        ({"type": "object", "properties": {"a": {"type": "array"}}}, "array schema missing items"),
        (
            {"type": "object", "properties": {"a": {"type": "array", "items": [{}]}}},
            "is not of type 'object', 'boolean'",
        ),
        ({"type": "object", "properties": {"a": {"enum": []}}}, "should be non-empty"),
        ({"type": "object", "properties": {"a": {"type": "any"}}}, "not valid under any"),
        ({"type": "object", "properties": None}, "is not of type 'dict'"),
    ],
)
def test_parameters_that_a_function_may_not_have(simulator, headers, parameters, words):
    tool = {"type": "function", "name": "f", "strict": False, "parameters": parameters}
    answer = post(simulator, headers, tools=[tool])
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]
    assert answer.json()["error"]["code"] == "invalid_function_parameters"


def test_two_tools_of_one_name(simulator, headers):
    tool = {"type": "function", "name": "f", "strict": False, "parameters": {"type": "object"}}
    answer = post(simulator, headers, tools=[tool, {**tool, "description": "Another"}])
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "tool_collision")


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"Authorization": "Bearer nonsense"}, 401),
        ({"ChatGPT-Account-ID": "someone-else"}, 401),
        ({"User-Agent": "Python-urllib/3.11"}, 403),
    ],
)
def test_who_is_let_in(simulator, headers, changes, status):
    assert post(simulator, {**headers, **changes}).status_code == status


ENDPOINTS = [
    ("POST", "/oauth/token"),
    ("POST", "/api/accounts/deviceauth/usercode"),
    ("GET", "/backend-api/codex/models?client_version=1.0.0"),
    ("GET", "/backend-api/wham/usage"),
    ("POST", "/backend-api/codex/responses"),
]


@pytest.mark.parametrize(("method", "path"), ENDPOINTS)
def test_only_known_script_names_meet_cloudflare(simulator, headers, method, path):
    def send(agent):
        body = {"json": {}} if method == "POST" else {}
        headers["User-Agent"] = agent
        return httpx.request(method, simulator.issuer + path, headers=headers, **body)

    blocked = send("Python-urllib/3.11")
    assert blocked.status_code == 403
    assert blocked.headers["cf-mitigated"] == "challenge"
    for agent in ("", "another-client/1.0"):
        assert "cf-mitigated" not in send(agent).headers


def test_an_expired_token_is_refused_with_its_code(simulator, headers):
    simulator.expire_access_tokens()
    answer = post(simulator, headers)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "token_expired"


def test_encrypted_content_is_that_of_the_last_event_and_of_its_account(simulator, headers):
    simulator.answer(Think())
    frames = post(simulator, headers).text.split("\n\n")
    contents = [
        json.loads(frame.split("data: ")[1])["item"]["encrypted_content"]
        for frame in frames
        if "output_item" in frame
    ]
    assert len(set(contents)) == 2
    codes = []
    for content in contents:
        item = {"type": "reasoning", "summary": [], "encrypted_content": content}
        codes.append(post(simulator, headers, input=[item, *BODY["input"]]).status_code)
    assert codes == [400, 200]


def test_cached_tokens_need_the_session_and_the_prefix(simulator, headers):
    def cached(session, texts):
        items = [{"role": "user", "content": text * 100} for text in texts]
        answer = post(simulator, {**headers, "session-id": session}, input=items).text
        usage = json.loads(answer.split("data: ")[-1])["response"]["usage"]
        return usage["input_tokens_details"]["cached_tokens"]

    assert cached("s", ["a"]) == 0
    first = cached("s", ["a", "b"])
    assert first > 0
    assert cached("s", ["a", "b", "c"]) > first
    assert cached("s", ["x", "b", "c"]) < first
    assert cached("other", ["a", "b", "c"]) == 0


def said(text, phase=None):
    message = {"role": "assistant", "content": [{"type": "output_text", "text": text}]}
    return message if phase is None else {**message, "phase": phase}


@pytest.mark.parametrize(
    ("phase", "phase_in", "added", "done"),
    [
        ("commentary", "both", "commentary", "commentary"),
        ("commentary", "added", "commentary", "absent"),
        ("a_new_phase", "done", "absent", "a_new_phase"),
        (None, "both", "absent", "absent"),
    ],
)
def test_a_message_has_its_phase_where_it_is_told_to(
    simulator, headers, phase, phase_in, added, done
):
    simulator.answer(Say("One moment.", phase=phase, phase_in=phase_in), Say("Here."))
    seen = events_of(post(simulator, headers))
    phases = [e["item"].get("phase", "absent") for e in seen if "output_item" in e["type"]]
    assert phases == [added, done, "final_answer", "final_answer"]


@pytest.mark.parametrize(
    ("history", "status"),
    [
        ([said("One moment.", "commentary"), said("42.", "final_answer")], 200),
        ([{**said("One moment.", "commentary"), "content": "One moment."}, said("42.")], 400),
        ([said("An older one."), said("One moment.", "commentary"), said("42.", "x")], 400),
        ([said("42.", "final_answer"), said("One moment.", "commentary")], 400),
        ([said("One moment.", "commentary")] * 2 + [said("42.", "final_answer")], 400),
        (
            [said("One moment.", "commentary"), said("One moment."), said("42.", "final_answer")],
            400,
        ),
        ([said("One moment.42.", "final_answer")], 400),
        ([said("One moment.42.")], 400),
        ([], 400),
    ],
)
def test_phases_can_be_demanded_back(simulator, headers, history, status):
    simulator.answer(Say("One moment.", phase="commentary"), Say("42.", phase_in="done"))
    post(simulator, headers)
    items = [*BODY["input"], *history, *BODY["input"]]
    assert post(simulator, {**headers, "session-id": "s"}, input=items).status_code == 200
    simulator.demands_phases = True
    assert post(simulator, headers, input=items).status_code == status


def test_a_phase_is_never_invented(simulator, headers):
    simulator.demands_phases = True
    for phase, status in ((None, 200), ("final_answer", 400)):
        items = [*BODY["input"], said("From an older log.", phase), *BODY["input"]]
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
        items.append(said(text, "final_answer"))
    assert ends == [False, True, None]
    assert "end_turn" not in events[-1]["response"]
    # An answer that nobody scripted goes on without a new question.
    assert "That is all." in post(simulator, headers, input=items).text


PDF = {
    "type": "input_file",
    "filename": "report.pdf",
    "file_data": "data:application/pdf;base64," + base64.b64encode(b"%PDF-1.7").decode(),
}
WORD = "data:application/vnd.openxmlformats-officedocument.wordprocessingml.document;base64,QQ=="


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, None),
        ({"detail": "low"}, None),
        ({"file_data": WORD}, None),
        ({"file_data": "data:text/csv;base64,QQ=="}, None),
        ({"filename": None, "file_data": None, "file_url": "https://example.com/a.pdf"}, None),
        ({"file_data": None}, "Invalid file data: 'input[IN].content[0].file_data'. Expected a"),
        ({"file_data": "QQ=="}, "Invalid file data"),
        ({"file_data": "data:application/pdf,QQ=="}, "Invalid file data"),
        ({"file_data": "data:application/pdf;base64,"}, "Invalid file data"),
        ({"file_data": "data:application/pdf;base64,Q*Q=="}, "Invalid file data"),
        ({"file_data": "data:application/pdf;base64,QQ"}, "Invalid file data"),
        ({"file_data": "data:image/png;base64,QQ=="}, "Invalid file data"),
        ({"filename": None}, "Missing required parameter: 'input[IN].content[0]'"),
        ({"file_url": "https://example.com/a.pdf"}, "mutually_exclusive_parameters"),
        ({"file_data": None, "file_url": "https://e.org/a"}, "mutually_exclusive_parameters"),
        ({"filename": None, "file_data": None, "file_url": "file:///a"}, "file_url"),
        ({"detail": "original"}, "Supported values are: 'auto', 'low', 'high'."),
        ({"mime_type": "application/pdf"}, "Unknown parameter"),
    ],
)
@pytest.mark.parametrize("place", ["message", "tool output"])
def test_files(simulator, headers, changes, words, place):
    part = {k: v for k, v in {**PDF, **changes}.items() if v is not None}
    items = [{"role": "user", "content": [part]}]
    if place == "tool output":
        call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
        output = {"type": "function_call_output", "call_id": "c", "output": [part]}
        items = [*BODY["input"], call, output]
    answer = post(simulator, headers, input=items)
    assert answer.status_code == (400 if words else 200)
    assert (words or "").replace("IN", str(len(items) - 1)) in answer.text
    simulator.accepts_files = False
    answer = post(simulator, headers, input=items)
    assert answer.status_code == 400
    assert "Invalid value: 'input_file'. Supported values are:" in answer.text


def test_files_are_counted_and_not_for_the_assistant(simulator, headers):
    answer = post(simulator, headers, input=[{"role": "user", "content": [PDF, PDF]}])
    assert "(with 2 files)" in answer.text
    items = [{"role": "assistant", "content": [PDF]}, *BODY["input"]]
    assert post(simulator, headers, input=items).status_code == 400


# Another client of this login ----------------------------------------------------------


def test_zstd_bodies_and_instructions_as_a_developer_message(simulator, headers):
    developer = {
        "type": "message",
        "role": "developer",
        "content": [{"type": "input_text", "text": "You are Codex."}],
    }
    body = {**BODY, "input": [developer, *BODY["input"]]}
    del body["instructions"]
    answer = httpx.post(
        f"{simulator.base_url}/codex/responses",
        content=zstandard.compress(json.dumps(body).encode()),
        headers={**headers, "Content-Encoding": "zstd", "Content-Type": "application/json"},
    )
    assert answer.status_code == 200


def test_instructions_are_needed_by_some_models_only(simulator, headers):
    assert post(simulator, headers, instructions=None).status_code == 200
    developer = {"role": "developer", "content": "You are Codex."}
    items = [developer, *BODY["input"]]
    answer = post(simulator, headers, model="gpt-5.5", instructions=None, input=items)
    assert answer.status_code == 200


def test_items_of_codex_cli(simulator, headers):
    passthrough = {"internal_chat_message_metadata_passthrough": {"turn_id": "t"}}
    items = [
        {**BODY["input"][0], **passthrough},
        {"type": "configuration_update", "model": "gpt-6-luna", **passthrough},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", **passthrough},
        {"type": "custom_tool_call", "call_id": "d", "name": "g", "input": "x", **passthrough},
        {"type": "custom_tool_call_output", "call_id": "d", "output": "y", **passthrough},
        {"type": "function_call_output", "call_id": "c", "output": "z", **passthrough},
    ]
    assert post(simulator, headers, input=items).status_code == 200


LITE_TOOLS = [
    {
        "type": "function",
        "name": "multiply",
        "description": "",
        "strict": False,
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    }
]


@pytest.mark.parametrize(
    ("tools", "namespace"),
    [
        (LITE_TOOLS, None),
        ([{"type": "namespace", "name": "maths", "description": "", "tools": LITE_TOOLS}], "maths"),
    ],
)
def test_the_lite_shape_is_answered_with_tool_calls(simulator, headers, tools, namespace):
    items = [
        {"type": "additional_tools", "role": "developer", "tools": tools},
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": 'multiply {"a": 6}'},
    ]
    answer = post(simulator, headers, instructions=None, input=items)
    call = [e["item"] for e in events_of(answer) if e["type"] == "response.output_item.done"][-1]
    assert (call["name"], call["arguments"]) == ("multiply", '{"a": 6}')
    assert call.get("namespace") == namespace
    replay = {name: call[name] for name in ("type", "call_id", "name", "arguments")}
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "36"}
    answer = post(simulator, headers, instructions=None, input=[*items, replay, output])
    texts = [e["text"] for e in events_of(answer) if e["type"] == "response.output_text.done"]
    assert texts == ["The tool returned: 36"]


def test_the_list_names_the_lite_models(simulator, headers):
    url = f"{simulator.base_url}/codex/models"
    answer = httpx.get(url, params={"client_version": "1.0.0"}, headers=headers)
    lite = {model["slug"] for model in answer.json()["models"] if model["use_responses_lite"]}
    assert {"gpt-6-astra", "gpt-6.1-sol", "gpt-6-luna", "gpt-5.6-terra"} <= lite
    assert "gpt-5.5" not in lite


# Faults that a test can script ---------------------------------------------------------


def test_a_body_that_is_not_encoded_as_its_header_says(simulator, headers):
    junk = Answer(200, b"no gzip", {"Content-Encoding": "gzip"})
    simulator.script("models", junk)
    with pytest.raises(httpx.DecodingError):
        httpx.get(f"{simulator.base_url}/codex/models", headers=headers)
    simulator.script("responses", Stream([b"no gzip"], headers={"Content-Encoding": "gzip"}))
    with pytest.raises(httpx.DecodingError):
        post(simulator, headers)


@pytest.mark.parametrize(
    ("endpoint", "method", "path"),
    [
        ("models", "GET", "/backend-api/codex/models"),
        ("accounts", "GET", "/backend-api/wham/accounts/check"),
        ("revoke", "POST", "/oauth/revoke"),
    ],
)
def test_an_answer_can_trickle(simulator, endpoint, method, path):
    simulator.script(endpoint, Answer(200, {"a": 1}, trickle=0.02))
    pieces = []
    with httpx.stream(method, simulator.issuer + path) as answer:
        for piece in answer.iter_raw():
            pieces.append((time.monotonic(), piece))
    assert answer.headers["content-length"] == "8"
    assert b"".join(piece for _, piece in pieces) == b'{"a": 1}'
    # Two bytes may arrive together on a busy machine, but not all of them.
    assert pieces[-1][0] - pieces[0][0] >= 0.1


@pytest.mark.parametrize("status", [429, 503])
def test_a_refusal_can_say_when_to_come_back(simulator, headers, status):
    simulator.script("responses", Answer(status, {"detail": "Wait."}, {"Retry-After": "3"}))
    answer = post(simulator, headers)
    assert (answer.status_code, answer.headers["retry-after"]) == (status, "3")
    assert post(simulator, headers).status_code == 200


def test_a_standing_answer_comes_after_the_scripted_ones(simulator, headers):
    simulator.always["responses"] = lambda request: Answer(500)
    simulator.script("responses", None, Answer(502))
    assert [post(simulator, headers).status_code for _ in range(4)] == [200, 502, 500, 500]


# Pictures ------------------------------------------------------------------------------

PICTURE = {
    "prompt": "a pelican",
    "model": "gpt-image-2",
    "background": "opaque",
    "quality": "auto",
    "size": "auto",
}
INPUT = {"images": [{"image_url": "data:image/png;base64," + base64.b64encode(PNG).decode()}]}


def draw(simulator, headers, endpoint="generations", **changes):
    body = {k: v for k, v in {**PICTURE, **changes}.items() if v is not None}
    return httpx.post(f"{simulator.base_url}/codex/images/{endpoint}", json=body, headers=headers)


def pixels(answer):
    """Width, height and whether there is transparency, from the picture itself."""
    data = base64.b64decode(answer.json()["data"][0]["b64_json"])
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert data[12:16] == b"IHDR"
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    length = struct.unpack(">I", data[33:37])[0]
    assert data[37:41] == b"IDAT"
    rows = zlib.decompress(data[41 : 41 + length])
    assert len(rows) == height * (1 + width * (4 if colour == 6 else 3))
    assert depth == 8
    return width, height, colour == 6


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (1024, 1024, False)),
        ({"size": None, "quality": None, "background": None}, (1024, 1024, False)),
        ({"size": "3840x1280", "quality": "high"}, (3840, 1280, False)),
        (
            {"size": "1024x1536", "background": "transparent", "model": "gpt-image-2.5-flare"},
            (1024, 1536, True),
        ),
        ({"model": "gpt-image-2.5-sunburst", "quality": "max"}, (1024, 1024, False)),
    ],
)
def test_a_picture_is_as_asked(simulator, headers, changes, expected):
    answer = draw(simulator, headers, **changes)
    assert answer.status_code == 200
    assert pixels(answer) == expected
    assert pixels(draw(simulator, headers, "edits", **changes, **INPUT)) == expected


@pytest.mark.parametrize("repeats", [True, False])
def test_a_picture_can_have_another_size(simulator, headers, repeats):
    simulator.picture_size = "1312x1199"
    simulator.picture_repeats_options = repeats
    answer = draw(simulator, headers, size="1664x2496")
    assert pixels(answer) == (1312, 1199, False)
    assert answer.json().get("size") == ("1664x2496" if repeats else None)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompt": None}, "'prompt'"),
        ({"prompt": ""}, "'prompt'"),
        ({"model": None}, "'model'"),
        ({"model": "gpt-image-9"}, "Supported values are: 'gpt-image-2', 'gpt-image-2.5-flare'"),
        ({"n": 2}, "Unknown parameter: 'n'."),
        ({"output_format": "png"}, "Unknown parameter: 'output_format'."),
        ({"quality": "max"}, "'max'"),
        ({"quality": "best", "model": "gpt-image-2.5-flare"}, "'xhigh'"),
        ({"background": "red"}, "'red'"),
        ({"size": "1000x1024"}, "Invalid size"),
        ({"size": "3072x1008"}, "Invalid size"),
        ({"size": "3856x3856"}, "Invalid size"),
        ({"size": "large"}, "Invalid size"),
    ],
)
def test_wrong_wishes_for_a_picture(simulator, headers, changes, words):
    for endpoint, more in (("generations", {}), ("edits", INPUT)):
        answer = draw(simulator, headers, endpoint, **changes, **more)
        assert answer.status_code == 400
        assert words in answer.text


@pytest.mark.parametrize(
    "images",
    [
        None,
        [],
        ["data:image/png;base64,QQ=="],
        [{"url": "data:image/png;base64,QQ=="}],
        [{"image_url": "https://example.com/a.png"}],
        [{"image_url": "data:application/pdf;base64,QQ=="}],
    ],
)
def test_only_an_edit_has_pictures_and_needs_them(simulator, headers, images):
    assert "'images'" in draw(simulator, headers, **INPUT).text
    answer = draw(simulator, headers, "edits", images=images)
    assert answer.status_code == 400
    assert "images" in answer.text


@pytest.mark.parametrize("endpoint", ["generations", "edits"])
def test_pictures_are_for_json_of_users(simulator, headers, endpoint):
    url = f"{simulator.base_url}/codex/images/{endpoint}"
    assert httpx.post(url, data=PICTURE, headers=headers).status_code == 400
    for name in ("Authorization", "ChatGPT-Account-ID"):
        assert draw(simulator, {**headers, name: "x"}, endpoint, **INPUT).status_code == 401


def test_the_picture_tool_takes_wishes(simulator, headers):
    tool = {
        "type": "image_generation",
        "model": "gpt-image-2",
        "size": "1024x1536",
        "quality": "low",
        "background": "transparent",
        "output_format": "webp",
    }
    assert post(simulator, headers, tools=[tool]).status_code == 200


# Limits, resets and workspaces ---------------------------------------------------------


def redeem(simulator, headers, key=None, **more):
    body = {"redeem_request_id": key or str(uuid.uuid4()), **more}
    url = f"{simulator.base_url}/wham/rate-limit-reset-credits/consume"
    return httpx.post(url, json=body, headers=headers)


def get(simulator, headers, path):
    return httpx.get(f"{simulator.base_url}/wham/{path}", headers=headers)


def test_banked_resets_are_listed_and_counted(simulator, headers):
    simulator.bank_reset(expires_at=None)
    simulator.bank_reset(status="redeeming")
    simulator.bank_reset()
    answer = get(simulator, headers, "rate-limit-reset-credits").json()
    assert answer["available_count"] == 2
    assert [credit["expires_at"] is None for credit in answer["credits"]] == [True, False, False]
    fields = {"id", "reset_type", "status", "granted_at", "expires_at", "title", "description"}
    assert set(answer["credits"][2]) == fields
    usage = get(simulator, headers, "usage").json()
    assert usage["rate_limit_reset_credits"] == {"available_count": 2}


@pytest.mark.parametrize("repeated", ["already_redeemed", "reset"])
def test_a_reset_is_redeemed_once(simulator, headers, repeated):
    simulator.repeated_redeem_code = repeated
    simulator.bank_reset()
    simulator.bank_reset()
    key = str(uuid.uuid4())
    first = redeem(simulator, headers, key, credit_id="reset_2")
    assert first.json() == {"code": "reset", "windows_reset": 2}
    limits = get(simulator, headers, "usage").json()["rate_limit"]
    assert limits["primary_window"]["used_percent"] == 0
    assert limits["secondary_window"]["used_percent"] == 0
    simulator.used_percent["primary"] = 5.0
    assert redeem(simulator, headers, key).json()["code"] == repeated
    answer = get(simulator, headers, "rate-limit-reset-credits").json()
    assert [credit["status"] for credit in answer["credits"]] == ["available", "redeemed"]
    assert simulator.used_percent["primary"] == 5.0
    assert redeem(simulator, headers, credit_id="reset_2").json()["code"] == "no_credit"


def test_nothing_to_reset_and_no_credit_cost_nothing(simulator, headers):
    assert redeem(simulator, headers).json() == {"code": "no_credit", "windows_reset": 0}
    simulator.bank_reset()
    simulator.used_percent = {"primary": 0.0, "secondary": 0.0}
    assert redeem(simulator, headers).json() == {"code": "nothing_to_reset", "windows_reset": 0}
    assert get(simulator, headers, "usage").json()["rate_limit_reset_credits"] == {
        "available_count": 1
    }


def test_a_reset_can_be_redeemed_and_its_answer_lost(simulator, headers):
    def lost(request):
        simulator.serve_redeem(request)
        return Answer(502)

    simulator.bank_reset()
    simulator.script("redeem", lost)
    key = str(uuid.uuid4())
    assert redeem(simulator, headers, key).status_code == 502
    assert redeem(simulator, headers, key).json()["code"] == "already_redeemed"


@pytest.mark.parametrize(
    ("endpoint", "status", "code"),
    [("resets", 429, "connector_rate_limit"), ("redeem", 403, "rate_limit_reset_ineligible")],
)
def test_resets_can_be_refused(simulator, headers, endpoint, status, code):
    simulator.bank_reset()
    simulator.script(endpoint, error_answer(status, code))
    answer = (
        get(simulator, headers, "rate-limit-reset-credits")
        if endpoint == "resets"
        else redeem(simulator, headers)
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert simulator.resets[0]["status"] == "available"


def test_what_a_reset_must_say(simulator, headers):
    simulator.bank_reset()
    for answer in (
        redeem(simulator, headers, "not-a-uuid"),
        redeem(simulator, headers, 7),
        redeem(simulator, headers, count=2),
    ):
        assert answer.status_code == 400
    stranger = {**headers, "Authorization": "Bearer x"}
    assert redeem(simulator, stranger).status_code == 401
    assert get(simulator, stranger, "rate-limit-reset-credits").status_code == 401
    assert simulator.resets[0]["status"] == "available"


def test_workspaces_may_have_names(simulator, headers):
    assert "name" not in get(simulator, headers, "accounts/check").json()["accounts"][0]
    simulator.account.name = "Ada alone"
    simulator.account.workspaces = (Account(account_id="acc-lab", name="The lab", plan="team"),)
    answer = get(simulator, headers, "accounts/check").json()
    assert [entry["name"] for entry in answer["accounts"]] == ["Ada alone", "The lab"]
    assert answer["account_ordering"] == [simulator.account.account_id, "acc-lab"]


# Signing in ----------------------------------------------------------------------------


VERIFIER = secrets.token_urlsafe(64)
DIGEST = hashlib.sha256(VERIFIER.encode()).digest()
QUERY = {
    "response_type": "code",
    "client_id": CLIENT_ID,
    "redirect_uri": "http://127.0.0.1:1455/auth/callback",
    "scope": "openid profile email offline_access",
    "code_challenge": base64.urlsafe_b64encode(DIGEST).decode().rstrip("="),
    "code_challenge_method": "S256",
    "id_token_add_organizations": "true",
    "codex_cli_simplified_flow": "true",
    "state": "a-state",
}


def authorize(simulator, **changes):
    return httpx.get(f"{simulator.issuer}/oauth/authorize", params={**QUERY, **changes})


def exchange(simulator, answer, redirect_uri):
    form = {
        "grant_type": "authorization_code",
        "client_id": CLIENT_ID,
        "code": httpx.URL(answer.headers["location"]).params["code"],
        "redirect_uri": redirect_uri,
        "code_verifier": VERIFIER,
    }
    return httpx.post(f"{simulator.issuer}/oauth/token", data=form)


def test_the_browser_flow(simulator):
    answer = authorize(simulator)
    assert answer.status_code == 302
    assert httpx.URL(answer.headers["location"]).params["state"] == "a-state"
    for name in QUERY:
        assert authorize(simulator, **{name: "wrong"}).status_code in (
            400,
            302 if name == "state" else 400,
        )
    assert exchange(simulator, answer, QUERY["redirect_uri"]).status_code == 200
    # A code works once.
    assert exchange(simulator, answer, QUERY["redirect_uri"]).status_code == 400


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_browser_comes_back_to_the_host_that_was_named(simulator, host):
    redirect = f"http://{host}:1457/auth/callback"
    other = redirect.replace(host, {"127.0.0.1": "localhost", "localhost": "127.0.0.1"}[host])
    answer = authorize(simulator, redirect_uri=redirect)
    assert answer.headers["location"].startswith(redirect)
    # The exchange repeats the address byte for byte.
    assert exchange(simulator, answer, other).status_code == 400
    answer = authorize(simulator, redirect_uri=redirect)
    assert exchange(simulator, answer, redirect).status_code == 200


def test_a_host_can_be_refused_on_the_page(simulator):
    simulator.redirect_hosts = {"localhost"}
    answer = authorize(simulator)
    assert answer.status_code == 400
    assert "location" not in answer.headers
    assert answer.headers["content-type"] == "text/html"
    assert "authorize_hydra_invalid_request" in answer.text
    localhost = QUERY["redirect_uri"].replace("127.0.0.1", "localhost")
    assert authorize(simulator, redirect_uri=localhost).status_code == 302


@pytest.mark.parametrize(
    ("wanted", "plan"),
    [(None, "plus"), ("acc-lab", "team"), ("acc-x,acc-lab", "team"), ("acc-x", "plus")],
)
def test_the_browser_can_ask_for_a_workspace(simulator, wanted, plan):
    own = simulator.account.account_id
    simulator.account.workspaces = (Account(account_id="acc-lab", plan="team"),)
    changes = {"allowed_workspace_id": wanted} if wanted else {}
    tokens = exchange(simulator, authorize(simulator, **changes), QUERY["redirect_uri"]).json()
    signed_in_to = plugin.parse_jwt_claims(tokens["id_token"])[AUTH_CLAIM]
    account_id = own if plan == "plus" else "acc-lab"
    assert signed_in_to["chatgpt_account_id"] == account_id
    assert signed_in_to["chatgpt_plan_type"] == plan
    headers = {
        "Authorization": f"Bearer {tokens['access_token']}",
        "ChatGPT-Account-ID": account_id,
    }
    # Either workspace knows of the other.
    ids = get(simulator, headers, "accounts/check").json()["account_ordering"]
    assert ids == [account_id, *({own, "acc-lab"} - {account_id})]


def test_a_refresh_token_works_once(simulator):
    token = simulator.sign_in()["refresh_token"]
    body = {"client_id": CLIENT_ID, "grant_type": "refresh_token", "refresh_token": token}
    url = f"{simulator.issuer}/oauth/token"
    new = httpx.post(url, json=body).json()
    again = httpx.post(url, json=body)
    assert again.status_code == 401
    assert again.json()["error"]["code"] == "refresh_token_reused"
    assert httpx.post(url, json={**body, "refresh_token": new["refresh_token"]}).status_code == 200


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"refresh_reason": "unauthorized_recovery"}, 200),
        ({"refresh_reason": "proactive_expiry"}, 200),
        ({"scope": "openid profile email"}, 200),
        ({"scope": "openid admin"}, 400),
        ({"audience": "x"}, 400),
        ({"refresh_token": None}, 400),
    ],
)
def test_what_a_refresh_may_say(simulator, changes, status):
    token = simulator.sign_in()["refresh_token"]
    body = {"client_id": CLIENT_ID, "grant_type": "refresh_token", "refresh_token": token}
    body = {k: v for k, v in {**body, **changes}.items() if v is not None}
    answer = httpx.post(f"{simulator.issuer}/oauth/token", json=body)
    assert answer.status_code == status
    # A refusal does not use the token up.
    assert simulator.refresh_tokens[token]["state"] == (
        "refresh_token_reused" if status == 200 else "fresh"
    )


def test_a_reused_token_can_end_the_whole_family(simulator):
    simulator.kill_family_on_reuse = True
    token = simulator.sign_in()["refresh_token"]
    body = {"client_id": CLIENT_ID, "grant_type": "refresh_token", "refresh_token": token}
    url = f"{simulator.issuer}/oauth/token"
    new = httpx.post(url, json=body).json()
    httpx.post(url, json=body)
    answer = httpx.post(url, json={**body, "refresh_token": new["refresh_token"]})
    assert answer.json()["error"]["code"] == "refresh_token_invalidated"


def test_revoking_ends_the_session(simulator):
    token = simulator.sign_in()["refresh_token"]
    body = {"token": token, "token_type_hint": "refresh_token", "client_id": CLIENT_ID}
    assert httpx.post(f"{simulator.issuer}/oauth/revoke", json=body).status_code == 200
    refresh = {"client_id": CLIENT_ID, "grant_type": "refresh_token", "refresh_token": token}
    answer = httpx.post(f"{simulator.issuer}/oauth/token", json=refresh)
    assert answer.json()["error"]["code"] == "refresh_token_invalidated"


def test_models_usage_and_accounts(simulator, headers):
    url = f"{simulator.base_url}/codex/models"
    assert httpx.get(url, headers=headers).status_code == 400
    old = httpx.get(url, params={"client_version": "0.150.0"}, headers=headers).json()["models"]
    new = httpx.get(url, params={"client_version": "0.200.0"}, headers=headers)
    assert len(old) < len(new.json()["models"])
    assert new.headers["etag"] == simulator.models_etag
    usage = httpx.get(f"{simulator.base_url}/wham/usage", headers=headers).json()
    assert usage["rate_limit"]["primary_window"]["limit_window_seconds"] == 18000
    accounts = httpx.get(f"{simulator.base_url}/wham/accounts/check", headers=headers).json()
    assert accounts["accounts"][0]["workspace_backend_origin"] == "https://chatgpt.com"


def test_form_encoded_starts_are_refused(simulator):
    url = f"{simulator.issuer}/api/accounts/deviceauth/usercode"
    assert httpx.post(url, data={"client_id": CLIENT_ID}).status_code == 400
    assert httpx.post(url, json={"client_id": CLIENT_ID, "scope": "x"}).status_code == 400


def test_a_device_code_works_once(simulator):
    start = httpx.post(
        f"{simulator.issuer}/api/accounts/deviceauth/usercode", json={"client_id": CLIENT_ID}
    ).json()
    assert isinstance(start["interval"], str)
    body = {k: start[k] for k in ("device_auth_id", "user_code")}
    url = f"{simulator.issuer}/api/accounts/deviceauth/token"
    pending = httpx.post(url, json=body)
    assert pending.status_code == 403
    assert pending.json()["error"]["code"] == "deviceauth_authorization_pending"
    simulator.approve(start["user_code"])
    # Extra fields are tolerated.
    assert httpx.post(url, json={**body, "client_id": CLIENT_ID}).status_code == 200
    assert httpx.post(url, json=body).json()["error"]["code"] == "deviceauth_not_found"


def test_its_jwts_have_the_real_layout(simulator):
    reply = simulator.sign_in()
    id_claims = plugin.parse_jwt_claims(reply["id_token"])
    access_claims = plugin.parse_jwt_claims(reply["access_token"])
    assert id_claims["email"]
    assert set(id_claims[AUTH_CLAIM]) >= {"chatgpt_account_id", "organizations"}
    assert access_claims["aud"] == ["https://api.openai.com/v1"]
    assert access_claims["exp"] - access_claims["iat"] == 864000
    assert access_claims[AUTH_CLAIM]["chatgpt_account_user_id"].count("__") == 1
    assert access_claims[PROFILE_CLAIM]["email"]


def test_the_picture_is_a_picture():
    assert PNG.startswith(b"\x89PNG")
