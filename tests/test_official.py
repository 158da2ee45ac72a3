"""Prompts, models and errors of the official route."""

from __future__ import annotations

import itertools
import json

import llm
import pytest
from llm.default_plugins.openai_models import WebSearch

import llm_chatgpt_oauth as plugin
from conftest import assert_no_secrets, multiply, sign_in, sign_in_officially
from simulator import PLAN_ERRORS, PNG, Answer, Call, Say, Search, Think, plan_error, web_page

MODEL = "chatgpt-gpt-6-luna"
USAGE = "Manage usage: https://chatgpt.com/settings/usage"
PDF = b"%PDF-1.4\n1 0 obj\nendobj\n"
SHARING = "subscription_sharing_"


pytestmark = pytest.mark.usefixtures("short_pauses")


@pytest.fixture
def official(simulator):
    """A stored login of the official route, under its usual name."""
    return sign_in_officially(simulator, "official")


def parts_of(item):
    return [part["type"] for part in item["content"]]


# A prompt


def test_a_prompt_sends_no_credential_or_setting_but_the_login(
    simulator, official, ask, monkeypatch
):
    for name in ("API_KEY", "ORGANIZATION", "ORG_ID", "PROJECT", "PROJECT_ID"):
        monkeypatch.setenv(f"OPENAI_{name}", "not-to-be-sent")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("OPENAI_DEFAULT_HEADERS", '{"x-openai-thing": "not-to-be-sent"}')
    monkeypatch.setenv("LLM_CHATGPT_CLIENT_VERSION", "1.2.3")
    monkeypatch.setenv("LLM_CHATGPT_ORIGINATOR", "not-to-be-sent")
    assert ask("hi").text.startswith("This is answer 1")
    (request,) = simulator.requests
    assert request.path == "/v1/responses"
    assert set(request.headers) <= {
        "authorization",
        "user-agent",
        "accept",
        "content-type",
        "accept-encoding",
        "connection",
        "host",
        "content-length",
        "session-id",
    }
    assert request.headers["authorization"] == f"Bearer {official.access_token}"
    assert request.headers["user-agent"].startswith("llm-chatgpt-oauth/")
    assert request.headers["accept"] == "text/event-stream"
    assert b"not-to-be-sent" not in request.raw
    assert request.body["store"] is False
    assert request.body["include"] == ["reasoning.encrypted_content"]


def test_a_codex_prompt_still_names_its_account(simulator, ask):
    tokens = sign_in(simulator)
    sign_in_officially(simulator, "official")
    assert ask("hi").text
    request = simulator.requests[0]
    assert request.path == "/backend-api/codex/responses"
    assert request.headers["chatgpt-account-id"] == tokens.account_id
    assert request.headers["originator"]
    assert request.headers["session-id"]


def test_a_system_prompt_and_options_are_sent(simulator, official, ask):
    answered = ask("hi", system="Be brief.", reasoning_effort="low", verbosity="low")
    assert answered.text
    (body,) = simulator.official_prompts
    assert "instructions" not in body
    assert body["input"][0]["content"] == [{"type": "input_text", "text": "Be brief."}]
    assert body["reasoning"]["effort"] == "low"
    assert body["text"] == {"verbosity": "low"}


def test_a_refused_session_header_is_left_out_from_then_on(simulator, official, ask):
    simulator.official.refused_headers = {"session-id"}
    for _ in range(2):
        assert ask("hi").text
    requests = simulator.seen("/v1/responses")
    assert ["session-id" in request.headers for request in requests] == [True, False, False]


def test_options_that_this_route_refuses_are_not_sent(simulator, official, run_llm):
    options = ("-o", "temperature", "0.5", "-o", "max_tokens", "5", "-o", "top_p", "0.5")
    result = run_llm("-m", MODEL, "hi", *options)
    assert result.exit_code == 0
    assert "ignoring" in result.stderr
    (body,) = simulator.official_prompts
    assert not {"temperature", "top_p", "max_output_tokens"} & set(body)


# Tools


