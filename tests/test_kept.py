"""A complete answer is kept, whatever fails after it; a failed attempt leaves nothing."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
import time
import weakref
import zlib

import llm
import pytest

from conftest import expire, logged, wait_for_models, wait_until
from llm_chatgpt.backend import catalogue
from simulator import PNG, Answer, Call, Say, Stream, Think, error_answer, sse

pytestmark = pytest.mark.usefixtures("short_pauses")


@pytest.fixture
def prompt_logged(simulator, signed_in, run_llm):
    """Run a prompt, check that its answer is printed and logged, and return stderr."""

    def prompt(*options):
        result = run_llm("-m", "chatgpt-gpt-6-luna", "hi", "-R", *options)
        assert result.exit_code == 0, result.output
        assert result.stdout == "The answer.\n"
        row = logged(run_llm)[0]
        assert row["response"] == "The answer."
        return result.stderr

    return prompt


def answer_frames(simulator, *items, **changes):
    """Build an answer's frames. `changes` are for the last event."""
    body = {"model": "gpt-6-luna", "input": [], "include": ["reasoning.encrypted_content"]}
    return list(simulator.frames([*items, Say("The answer.")], body, **changes))


# After the last text


@pytest.mark.parametrize("options", [[], ["--async"]])
@pytest.mark.parametrize(
    "models",
    [
        Answer(drop=True),
        Answer(500),
        Answer(200, "not gzip", {"Content-Encoding": "gzip"}),
        Answer(200, "<html>"),
        Answer(200, {"models": "none"}),
        Answer(200, b'{"models": [{"slug": "x", "upgrade": ' + b"[" * 900 + b"]" * 900 + b"}]}"),
    ],
)
def test_a_failed_model_list_is_not_fetched_again(simulator, prompt_logged, models, options):
    simulator.answer(Say("The answer."))
    simulator.script("models", models)
    assert prompt_logged(*options) == ""
    wait_for_models()
    assert len(simulator.seen("/codex/models")) == 1
    # The next prompt does not fetch it again.
    simulator.answer(Say("The answer."))
    prompt_logged(*options)
    wait_for_models()
    assert len(simulator.seen("/codex/models")) == 1


@pytest.mark.parametrize("options", [[], ["--async"]])
def test_no_answer_waits_for_the_model_list(simulator, prompt_logged, options):
    let_go = threading.Event()

    def stuck(request):
        let_go.wait(60)
        return Answer(200, {"models": []})

    simulator.answer(Say("The answer."))
    simulator.script("models", stuck)
    start = time.monotonic()
    try:
        prompt_logged(*options)
        # Less than the fetch may take.
        assert time.monotonic() - start < 20
    finally:
        let_go.set()


def test_a_model_list_that_cannot_be_stored_is_not_fetched(simulator, prompt_logged):
    simulator.answer(Say("The answer."))
    catalogue.models_file().mkdir(parents=True)
    assert prompt_logged() == ""
    wait_for_models()
    # Fetching it would take time at every prompt.
    assert simulator.seen("/codex/models") == []


def broken_gzip(frames):
    packer = zlib.compressobj(wbits=31)
    return [packer.compress(b"".join(frames)) + packer.flush(zlib.Z_SYNC_FLUSH), b"junk" * 9]


@pytest.mark.parametrize("options", [[], ["--async"]])
@pytest.mark.parametrize(
    "ending",
    [
        lambda frames: Stream(broken_gzip(frames), headers={"Content-Encoding": "gzip"}),
        lambda frames: Stream(frames, end="cut"),
        lambda frames: Stream(frames, end="open"),
        lambda frames: Stream([*frames, b"junk", 0.01, b"\xff\xfe" * 9], end="cut"),
        lambda frames: Stream([*frames, sse({"type": "error", "message": "Too late"})]),
    ],
)
def test_a_fault_after_the_last_event_does_not_matter(simulator, prompt_logged, ending, options):
    simulator.script("responses", ending(answer_frames(simulator)))
    assert prompt_logged(*options) == ""


@pytest.mark.parametrize(
    "changes",
    [
        {"usage": None},
        {"usage": "much"},
        {"usage": {"input_tokens": "many", "output_tokens": {"a": 1}}},
        {"usage": {"input_tokens": 1.5, "output_tokens": True, "input_tokens_details": [1]}},
        {"usage": {"input_tokens": 10**30, "output_tokens_details": {"reasoning_tokens": "x"}}},
        {"model": {"name": "x"}},
        {"model": "\ud83d"},
        {"metadata": json.loads("[" * 600 + "]" * 600)},
        {"metadata": {"a": float("nan"), "b": "\ud83d"}},
        {"status": ["completed"]},
    ],
    ids=lambda changes: str(changes)[:40],
)
def test_odd_fields_of_the_last_event_do_not_lose_the_answer(simulator, prompt_logged, changes):
    simulator.script("responses", Stream(answer_frames(simulator, **changes)))
    prompt_logged()


