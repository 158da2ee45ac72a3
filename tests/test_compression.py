"""Long requests go out compressed, unless the service refuses that."""

from __future__ import annotations

import sys

import pytest

import llm_chatgpt_oauth as plugin
from conftest import sign_in, sign_in_officially
from simulator import error_answer

LONG_PROMPT = "a line of a long prompt\n" * 1000


def encodings(simulator):
    """Return how each prompt was compressed; None if it was not."""
    requests = [r for r in simulator.requests if r.path.endswith("/responses")]
    return [request.headers.get("content-encoding") for request in requests]


@pytest.mark.parametrize("encoding", ["zstd", "gzip"])
def test_long_requests_are_compressed(simulator, signed_in, ask, monkeypatch, encoding):
    # Python 3.14 has compression.zstd; older versions need the package zstandard.
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    if encoding == "gzip":
        monkeypatch.setitem(sys.modules, "zstandard", None)
    ask("hello")
    ask(LONG_PROMPT)
    assert encodings(simulator) == [None, encoding]
    assert simulator.prompts[1]["input"][0]["content"][0]["text"] == LONG_PROMPT
    request = simulator.seen("/responses")[1]
    assert int(request.headers["content-length"]) < len(LONG_PROMPT) / 10


def test_large_requests_are_not_compressed_with_gzip(simulator, signed_in, ask, monkeypatch):
    """They contain images, which gzip shrinks little and slowly."""
    for module in ("compression.zstd", "zstandard"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr("llm_chatgpt.config.GZIP_UP_TO_BYTES", 20_000)
    ask(LONG_PROMPT)
    assert encodings(simulator) == [None]


@pytest.mark.parametrize("status", [400, 415])
def test_a_refused_compressed_prompt_is_sent_again_uncompressed(
    simulator, signed_in, ask, capsys, status
):
    simulator.refuses_compressed = status
    assert ask(LONG_PROMPT).text
    assert [encoding is not None for encoding in encodings(simulator)] == [True, False]
    # Remembered, for other models as well.
    assert ask(LONG_PROMPT, slug="gpt-6-sol").text
    assert encodings(simulator)[2:] == [None]
    assert capsys.readouterr().err == ""


def test_a_refusal_for_another_reason_does_not_turn_compression_off(simulator, signed_in, ask):
    simulator.script("responses", *[error_answer(400, None, "No such thing.")] * 2)
    with pytest.raises(plugin.RequestRefused, match="No such thing"):
        ask(LONG_PROMPT)
    assert ask(LONG_PROMPT).text
    assert [encoding is not None for encoding in encodings(simulator)] == [True, False, True]


@pytest.mark.parametrize(
    "refusal",
    [
        error_answer(400, "context_length_exceeded"),
        error_answer(400, None, param="input[0].content"),
        error_answer(403, None),
    ],
)
def test_a_refusal_that_cannot_be_about_compression_is_final(simulator, signed_in, ask, refusal):
    simulator.script("responses", refusal)
    with pytest.raises(plugin.ChatGPTError):
        ask(LONG_PROMPT)
    assert len(encodings(simulator)) == 1


def test_a_short_request_that_is_refused_is_not_sent_again(simulator, signed_in, ask):
    simulator.script("responses", error_answer(415, None))
    with pytest.raises(plugin.RequestRefused):
        ask("hello")
    assert encodings(simulator) == [None]


def test_compression_can_be_turned_off(simulator, signed_in, ask, monkeypatch):
    monkeypatch.setenv("LLM_CHATGPT_COMPRESS", "0")
    ask(LONG_PROMPT)
    assert encodings(simulator) == [None]


def test_the_official_route_gets_plain_requests(simulator, ask):
    sign_in_officially(simulator, "official")
    sign_in(simulator, "codex")
    ask(LONG_PROMPT, key="official")
    # The other route still gets compressed requests.
    ask(LONG_PROMPT, key="codex")
    assert [encoding is not None for encoding in encodings(simulator)] == [False, True]
