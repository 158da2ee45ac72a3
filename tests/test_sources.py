"""After a web search, the sources are listed on the terminal."""

from __future__ import annotations

import os
import subprocess

import pytest

from simulator import Say, Search
from terminal import Terminal, needs_pty

pytestmark = needs_pty


def citation(number, title="A title"):
    return {
        "type": "url_citation",
        "url": f"https://example.com/{number}",
        "title": title and f"{title} {number}",
        "start_index": 0,
        "end_index": 1,
    }


@pytest.fixture
def ask_on_terminal(simulator, signed_in):
    """Run `llm` with a terminal as stderr and a pipe as stdout. Returns what each of them gets."""

    def ask(*options, **settings):
        terminal = Terminal(
            *("-m", "chatgpt-gpt-6-luna", "search", *options),
            # Without the waiting line, which appears on a slow machine.
            env={**os.environ, "LLM_CHATGPT_PROGRESS": "0", **settings},
            stdout=subprocess.PIPE,
        )
        assert terminal.end() == 0
        return terminal.process.stdout.read().decode(), terminal.raw.replace("\r\n", "\n")

    return ask


@pytest.mark.parametrize("options", [[], ["--async"], ["--no-stream"]])
def test_sources_follow_the_answer(simulator, ask_on_terminal, options):
    cited = [citation(1), citation(2), citation(1), citation(3, title=None)]
    simulator.answer(Search("x"), Say("It is so.", annotations=cited))
    stdout, stderr = ask_on_terminal("-T", "WebSearch", "-R", *options)
    assert stdout == "It is so.\n"
    assert stderr == (
        "\nSources:\n"
        "1. A title 1: https://example.com/1\n"
        "2. A title 2: https://example.com/2\n"
        "3. https://example.com/3\n"
    )


def test_a_long_list_ends_in_the_number_of_further_sources(simulator, ask_on_terminal):
    cited = [citation(n, title="x\x1b[2J" * 99) for n in range(14)]
    simulator.answer(Search("x"), Say("So.", annotations=cited))
    _, stderr = ask_on_terminal("-T", "WebSearch", "-R")
    lines = stderr.strip("\n").split("\n")
    assert sum(line[:1].isdigit() for line in lines) == 10
    assert lines[-1] == "and 4 more"
    assert "\x1b" not in stderr


@pytest.mark.parametrize("value", ["0", "off"])
def test_sources_can_be_turned_off(simulator, ask_on_terminal, value):
    simulator.answer(Search("x"), Say("So.", annotations=[citation(1)]))
    assert ask_on_terminal("-T", "WebSearch", "-R", LLM_CHATGPT_SOURCES=value)[1] == ""


def test_without_sources_nothing_is_printed(simulator, ask_on_terminal):
    simulator.answer(Say("So."))
    assert ask_on_terminal("-R")[1] == ""


def test_no_sources_are_printed_without_a_terminal(simulator, signed_in, run_llm):
    simulator.answer(Search("x"), Say("So.", annotations=[citation(1)]))
    assert run_llm("-m", "chatgpt-gpt-6-luna", "hi", "-T", "WebSearch", "-R").stderr == ""
