"""Where the answer, notes and errors stand when they are printed to the same place."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from simulator import Draw, Say, Search, Stream, Think
from terminal import Terminal
from test_sources import citation

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
IGNORED = "Note: ignoring temperature; a ChatGPT login does not accept it.\n"


@pytest.fixture
def ask(simulator, signed_in, run_llm):
    """`llm ... 2>&1`: all that it prints."""
    run_llm("-m", "chatgpt-gpt-6-luna", "makes logs.db")

    def ask(*options):
        command = [sys.executable, "-m", "llm", "-m", "chatgpt-gpt-6-luna", "hi", *options]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.run(command, **pipes, text=True, timeout=60, check=False).stdout

    return ask


@pytest.mark.parametrize("options", [[], ["--async"], ["--no-stream"], ["-x"], ["-x", "--async"]])
def test_notes_follow_the_answer(simulator, ask, options):
    simulator.answer(Think(), Say("It is so."))
    output = ask("-o", "temperature", "1", *options)
    # Without streaming, llm itself ends the answer's line; otherwise it adds one more line end.
    assert output.rstrip("\n") == f"It is so.\n{IGNORED}".rstrip("\n")


@pytest.mark.parametrize("options", [[], ["--no-stream"]])
def test_sources_stand_apart_and_before_other_notes(simulator, ask, options):
    simulator.used_percent["primary"] = 93.0
    cited = [citation(1), citation(2)]
    simulator.answer(Search("x"), Say("It is so.", annotations=cited))
    terminal = Terminal("-m", "chatgpt-gpt-6-luna", "hi", "-T", "WebSearch", *options)
    assert terminal.end() == 0
    assert terminal.rows[:5] == [
        "It is so.",
        "",
        "Sources:",
        "1. A title 1: https://example.com/1",
        "2. A title 2: https://example.com/2",
    ]
    assert terminal.rows[5].startswith("Note: 7% of your 5-hour limit left")


@pytest.mark.parametrize("options", [[], ["--async"]])
def test_an_error_begins_on_a_line_of_its_own(simulator, ask, options):
    whole = b"".join(simulator.frames([Say("It is", deltas=["It is"])]))
    begin = whole[: whole.index(b'"delta": "It is"')]
    end = whole.index(b"\n\n", len(begin)) + 2
    simulator.script("responses", Stream([whole[:end]], end="cut"))
    output = ask(*options)
    assert output.startswith("It is\nError: The answer was cut off")


@pytest.mark.parametrize("options", [[], ["--async"]])
def test_nothing_stands_before_an_answer_whose_reasoning_has_no_summary(simulator, ask, options):
    simulator.answer(Think(), Say("One."), Think(), Say("Two."))
    assert ask(*options) == "One.\n\nTwo.\n"


def test_a_picture_after_hidden_reasoning(simulator, ask):
    simulator.answer(Think(["Hm."]), Draw("A pelican"), Say("There."))
    terminal = Terminal(
        "-m", "chatgpt-gpt-6-luna", "hi", "-R", "-T", "ImageGeneration", columns=200
    )
    assert terminal.end() == 0
    assert [row.partition(" ")[0] for row in terminal.rows] == ["Picture:", "There.", ""]


@pytest.mark.parametrize("options", [["--no-stream"], ["--no-stream", "--async"]])
def test_a_picture_is_named_below_an_answer_that_does_not_stream(simulator, ask, options):
    simulator.answer(Draw("A pelican"), Say("There."))
    output = ask("-T", "ImageGeneration", *options)
    assert [line.partition(" ")[0] for line in output.splitlines()] == ["There.", "Picture:"]


def test_reasoning_without_a_summary_is_recorded(simulator, ask, run_llm):
    simulator.answer(Think(), Say("One."))
    ask()
    ask("-c")
    sent = [item.get("type") for item in simulator.prompts[-1]["input"]]
    assert sent.count("reasoning") == 1
