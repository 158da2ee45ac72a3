"""No token is in any output, log or traceback, and no server can control the terminal."""

from __future__ import annotations

import logging
import re
import traceback

import llm
import pytest

import llm_chatgpt_oauth as plugin
from conftest import assert_no_secrets, expire
from llm_chatgpt.backend.endpoints import fetch_models
from simulator import Answer, Say, error_answer


def traceback_of(error):
    return "".join(traceback.format_exception(type(error), error, error.__traceback__))


@pytest.mark.parametrize(
    "fault",
    [
        Answer(400, {"detail": "Unsupported parameter: x"}),
        Answer(drop=True),
        error_answer(401, "token_expired"),
        Answer(500, "<html>"),
    ],
)
def test_no_token_in_a_traceback(simulator, signed_in, ask, short_pauses, fault):
    simulator.script("responses", *[fault] * 6)
    with pytest.raises(llm.ModelError) as caught:
        ask("hi")
    assert_no_secrets(simulator, traceback_of(caught.value))
    assert simulator.account.account_id not in traceback_of(caught.value)


def test_each_browser_login_has_its_own_secrets():
    first, second = plugin.BrowserLogin(1455), plugin.BrowserLogin(1455)
    assert first.state != second.state
    assert first.code_verifier != second.code_verifier
    assert first.code_verifier not in repr(first) + first.url
    assert first.state not in repr(first)


@pytest.mark.parametrize("endpoint", ["usercode", "device_token", "token"])
@pytest.mark.parametrize("fault", [Answer(400, {"error": "odd"}), Answer(drop=True)])
def test_no_code_in_a_login_error(simulator, endpoint, fault):
    simulator.script(endpoint, *[fault] * 3)
    code = None

    def show(device_code):
        nonlocal code
        code = device_code
        simulator.approve(device_code.user_code)

    try:
        plugin.login(show=show, wait=lambda seconds, left: None)
    except plugin.LoginFailed as error:
        text = traceback_of(error)
        if code:
            assert code.device_auth_id not in text
            assert code.user_code not in text
        for request in simulator.seen("/oauth/token"):
            assert request.body["code"] not in text
            assert request.body["code_verifier"] not in text
    else:
        assert endpoint == "device_token"


def test_no_token_in_debug_logging(simulator, caplog):
    caplog.set_level(logging.DEBUG)
    plugin.login(show=lambda code: simulator.approve(code.user_code))
    plugin.store_tokens(expire())
    simulator.answer(Say("Answer."))
    model = llm.get_model("chatgpt-gpt-6-luna")
    assert model.prompt("hi").text() == "Answer."
    assert "httpcore" in caplog.text or "httpx" in caplog.text
    assert_no_secrets(simulator, caplog.text)
    for request in simulator.seen("/oauth/token"):
        for secret in ("code", "code_verifier", "refresh_token"):
            if secret in request.body:
                assert request.body[secret] not in caplog.text
    assert simulator.account.account_id not in caplog.text
    assert simulator.account.email not in caplog.text


def test_no_token_on_any_output(simulator, signed_in, run_llm):
    outputs = []
    commands = ("status", "status --json", "models", "usage", "usage --json", "refresh")
    for command in (
        *(f"chatgpt {name}" for name in commands),
        "-m chatgpt-gpt-6-luna hi -u",
        "logs --json",
        "chatgpt logout",
    ):
        outputs.append(run_llm(*command.split()).output)
    assert_no_secrets(simulator, "\n".join(outputs))


def test_a_hostile_account_cannot_control_the_terminal(simulator, run_llm):
    simulator.account.email = "\x1b[31mred\x07@example.com"
    simulator.account.plan = "pl\x1bus"
    simulator.approve_after_polls = 0
    simulator.models = [
        {**simulator.models[0], "supported_reasoning_levels": ["lo\x1bw"]},
        {**simulator.models[1], "slug": "evil\x1b[2J"},
    ]
    text = run_llm("chatgpt", "login").output + run_llm("chatgpt", "status").output
    text += run_llm("chatgpt", "models").output
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)


def test_a_models_answer_is_passed_on_unchanged(simulator, signed_in, ask):
    simulator.answer(Say("\x1b[1mbold\x1b[0m \u202e"))
    assert ask("hi").text == "\x1b[1mbold\x1b[0m \u202e"


@pytest.mark.parametrize("name", ["LLM_CHATGPT_ORIGINATOR", "LLM_CHATGPT_CLIENT_VERSION"])
@pytest.mark.parametrize("value", ["n\u00e4me", "two\nlines", " ", "\x7f"])
def test_values_that_fit_no_header_are_refused(simulator, signed_in, ask, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(plugin.ChatGPTError, match="cannot be sent") as caught:
        ask("hi")
    assert "\n" not in str(caught.value)
    assert_no_secrets(simulator, traceback_of(caught.value))
    assert simulator.requests == []


def test_a_token_that_fits_no_header_is_refused_and_not_shown(simulator, ask):
    plugin.store_tokens(plugin.Tokens("hush-hush\ntoken", "rt", expires_at=4e9))
    with pytest.raises(plugin.ChatGPTError) as caught:
        ask("hi")
    assert "\n" not in str(caught.value)
    assert "hush-hush" not in traceback_of(caught.value)
    assert simulator.requests == []


@pytest.mark.parametrize("upgrade", ["evil\x1b[2J", {"model": "evil\x1b[2J"}, {"model": 7}, 7])
def test_the_name_of_a_models_successor_cannot_control_the_terminal(
    simulator, signed_in, ask, upgrade
):
    simulator.models = [{**simulator.models[0], "upgrade": upgrade}]
    slug = simulator.models[0]["slug"]
    fetch_models(signed_in)
    detail = f"The '{slug}' model is not supported when using Codex with a ChatGPT account."
    simulator.script("responses", Answer(400, {"detail": detail}))
    with pytest.raises(llm.ModelError) as caught:
        ask("hi", slug=slug)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "\x1b[2J\u202eNo", "code": "\x1b[2J", "type": "\x1b[1m"}},
        {"error": {"type": "usage_limit_reached", "plan_type": "\x1b[2J"}},
        {"detail": [{"loc": ["\x1b[2J"], "msg": "\x07"}]},
    ],
)
def test_no_error_answer_can_control_the_terminal(simulator, signed_in, ask, body):
    # A terminal reads \x9b as \x1b[, and a header can contain it.
    headers = {"x-request-id": "\x9b2J", "x-codex-limit-name": "\x9b2J"}
    simulator.script("responses", Answer(400, body, headers))
    with pytest.raises(llm.ModelError) as caught:
        ask("hi")
    assert str(caught.value).endswith("[request \N{REPLACEMENT CHARACTER}2J]")
    assert str(caught.value).isprintable()
