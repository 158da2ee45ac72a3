"""Order and line breaks of answers, notes and errors on one terminal or in one pipe."""

from __future__ import annotations

import subprocess
import sys

import pytest

from conftest import make_logs
from simulator import Draw, Say, Search, Stream, Think
from terminal import Terminal, needs_pty
from test_sources import citation

pytestmark = needs_pty
IGNORED = "Note: ignoring temperature; a ChatGPT login does not accept it.\n"


@pytest.fixture
def output_of(simulator, signed_in):
    """Run `llm ... 2>&1` and return its output."""
    make_logs()

    def run(*options):
        command = [sys.executable, "-m", "llm", "-m", "chatgpt-gpt-6-luna", "hi", *options]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.run(command, **pipes, text=True, timeout=60, check=False).stdout

    return run


@pytest.mark.parametrize("options", [[], ["--async"], ["--no-stream"], ["-x"], ["-x", "--async"]])
def test_notes_follow_the_answer(simulator, output_of, options):
    simulator.answer(Think(), Say("It is so."))
    output = output_of("-o", "temperature", "1", *options)
    # With streaming, llm prints one more line end, after the note.
    assert output.rstrip("\n") == f"It is so.\n{IGNORED}".rstrip("\n")


@pytest.mark.parametrize("options", [[], ["--no-stream"]])
def test_sources_are_set_apart_and_come_before_other_notes(simulator, output_of, options):
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
def test_an_error_begins_on_a_line_of_its_own(simulator, output_of, options):
    whole = b"".join(simulator.frames([Say("It is", deltas=["It is"])]))
    begin = whole[: whole.index(b'"delta": "It is"')]
    end = whole.index(b"\n\n", len(begin)) + 2
    simulator.script("responses", Stream([whole[:end]], end="cut"))
    output = output_of(*options)
    assert output.startswith("It is\nError: The answer was cut off")


@pytest.mark.parametrize("options", [[], ["--async"]])
def test_reasoning_without_a_summary_adds_no_blank_line(simulator, output_of, options):
    simulator.answer(Think(), Say("One."), Think(), Say("Two."))
    assert output_of(*options) == "One.\n\nTwo.\n"


def test_an_image_after_hidden_reasoning_begins_on_the_first_line(simulator, output_of):
    simulator.answer(Think(["Hm."]), Draw("A pelican"), Say("There."))
    terminal = Terminal(
        "-m", "chatgpt-gpt-6-luna", "hi", "-R", "-T", "ImageGeneration", columns=200
    )
    assert terminal.end() == 0
    assert [row.partition(" ")[0] for row in terminal.rows] == ["Picture:", "There.", ""]


@pytest.mark.parametrize("options", [["--no-stream"], ["--no-stream", "--async"]])
def test_an_image_is_named_below_an_answer_that_does_not_stream(simulator, output_of, options):
    simulator.answer(Draw("A pelican"), Say("There."))
    output = output_of("-T", "ImageGeneration", *options)
    assert [line.partition(" ")[0] for line in output.splitlines()] == ["There.", "Picture:"]


def test_reasoning_without_a_summary_is_recorded(simulator, output_of):
    simulator.answer(Think(), Say("One."))
    output_of()
    output_of("-c")
    sent = [item.get("type") for item in simulator.prompts[-1]["input"]]
    assert sent.count("reasoning") == 1
