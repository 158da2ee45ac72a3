"""Optional parts of a request, notes about an answer, and waiting for a limit to reset."""

from __future__ import annotations

import itertools
import json
import signal
import time

import llm
import pytest
from llm.default_plugins.openai_models import WebSearch

import llm_chatgpt_oauth as plugin
from conftest import expire, multiply, press_ctrl_c, sign_in, sign_in_officially, start_llm
from llm_chatgpt.backend.endpoints import fetch_models
from simulator import Call, Say, Stream, error_answer, sse, usage_limit
from terminal import Terminal, needs_pty

# The system prompt ----------------------------------------------------------------------


@pytest.mark.parametrize("slug", ["gpt-6-luna", "gpt-6.2-sol", "gpt-5.6-luna"])
def test_newer_models_get_the_system_prompt_as_a_message(simulator, signed_in, ask, slug):
    ask("hi", system="Be brief.", slug=slug)
    (body,) = simulator.prompts
    assert "instructions" not in body
    assert body["input"][0]["role"] == "developer"
    assert body["input"][0]["content"] == [{"type": "input_text", "text": "Be brief."}]


def test_a_model_that_needs_instructions_is_asked_without_them_once(simulator, signed_in, ask):
    simulator.demands_instructions = {"gpt-6-luna"}
    for _ in range(2):
        assert ask("hi", system="Be brief.").text
    ask("hi", system="Be brief.", slug="gpt-6-sol")
    instructions = [body.get("instructions") for body in simulator.prompts]
    assert instructions == [None, "Be brief.", "Be brief.", None]


def test_the_system_prompt_is_cached(simulator, signed_in, ask):
    conversation = ask.model().conversation()
    system = "A long system prompt. " * 200
    for text in ("one", "two"):
        answered = ask.finish(lambda text=text: conversation.prompt(text, system=system))
    details = answered.response.token_details
    assert details["input_tokens_details"]["cached_tokens"] > len(system) // 5


# Residency --------------------------------------------------------------------------------

REGION = "x-openai-internal-codex-residency"


def sign_in_with_regions(simulator, compute, data):
    simulator.account.compute_residency, simulator.account.data_residency = compute, data
    sign_in(simulator)


@pytest.mark.parametrize(
    ("compute", "data", "setting", "named"),
    [
        ("eu", "us", None, "eu"),
        ("no_constraint", "us", None, "us"),
        (None, None, None, None),
        ("no_constraint", None, None, None),
        ("no_constraint", None, "jp", "jp"),
        (None, None, "off", None),
    ],
)
def test_the_region_of_the_tokens_or_of_the_setting_is_sent(
    simulator, ask, monkeypatch, compute, data, setting, named
):
    sign_in_with_regions(simulator, compute, data)
    if setting:
        monkeypatch.setenv("LLM_CHATGPT_RESIDENCY", setting)
    ask("hi")
    assert simulator.seen("/codex/responses")[-1].headers.get(REGION) == named


def test_the_second_region_is_tried_once_and_remembered(simulator, ask):
    sign_in_with_regions(simulator, "eu", "us")
    refused = error_answer(401, None, "Workspace is not authorized in this region.")
    simulator.script("responses", refused)
    for _ in range(2):
        assert ask("hi").text
    regions = [request.headers.get(REGION) for request in simulator.seen("/codex/responses")]
    assert regions == ["eu", "us", "us"]
    assert simulator.refreshes == []


def test_the_error_of_a_refused_region_names_the_setting(simulator, ask):
    sign_in_with_regions(simulator, "eu", "us")
    refused = error_answer(401, None, "Workspace is not authorized in this region.")
    simulator.script("responses", refused, refused)
    with pytest.raises(plugin.RequestRefused) as caught:
        ask("hi")
    assert "LLM_CHATGPT_RESIDENCY" in caught.value.advice
    assert "eu, us" in caught.value.advice
    assert len(simulator.prompts) == 2
    assert simulator.refreshes == []


def test_no_region_is_sent_on_the_official_route(simulator, ask, monkeypatch):
    monkeypatch.setenv("LLM_CHATGPT_RESIDENCY", "eu")
    sign_in_officially(simulator, "default")
    ask("hi")
    assert REGION not in simulator.seen("/v1/responses")[-1].headers