def test_tools_are_the_first_input_item(simulator, official, ask):
    simulator.answer(Think(["Hm."]), Call("multiply", {"a": 6, "b": 7}))
    simulator.answer(Call("multiply", {"a": 42, "b": 2}))
    simulator.answer(Say("84."))
    last = ask.chain(ask.model(), "6 * 7 * 2?", system="Count.", tools=[multiply])[-1]
    assert "84." in str(last._chunks)
    bodies = simulator.official_prompts
    assert len(bodies) == 3
    for body in bodies:
        assert "tools" not in body
        first = body["input"][0]
        assert (first["type"], first["role"]) == ("additional_tools", "developer")
        (tool,) = first["tools"]
        assert set(tool) == {"type", "name", "description", "parameters", "strict"}
    # Each request begins with the items of the one before.
    for before, after in itertools.pairwise(bodies):
        assert after["input"][: len(before["input"])] == before["input"]
        assert list(after) == list(before)
    assert [item.get("output") for item in bodies[2]["input"] if "output" in item] == ["42", "84"]
    assert "reasoning" in [item.get("type") for item in bodies[1]["input"]]


def test_web_search_is_sent_in_tools_and_functions_in_input(simulator, official, ask):
    simulator.answer(Search("pelicans", ["https://example.com/"]), Say("Found it."))
    conversation = ask.model().conversation()
    first = ask.finish(lambda: conversation.prompt("search", tools=[multiply, WebSearch()]))
    assert first.text == "Found it."
    body = simulator.official_prompts[0]
    assert [tool["type"] for tool in body["tools"]] == ["web_search"]
    assert [tool["name"] for tool in body["input"][0]["tools"]] == ["multiply"]
    # The search goes back, too.
    assert ask.finish(lambda: conversation.prompt("and?")).text


@pytest.mark.parametrize(
    "tool",
    [
        plugin.ImageGeneration(),
        llm.ServerSideTool({"type": "code_interpreter", "container": {"type": "auto"}}),
        llm.ServerSideTool({"type": "mcp", "server_label": "x", "server_url": "https://x.example"}),
    ],
    ids=["image_generation", "code_interpreter", "mcp"],
)
def test_a_tool_that_is_refused_is_not_sent(simulator, official, ask, tool):
    with pytest.raises(plugin.ChatGPTError) as caught:
        ask("draw a pelican", tools=[multiply, tool])
    kind = tool.tool_spec(None)["type"]
    assert f"OpenAI's official sign-in does not support {kind}." in str(caught.value)
    assert "'llm chatgpt login'" in str(caught.value)
    assert simulator.requests == []


# Attachments and schemas


def test_images_and_files_are_sent(simulator, official, ask):
    attachments = [
        llm.Attachment(content=PNG, type="image/png"),
        llm.Attachment(content=PDF, type="application/pdf"),
    ]
    assert ask("Look", attachments=attachments).text
    (body,) = simulator.official_prompts
    assert sorted(parts_of(body["input"][-1])) == ["input_file", "input_image", "input_text"]


@pytest.mark.parametrize(
    ("lacks", "prompt"),
    [
        ("input_image", {"attachments": [llm.Attachment(content=PNG, type="image/png")]}),
        ("input_file", {"attachments": [llm.Attachment(content=PDF, type="application/pdf")]}),
        ("web_search", {"tools": [WebSearch()]}),
        ("text.format", {"schema": llm.schema_dsl("name, age int")}),
    ],
)
def test_a_capability_that_the_plan_lacks_is_named(simulator, official, ask, lacks, prompt):
    simulator.official.refused_capabilities = {lacks}
    with pytest.raises(plugin.RequestRefused, match=f"does not support {lacks}: .* Leave it out"):
        ask("hi", **prompt)
    assert len(simulator.official_prompts) == 1


def test_a_schema_is_sent(simulator, official, run_llm):
    result = run_llm("-m", MODEL, "a pelican", "--schema", "name, age int")
    assert json.loads(result.stdout) == {"name": "Pelican", "age": 7}
    (body,) = simulator.official_prompts
    assert body["text"]["format"]["type"] == "json_schema"


# Conversations


def test_reasoning_goes_back_to_its_own_route_only(simulator, ask):
    sign_in(simulator)
    sign_in_officially(simulator, "official")
    conversation = ask.model().conversation()

    def reasoning(body):
        return [
            item["encrypted_content"] for item in body["input"] if item.get("type") == "reasoning"
        ]

    for number, key in enumerate(("official", "official", "default", "official"), 1):
        simulator.answer(Think([f"thought {number}"]), Say(f"answer {number}"))
        answered = ask.finish(lambda key=key: conversation.prompt("on", key=key))
        assert answered.text == f"answer {number}"
    first, second, last = map(reasoning, simulator.official_prompts)
    assert (len(first), len(second), len(last)) == (0, 1, 2)
    assert last[:1] == second
    (codex,) = map(reasoning, simulator.prompts)
    assert codex == []
    # The texts are all there.
    assert json.dumps(simulator.official_prompts[-1]).count("answer ") == 3


