"""The models that llm lists, and `chatgpt-default`."""

from __future__ import annotations

import re

import llm
import pytest

import llm_chatgpt_oauth as plugin
from conftest import logged, sign_in
from llm_chatgpt.backend import catalogue
from llm_chatgpt.backend.endpoints import fetch_models
from simulator import Account, Say, Stream, sse


def model_ids(run_llm):
    lines = run_llm("models", "list").stdout.splitlines()
    return [line.removeprefix("ChatGPT: ") for line in lines if line.startswith("ChatGPT: ")]


def test_a_login_fetches_the_list(simulator, run_llm, ask):
    simulator.approve_after_polls = 0
    fresh = {**simulator.models[0], "slug": "gpt-7-nova", "priority": 0}
    simulator.models = [fresh, *simulator.models]
    run_llm("chatgpt", "login")
    request = simulator.seen("/codex/models")[0]
    assert request.query["client_version"] == "1.0.0"
    assert model_ids(run_llm)[0] == "chatgpt-gpt-7-nova"
    assert ask("hi", slug="gpt-7-nova").text
    sent = len(simulator.requests)
    run_llm("models", "list")
    assert len(simulator.requests) == sent


def test_a_slug_once_listed_stays(simulator, signed_in, run_llm):
    simulator.models = [{**simulator.models[0], "slug": "gpt-7-nova"}]
    fetch_models(signed_in)
    simulator.models = [{**simulator.models[0], "slug": "gpt-8-nova"}]
    fetch_models(signed_in)
    assert {"chatgpt-gpt-7-nova", "chatgpt-gpt-8-nova"} <= set(model_ids(run_llm))


def test_the_lists_of_all_accounts_are_registered(simulator, signed_in, run_llm):
    simulator.models = [{**simulator.models[0], "slug": "gpt-7-nova"}]
    fetch_models(signed_in)
    other = plugin.Tokens(signed_in.access_token, account_id=None)
    simulator.require_account_header = False
    simulator.models = [{**simulator.models[0], "slug": "gpt-8-nova"}]
    fetch_models(other)
    assert {"chatgpt-gpt-7-nova", "chatgpt-gpt-8-nova"} <= set(model_ids(run_llm))
    data = catalogue.models_file().read_text()
    assert simulator.account.account_id not in data


def test_hidden_models_can_be_used_but_do_not_fill_the_list(simulator, signed_in, run_llm, ask):
    fetch_models(signed_in)
    listing = run_llm("chatgpt", "models", "--all").stdout
    hidden = re.findall(r"^chatgpt-(\S+) .*\n  \(hidden\)", listing, re.MULTILINE)
    assert "codex-auto-review" in hidden
    for command in (["models"], ["models", "list"], ["models", "list", "--options", "--async"]):
        listed = run_llm(*command).stdout
        assert "chatgpt-gpt-6.1-sol" in listed
        assert not re.search(r"chatgpt-(codex-auto-review|gpt-reserve)\b", listed)
    for slug in hidden:
        assert ask("hi", slug=slug).text
        assert slug in run_llm("models", "list", "-q", slug).stdout
        assert slug in run_llm("models", "list", "-m", f"chatgpt-{slug}").stdout


def test_a_setting_registers_more_models(simulator, signed_in, run_llm, ask, monkeypatch):
    models = "gpt-7-nova, chatgpt-codex-auto-review,,gpt-image-3,\x1b[2J"
    monkeypatch.setenv("LLM_CHATGPT_MODELS", models)
    fetch_models(signed_in)
    ids = model_ids(run_llm)
    for slug in ("gpt-7-nova", "codex-auto-review", "gpt-image-3"):
        assert ids.count(f"chatgpt-{slug}") == 1
    assert "\x1b" not in "".join(ids)
    simulator.account.extra_models = ("gpt-7-nova",)
    assert ask("hi", slug="gpt-7-nova").text
    with pytest.raises(llm.ModelError, match="gpt-image-3"):
        ask("hi", slug="gpt-image-3")


# The model chatgpt-default