# The output limit ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["max_tokens", "max_output_tokens"])
def test_an_output_limit_is_sent_and_its_effect_noted(simulator, signed_in, ask, caplog, name):
    simulator.answer(Say("word " * 200))
    answered = ask("hi", **{name: 10})
    assert simulator.prompts[0]["max_output_tokens"] == 10
    assert 0 < len(answered.text) < 900
    assert caplog.messages == ["The answer was cut short (max_output_tokens)."]


@pytest.mark.parametrize("name", ["max_tokens", "max_output_tokens"])
def test_a_refused_output_limit_is_left_out_and_noted(simulator, signed_in, ask, caplog, name):
    simulator.refused_parameters = {"max_output_tokens"}
    for _ in range(2):
        ask("hi", **{name: 1000})
    assert ["max_output_tokens" in body for body in simulator.prompts] == [True, False, False]
    note = f"Note: ignoring {name}; a ChatGPT login does not accept it."
    assert caplog.messages == [note] * 2


def test_no_output_limit_is_sent_on_the_official_route(simulator, ask, caplog):
    sign_in_officially(simulator, "default")
    ask("hi", max_tokens=1000)
    assert "max_output_tokens" not in simulator.official_prompts[0]
    assert caplog.messages == ["Note: ignoring max_tokens; a ChatGPT login does not accept it."]


def test_an_output_limit_below_one_is_refused(simulator, signed_in, run_llm):
    result = run_llm("-m", "chatgpt-gpt-6-luna", "hi", "-o", "max_tokens", "0")
    assert result.exit_code == 1
    assert "max_tokens must be a whole number above 0." in result.stderr


# Web search as an option -------------------------------------------------------------------


@pytest.mark.parametrize("tools", [[], [WebSearch()]])
def test_the_web_search_option_adds_the_tool_once(simulator, signed_in, ask, tools):
    ask("hi", web_search=True, tools=tools)
    assert [tool["type"] for tool in simulator.prompts[0]["tools"]] == ["web_search"]


def test_web_search_can_be_a_default_option(simulator, signed_in, run_llm):
    run_llm("models", "options", "set", "chatgpt-gpt-6-luna", "web_search", "true")
    assert run_llm("-m", "chatgpt-gpt-6-luna", "hi").exit_code == 0
    assert simulator.prompts[0]["tools"][0]["type"] == "web_search"


# Changes of the effort ------------------------------------------------------------------------


def updates_of(body):
    return [
        (place, item["reasoning"]["effort"])
        for place, item in enumerate(body["input"])
        if item.get("type") == "configuration_update"
    ]


def test_a_changed_effort_keeps_the_cache(simulator, signed_in, ask):
    fetch_models(signed_in)
    conversation = ask.model("gpt-6.1-sol").conversation()
    for effort in ("low", "high", None, "high", "high"):
        options = {"reasoning_effort": effort} if effort else {}
        answered = ask.finish(lambda o=options: conversation.prompt("A long question. " * 50, **o))
    bodies = simulator.prompts
    assert {body["reasoning"]["effort"] for body in bodies} == {"low"}
    for earlier, later in itertools.pairwise(bodies):
        before, after = (json.dumps(body["input"])[:-1] for body in (earlier, later))
        assert after.startswith(before)
    assert [effort for _, effort in updates_of(bodies[-1])] == ["high", "low", "high"]
    # An update is the last item of the first request that has it, and keeps its place.
    assert updates_of(bodies[1])[-1][0] == len(bodies[1]["input"]) - 1
    assert updates_of(bodies[4]) == updates_of(bodies[3])
    assert answered.response.token_details["input_tokens_details"]["cached_tokens"] > 500


def test_a_changed_effort_keeps_its_place_in_a_chain(simulator, signed_in, ask):
    fetch_models(signed_in)
    conversation = ask.model("gpt-6.1-sol").conversation()
    ask.finish(lambda: conversation.prompt("one", reasoning_effort="low"))
    simulator.answer(Call("multiply", {"a": 1, "b": 2}))
    simulator.answer(Say("2"))
    ask.chain(conversation, "two", tools=[multiply], options={"reasoning_effort": "high"})
    places = [updates_of(body) for body in simulator.prompts]
    assert [len(place) for place in places] == [0, 1, 1]
    assert places[1] == places[2]


