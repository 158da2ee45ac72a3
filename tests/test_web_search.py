"""Web searches: the tool in the request, the results, and the items in later requests."""

from __future__ import annotations

import llm
import pytest
from llm.default_plugins.openai_models import WebSearch
from llm.parts import TextPart, ToolCallPart, ToolResultPart

from conftest import kinds
from simulator import Say, Search, Think


def test_llms_own_web_search_is_sent_recorded_and_sent_back(simulator, signed_in, ask):
    citation = {
        "type": "url_citation",
        "url": "https://a.example",
        "title": "A",
        "start_index": 0,
        "end_index": 5,
    }
    simulator.answer(
        Think(["Search."]),
        Search("pelicans", ["https://a.example"]),
        Say("Found.", annotations=[citation]),
    )
    conversation = ask.model().conversation()
    tool = WebSearch(
        allowed_domains=["example.com"],
        user_location={"country": "DE"},
        search_context_size="low",
        external_web_access=True,
        search_content_types=["text"],
    )
    answered = ask.finish(lambda: conversation.prompt("search pelicans", tools=[tool]))
    body = simulator.prompts[-1]
    assert body["tools"] == [
        {
            "type": "web_search",
            "filters": {"allowed_domains": ["example.com"]},
            "user_location": {"country": "DE", "type": "approximate"},
            "search_context_size": "low",
            "external_web_access": True,
            "search_content_types": ["text"],
        }
    ]
    assert "web_search_call.action.sources" in body["include"]
    call = next(part for part in answered.parts if isinstance(part, ToolCallPart))
    assert call.server_executed
    assert call.name == "web_search"
    assert call.arguments["query"] == "pelicans"
    assert call.arguments["sources"] == [{"type": "url", "url": "https://a.example"}]
    result = next(part for part in answered.parts if isinstance(part, ToolResultPart))
    assert result.server_executed
    assert "https://a.example" in result.output
    text = next(part for part in answered.parts if isinstance(part, TextPart))
    assert text.provider_metadata == {
        "chatgpt": {"phase": "final_answer", "annotations": [citation]}
    }
    assert answered.response._tool_calls == []

    ask.finish(lambda: conversation.prompt("again", tools=[tool]))
    items = simulator.prompts[-1]["input"]
    assert kinds(items) == ["user", "reasoning", "web_search_call", "assistant", "user"]
    assert items[2] == {
        "type": "web_search_call",
        "status": "completed",
        "action": {"type": "search", "query": "pelicans", "queries": ["pelicans"]},
    }


@pytest.mark.parametrize(
    ("tool", "name"),
    [
        (WebSearch(blocked_domains=["x.example"]), "blocked_domains"),
        (WebSearch(return_token_budget="default"), "return_token_budget"),
        (WebSearch(image_settings={"max_results": 1}), "image_settings"),
        (WebSearch(include_results=True), r"web_search_call\.results"),
    ],
)
def test_the_error_of_a_refused_setting_quotes_the_service(simulator, signed_in, ask, tool, name):
    with pytest.raises(llm.ModelError, match=f"^OpenAI refused the request: .*{name}"):
        ask("search", tools=[tool])
    assert len(simulator.prompts) == 1


def test_hosted_tools_work_on_the_command_line(simulator, signed_in, run_llm):
    result = run_llm("-m", "chatgpt-gpt-6-luna", "search pelicans", "-T", "WebSearch", "-R")
    assert result.stdout == "Found it.\n"
    spec = 'ServerSideTool({"spec": {"type": "web_search"}})'
    result = run_llm("-m", "chatgpt-gpt-6-luna", "search pelicans", "-T", spec, "-R")
    assert result.stdout == "Found it.\n"
    assert simulator.prompts[-1]["tools"] == [{"type": "web_search"}]
    listed = run_llm("tools", "list", "-m", "chatgpt-gpt-6-luna").stdout
    assert "WebSearch(" in listed
    assert "ImageGeneration(" in listed


def test_searches_are_sent_back_from_the_logs(simulator, signed_in, run_llm):
    run_llm("-m", "chatgpt-gpt-6-luna", "search pelicans", "-T", "WebSearch")
    run_llm("-c", "more")
    last = kinds(simulator.prompts[-1]["input"])
    assert last == ["user", "reasoning", "web_search_call", "assistant", "user"]