def test_the_default_is_the_first_model_of_the_accounts_list(simulator, signed_in, ask):
    fetch_models(signed_in)
    answered = ask("hi", slug="default", reasoning_effort="max")
    assert simulator.prompts[0]["model"] == "gpt-6.2-sol"
    assert answered.response.resolved_model == "gpt-6.2-sol"
    with pytest.raises(llm.ModelError, match=r"gpt-6\.2-sol has no reasoning effort 'huge'"):
        ask("hi", slug="default", reasoning_effort="huge")
    simulator.models = [m for m in simulator.models if m["slug"] == "gpt-6-luna"]
    fetch_models(signed_in)
    model = ask.model("default")
    assert ask.finish(lambda: model.prompt("hi")).text
    assert simulator.prompts[-1]["model"] == "gpt-6-luna"


@pytest.mark.parametrize("models", [None, [], "hidden"])
def test_the_default_without_a_list_is_built_in(simulator, signed_in, ask, models):
    if models is not None:
        hidden = [m for m in simulator.models if m["visibility"] == "hide"]
        simulator.models = hidden if models else []
        fetch_models(signed_in)
    simulator.script("responses", Stream(list(simulator.frames([Say("Hi.")]))))
    assert ask("hi", slug="default").text == "Hi."
    assert simulator.prompts[0]["model"] == "gpt-6.1-sol"


def test_the_default_is_logged_with_the_model_that_answered(simulator, signed_in, run_llm):
    fetch_models(signed_in)
    # Some answers do not say which model they come from.
    text = sse({"type": "response.output_text.delta", "output_index": 0, "delta": "Hi."})
    simulator.script("responses", None, Stream([text, sse({"type": "response.completed"})]))
    for options in (["-m", "chatgpt-default"], ["-c"]):
        result = run_llm(*options, "hi", "-R")
        assert (result.exit_code, result.stderr) == (0, "")
        row = logged(run_llm)[0]
        assert (row["model"], row["resolved_model"]) == ("chatgpt-default", "gpt-6.2-sol")
    simulator.served_model = "gpt-6-luna"
    note = "Note: chatgpt-gpt-6-luna answered instead of chatgpt-gpt-6.2-sol.\n"
    assert run_llm("-m", "chatgpt-default", "hi", "-R").stderr == note


def test_each_account_has_its_own_default_model(simulator, signed_in, ask):
    fetch_models(signed_in)
    simulator.account = Account(email="bob@example.com", account_id="bob", plan="free")
    fetch_models(sign_in(simulator, "work"))
    ask("hi", slug="default", key="work")
    assert simulator.prompts[0]["model"] == "gpt-6.1-terra"


def test_a_part_that_the_default_model_refuses_is_sent_once(simulator, signed_in, ask):
    fetch_models(signed_in)
    simulator.refuses_summary = {"gpt-6.2-sol"}
    for _ in range(2):
        ask("hi", slug="default")
    summaries_requested = ["summary" in prompt.get("reasoning", {}) for prompt in simulator.prompts]
    assert summaries_requested == [True, False, False]


BUILT_IN = [
    *(f"chatgpt-{slug}" for slug in catalogue.BUILT_IN_MODELS),
    "chatgpt-default",
    *(f"chatgpt-{slug}" for slug in catalogue.IMAGE_MODELS),
]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 100_000,
        b'{"accounts": 7, "seen": 8}',
        b'{"accounts": {"a": {"models": 7}, "b": [], "c": {"models": [7, {"slug": ""}]}}}',
        b'{"accounts": {"a": {"models": [{"slug": "a\\u001b[2J"}]}}, "seen": [7, "", null]}',
    ],
)
def test_a_damaged_list_means_the_built_in_one(content, run_llm):
    llm.user_dir()
    catalogue.models_file().write_bytes(content)
    assert model_ids(run_llm) == BUILT_IN


def test_without_a_list_the_built_in_one_is_used(run_llm):
    assert model_ids(run_llm) == BUILT_IN


def test_odd_entries_are_read_as_far_as_possible():
    entry = {
        "slug": "x",
        "priority": "high",
        "supported_reasoning_levels": ["low", {"effort": "huge"}, 7, {}],
        "visibility": "none",
        "input_modalities": ["text"],
        "upgrade": "y",
        "context_window": None,
    }
    info = catalogue.parse_model(entry)
    assert info.efforts == ("low", "huge")
    assert info.hidden
    assert not info.takes_images
    assert info.upgrade == "y"
    assert catalogue.parse_model({"slug": 7}) is None
    assert catalogue.parse_model("x") is None