def test_a_changed_effort_is_repeated_from_the_logs(simulator, signed_in, run_llm):
    fetch_models(signed_in)
    run_llm("-m", "chatgpt-gpt-6.1-sol", "one", "-o", "reasoning_effort", "low")
    run_llm("-c", "two", "-o", "reasoning_effort", "high")
    run_llm("-c", "three", "-o", "reasoning_effort", "high")
    bodies = simulator.prompts
    assert [body["reasoning"]["effort"] for body in bodies] == ["low"] * 3
    assert updates_of(bodies[1]) == updates_of(bodies[2]) != []


def test_a_model_without_updates_gets_the_new_effort(simulator, signed_in, ask):
    simulator.models = [
        {**model, "supports_reasoning_effort_updates": False} for model in simulator.models
    ]
    fetch_models(signed_in)
    conversation = ask.model("gpt-6.1-sol").conversation()
    for effort in ("low", "high"):
        ask.finish(lambda e=effort: conversation.prompt("hi", reasoning_effort=e))
    assert [body["reasoning"]["effort"] for body in simulator.prompts] == ["low", "high"]
    assert updates_of(simulator.prompts[1]) == []


@pytest.mark.parametrize("param", ["input[4].type", None])
def test_refused_updates_are_replaced_by_the_new_effort(simulator, signed_in, ask, param):
    fetch_models(signed_in)
    conversation = ask.model("gpt-6.1-sol").conversation()
    ask.finish(lambda: conversation.prompt("one", reasoning_effort="low"))
    refused = error_answer(
        400, "invalid_value", "Invalid value: 'configuration_update'.", param=param
    )
    simulator.script("responses", refused)
    for text in ("two", "three"):
        ask.finish(lambda text=text: conversation.prompt(text, reasoning_effort="high"))
    bodies = simulator.prompts
    assert [body["reasoning"]["effort"] for body in bodies] == ["low", "low", "high", "high"]
    assert [len(updates_of(body)) for body in bodies] == [0, 1, 0, 0]


# Notes about an answer -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "note"),
    [
        ("turn_boundary", []),
        ("model_mismatch", ["Note: OpenAI left out earlier reasoning (model_mismatch)."]),
        (None, ["Note: OpenAI left out earlier reasoning (no reason given)."]),
    ],
)
def test_a_note_says_why_reasoning_was_left_out(simulator, signed_in, ask, caplog, reason, note):
    removed = {"type": "reasoning", "action": "removed", "reason": reason}
    simulator.answer(Say("Hello."), input_transformations=[removed])
    answered = ask("hi")
    assert caplog.messages == note
    assert answered.json["input_transformations"][0]["action"] == "removed"


def test_the_call_of_a_custom_tool_is_noted(simulator, signed_in, ask, caplog):
    item = {"type": "custom_tool_call", "id": "ctc_1", "call_id": "c1", "name": "x", "input": "y"}
    frames = [
        sse({"type": "response.output_item.done", "output_index": 0, "item": item}),
        sse({"type": "response.completed", "response": {"model": "gpt-6-luna"}}),
    ]
    simulator.script("responses", Stream(frames))
    ask("hi")
    assert caplog.messages == ["Note: the model called a custom tool, which llm cannot run."]
    assert len(simulator.prompts) == 1


# Waiting for a limit to reset --------------------------------------------------------------------


@pytest.fixture
def slept(monkeypatch):
    """Let time pass only while a prompt sleeps. Returns the lengths of its sleeps."""
    lengths = []
    start = time.time()
    monkeypatch.setattr(time, "time", lambda: start + sum(lengths))
    monkeypatch.setattr("llm_chatgpt_oauth.time.sleep", lengths.append)

    async def sleep(seconds):
        lengths.append(seconds)

    monkeypatch.setattr("llm_chatgpt_oauth.asyncio.sleep", sleep)
    return lengths