def test_reasoning_of_another_registration_is_dropped(simulator, ask):
    sign_in_officially(simulator, "one")
    sign_in_officially(simulator, "two")
    conversation = ask.model().conversation()
    assert ask.finish(lambda: conversation.prompt("hi", key="one")).text
    assert ask.finish(lambda: conversation.prompt("on", key="two")).text
    kinds = [item.get("type") for item in simulator.official_prompts[1]["input"]]
    assert "reasoning" not in kinds


def test_a_conversation_continues_on_the_command_line(simulator, official, run_llm):
    chat = run_llm("chat", "-m", MODEL, input="one\ntwo\nquit\n")
    assert chat.exit_code == 0, chat.stderr
    result = run_llm("-m", MODEL, "-c", "three")
    assert result.stdout == "This is answer 3. You said: three\n"
    bodies = simulator.official_prompts
    assert [len(body["input"]) for body in bodies] == [1, 4, 7]
    assert bodies[2]["input"][:4] == bodies[1]["input"]
    assert len({body["prompt_cache_key"] for body in bodies}) == 1


def test_phases_go_back(simulator, official, run_llm):
    simulator.demands_phases = True
    simulator.answer(Say("I will add.", phase="commentary"), Call("multiply", {"a": 2, "b": 3}))
    simulator.answer(Say("Six.", phase="final_answer"))
    functions = "def multiply(a: int, b: int) -> int:\n    return a * b"
    result = run_llm("-m", MODEL, "2 * 3?", "--functions", functions)
    assert (result.stdout, result.stderr.strip()) == ("Six.\n", "I will add.")


# Models


def test_models_come_in_the_servers_order(simulator, official, run_llm):
    result = run_llm("chatgpt", "models", "--json")
    (request,) = simulator.requests
    assert request.path == "/v1/models"
    assert request.query == {"client_version": "1.0.0"}
    assert "chatgpt-account-id" not in request.headers
    listed = [model["slug"] for model in json.loads(result.stdout)]
    visible = [m["slug"] for m in reversed(simulator.models) if m["visibility"] == "list"]
    assert listed == visible
    assert "gpt-6-chat" not in listed
    every = run_llm("chatgpt", "models", "--all")
    assert "gpt-6-chat" not in every.stdout
    assert USAGE in every.stderr


def test_each_account_has_a_list_of_its_own(simulator, official, run_llm):
    sign_in(simulator, "codex-login")
    run_llm("chatgpt", "models")
    simulator.models = simulator.models[:2]
    other = run_llm("chatgpt", "models", "--account", "codex-login", "--json")
    assert len(json.loads(other.stdout)) <= 2
    assert len(json.loads(run_llm("chatgpt", "models", "--json").stdout)) > 2
    paths = [request.path for request in simulator.requests]
    assert paths.count("/v1/models") == paths.count("/backend-api/codex/models") == 1


@pytest.mark.parametrize("answer", [Answer(500), Answer(403, {"detail": "No."}), Answer(drop=True)])
def test_a_failed_list_is_not_replaced_by_the_codex_list(simulator, official, run_llm, answer):
    simulator.always["official_models"] = lambda request: answer
    result = run_llm("chatgpt", "models")
    assert (result.exit_code, result.stdout) == (1, "")
    assert {request.path for request in simulator.requests} == {"/v1/models"}


# Addresses


def test_the_addresses_are_https_or_loopback(simulator, official, run_llm, monkeypatch):
    for wrong in ("http://api.example/v1", "ftp://127.0.0.1/v1", "api.openai.com"):
        monkeypatch.setenv("LLM_CHATGPT_API_URL", wrong)
        result = run_llm("-m", MODEL, "hi")
        assert result.exit_code == 1
        assert "LLM_CHATGPT_API_URL must be an https:// address" in result.stderr
    assert simulator.requests == []


# Errors


WORDS = {
    f"{SHARING}usage_limit_exceeded": USAGE,
    f"{SHARING}workplace_individual_usage_limit_exceeded": USAGE,
    f"{SHARING}usage_unavailable": "Try again in",
    f"{SHARING}user_unavailable": "Try again in",
    f"{SHARING}user_not_eligible": "https://developers.openai.com/siwc",
    f"{SHARING}unsupported_capability": "does not support the-field",
    f"{SHARING}route_not_supported": "LLM_CHATGPT_API_URL",
    f"{SHARING}invalid_user": "'llm chatgpt login --official'",
    "chatpass_v2_scope_not_authorized": "'llm chatgpt login --official'",
    "chatpass_v2_invalid_authorization_context": "'llm chatgpt login --official'",
}


