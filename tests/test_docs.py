"""README and docs name every command, option, setting, error and module, and no others."""

from __future__ import annotations

import importlib.metadata
import inspect
import pathlib
import re
import subprocess
import sys

import click
import llm
import pytest
from click.testing import CliRunner
from llm.cli import cli

import llm_chatgpt_oauth as plugin
from conftest import sign_in
from llm_chatgpt import api

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
REFERENCE = (ROOT / "docs/reference.md").read_text()
SOURCE = "".join(
    path.read_text()
    for path in [ROOT / "llm_chatgpt_oauth.py", *sorted((ROOT / "llm_chatgpt").rglob("*.py"))]
)
GROUP = cli.commands["chatgpt"]
CONTEXT = click.Context(GROUP)
COMMANDS = {name: GROUP.get_command(CONTEXT, name) for name in GROUP.list_commands(CONTEXT)}
each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
each_command = pytest.mark.parametrize("name", COMMANDS)


def section(heading: str) -> str:
    """Return the reference's text between a heading and the next one."""
    start = re.search(rf"^#+ {re.escape(heading)}$", REFERENCE, re.MULTILINE)
    assert start, f"docs/reference.md has no heading {heading}"
    return re.split(r"^#+ ", REFERENCE[start.end() :], maxsplit=1, flags=re.MULTILINE)[0]


def first_cells(text: str) -> set[str]:
    """Return the first word of each code span in the first column of a table."""
    cells = re.findall(r"^\| (`[^|]*) \|", text, re.MULTILINE)
    return {word for cell in cells for word in re.findall(r"`([^` ]+)[^`]*`", cell)}


def prose(document: pathlib.Path) -> str:
    """A document without its blocks of code."""
    text = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"^ {4}.*$", "", text, flags=re.MULTILINE)


