"""The official route: sign-in, refresh, prompts, errors, sign-out."""

from __future__ import annotations

import threading

import pytest

import llm_chatgpt_oauth as plugin
from conftest import fetch, sign_in_officially


def browse(url):
    threading.Thread(target=fetch, args=(url,), daemon=True).start()


def sign_in(account=None, **options):
    return plugin.login_officially(account, show=lambda request: browse(request.url), **options)


def test_a_prompt_after_the_first_sign_in(simulator, ask):
    tokens = sign_in()
    assert tokens.email == "ada@example.com"
    assert ask("hi").text.startswith("This is answer 1")
    assert [r.path for r in simulator.requests if "/backend-api" in r.path] == []


def test_an_expired_login_is_renewed_before_the_prompt(simulator, ask):
    old = sign_in_officially(simulator, ago=3560)
    assert ask("hi").text.startswith("This is answer 1")
    paths = [request.path for request in simulator.requests]
    assert paths == ["/api/accounts/oauth/token", "/v1/responses"]
    new = plugin.load_tokens()
    assert new.refresh_token != old.refresh_token
    assert (new.kind, new.account_key) == ("official", old.account_key)


def test_a_login_is_not_renewed_before_its_time(simulator, ask):
    simulator.official.earliest_refresh_seconds = 10
    old = sign_in_officially(simulator, ago=3560)
    assert ask("hi").text.startswith("This is answer 1")
    assert [request.path for request in simulator.requests] == ["/v1/responses"]
    assert plugin.load_tokens() == old


def test_a_refused_login_is_not_renewed_before_its_time(simulator, ask):
    old = sign_in_officially(simulator)
    simulator.expire_access_tokens()
    with pytest.raises(
        plugin.ChatGPTError,
        match=r"renews this login in 5\d minutes .* at the earliest.*login --official",
    ):
        ask("hi")
    assert [request.path for request in simulator.requests] == ["/v1/responses"]
    assert plugin.load_tokens() == old


def test_a_refused_login_is_renewed_once_and_the_prompt_sent_again(simulator, ask):
    sign_in_officially(simulator, ago=3400)
    simulator.expire_access_tokens()
    assert ask("hi").text.startswith("This is answer 1")
    assert len(simulator.refreshes) == 1
    assert len(simulator.official_prompts) == 2


def multiply(a: int, b: int) -> int:
    return a * b


def test_tools_are_the_first_input_item(simulator, ask):
    sign_in_officially(simulator)
    ask.chain(ask.model(), 'multiply {"a": 6, "b": 7}', tools=[multiply])
    first, second = simulator.official_prompts
    assert "tools" not in first
    assert [tool["name"] for tool in first["input"][0]["tools"]] == ["multiply"]
    assert second["input"][0] == first["input"][0]
    assert second["input"][-1]["output"] == "42"