@pytest.mark.parametrize(
    "headers",
    [
        {"x-codex-primary-used-percent": "nan", "x-codex-primary-window-minutes": "inf"},
        {"x-codex-primary-used-percent": "99", "x-codex-primary-reset-at": "1e14"},
        {"x-codex-primary-used-percent": "99", "x-codex-primary-reset-at": "-1e14"},
        {"openai-model": "another\x85model"},
    ],
)
def test_odd_headers_do_not_lose_the_answer(simulator, prompt_logged, headers):
    simulator.response_headers = headers
    simulator.answer(Say("The answer."))
    prompt_logged()


@pytest.mark.skipif(os.name == "nt", reason="a shell's redirection")
@pytest.mark.parametrize("where", ["2>&-", "2>/dev/full"])
def test_an_answer_is_kept_if_stderr_cannot_be_written(simulator, signed_in, run_llm, where):
    if "full" in where and not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    simulator.served_model = "gpt-5.6-luna"
    done = subprocess.run(
        ["sh", "-c", f'"$0" -m llm -m chatgpt-gpt-6-luna hi -R {where}', sys.executable],
        stdout=subprocess.PIPE,
        check=False,
    )
    assert done.stdout.decode().startswith("This is answer 1.")
    assert len(logged(run_llm, 9)) == 1


# A dropped attempt


@pytest.mark.parametrize("end", ["finish", "cut"])
def test_nothing_of_a_dropped_attempt_reaches_llm(simulator, signed_in, ask, end):
    """Reasoning without a summary, then a fault, then another attempt."""
    dropped = answer_frames(simulator, Think([]))[:4]
    assert b'"encrypted_content"' in dropped[-1]
    simulator.script("responses", Stream(dropped, end=end))
    simulator.answer(Say("The answer."), Call("llm_version", {}))
    conversation = ask.model().conversation()
    answered = ask.finish(lambda: conversation.prompt("hi"))
    assert answered.text == "The answer."
    assert [type(part).__name__ for part in answered.parts] == ["TextPart", "ToolCallPart"]
    assert ask.finish(lambda: conversation.prompt("on")).text


def test_a_dropped_attempt_is_not_logged(simulator, prompt_logged, run_llm):
    simulator.script("responses", Stream(answer_frames(simulator, Think([]))[:4]))
    simulator.answer(Say("The answer."))
    assert prompt_logged() == (
        "The answer was cut off: the server closed the connection; retrying (1 of 4)...\n"
    )
    simulator.answer(Say("Go on."))
    assert run_llm("-c", "on").stdout == "Go on.\n"
    assert "encrypted_content" not in json.dumps(simulator.prompts[-1]["input"])


@pytest.mark.parametrize(
    "fault", [Answer(413), Answer(drop=True), Stream([b"x"], end="cut"), Answer(401)]
)
def test_a_failed_prompt_is_not_kept_in_memory(simulator, signed_in, ask, fault):
    simulator.script("responses", *[fault] * 9)
    references = []

    def start():
        attachment = llm.Attachment(type="image/png", content=PNG)
        response = ask.model().prompt("hi", attachments=[attachment])
        references.extend(map(weakref.ref, (response, response.prompt, attachment)))
        return response

    with pytest.raises(llm.ModelError):
        ask.finish(start)
    # The same for a login that cannot be refreshed.
    expire()
    simulator.script("token", error_answer(401, "refresh_token_expired"))
    with pytest.raises(llm.ModelError):
        ask.finish(start)

    def all_gone():
        gc.collect()
        return not any(reference() for reference in references)

    # The thread that refreshes may hold them for a moment.
    wait_until(all_gone)
    assert len(references) == 6


def test_an_incomplete_answer_is_kept_with_a_note(simulator, signed_in, run_llm):
    frames = list(
        simulator.frames(
            [Say("Half of it"), Call("multiply", {"a": 1, "b": 2})],
            terminal="incomplete",
            incomplete_details={"reason": "max_output_tokens"},
        )
    )
    cut = [f for f in frames if not (b"output_item.done" in f and b"function_call" in f)]
    simulator.script("responses", Stream(cut))
    function = "def multiply(a: int, b: int) -> int:\n    raise SystemExit('ran')"
    result = run_llm("-m", "chatgpt-gpt-6-luna", "hi", "-R", "--functions", function)
    assert result.exit_code == 0
    assert result.stdout == "Half of it\n"
    assert "The answer was cut short (max_output_tokens)." in result.stderr
    row = logged(run_llm)[0]
    assert row["response"] == "Half of it"
    assert "incomplete" in json.dumps(row["response_json"])
    # The conversation can go on: the unfinished call has an output.
    assert run_llm("-c", "go on").exit_code == 0
