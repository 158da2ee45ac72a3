"""The list of models: shown, fetched, stored, and updated in the background."""

from __future__ import annotations

import json
import re
import time

import llm
import pytest

from conftest import wait_for_models
from disk import fill_disk
from llm_chatgpt.backend import catalogue
from llm_chatgpt.backend.catalogue import models_file, models_to_register, stored_models
from llm_chatgpt.backend.endpoints import fetch_models
from simulator import Answer


def test_models_lists_the_accounts_models(simulator, signed_in, run_llm):
    result = run_llm("chatgpt", "models")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].startswith("MODEL")
    assert lines[1].split()[:2] == ["chatgpt-gpt-6.2-sol", "500,000"]
    assert "low medium high xhigh max ultra" in lines[1]
    assert lines[1].endswith("priority")
    assert lines[2] == "  GPT-6.2-Sol of the simulator"
    assert "codex-auto-review" not in result.stdout
    listing = run_llm("chatgpt", "models", "--all").stdout
    assert re.search(r"\nchatgpt-codex-auto-review .*\n  \(hidden\) Codex Auto Review", listing)
    data = json.loads(run_llm("chatgpt", "models", "--json").stdout)
    assert isinstance(data, list)
    assert data[0]["slug"] == "gpt-6.2-sol"
    assert data[0]["description"] == "GPT-6.2-Sol of the simulator"
    assert data[0]["reasoning_efforts"][0] == "low"
    # Fetched once, because no list was stored.
    assert len(simulator.seen("/codex/models")) == 1


def registered():
    return [model.model_id for model in llm.get_models() if model.model_id.startswith("chatgpt-")]


@pytest.mark.parametrize("description", [None, 7, "a\nb\x1b[2J" + "c" * 999])
def test_a_description_is_one_printable_line(simulator, signed_in, run_llm, description):
    simulator.models = [{**simulator.models[0], "description": description}]
    lines = run_llm("chatgpt", "models").stdout.splitlines()
    assert len(lines) == (3 if isinstance(description, str) else 2)
    assert all(len(line) <= 502 and line.isprintable() for line in lines)


def test_a_registered_model_stays_registered(simulator, signed_in, run_llm):
    nova = {**simulator.models[0], "slug": "gpt-7-nova"}
    simulator.models = [nova, simulator.models[1]]
    run_llm("chatgpt", "refresh")
    run_llm("-m", "chatgpt-gpt-7-nova", "hi")
    hidden = [{**model, "visibility": "hide"} for model in simulator.models]
    for models in (hidden, hidden[1:]):
        simulator.models = models
        run_llm("chatgpt", "refresh")
        assert "chatgpt-gpt-7-nova" in registered()
        # A built-in one, which was there before any list.
        assert f"chatgpt-{hidden[1]['slug']}" in registered()
    simulator.models = [nova]
    assert run_llm("-c", "more").exit_code == 0


def test_models_refresh_and_usage_need_a_login(simulator, run_llm):
    for command in ("models", "refresh", "usage"):
        result = run_llm("chatgpt", command)
        assert result.exit_code == 1
        assert "llm chatgpt login" in result.stderr
    assert simulator.requests == []


def test_refresh_lists_new_and_gone_models(simulator, signed_in, run_llm):
    first = run_llm("chatgpt", "refresh").stdout
    assert "New:  chatgpt-gpt-6-luna" in first
    again = run_llm("chatgpt", "refresh").stdout
    assert again == "10 models, no changes.\n"
    simulator.models = [{**simulator.models[0], "slug": "gpt-7"}, *simulator.models[1:]]
    changed = run_llm("chatgpt", "refresh").stdout
    assert changed.splitlines() == [
        "New:  chatgpt-gpt-7",
        "Gone: chatgpt-gpt-6.2-sol",
        "10 models.",
    ]


def test_after_a_401_refresh_and_usage_renew_the_login(simulator, signed_in, run_llm):
    for command in ("refresh", "usage"):
        simulator.expire_access_tokens()
        assert run_llm("chatgpt", command).exit_code == 0
    assert len(simulator.refreshes) == 2


def age_stored_list(hours=2.0):
    data = json.loads(models_file().read_text())
    for record in data["accounts"].values():
        record["tried_at"] = time.time() - hours * 3600
    models_file().write_text(json.dumps(data))


def test_a_changed_list_is_fetched_in_the_background(simulator, signed_in, ask):
    def ask_and_update(*args, **kwargs):
        text = ask(*args, **kwargs).text
        wait_for_models()
        return text

    fetch_models(signed_in)
    simulator.models = [{**simulator.models[0], "slug": "gpt-7"}, *simulator.models]
    ask_and_update("too soon")
    assert len(simulator.seen("/codex/models")) == 1
    age_stored_list()
    ask_and_update("hi")
    assert len(simulator.seen("/codex/models")) == 2
    assert ask_and_update("hi", slug="gpt-7")
    # An unchanged list is not fetched.
    age_stored_list()
    ask_and_update("hi")
    assert len(simulator.seen("/codex/models")) == 2


def test_a_failed_update_is_silent_and_not_repeated(simulator, signed_in, ask, caplog):
    fetch_models(signed_in)
    before = models_to_register()
    simulator.models = simulator.models[2:]
    age_stored_list()
    simulator.script("models", Answer(500))
    for _ in range(2):
        ask("hi")
        wait_for_models()
    assert len(simulator.seen("/codex/models")) == 2
    assert models_to_register() == before
    assert caplog.text == ""


def test_a_login_without_a_list_gets_one(simulator, signed_in, ask):
    ask("hi")
    wait_for_models()
    assert len(simulator.seen("/codex/models")) == 1
    assert stored_models(signed_in).find("gpt-6-luna")


def test_an_unreadable_model_list_is_an_error(simulator, signed_in, run_llm):
    simulator.script("models", Answer(200, {"nothing": 1}))
    result = run_llm("chatgpt", "refresh")
    assert result.exit_code == 1
    assert "Could not read the server's model list" in result.stderr
    simulator.script("models", Answer(drop=True))
    result = run_llm("chatgpt", "refresh")
    assert result.stderr.endswith("broke off. Check the network and try again.\n")


def test_a_list_that_cannot_be_stored_is_used(simulator, signed_in, monkeypatch, caplog):
    fill_disk(monkeypatch)
    assert fetch_models(signed_in).listed
    assert "could not save the model list" in caplog.text
    assert not list(catalogue.models_file().parent.glob("*.tmp"))