@pytest.mark.parametrize("setting", ["1", "6h", "400m"])
def test_a_prompt_waits_for_the_reset(
    simulator, signed_in, ask, monkeypatch, caplog, slept, setting
):
    monkeypatch.setenv("LLM_CHATGPT_WAIT", setting)
    simulator.script("responses", usage_limit(resets_in_seconds=4 * 3600))
    assert ask("hi").text
    assert 4 * 3600 < sum(slept) < 4 * 3600 + 60
    assert max(slept) <= 60
    (line,) = caplog.messages
    assert line.startswith("The usage limit of your ChatGPT Plus plan is reached. It resets in 4")
    assert "LLM_CHATGPT_WAIT" in line


@pytest.mark.parametrize(
    ("setting", "limit"),
    [
        (None, {}),
        ("0", {}),
        ("6h", {"resets_in_seconds": 7 * 3600}),
        ("1", {"resets_in_seconds": None, "resets_at": None}),
    ],
)
def test_a_prompt_waits_only_as_long_as_the_setting_allows(
    simulator, signed_in, ask, monkeypatch, slept, setting, limit
):
    if setting:
        monkeypatch.setenv("LLM_CHATGPT_WAIT", setting)
    simulator.script("responses", usage_limit(**limit))
    with pytest.raises(plugin.UsageLimitReached) as caught:
        ask("hi")
    assert sum(slept) == 0
    seconds = limit.get("resets_in_seconds", 36640)
    assert caught.value.resets_at == (seconds and pytest.approx(time.time() + seconds, abs=60))


@pytest.mark.parametrize("setting", ["yes", "h", "-1", "1.5h", "1h 30m"])
def test_an_invalid_wait_setting_is_refused(simulator, signed_in, ask, monkeypatch, setting):
    monkeypatch.setenv("LLM_CHATGPT_WAIT", setting)
    simulator.script("responses", usage_limit())
    with pytest.raises(llm.ModelError, match=r"^LLM_CHATGPT_WAIT must be 0, 1 or a duration"):
        ask("hi")


def test_a_prompt_that_waits_looks_up_no_resets(simulator, signed_in, ask, monkeypatch, slept):
    monkeypatch.setenv("LLM_CHATGPT_WAIT", "1")
    simulator.bank_reset()
    simulator.script("responses", usage_limit())
    assert ask("hi").text
    assert not simulator.seen("/wham/usage")


def test_a_login_that_expires_during_the_wait_is_renewed(
    simulator, signed_in, ask, monkeypatch, slept
):
    monkeypatch.setenv("LLM_CHATGPT_WAIT", "1")
    expire(3600)
    simulator.script("responses", usage_limit(resets_in_seconds=4 * 3600))
    assert ask("hi").text
    assert len(simulator.refreshes) == 1
    first, second = simulator.seen("/codex/responses")
    assert (first.bearer, second.bearer) == (
        signed_in.access_token,
        plugin.load_tokens().access_token,
    )
    assert first.bearer != second.bearer


@needs_pty
@pytest.mark.parametrize(
    "arguments", [["hi"], ["--async", "hi"], ["chat"]], ids=["sync", "async", "chat"]
)
def test_a_terminal_counts_down_the_wait_until_ctrl_c(simulator, signed_in, monkeypatch, arguments):
    monkeypatch.setenv("LLM_CHATGPT_WAIT", "1")
    simulator.script("responses", usage_limit(resets_in_seconds=4 * 3600))
    terminal = Terminal(*arguments, "-m", "chatgpt-gpt-6-luna", columns=40)
    if arguments == ["chat"]:
        terminal.wait_for("> ")
        terminal.type("hi")
    terminal.wait_for(r"\. Waiting, because\s+LLM_CHATGPT_WAIT is set\.\.\.\r\n")
    terminal.wait_for(r"\rWaiting to try again, 4:00:0\d left \r")
    terminal.wait_for(r"\rWaiting to try again, 3:59:59 left \r")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.end() == 1
    assert "Traceback" not in terminal.screen
    # The countdown was erased.
    assert terminal.rows[-3:] == ["", "Aborted!", ""]


def test_ctrl_c_ends_the_wait(simulator, signed_in, monkeypatch):
    monkeypatch.setenv("LLM_CHATGPT_WAIT", "1")
    simulator.script("responses", usage_limit())
    process = start_llm("-m", "chatgpt-gpt-6-luna", "hi")
    assert "Waiting" in process.stderr.readline()
    out, err = press_ctrl_c(process)
    assert (out, "Traceback" in err, process.returncode) == ("", False, 1)