def check_error(simulator, result, requests):
    """Check that an error is short and readable, and how many prompts were sent."""
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) <= 4
    assert not any(sign in result.stderr for sign in ("{", "}", "Traceback", "<html"))
    assert len(simulator.official_prompts) == requests
    assert {request.path for request in simulator.requests} == {"/v1/responses"}
    assert " reset" not in result.stderr
    assert_no_secrets(simulator, result.output)


def test_all_codes_have_words():
    assert set(WORDS) == set(PLAN_ERRORS)


@pytest.mark.parametrize(("v2", "options"), [(False, []), (True, ["--async"])])
@pytest.mark.parametrize("code", WORDS)
def test_each_code_before_the_stream_is_explained(simulator, official, run_llm, code, v2, options):
    sign_in(simulator, "codex-login")
    simulator.always["official_responses"] = lambda request: plan_error(code, "the-field", v2)
    result = run_llm("-m", MODEL, "hi", *options)
    check_error(simulator, result, 3 if PLAN_ERRORS[code] == 503 else 1)
    assert result.stdout == ""
    assert f"The server's words for {code}" in result.stderr
    assert WORDS[code] in result.stderr


@pytest.mark.parametrize(("begun", "options"), [(False, []), (True, ["--async"])])
@pytest.mark.parametrize("code", WORDS)
def test_each_code_inside_the_stream_is_explained(
    simulator, official, run_llm, code, begun, options
):
    begun_answer = [Say("Begun")] if begun else []
    simulator.always["official_responses"] = lambda request: simulator.plan_failure(
        code, *begun_answer, v2=begun
    )
    result = run_llm("-m", MODEL, "hi", *options)
    check_error(simulator, result, 3 if PLAN_ERRORS[code] == 503 and not begun else 1)
    assert result.stdout.startswith("Begun" if begun else "")
    assert f"The server's words for {code}" in result.stderr
    words = "does not support this" if "capability" in code else WORDS[code]
    assert words in result.stderr


@pytest.mark.parametrize(
    ("answer", "requests", "words"),
    [
        (Answer(401, {"detail": "Could not validate."}), 1, "Could not validate"),
        (Answer(401, {"detail": {"error_code": "invalid_token"}}), 1, "no longer accepts"),
        (Answer(403, {"detail": "Not in this region."}), 1, "Not in this region."),
        (Answer(503, {"detail": "Route unavailable."}), 3, "Route unavailable."),
        (Answer(400, {"detail": "Unsupported parameter: user"}), 1, "parameter: user."),
        (
            Answer(422, {"detail": [{"loc": ["body", "input"], "type": "list_type"}]}),
            1,
            "body.input: list_type",
        ),
        (Answer(429, {"detail": "Slow down."}), 1, "Slow down."),
        (Answer(404, {"detail": "Not Found"}), 1, "Not Found"),
        (web_page(), 2, "Cloudflare"),
    ],
)
def test_other_refusals_are_explained(simulator, official, run_llm, answer, requests, words):
    simulator.always["official_responses"] = lambda request: answer
    result = run_llm("-m", MODEL, "hi")
    check_error(simulator, result, requests)
    assert words in result.stderr


def test_after_invalid_user_the_login_is_renewed_if_that_is_allowed(simulator, ask):
    sign_in_officially(simulator, "official", ago=3400)
    simulator.script("official_responses", plan_error(f"{SHARING}invalid_user"))
    assert ask("hi").text.startswith("This is answer 1")
    assert len(simulator.refreshes) == 1


def test_a_limit_is_final_but_an_outage_is_tried_again(simulator, official, ask):
    limit = plan_error(f"{SHARING}usage_limit_exceeded")
    # Even with this header it is not sent again.
    limit.headers["Retry-After"] = "0"
    simulator.script("official_responses", limit)
    with pytest.raises(plugin.UsageLimitReached) as caught:
        ask("hi")
    assert len(simulator.requests) == 1
    assert caught.value.code == f"{SHARING}usage_limit_exceeded"
    unavailable = plan_error(f"{SHARING}usage_unavailable")
    simulator.script("official_responses", unavailable)
    assert ask("hi").text


@pytest.mark.parametrize("kind", [None, "text/event-stream", "application/octet-stream"])
def test_a_stream_of_any_content_type_is_read(simulator, official, ask, kind):
    simulator.official.content_type = kind
    assert ask("hi").text.startswith("This is answer 1")
