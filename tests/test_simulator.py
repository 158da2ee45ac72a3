"""Prompts that the simulator's backend accepts or refuses, checked by plain requests."""

from __future__ import annotations

import base64
import json

import pytest
import zstandard

from plain_requests import BODY, client, events_of, post
from simulator import Say, Think


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"store": True}, 400, "Store must be set to false"),
        ({"store": None}, 400, "Store must be set to false"),
        ({"stream": False}, 400, "Stream must be set to true"),
        ({"temperature": 1}, 400, "Unsupported parameter: temperature"),
        ({"max_output_tokens": 0}, 400, "Invalid 'max_output_tokens'"),
        ({"prompt_cache_options": {}}, 400, "Unsupported parameter: prompt_cache_options"),
        ({"prompt_cache_breakpoint": 1}, 400, "Unsupported parameter: prompt_cache_breakpoint"),
        ({"access_programs": ["x"]}, 400, "access_programs parameter is not enabled"),
        ({"previous_response_id": "r"}, 400, "Unsupported parameter: previous_response_id"),
        ({"service_tier": "flex"}, 400, "Unsupported service_tier: flex"),
        ({"input": "text"}, 400, "Input must be a list"),
        ({"model": "gpt-5.5", "instructions": None}, 400, "Instructions are required"),
        ({"model": "gpt-5.5", "instructions": ""}, 400, "Instructions are required"),
        ({"model": "gpt-5.2-codex", "instructions": None}, 400, "Instructions are required"),
        ({"model": "gpt-5.4", "instructions": None}, 400, "Instructions are required"),
        ({"model": "gpt-5.3-next", "instructions": None}, 400, "Instructions are required"),
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
            {"input": [*BODY["input"], {"type": "additional_tools", "role": "user"}]},
            400,
            "Invalid input[1].type",
        ),
        ({"input": [{"type": "compaction"}]}, 400, "input[0].encrypted_content"),
        (
            {"input": [{"type": "compaction_trigger"}, *BODY["input"]]},
            400,
            "input[0] must be the last item.",
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
def test_invalid_prompts_are_refused(simulator, headers, changes, status, words):
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
def test_invalid_schemas_are_refused_only_as_strict(simulator, headers, schema, words):
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
def test_invalid_parameters_of_a_function_are_refused(simulator, headers, parameters, words):
    tool = {"type": "function", "name": "f", "strict": False, "parameters": parameters}
    answer = post(simulator, headers, tools=[tool])
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]
    assert answer.json()["error"]["code"] == "invalid_function_parameters"


def test_two_tools_of_one_name_are_refused(simulator, headers):
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
def test_unknown_users_and_scripts_are_refused(simulator, headers, changes, status):
    assert post(simulator, {**headers, **changes}).status_code == status


def test_an_expired_token_is_refused_with_its_code(simulator, headers):
    simulator.expire_access_tokens()
    answer = post(simulator, headers)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "token_expired"


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
def test_files_are_checked(simulator, headers, changes, words, place):
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


def test_files_are_counted_and_refused_in_assistant_messages(simulator, headers):
    answer = post(simulator, headers, input=[{"role": "user", "content": [PDF, PDF]}])
    assert "(with 2 files)" in answer.text
    items = [{"role": "assistant", "content": [PDF]}, *BODY["input"]]
    assert post(simulator, headers, input=items).status_code == 400


def test_zstd_and_a_developer_message_are_accepted(simulator, headers):
    developer = {
        "type": "message",
        "role": "developer",
        "content": [{"type": "input_text", "text": "You are Codex."}],
    }
    body = {**BODY, "input": [developer, *BODY["input"]]}
    del body["instructions"]
    answer = client.post(
        f"{simulator.base_url}/codex/responses",
        content=zstandard.compress(json.dumps(body).encode()),
        headers={**headers, "Content-Encoding": "zstd", "Content-Type": "application/json"},
    )
    assert answer.status_code == 200


def test_items_of_codex_cli_are_accepted(simulator, headers):
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


SCHEMA = {"type": "json_schema", "name": "n", "strict": False, "schema": {"type": "object"}}


def test_a_test_can_have_each_offered_tool_called(simulator, headers):
    def outputs(**changes):
        events = events_of(post(simulator, headers, tools=tools, **changes))
        return [e["item"] for e in events if e["type"] == "response.output_item.done"][1:]

    tools = [*LITE_TOOLS, {"type": "web_search"}, {"type": "image_generation"}]
    assert [item["type"] for item in outputs()] == ["message"]
    simulator.uses_tools = True
    call, search, image = used = outputs(text={"format": SCHEMA})
    assert (call["name"], call["arguments"]) == ("multiply", '{"a": 7}')
    assert (search["type"], image["type"]) == ("web_search_call", "image_generation_call")
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "36"}
    items = [*BODY["input"], *used, result]
    assert outputs(input=items)[0]["content"][0]["text"] == "The tool returned: 36"
    # After the tools, the answer must fit the schema.
    assert outputs(input=items, text={"format": SCHEMA})[0]["content"][0]["text"] == "{}"
    tools = tools[1:]
    assert [item["type"] for item in outputs()][-1] == "message"


