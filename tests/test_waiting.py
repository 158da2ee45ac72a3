"""The terminal line that counts the seconds of a wait and never mixes with other output."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time

import pytest

from simulator import Call, Draw, Item, Say, Search, Think
from terminal import Terminal, needs_pty

pytestmark = needs_pty
LUNA = ("-m", "chatgpt-gpt-6-luna")
# Matches the waiting line in each of its states, and the text that erases it.
LINE = re.compile(r"\r(?:[A-Z][A-Za-z0-9 ]*, [\d:]+(?: left)?(?: \([a-z ]+\))? +| +\r)")


class Slow(Item):
    """An item with a pause after each event that contains one of the texts in `after`."""

    def __init__(self, item, *after, seconds=1.4):
        self.item, self.after, self.seconds = item, after, seconds

    def frames(self, turn, index):
        for frame in self.item.frames(turn, index):
            yield frame
            if any(text.encode() in frame for text in self.after):
                time.sleep(self.seconds)


def other_output(terminal):
    """Return all output but the waiting line. Checks that nothing else was on its row."""
    raw, others, place = terminal.screen.replace("\r\n", "\n"), "", 0
    for found in LINE.finditer(raw):
        others += raw[place : found.start()]
        assert not others or others.endswith("\n"), raw
        place = found.end()
    assert not place or raw[:place].endswith(" \r"), raw
    others += raw[place:]
    assert "\r" not in others, raw
    return others


def lines_of(terminal):
    return [line.strip() for line in LINE.findall(terminal.screen) if line.strip()]


@pytest.mark.parametrize("options", [[], ["--async"], ["--no-stream"], ["-x"], ["chat"]])
def test_the_line_counts_the_seconds_until_the_answer(simulator, signed_in, options):
    simulator.script("responses", lambda request: time.sleep(1.4))
    simulator.answer(Say("So\nit is."))
    terminal = Terminal(*options, *LUNA, *([] if options == ["chat"] else ["hi"]))
    before = ""
    if options == ["chat"]:
        before = terminal.wait_for(r"(?s).*\n> ")[0].replace("\r\n", "\n") + "hi\n"
        terminal.type("hi")
    terminal.wait_for(r"\rThinking, 0:01 ")
    if options == ["chat"]:
        terminal.wait_for(r"it is\.\r\n> ")
        terminal.type("exit")
    assert terminal.end() == 0
    assert lines_of(terminal) == ["Thinking, 0:00", "Thinking, 0:01"]
    after = "> exit\n" if options == ["chat"] else ""
    assert other_output(terminal) == f"{before}So\nit is.\n{after}"


@pytest.mark.parametrize("options", [[], ["--async"]])
def test_the_line_is_not_shown_beside_an_unfinished_line_of_the_answer(
    simulator, signed_in, options
):
    text = Say("One two.\nThree.", deltas=["One", " two.\n", "Three", "."])
    simulator.answer(Slow(text, '"One"', '" two.\\n"', '"Three"'))
    terminal = Terminal(*LUNA, "hi", *options)
    assert terminal.end() == 0
    assert other_output(terminal) == "One two.\nThree.\n"
    assert lines_of(terminal) == ["Thinking, 0:00", "Thinking, 0:01"]


def test_the_line_is_shown_during_an_answer_that_goes_to_a_pipe(simulator, signed_in):
    simulator.answer(Slow(Say("One two.", deltas=["One", " two."]), '"One"'))
    terminal = Terminal(*LUNA, "hi", stdout=subprocess.PIPE)
    assert terminal.end() == 0
    assert terminal.process.stdout.read() == b"One two.\n"
    assert lines_of(terminal) == ["Thinking, 0:00", "Thinking, 0:01"]
    assert other_output(terminal) == ""


def test_no_line_without_a_terminal_or_if_it_is_turned_off(simulator, signed_in, monkeypatch):
    def slow():
        simulator.script("responses", lambda request: time.sleep(1.2))
        simulator.answer(Say("So."))

    slow()
    terminal = Terminal(*LUNA, "hi", stderr=subprocess.PIPE)
    assert (terminal.end(), terminal.process.stderr.read()) == (0, b"")
    assert terminal.screen == "So.\r\n"
    slow()
    monkeypatch.setenv("LLM_CHATGPT_PROGRESS", "0")
    terminal = Terminal(*LUNA, "hi")
    assert (terminal.end(), terminal.screen) == (0, "So.\r\n")


def test_other_programs_show_no_line(simulator, signed_in):
    simulator.script("responses", lambda request: time.sleep(1.2))
    simulator.answer(Say("So."))
    code = "import llm; print(llm.get_model('chatgpt-gpt-6-luna').prompt('hi').text())"
    terminal = Terminal("-c", code, program=())
    assert (terminal.end(), terminal.screen) == (0, "So.\r\n")


def test_no_line_is_shown_while_llm_prints(simulator, signed_in):
    """Although printing takes longer than a second."""
    simulator.answer(Say("One two.", deltas=["One", " two."]))
    code = (
        "import click, llm, time\n"
        "def prompt():\n"
        "    for chunk in llm.get_model('chatgpt-gpt-6-luna').prompt('hi'):\n"
        "        time.sleep(1.2)\n"
        "        click.echo(chunk, nl=False)\n"
        "click.command('prompt')(prompt)()\n"
    )
    terminal = Terminal("-c", code, program=())
    assert (terminal.end(), terminal.screen) == (0, "One two.")


def test_the_line_names_what_the_service_does(simulator, signed_in):
    simulator.answer(
        Slow(Search("pelicans"), "searching"),
        Slow(Draw("A pelican"), "generating"),
        Say("There."),
    )
    terminal = Terminal(*LUNA, "hi", "-T", "WebSearch", "-T", "ImageGeneration")
    assert terminal.end() == 0
    # On a busy machine, the request itself can take long enough for "Thinking".
    lines = [line for line in lines_of(terminal) if not line.startswith("Thinking")]
    assert lines[:2] == ["Searching the web, 0:00", "Searching the web, 0:01"]
    assert {line.partition(",")[0] for line in lines[2:]} == {"Drawing"}
    assert re.fullmatch(r"Picture: \S+\nThere\.\n", other_output(terminal))


def test_the_line_shows_the_size_of_a_large_upload(simulator, signed_in, tmp_path):
    (tmp_path / "a.pdf").write_bytes(os.urandom(3_000_000))
    simulator.script("responses", lambda request: time.sleep(1.2))
    terminal = Terminal(*LUNA, "hi", "--at", str(tmp_path / "a.pdf"), "application/pdf")
    terminal.wait_for(r"\rUploading 3 MB, 0:0\d ")
    assert terminal.end() == 0


def test_the_line_is_shown_during_hidden_reasoning_only(simulator, signed_in):
    for options, expected in ([], "Hm.\nSo.\n"), (["-R"], "So.\n"):
        simulator.answer(Slow(Think(["Hm."]), '"Hm."', "item.done"), Say("So."))
        terminal = Terminal(*LUNA, "hi", *options)
        assert terminal.end() == 0
        assert other_output(terminal) == expected
        assert bool(lines_of(terminal)) == bool(options)


@pytest.mark.parametrize("options", [[], ["--async"]])
def test_the_line_does_not_mix_with_a_chain_of_tools(simulator, signed_in, options):
    simulator.answer(Say("Let me see."), Slow(Call("double", {"n": 21}), "added"))
    simulator.answer(Slow(Call("double", {"n": 42}), "added"))
    simulator.answer(Slow(Think(), "added"), Say("84."))
    code = "def double(n: int) -> int: return 2 * n"
    terminal = Terminal(*LUNA, "hi", "--functions", code, "--td", *options)
    assert terminal.end() == 0
    output = other_output(terminal)
    assert output.startswith("Let me see.\nTool call: double({'n': 21})\n  42\n\n")
    assert output.endswith("\n\nTool call: double({'n': 42})\n  84\n\n 84.\n")


@pytest.mark.parametrize("options", [[], ["--async"], ["--no-stream"]])
def test_ctrl_c_erases_the_line(simulator, signed_in, options):
    simulator.script("responses", lambda request: time.sleep(3))
    terminal = Terminal(*LUNA, "hi", *options)
    terminal.wait_for("Thinking, 0:01 ")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.end() == 1
    assert other_output(terminal) == "\nAborted!\n"


def test_a_closed_terminal_does_not_end_the_prompt(simulator, signed_in):
    simulator.script("responses", lambda request: time.sleep(2))
    simulator.answer(Say("So."))
    terminal = Terminal(*LUNA, "hi", stdout=subprocess.PIPE)
    terminal.wait_for("Thinking, 0:01 ")
    os.close(terminal.master)
    out, _ = terminal.process.communicate(timeout=20)
    assert (out, terminal.process.returncode) == (b"So.\n", 0)
