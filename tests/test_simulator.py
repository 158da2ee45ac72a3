"""What the simulator's backend accepts and refuses of a prompt, checked by plain requests."""

from __future__ import annotations

import base64
import json

import httpx
import pytest
import zstandard

from plain_requests import BODY, events_of, post
from simulator import Think


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