@pytest.mark.parametrize("place", [0, 1, 2])
def test_additional_tools_may_be_anywhere(simulator, headers, place):
    items = [{"role": "developer", "content": "Be brief."}, *BODY["input"]]
    items.insert(place, {"type": "additional_tools", "role": "developer", "tools": LITE_TOOLS})
    items.append({"role": "user", "content": "multiply"})
    answer = post(simulator, headers, instructions=None, input=items)
    names = [e["item"].get("name") for e in events_of(answer) if "item" in e]
    assert "multiply" in names


@pytest.mark.parametrize(
    ("changes", "content", "words"),
    [
        ({"context": "all_turns"}, None, None),
        ({}, None, "requires `reasoning.context` to be `all_turns`."),
        ({"context": "all_turns"}, [{"type": "reasoning_text", "text": "x"}], "input[0].content"),
    ],
)
def test_the_lite_header_restricts_the_body(simulator, headers, changes, content, words):
    simulator.answer(Think())
    thought = events_of(post(simulator, headers))[-2]["item"]
    thought |= {"content": content} if content else {}
    headers["x-openai-internal-codex-responses-lite"] = "true"
    answer = post(simulator, headers, reasoning=changes, input=[thought, *BODY["input"]])
    assert answer.status_code == (400 if words else 200)
    if words:
        assert words in answer.json()["error"]["message"]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "multiply"}])
def test_a_call_can_be_demanded(simulator, headers, choice):
    answer = post(simulator, headers, tools=LITE_TOOLS, tool_choice=choice)
    call = events_of(answer)[-2]["item"]
    assert (call["name"], call["arguments"]) == ("multiply", '{"a": 7}')


def test_strict_may_be_left_out_of_a_function(simulator, headers):
    tools = [{k: v for k, v in LITE_TOOLS[0].items() if k != "strict"}]
    assert post(simulator, headers, tools=tools).status_code == 200


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ([{"type": "input_text", "text": "36"}, {"type": "input_text", "text": "37"}], "36 37"),
        ([{"type": "input_image", "image_url": "https://example.com/a.png"}], "a picture"),
    ],
)
def test_a_tools_output_may_be_a_list(simulator, headers, output, words):
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    items = [call, {"type": "function_call_output", "call_id": "c", "output": output}]
    assert f"The tool returned: {words}" in post(simulator, headers, input=items).text


NODE = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]},
        "children": {"type": "array", "items": {"$ref": "#/$defs/Node"}},
        "twin": {"$ref": "#/$defs/Node"},
        "whole": {"$ref": "#"},
    },
    "required": ["name", "next", "children", "whole"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    "schema",
    [{"$ref": "#/$defs/Node", "$defs": {"Node": NODE}}, {**NODE, "$defs": {"Node": NODE}}],
)
def test_a_recursive_schema_is_answered(simulator, headers, schema):
    form = {"type": "json_schema", "name": "tree", "schema": schema}
    answer = post(simulator, headers, text={"format": form})
    texts = [e["text"] for e in events_of(answer) if e["type"] == "response.output_text.done"]
    assert json.loads(texts[0])["name"] == "Pelican"


def test_an_answer_is_cut_at_its_limit(simulator, headers):
    answer = events_of(post(simulator, headers, max_output_tokens=3))
    final = answer[-1]["response"]
    assert final["status"] == "incomplete"
    assert final["incomplete_details"] == {"reason": "max_output_tokens"}
    assert final["max_output_tokens"] == 3
    assert [e["text"] for e in answer if e["type"] == "response.output_text.done"] == [
        "This is answ"
    ]
    whole = events_of(post(simulator, headers, max_output_tokens=128000))[-1]["response"]
    assert whole["status"] == "completed"


def test_an_account_may_lack_a_parameter(simulator, headers):
    simulator.refused_parameters = {"max_output_tokens"}
    answer = post(simulator, headers, max_output_tokens=128000)
    assert answer.status_code == 400
    assert answer.json() == {"detail": "Unsupported parameter: max_output_tokens"}


def test_a_conversation_is_compacted_on_request(simulator, headers):
    simulator.answer(Think())
    items = [*BODY["input"], {"type": "compaction_trigger"}]
    done = [e["item"] for e in events_of(post(simulator, headers, input=items)) if "item" in e]
    assert [item["type"] for item in done] == ["compaction"] * 2
    assert done[1]["id"].startswith("cmp_")
    compact = {k: done[1][k] for k in ("type", "encrypted_content")}
    # The scripted answer is for the next prompt.
    answer = events_of(post(simulator, headers, input=[compact, *BODY["input"]]))
    assert [e["item"]["type"] for e in answer if "item" in e] == ["reasoning"] * 2
