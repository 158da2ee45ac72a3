"""Every command, option and setting has help, and stands in the README."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

import click
import pytest

import llm_chatgpt_oauth as plugin
import rooms

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
SOURCE = "".join(
    path.read_text()
    for path in [ROOT / "llm_chatgpt_oauth.py", *(ROOT / "llm_chatgpt").rglob("*.py")]
)
COMMANDS = rooms.chatgpt.commands


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_is_documented(name, run_llm):
    command = COMMANDS[name]
    assert f"llm chatgpt {name}" in README
    result = run_llm("chatgpt", name, "--help")
    assert f"llm chatgpt {name}" in result.stdout.split("Options:")[0].split("\n\n", 1)[1]
    for option in command.params:
        if isinstance(option, click.Option) and "--help" not in option.opts:
            assert option.help
            assert option.opts[0] in README


def test_the_group_lists_them(run_llm):
    listed = run_llm("chatgpt", "--help").stdout
    for name in COMMANDS:
        assert re.search(rf"^  {name} +\w", listed, re.MULTILINE)


@pytest.mark.parametrize("name", plugin.Options.model_fields)
def test_every_option_is_documented(name):
    assert f"| `{name}` |" in README
    assert plugin.Options.model_fields[name].description


def test_every_setting_is_documented():
    names = set(re.findall(r'setting\("(\w+)"\)', SOURCE)) | {"ISSUER", "BASE_URL"}
    assert names >= {"TIMEOUT", "ORIGINATOR", "CLIENT_VERSION", "USAGE_NOTE"}
    for name in names:
        assert f"LLM_CHATGPT_{name}" in README


@pytest.mark.parametrize(
    "name",
    [
        "request_device_code",
        "poll_for_token",
        "refresh_tokens",
        "load_tokens",
        "store_tokens",
        "get_tokens",
        "login",
        "login_with_browser",
        "extract_account_id",
        "parse_jwt_claims",
    ],
)
def test_public_functions_have_docstrings(name):
    assert getattr(plugin, name).__doc__
    assert name in README


def test_the_message_table_quotes_real_messages():
    table = README.split("## Troubleshooting")[1].split("\n\n")[1]
    source = re.sub(r'"\s*\n\s*f?"', "", SOURCE)
    for quoted in re.findall(r"^\| ((?:`[^`]+`(?:, )?)+) \|", table, re.MULTILINE):
        for message in re.findall(r"`([^`]+)`", quoted):
            for piece in message.split("..."):
                words = piece.strip().removeprefix("Your ChatGPT login ")
                if words == "model is not supported when using Codex":
                    words = "is not supported when using Codex"
                assert not words or words in source, words


def test_the_module_pulls_in_nothing_heavy():
    """What only one section needs is imported there (issue: import cost)."""
    code = (
        "import llm.cli, sys; before = set(sys.modules); import llm_chatgpt_oauth;"
        "import llm; llm.get_models();"
        "new = {m.split('.')[0] for m in set(sys.modules) - before};"
        "print(sorted(new))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for heavy in ("httpx", "filelock", "http", "webbrowser", "ssl", "email", "truststore"):
        assert f"'{heavy}'" not in done.stdout


def test_registration_reads_one_file_and_sends_nothing(monkeypatch):
    def no(*_, **__):
        raise AssertionError("not while models are registered")

    rooms.replace(monkeypatch, "locked_store", no)
    rooms.replace(monkeypatch, "http_library", no)
    rooms.replace(monkeypatch, "read_store", no)
    registered = []
    plugin.register_models(lambda sync, async_: registered.append((sync, async_)))
    assert [m.model_id for m, _ in registered] == [a.model_id for _, a in registered]
    assert len({type(m) for m, _ in registered}) == 1


def test_no_line_names_this_machine_or_a_registry():
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    assert "uv.lock" not in files
    for name in files:
        text = (ROOT / name).read_text(errors="replace")
        assert str(ROOT.parent) + "/" not in text, name