def anchors(document: pathlib.Path) -> set[str]:
    """The anchors that GitHub gives a document's headings."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.+?)[ #]*$", prose(document), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = base = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        number = 0
        while anchor in found:
            number += 1
            anchor = f"{base}-{number}"
        found.add(anchor)
    return found


@each_command
def test_every_command_and_its_options_are_documented(name):
    options = [p for p in COMMANDS[name].params if isinstance(p, click.Option)]
    text = section(f"`llm chatgpt {name}`")
    assert first_cells(text) == {name for option in options for name in option.opts}
    for parameter in COMMANDS[name].params:
        if isinstance(parameter, click.Argument):
            assert parameter.name.upper() in text


def test_every_documented_command_exists():
    assert set(re.findall(r"^### `llm chatgpt (\w+)`$", REFERENCE, re.MULTILINE)) == set(COMMANDS)


@each_command
def test_every_command_has_help_with_an_example(name):
    help_text = CliRunner().invoke(cli, ["chatgpt", name, "--help"]).stdout
    # The examples are indented by six spaces, the usage line is not.
    assert f"\n      llm chatgpt {name}" in help_text.split("Options:")[0]
    assert all(p.help for p in COMMANDS[name].params if isinstance(p, click.Option))


@pytest.mark.parametrize(
    ("model_id", "title"),
    [("chatgpt-gpt-6-sol", "Model options"), ("chatgpt-gpt-image-2", "Image models")],
)
def test_every_model_option_is_documented_and_described(model_id, title):
    fields = llm.get_model(model_id).Options.model_json_schema()["properties"]
    assert first_cells(section(title)) == set(fields)
    assert all(field["description"] for field in fields.values())


EXAMPLES = re.findall(r"^```python\n(.*?)^```", REFERENCE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    ("example", "printed"),
    list(zip(EXAMPLES, ["pet pelican.*walrus", r"codex/device [-A-Z0-9]+\n.*\d$"], strict=True)),
    ids=["prompts", "login"],
)
def test_every_python_example_runs(simulator, example, printed):
    simulator.approve_after_polls = 0
    if "get_tokens" not in example:
        sign_in(simulator)
    done = subprocess.run(
        [sys.executable, "-c", example], capture_output=True, text=True, check=True
    )
    assert re.search(printed, done.stdout.strip(), re.DOTALL)


def test_the_version_option_prints_the_packages_version():
    version_line = CliRunner().invoke(cli, ["chatgpt", "--version"]).stdout
    version = importlib.metadata.version("llm-chatgpt-oauth")
    assert version_line == f"llm-chatgpt-oauth, version {version}\n"


def test_every_setting_is_documented():
    read = set(re.findall(r'(?:setting|is_off|service_url)\(\s*"([A-Z_]+)"', SOURCE))
    assert {"ACCOUNT", "BASE_URL", "TIMEOUT"} <= read
    names = {f"LLM_CHATGPT_{name}" for name in read}
    names |= set(re.findall(r"\bLLM_CHATGPT_[A-Z]\w*", SOURCE))
    names |= set(re.findall(r'environ(?:\.get)?[(\[]\s*"((?:LLM|CODEX|SSL)_\w+)"', SOURCE))
    documented = first_cells(section("Settings"))
    assert names <= documented
    assert {name for name in documented if name.startswith("LLM_CHATGPT_")} <= names


def test_every_mark_of_the_protocol_is_explained_once():
    text = (ROOT / "docs/protocol.md").read_text()
    explained = re.findall(r"^\| \((\*{0,2}\w+\*{0,2})\) \|", text, re.MULTILINE)
    assert len(set(explained)) == len(explained)
    used = set(re.findall(r"\((docs|kit|seen|client|other|reported|\*\*guess\*\*)\)", text))
    assert used == set(explained)


def test_every_fact_that_the_code_names_is_in_the_protocol():
    facts = set(re.findall(r"\*\*(P\d+)\*\*", (ROOT / "docs/protocol.md").read_text()))
    named = set(re.findall(r"\bP\d+\b", SOURCE))
    assert "P12" in named
    assert named - facts == set()


def test_every_public_function_is_documented():
    public = {name for name in vars(api) if inspect.isfunction(getattr(api, name))}
    assert public == set(re.findall(r"`(\w+)\(", section("Login functions")))
    for name in public:
        assert getattr(plugin, name).__doc__


def test_every_error_is_documented():
    assert first_cells(section("Errors")) == {
        name
        for name, value in vars(api).items()
        if isinstance(value, type) and issubclass(value, plugin.ChatGPTError)
    }


@pytest.mark.parametrize(
    "document", [ROOT / "README.md", ROOT / "docs/reference.md"], ids=lambda p: p.name
)
def test_the_tables_of_messages_quote_real_messages(document):
    table = document.read_text().split("| message | what to do |\n")[1].split("\n\n")[0]
    messages = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    assert len(messages) > 5
    # Join string literals that continue on the next line.
    source = re.sub(r'"\s*\n\s*f?"', "", SOURCE)
    assert [message for message in messages if message not in source] == []


@each_document
def test_every_link_leads_somewhere(document):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@each_document
def test_every_table_renders_on_github(document):
    lines = ["", *document.read_text().splitlines(), ""]
    for number, line in enumerate(lines):
        if not line.startswith("|"):
            continue
        before = lines[number - 1]
        if not before.startswith("|"):
            # A table's first line. A blank line within a table would start a second table.
            assert not before, f"line {number}: no blank line before the table"
            assert re.fullmatch(r"\|(-+\|)+", lines[number + 1]), f"line {number}: no table"
            columns = lines[number + 1].count("|")
        assert len(re.findall(r"(?<!\\)\|", line)) == columns, f"line {number}: {line}"


@each_document
def test_every_file_that_is_named_exists(document):
    for code in re.findall(r"`([^`\n]+)`", prose(document)):
        for path in re.findall(
            r"(?<![\w./])(?:llm_chatgpt|tests|docs|benchmarks|cassettes|\.ci)/[\w./-]*", code
        ):
            assert (ROOT / path).exists(), path


def test_the_benchmarks_page_names_every_aim_that_was_missed():
    text, _, table = (ROOT / "docs/benchmarks.md").read_text().partition("<!-- table -->")
    missed = re.findall(r"^\| [^|]+ \| ([\d.]+) [^|]*\| [^|]*, missed \|$", table, re.MULTILINE)
    assert missed
    assert [measured for measured in missed if measured not in text.split("## Results")[1]] == []


def test_every_module_is_listed_in_development_md():
    text = (ROOT / "docs/development.md").read_text()
    for path in (ROOT / "llm_chatgpt").rglob("*.py"):
        module = path.relative_to(ROOT).as_posix()
        assert path.name == "__init__.py" or f"\n| `{module}` |" in text


def test_each_row_of_the_change_table_names_files():
    text = (ROOT / "docs/development.md").read_text()
    rows = text.split("| to change ... | open ... |\n|---|---|\n")[1].split("\n\n")[0]
    for row in rows.splitlines():
        assert re.fullmatch(r"\| [^|]+ \| `[\w/.]+\.py`(, `[\w/.]+\.py`)* \|", row), row


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="an unpacked source package")
def test_no_file_contains_the_path_of_this_checkout():
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert "README.md" in files
    assert "uv.lock" not in files
    folder = ROOT.parent.as_posix()
    for name in files:
        text = (ROOT / name).read_text(errors="replace")
        assert folder == "/" or f"{folder}/" not in text, name
