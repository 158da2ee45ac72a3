"""Reasoning: summaries, hidden reasoning, and the effort."""

from __future__ import annotations

import llm
import pytest
from llm.parts import ReasoningPart

from conftest import kinds
from llm_chatgpt.backend.endpoints import fetch_models
from simulator import Say, Think


def test_summaries_stream_to_stderr_with_blank_lines_between(simulator, signed_in, run_llm):
    simulator.answer(Think(["one", "two"]), Think(["three"]), Say("Answer."))
    result = run_llm("-m", "chatgpt-gpt-6-luna", "hi")
    assert result.stdout == "Answer.\n"
    assert result.stderr == "one\n\ntwo\n\nthree\n"
    assert simulator.prompts[-1]["reasoning"] == {"summary": "auto"}


def test_each_reasoning_item_is_a_part_with_its_metadata(simulator, signed_in, ask):
    simulator.answer(Think(["one"]), Think(["two"]), Say("Answer."))
    parts = [p for p in ask("hi").parts if isinstance(p, ReasoningPart)]
    assert [part.text.strip() for part in parts] == ["one", "two"]
    contents = {p.provider_metadata["chatgpt"]["encrypted_content"] for p in parts}
    assert len(contents) == 2
    assert {p.provider_metadata["chatgpt"]["account"] for p in parts} == {signed_in.account_key}


def test_hidden_reasoning_has_no_summary_but_is_sent_back(simulator, signed_in, run_llm, ask):
    simulator.answer(Think(["one"]), Say("Answer."))
    result = run_llm("-m", "chatgpt-gpt-6-luna", "hi", "-R")
    assert result.stderr == ""
    assert "reasoning" not in simulator.prompts[-1]
    run_llm("-c", "more")
    assert "reasoning" in kinds(simulator.prompts[-1]["input"])
    ask("hi", reasoning_summary="none")
    assert "reasoning" not in simulator.prompts[-1]


@pytest.mark.parametrize("summary", ["auto", "concise", "detailed"])
def test_the_kind_of_summary_can_be_chosen(simulator, signed_in, ask, summary):
    ask("hi", reasoning_summary=summary)
    assert simulator.prompts[-1]["reasoning"] == {"summary": summary}


def test_a_model_without_summaries_is_not_asked_for_one(simulator, signed_in, ask):
    luna = next(model for model in simulator.models if model["slug"] == "gpt-6-luna")
    simulator.models = [{**luna, "supports_reasoning_summary_parameter": False}]
    fetch_models(signed_in)
    ask("hi")
    assert "reasoning" not in simulator.prompts[-1]


def test_a_refused_summary_is_left_out_of_the_second_attempt(simulator, signed_in, ask):
    simulator.refuses_summary = {"gpt-6-luna"}
    assert ask("hi", reasoning_effort="low").text
    first, second = simulator.prompts
    assert first["reasoning"] == {"effort": "low", "summary": "auto"}
    assert second["reasoning"] == {"effort": "low"}


@pytest.mark.parametrize(
    ("effort", "sent"),
    [("low", "low"), ("max", "max"), ("ultra", "max"), ("none", "none"), ("medium", "medium")],
)
def test_efforts_are_sent_and_ultra_as_max(simulator, signed_in, ask, effort, sent):
    fetch_models(signed_in)
    ask("hi", slug="gpt-6-sol", reasoning_effort=effort)
    assert simulator.prompts[-1]["reasoning"]["effort"] == sent


def test_an_effort_that_is_not_listed_is_refused_before_a_request(simulator, signed_in, ask):
    fetch_models(signed_in)
    with pytest.raises(llm.ModelError) as caught:
        ask("hi", reasoning_effort="huge")
    assert "Choose one of: none, low, medium, high, xhigh, max." in str(caught.value)
    assert simulator.prompts == []


def test_gpt_6_2_has_no_effort_none(simulator, signed_in, ask):
    fetch_models(signed_in)
    with pytest.raises(llm.ModelError, match=r"Choose one of: low, medium"):
        ask("hi", slug="gpt-6.2-sol", reasoning_effort="none")
    assert simulator.prompts == []


def test_without_a_fetched_list_the_service_names_the_efforts(simulator, signed_in, ask):
    with pytest.raises(llm.ModelError) as caught:
        ask("hi", reasoning_effort="minimal")
    assert "Supported values are: 'low', 'medium'" in str(caught.value)
    assert "Choose one with -o reasoning_effort" in str(caught.value)
    assert len(simulator.prompts) == 1


def test_a_listed_model_accepts_only_its_own_efforts(simulator, signed_in, ask):
    level = {"effort": "low", "description": ""}
    simulator.models = [
        {
            **simulator.models[0],
            "slug": "gpt-9",
            "supported_reasoning_levels": [level, {"effort": "xhigh"}],
        }
    ]
    fetch_models(signed_in)
    ask("hi", slug="gpt-9", reasoning_effort="xhigh")
    assert simulator.prompts[-1]["reasoning"]["effort"] == "xhigh"
    with pytest.raises(llm.ModelError, match=r"Choose one of: none, low, xhigh\."):
        ask("hi", slug="gpt-9", reasoning_effort="medium")
