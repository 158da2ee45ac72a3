"""README as the package index shows it: its links, its image and its commands."""

from __future__ import annotations

import html
import pathlib
import re
import shlex

import pytest
from click.testing import CliRunner
from llm.cli import cli
from markdown_it import MarkdownIt

from conftest import sign_in
from simulator import PNG
from test_docs import ROOT, anchors

TEXT = (ROOT / "README.md").read_text()
REPOSITORY = "https://github.com/llm-chatgpt-oauth/llm-chatgpt-oauth"
RAW = "https://raw.githubusercontent.com/llm-chatgpt-oauth/llm-chatgpt-oauth/main/"
COMMANDS = re.findall(r"^ {4}(.*\bllm .*)$", TEXT, re.MULTILINE)


def addresses() -> list[str]:
    """Return the addresses of the links and images on the rendered page."""
    rendered = MarkdownIt("commonmark").enable("table").render(TEXT)
    return [html.unescape(found) for found in re.findall(r'(?:href|src)="([^"]*)"', rendered)]


def test_every_link_works_outside_the_repository():
    assert f'Homepage = "{REPOSITORY}"' in (ROOT / "pyproject.toml").read_text()
    files = 0
    for address in addresses():
        assert address.startswith("https://")
        for start in (f"{REPOSITORY}/blob/main/", RAW):
            if address.startswith(start):
                path, _, anchor = address.removeprefix(start).partition("#")
                assert (ROOT / path).is_file(), address
                assert not anchor or anchor in anchors(ROOT / path), address
                files += 1
        if address.startswith(f"{REPOSITORY}/actions/workflows/"):
            name = address.removeprefix(f"{REPOSITORY}/actions/").removesuffix("/badge.svg")
            assert (ROOT / ".github" / name).is_file(), address
    assert files > 20


def test_the_image_shows_commands_of_the_readme():
    svg = html.unescape((ROOT / "docs/session.svg").read_text())
    commands = re.findall(r">\$ (.*?)</text>", svg)
    assert len(commands) == 4
    assert set(commands) <= set(COMMANDS)


@pytest.mark.parametrize("command", [c for c in COMMANDS if " install " not in c])
def test_every_command_works(simulator, tmp_path, monkeypatch, command):
    simulator.approve_after_polls = 0
    simulator.uses_tools = True
    if command != "llm chatgpt login":
        sign_in(simulator)
    monkeypatch.chdir(tmp_path)
    pathlib.Path("photo.jpg").write_bytes(PNG)
    pathlib.Path("report.pdf").write_bytes(b"%PDF-1.7\n")
    arguments = shlex.split(command.partition("llm ")[2])
    if arguments[0] == "uninstall":
        pytest.skip("would uninstall the tested plugin")
    if arguments[0] == "-c":
        CliRunner().invoke(cli, ["-m", "chatgpt-gpt-6.1-sol", "first"])
    result = CliRunner().invoke(cli, arguments, input="exit\n")
    assert result.exit_code == 0, result.output
    if "-T" in arguments:
        assert re.search("The tool returned|Found it|Here it is", result.stdout)
