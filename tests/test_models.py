"""Prompts through llm's own machinery, sync and async, against the simulator."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import uuid

import click
import llm
import pytest
import sqlite_utils
from llm.parts import AttachmentPart, ReasoningPart, TextPart

import llm_chatgpt_oauth as plugin
from conftest import assert_no_secrets, kinds, logged, start_llm, wait_until
from inputs import texts
from llm_chatgpt.backend.endpoints import fetch_models
from simulator import PNG, RETIRED, Answer, Call, Say, Stream, Think, error_answer, sse

# The request


def test_the_smallest_request(simulator, signed_in, ask):
    answered = ask("hi")
    assert answered.text == "This is answer 1. You said: hi"
    body = simulator.prompts[0]
    assert body["model"] == "gpt-6-luna"
    assert "instructions" not in body
    assert body["store"] is False
    assert body["stream"] is True
    assert body["include"] == ["reasoning.encrypted_content"]
    assert body["input"] == [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}
    ]


def test_headers_name_the_account_and_the_plugin(simulator, signed_in, ask, monkeypatch):
    ask("hi")
    headers = simulator.seen("/codex/responses")[0].headers
    assert headers["authorization"] == f"Bearer {signed_in.access_token}"
    assert headers["chatgpt-account-id"] == simulator.account.account_id
    assert headers["originator"] == "llm_chatgpt_oauth"
    assert headers["user-agent"].startswith("llm-chatgpt-oauth/0.")
    assert "llm/" in headers["user-agent"]
    assert headers["accept"] == "text/event-stream"
    assert "version" not in headers
    assert "x-openai-fedramp" not in headers
    assert uuid.UUID(headers["session-id"])
    monkeypatch.setenv("LLM_CHATGPT_ORIGINATOR", "codex_cli_rs")
    monkeypatch.setenv("LLM_CHATGPT_CLIENT_VERSION", "0.169.0")
    ask("hi")
    headers = simulator.seen("/codex/responses")[1].headers
    assert (headers["originator"], headers["version"]) == ("codex_cli_rs", "0.169.0")


def test_a_government_account_sends_the_fedramp_header(simulator, ask):
    simulator.account.fedramp = True
    plugin.login(show=lambda code: simulator.approve(code.user_code))
    assert ask("hi").text
    assert simulator.seen("/codex/responses")[0].headers["x-openai-fedramp"] == "true"


def test_an_organizations_id_is_never_sent(simulator, ask):
    plugin.store_tokens(
        plugin.Tokens(simulator.sign_in()["access_token"], "rt", account_id="org-1")
    )
    simulator.require_account_header = False
    assert ask("hi").text
    assert "chatgpt-account-id" not in simulator.seen("/codex/responses")[0].headers


def test_every_built_in_model_is_registered(simulator, signed_in, run_llm):
    listed = run_llm("models", "list", "-q", "chatgpt-gpt").stdout
    slugs = [line.split("chatgpt-")[1] for line in listed.splitlines() if "ChatGPT:" in line]
    offered = {m["slug"] for m in simulator.models if m["visibility"] == "list"}
    assert set(slugs) == {
        *offered,
        "gpt-5.5",
        "gpt-5.3-codex",
        "gpt-5.2-codex",
        "gpt-5.2",
        "gpt-5.1-codex-max",
        "gpt-5.1-codex",
        "gpt-5.1-codex-mini",
        "gpt-reserve",
        "gpt-image-2",
        "gpt-image-2.5-flare",
        "gpt-image-2.5-sunburst",
    }
    for slug in slugs:
        assert llm.get_async_model(f"chatgpt-{slug}").model_id == f"chatgpt-{slug}"
    assert simulator.requests == []


def test_attachments_become_parts_in_their_order(simulator, signed_in, ask):
    image = llm.Attachment(type="image/png", content=PNG)
    ask(messages=[llm.user("before", AttachmentPart(image), TextPart("after"))])
    types = [part["type"] for part in simulator.prompts[0]["input"][0]["content"]]
    assert types == ["input_text", "input_image", "input_text"]


def test_empty_prompts_are_answered(simulator, signed_in, ask):
    assert ask("").text
    assert ask("").text


# System prompts


def test_a_system_prompt_is_the_first_message(simulator, signed_in, ask):
    ask("hi", system="Speak French.")
    body = simulator.prompts[0]
    assert "instructions" not in body
    assert kinds(body["input"]) == ["developer", "user"]
    assert texts(body["input"][0]) == ["Speak French."]


def test_older_models_get_a_system_prompt_as_instructions(simulator, signed_in, ask):
    ask("hi", slug="gpt-5.2-codex")
    ask("hi", slug="gpt-5.2-codex", system="Speak French.")
    instructions = [body["instructions"] for body in simulator.prompts]
    assert instructions == ["You are a helpful assistant.", "Speak French."]
    assert [len(body["input"]) for body in simulator.prompts] == [1, 1]


def test_a_system_prompt_comes_before_the_messages(simulator, signed_in, ask):
    ask(messages=[llm.user("hi")], system="Speak French.")
    body = simulator.prompts[0]
    assert kinds(body["input"]) == ["developer", "user"]
    assert texts(body["input"][0]) == ["Speak French."]


def test_two_system_prompts_at_the_beginning_are_one_message(simulator, signed_in, ask):
    ask(messages=[llm.system("Be brief."), llm.user("hi")], system="Speak French.")
    body = simulator.prompts[0]
    assert kinds(body["input"]) == ["developer", "user"]
    assert [texts(item)[0] for item in body["input"]] == ["Be brief.\n\nSpeak French.", "hi"]


def test_later_system_messages_stay_in_their_place(simulator, signed_in, ask):
    ask(
        messages=[
            llm.system("Be brief."),
            llm.user("one"),
            llm.assistant("two"),
            llm.system("Now in French."),
            llm.user("three"),
        ]
    )
    body = simulator.prompts[0]
    assert kinds(body["input"]) == ["developer", "user", "assistant", "developer", "user"]
    assert texts(body["input"][0]) == ["Be brief."]


# Conversations


def test_a_conversation_sends_its_history(simulator, signed_in, ask):
    simulator.answer(Think(["Hm."]), Say("First."))
    conversation = ask.model().conversation()
    first = ask.finish(lambda: conversation.prompt("one"))
    ask.finish(lambda: conversation.prompt("two"))
    items = simulator.prompts[1]["input"]
    assert kinds(items) == ["user", "reasoning", "assistant", "user"]
    assert items[1]["encrypted_content"].startswith("gAAAA")
    assert items[1]["summary"] == [{"type": "summary_text", "text": "Hm."}]
    assert "id" not in items[1]
    assert items[2]["content"] == [{"type": "output_text", "text": "First."}]
    reasoning = next(p for p in first.parts if isinstance(p, ReasoningPart))
    assert reasoning.text == "Hm."


def test_reasoning_and_messages_are_sent_back_in_order(simulator, signed_in, ask):
    simulator.answer(Think(["a"]), Say("One."), Think(["b"]), Say("Two."))
    conversation = ask.model().conversation()
    ask.finish(lambda: conversation.prompt("go"))
    ask.finish(lambda: conversation.prompt("on"))
    items = simulator.prompts[1]["input"]
    assert kinds(items) == ["user", "reasoning", "assistant", "reasoning", "assistant", "user"]


def test_a_conversation_continues_in_later_commands(simulator, signed_in, run_llm):
    simulator.answer(Think(["Hm."]), Say("First."))
    for prompt in ("one", "two", "three"):
        options = ["-m", "chatgpt-gpt-6-luna"] if prompt == "one" else ["-c"]
        assert run_llm(*options, prompt).exit_code == 0
    first, second, third = simulator.prompts
    assert len(third["input"]) == 7
    assert third["input"][: len(second["input"])] == second["input"]
    assert second["input"][: len(first["input"])] == first["input"]
    sessions = {request.headers["session-id"] for request in simulator.seen("/codex/responses")}
    assert len(sessions) == 1
    assert {body["prompt_cache_key"] for body in simulator.prompts} == sessions


def test_a_chat_sends_its_history_over_one_connection(simulator, signed_in, run_llm):
    # Otherwise the list of models is fetched after the first answer, over its connection.
    run_llm("chatgpt", "refresh")
    result = run_llm("chat", "-m", "chatgpt-gpt-6-luna", input="one\ntwo\nquit\n")
    assert result.exit_code == 0
    assert "This is answer 2. You said: two" in result.stdout
    assert len(simulator.prompts[1]["input"]) == 4
    assert len({r.connection for r in simulator.seen("/codex/responses")}) == 1


def test_a_reply_without_a_conversation_has_the_same_session(simulator, signed_in):
    first = llm.get_model("chatgpt-gpt-6-luna").prompt("one")
    second = first.reply("two")
    assert second.text() == "This is answer 2. You said: two"
    sessions = [request.headers["session-id"] for request in simulator.seen("/codex/responses")]
    assert sessions[0] == sessions[1]


def test_reasoning_of_another_account_is_left_out(simulator, signed_in, ask):
    simulator.answer(Think(["Hm."]), Say("First."))
    conversation = ask.model().conversation()
    ask.finish(lambda: conversation.prompt("one"))
    simulator.account.account_id = "another-account"
    plugin.login(show=lambda code: simulator.approve(code.user_code))
    ask.finish(lambda: conversation.prompt("two"))
    assert [item["type"] for item in simulator.prompts[1]["input"]] == ["message"] * 3


def test_reasoning_that_the_server_cannot_read_is_left_out(simulator, signed_in, ask):
    simulator.answer(Think(["Hm."]), Say("First."))
    conversation = ask.model().conversation()
    ask.finish(lambda: conversation.prompt("one"))
    simulator.reasoning.origins.clear()
    assert ask.finish(lambda: conversation.prompt("two")).text
    assert len(simulator.prompts) == 3
    assert "reasoning" not in [item["type"] for item in simulator.prompts[2]["input"]]


# Usage, logs and notices


def test_usage_model_and_raw_answer_are_recorded(simulator, signed_in, ask):
    simulator.answer(Think(["Hm."]), Say("Answer."))
    answered = ask("hi")
    response = answered.response
    assert response.input_tokens > 0
    assert response.output_tokens == 65
    assert response.token_details["output_tokens_details"] == {"reasoning_tokens": 64}
    assert response.resolved_model == "gpt-6-luna"
    for name in ("instructions", "tools", "safety_identifier", "user"):
        assert name not in answered.json
    assert "attribution" not in answered.json["usage"]
    assert answered.json["status"] == "completed"
    assert [item["type"] for item in answered.json["output"]] == ["reasoning", "message"]
    assert "encrypted_content" not in json.dumps(answered.json)


def test_llm_shows_and_logs_usage_model_and_json(simulator, signed_in, run_llm):
    simulator.answer(Think(["Hm."]), Say("Answer."))
    result = run_llm("-m", "chatgpt-gpt-6-luna", "hi", "-u")
    assert result.stdout == "Answer.\n"
    assert "Hm." in result.stderr
    assert "Token usage: " in result.stderr
    row = logged(run_llm)[0]
    assert row["response"] == "Answer."
    assert row["model"] == "chatgpt-gpt-6-luna"
    assert row["resolved_model"] == "gpt-6-luna"
    assert row["input_tokens"] > 0
    response_json = row["response_json"]
    response_json = json.loads(response_json) if isinstance(response_json, str) else response_json
    assert response_json["status"] == "completed"
    printed = run_llm("-m", "chatgpt-gpt-6-luna", "hi", "--json")
    assert json.loads(printed.stdout)[0]["response"].startswith("This is answer 1")


def test_repeated_parts_of_answers_are_logged_by_name(simulator, signed_in, run_llm):
    """Stored logs refer to these names, so they must never change."""
    run_llm("-m", "chatgpt-gpt-6-luna", "hi")
    database = sqlite_utils.Database(run_llm("logs", "path").stdout.strip())
    names = set(re.findall(r"m\.\w+", "\n".join(database.conn.iterdump())))
    assert {f"m.chatgpt_{name}_0" for name in ("envelope", "text", "tool_usage")} <= names
    row = logged(run_llm)[0]
    assert row["response_json"]["tool_usage"]["web_search"] == {"num_requests": 0}


def test_the_raw_answer_is_logged_without_null_fields(simulator, signed_in, ask):
    answer = {"a": None, "b": [{"d": 1}]}
    end = sse({"type": "response.completed", "response": answer})
    simulator.script("responses", *[Stream([end])] * 2)
    assert ask("hi").json == {"b": [{"d": 1}], "output": []}


def test_nothing_secret_is_logged(simulator, signed_in, run_llm):
    simulator.answer(Think(["Hm."]), Call("llm_version", {}))
    run_llm("-m", "chatgpt-gpt-6-luna", "hi", "-T", "llm_version")
    path = run_llm("logs", "path").stdout.strip()
    dump = "\n".join(sqlite_utils.Database(path).conn.iterdump())
    assert_no_secrets(simulator, dump)
    assert simulator.account.email not in dump
    assert simulator.account.account_id not in dump
    assert signed_in.account_key in dump


def test_no_stream_prints_the_answer_to_a_piped_prompt(simulator, signed_in, run_llm):
    result = run_llm("-m", "chatgpt-gpt-6-luna", "--no-stream", input="from a pipe")
    assert result.stdout == "This is answer 1. You said: from a pipe\n"


def test_async_on_the_command_line(simulator, signed_in, run_llm):
    result = run_llm("-m", "chatgpt-gpt-6-luna", "hi", "--async")
    assert result.stdout == "This is answer 1. You said: hi\n"


def test_another_model_than_requested_is_noted(simulator, signed_in, run_llm):
    simulator.served_model = "gpt-6-luna-2026-11-01"
    result = run_llm("-m", "chatgpt-gpt-6-luna", "hi", "-R")
    assert result.stderr == ""
    simulator.served_model = "gpt-5.6-luna"
    result = run_llm("-m", "chatgpt-gpt-6-luna", "hi", "-R")
    assert result.stderr == ("Note: chatgpt-gpt-5.6-luna answered instead of chatgpt-gpt-6-luna.\n")
    simulator.served_model = "gpt-7-secret"
    result = run_llm("-m", "chatgpt-gpt-6-luna", "hi", "-R")
    # Without the prefix, because -m does not know this model.
    assert result.stderr == "Note: gpt-7-secret answered instead of chatgpt-gpt-6-luna.\n"
    simulator.served_model = "gpt-5.6-luna"
    run_llm("-m", "chatgpt-gpt-6-luna", "hi")
    row = logged(run_llm)[0]
    assert row["resolved_model"] == "gpt-5.6-luna"


def test_in_a_library_notices_go_to_logging(simulator, signed_in, ask, caplog, capsys):
    simulator.served_model = "gpt-5.6-luna"
    ask("hi")
    assert "answered instead" in caplog.text
    assert capsys.readouterr().err == ""


# Errors


def test_errors_are_errors_of_llm_and_of_click(simulator, signed_in, ask):
    simulator.script("responses", error_answer(400, "invalid_prompt", "Bad."))
    with pytest.raises(llm.ModelError) as caught:
        ask("hi")
    assert isinstance(caught.value, click.ClickException)


def test_an_error_is_one_line_in_prompt_and_in_chat(simulator, signed_in, run_llm):
    refusal = Answer(400, {"detail": "Unsupported parameter: x"})
    simulator.script("responses", refusal, refusal)
    prompt = run_llm("-m", "chatgpt-gpt-6-luna", "hi")
    assert prompt.exit_code == 1
    assert prompt.stderr.startswith(
        "Error: OpenAI refused the request: Unsupported parameter: x. [request "
    )
    assert len(prompt.stderr.splitlines()) == 1
    chat = run_llm("chat", "-m", "chatgpt-gpt-6-luna", input="hi\n")
    assert chat.exit_code == 1
    assert "Error: OpenAI refused the request" in chat.stderr
    assert "Traceback" not in chat.stderr


@pytest.mark.parametrize("command", [["prompt", "hi"], ["chat"]])
def test_llm_raise_errors_shows_the_traceback(simulator, signed_in, command):
    simulator.script("responses", Answer(400, {"detail": "Unsupported parameter: x"}))
    done = subprocess.run(
        [sys.executable, "-m", "llm", *command, "-m", "chatgpt-gpt-6-luna"],
        env=os.environ | {"LLM_RAISE_ERRORS": "1"},
        input="hi\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr
    assert "RequestRefused" in done.stderr
    assert_no_secrets(simulator, done.stderr)


def test_a_retired_model_names_its_successor(simulator, signed_in, ask):
    simulator.account.extra_models = ()
    assert RETIRED.fullmatch("gpt-5.2-codex")
    with pytest.raises(llm.ModelError) as caught:
        ask("hi", slug="gpt-5.2-codex")
    words = str(caught.value)
    assert "'gpt-5.2-codex' model is not supported when using Codex with a ChatGPT" in words
    assert 'Run: llm -m chatgpt-gpt-6.1-sol "prompt"' in words


@pytest.mark.parametrize("stored", [False, True])
def test_a_retired_models_successor_is_one_that_the_account_has(simulator, signed_in, ask, stored):
    simulator.models = [m for m in simulator.models if m["slug"] != "gpt-6-sol"]
    if stored:
        fetch_models(signed_in)
    with pytest.raises(llm.ModelError) as caught:
        ask("hi", slug="gpt-5.5")
    successor = "gpt-6.2-sol" if stored else "gpt-6-sol"
    assert f'Run: llm -m chatgpt-{successor} "prompt"' in str(caught.value)


def test_the_catalogues_successor_comes_first(simulator, signed_in, ask):
    detail = "The 'gpt-5.6-luna' model is not supported when using Codex with a ChatGPT account."
    simulator.script("responses", Answer(400, {"detail": detail}))
    with pytest.raises(llm.ModelError, match="Run: llm -m chatgpt-gpt-6-luna"):
        ask("hi", slug="gpt-5.6-luna")


def test_after_a_login_the_first_listed_model_is_suggested(simulator, ask, run_llm):
    simulator.approve_after_polls = 0
    simulator.models = [m for m in simulator.models if m["slug"] in ("gpt-6-luna", "gpt-5.6-sol")]
    simulator.account.extra_models = ()
    run_llm("chatgpt", "login")
    with pytest.raises(llm.ModelError) as caught:
        ask("hi", slug="gpt-5.2-codex")
    assert 'Run: llm -m chatgpt-gpt-6-luna "prompt"' in str(caught.value)


# Threads and tasks


def test_threads_share_a_model(simulator, signed_in):
    from concurrent.futures import ThreadPoolExecutor

    model = llm.get_model("chatgpt-gpt-6-luna")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: model.prompt(f"p{n}").text(), range(40)))
    assert [answer.rsplit(" ", 1)[1] for answer in answers] == [f"p{n}" for n in range(40)]


def test_a_hundred_prompts_at_once_get_their_own_answers(simulator, signed_in, recwarn):
    async def run():
        model = llm.get_async_model("chatgpt-gpt-6-luna")
        return await asyncio.gather(*(model.prompt(f"p{n}").text() for n in range(100)))

    answers = asyncio.run(run())
    assert [answer.rsplit(" ", 1)[1] for answer in answers] == [f"p{n}" for n in range(100)]
    assert len({r.connection for r in simulator.seen("/codex/responses")}) <= 100
    assert [str(w.message) for w in recwarn if w.category is ResourceWarning] == []


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("options", [[], ["--async"], ["--no-stream"]])
def test_ctrl_c_during_an_answer_shows_no_traceback(simulator, signed_in, options):
    frames = list(simulator.frames([Say("Some text that comes slowly")]))[:-4]
    simulator.script("responses", Stream(frames, end="open"))
    process = start_llm("-m", "chatgpt-gpt-6-luna", "hi", *options)
    if "--no-stream" in options:
        wait_until(lambda: simulator.prompts)
    else:
        assert process.stdout.read(4) == "Some"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 1
    # Before 3.11 asyncio.run, which llm calls, reports a task that Ctrl-C hit in mid-step.
    if sys.version_info >= (3, 11) or "--async" not in options:
        assert "Traceback" not in err
