"""The commands on a terminal and in pipes: questions, output, exit codes, shell completion."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time

import click
import llm
import pytest
from click.shell_completion import ShellComplete
from llm.cli import cli

from conftest import sign_in
from simulator import Account, Answer
from terminal import needs_pty

GROUP = cli.commands["chatgpt"]


LONG_EMAIL = "ada.lovelace-byron@engineering.example.com"


# One process for several commands, because starting llm takes longer than they do.
RUN_COMMANDS = """
from llm.cli import cli
for command in {commands}:
    try:
        cli(["chatgpt", *command.split()])
    except SystemExit as end:
        print(f"> {{command}}: {{end.code}}", flush=True)
"""


def outputs_of(printed):
    """Return the output, the command and the exit code of each command of RUN_COMMANDS."""
    return re.findall(r"((?:(?!> ).*\n)*)> (.*): (\d)\r?\n", printed)


@needs_pty
@pytest.mark.parametrize("columns", [60, 80])
def test_answers_and_errors_fit_the_terminal(simulator, run_llm, start_in_terminal, columns):
    sign_in(simulator, email=LONG_EMAIL, workspace="Analytical Engines Ltd")
    simulator.bank_reset()
    run_llm("chatgpt", "refresh")
    commands = ["accounts", "status", "usage", "models", "models --all", "image x -m nonsense"]
    code = RUN_COMMANDS.format(commands=commands)
    terminal = start_in_terminal("-c", code, program=(), columns=columns)
    assert terminal.end() == 0
    outputs = outputs_of(terminal.screen)
    assert [(command, int(code)) for _, command, code in outputs] == [
        (command, command.startswith("image ")) for command in commands
    ]
    for output, command, _ in outputs:
        # A path is a long word.
        lines = [line for line in output.split("\r\n") if "/" not in line]
        assert max(map(len, lines)) < columns, command
        # Only cells of tables are shortened, and never a model's name.
        if command.split()[0] not in ("accounts", "models"):
            assert "\u2026" not in output, command
        if command.startswith("models"):
            assert "\nchatgpt-gpt-6.2-sol " in output


@pytest.mark.parametrize("command", ["accounts", "models --all"])
def test_nothing_is_shortened_in_a_pipe(simulator, run_llm, command):
    sign_in(simulator, email=LONG_EMAIL, workspace="Analytical Engines Ltd")
    stdout = run_llm("chatgpt", *command.split()).stdout
    assert "\u2026" not in stdout
    assert max(map(len, stdout.splitlines())) > 80


# Importing


@needs_pty
def test_an_import_asks_once(simulator, start_in_terminal, tmp_path):
    sign_in(simulator, "codex")
    simulator.account = Account(email="bob@example.com", account_id="acc-bob")
    (tmp_path / "auth.json").write_text(json.dumps({"tokens": simulator.sign_in()}))
    terminal = start_in_terminal("chatgpt", "import", str(tmp_path))
    terminal.wait_for("Replace the old login?")
    terminal.type("y")
    terminal.wait_for("Imported as account codex: bob@example.com", 10)
    assert terminal.end() == 0, terminal.screen
    assert terminal.screen.count("Replace the old login?") == 1


def test_an_import_replaces_a_damaged_account(simulator, run_llm, tmp_path):
    sign_in(simulator)
    path = llm.user_dir() / "chatgpt-oauth.json"
    path.write_text(path.read_text().replace('"accounts": {', '"accounts": {"codex": 7,'))
    (tmp_path / "auth.json").write_text(json.dumps({"tokens": simulator.sign_in()}))
    result = run_llm("chatgpt", "import", str(tmp_path))
    assert result.exit_code == 0, result.stderr
    assert "Imported as account codex" in result.stdout


# Signing out


def test_the_only_remaining_account_becomes_the_default(simulator, run_llm):
    for name in ("default", "work", "weekend"):
        sign_in(simulator, name)
    result = run_llm("chatgpt", "logout")
    assert "Choose one with 'llm chatgpt use NAME': work, weekend." in result.stdout
    result = run_llm("chatgpt", "logout", "--account", "weekend")
    assert result.stdout.endswith("Now in use: work\n")
    assert run_llm("-m", "chatgpt-gpt-6-luna", "hi").exit_code == 0


@pytest.mark.parametrize(
    "trouble",
    [
        {"LLM_CHATGPT_ISSUER": "http://elsewhere.example"},
        {"LLM_CHATGPT_ISSUER": "https://x.example", "CODEX_CA_CERTIFICATE": "/nowhere"},
        {"LLM_CHATGPT_ISSUER": "https://x.example", "HTTPS_PROXY": "nonsense://"},
        {"LLM_CHATGPT_ORIGINATOR": "caf\u00e9"},
        {},
    ],
)
def test_revoke_signs_out_whatever_goes_wrong(simulator, run_llm, monkeypatch, trouble):
    sign_in(simulator)
    sign_in(simulator, "work")
    simulator.script("revoke", *[Answer(200, b"no such thing", {"Content-Encoding": "gzip"})] * 2)
    for name, value in trouble.items():
        monkeypatch.setenv(name, value)
    result = run_llm("chatgpt", "logout", "--revoke", "--all")
    assert result.exit_code == 0
    assert result.stderr.count("Could not end the session at OpenAI (") == 2
    assert run_llm("chatgpt", "accounts").stdout == ""


def test_logout_deletes_the_tokens_of_a_damaged_file(simulator, run_llm):
    path = llm.user_dir() / "chatgpt-oauth.json"
    path.write_text('{"access_token": "Secret"')
    assert run_llm("chatgpt", "logout").exit_code == 0
    assert "Secret" not in path.read_text()
    assert "Not signed in" in run_llm("chatgpt", "status").stdout


def test_logout_of_all_leaves_nothing_about_anybody(simulator, run_llm, monkeypatch):
    simulator.personal_tokens["at-eve"] = Account(email="eve@example.com")
    sign_in(simulator)
    path = llm.user_dir() / "chatgpt-oauth.json"
    # A login sets a damaged file aside.
    path.write_text(path.read_text()[:-5])
    simulator.approve_after_polls = 0
    run_llm("chatgpt", "login")
    run_llm("chatgpt", "usage", "--account", "at-eve")
    files = list(path.parent.glob("chatgpt-oauth*"))
    assert len(files) == 3
    assert "eve@example.com" in path.read_text()
    run_llm("chatgpt", "logout", "--all")
    left = "".join(file.read_text() for file in path.parent.glob("chatgpt-oauth*"))
    assert "@example.com" not in left


def test_an_unusable_key_of_llm_is_an_error_that_hides_its_value(simulator, run_llm):
    llm.user_dir().mkdir(exist_ok=True)
    (llm.user_dir() / "keys.json").write_text(json.dumps({"chatgpt": "sk-Secret"}))
    for arguments in (["chatgpt", "status"], ["-m", "chatgpt-gpt-6-luna", "hi"]):
        result = run_llm(*arguments)
        assert result.exit_code == 1
        assert "the key chatgpt in 'llm keys' is not an access token" in result.output
        assert "Secret" not in result.output


def test_the_home_folder_is_shortened(simulator, run_llm, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("CODEX_HOME")
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    sign_in(simulator)
    short_path = os.path.join("~", "llm", "chatgpt-oauth.json")
    assert f"\nStored in: {short_path}\n" in run_llm("chatgpt", "status").stdout
    (llm.user_dir() / "chatgpt-oauth.json").write_text("{")
    result = run_llm("chatgpt", "status")
    assert short_path in result.stderr
    assert str(tmp_path) not in result.output
    result = run_llm("chatgpt", "import")
    assert os.path.join("~", ".codex") in result.stderr
    assert str(tmp_path) not in result.output


# Pipes and closed streams

COMMANDS = [
    "login",
    "status",
    "accounts",
    "use default",
    "models",
    "refresh",
    "usage",
    "doctor",
    "import",
    "logout --revoke",
]


@pytest.fixture
def unusual_characters(simulator, tmp_path, monkeypatch):
    """Store a login with characters that code page 1252 lacks, and write Codex CLI's file."""
    simulator.account = Account(
        email="\N{GREEK CAPITAL LETTER OMEGA}@example.com", plan="pl\u0101n"
    )
    simulator.approve_after_polls = 0
    reply = simulator.sign_in()
    (tmp_path / "auth.json").write_text(json.dumps({"tokens": reply}))
    monkeypatch.setenv("CODEX_HOME", str(tmp_path))
    return sign_in(simulator)


ALL_COMMANDS = RUN_COMMANDS.format(commands=COMMANDS)


def successful_outputs(done):
    """Return the stdout of each command, by command. All must have succeeded."""
    assert "Traceback" not in done.stderr
    outputs = outputs_of(done.stdout)
    codes = [(command, code) for _, command, code in outputs]
    assert codes == [(command, "0") for command in COMMANDS], done.stdout + done.stderr
    return {command: output for output, command, _ in outputs}


@pytest.mark.skipif(os.name == "nt", reason="POSIX shells close streams")
@pytest.mark.parametrize("closing", ["<&-", "<&- 2>&-"])
def test_commands_work_with_closed_streams(unusual_characters, closing):
    command = ["sh", "-c", f'exec "$@" {closing}', "sh", sys.executable, "-c", ALL_COMMANDS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert all(successful_outputs(done).values()), done.stdout


def test_an_old_code_page_gets_question_marks(unusual_characters):
    done = subprocess.run(
        [sys.executable, "-c", ALL_COMMANDS],
        env={**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Signed in as ?@example.com (Pl?n plan)" in successful_outputs(done)["status"]
    # Only ASCII is in every code page of Windows.
    assert done.stdout.isascii()


# Colours


@needs_pty
def test_colours_appear_only_on_a_terminal(simulator, start_in_terminal, monkeypatch, run_llm):
    terminal = start_in_terminal("chatgpt", "doctor")
    terminal.end()
    assert re.search(r"\x1b\[32mok\x1b\[0m +versions", terminal.raw)
    assert re.search(r"\x1b\[31mbroken\x1b\[0m +login", terminal.raw)
    simulator.approve_after_polls = 0
    terminal = start_in_terminal("chatgpt", "login")
    assert terminal.end() == 0
    code = simulator.seen("/deviceauth/token")[0].body["user_code"]
    assert f"\x1b[1m{code}\x1b[0m" in terminal.raw
    assert f"\x1b[1m{simulator.issuer}/codex/device\x1b[0m" in terminal.raw
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = start_in_terminal("chatgpt", "doctor")
    terminal.end()
    assert "\x1b" not in terminal.raw
    monkeypatch.delenv("NO_COLOR")
    assert "\x1b" not in run_llm("chatgpt", "doctor").output


@needs_pty
@pytest.mark.parametrize("columns", [60, 80])
def test_doctor_breaks_lines_between_words(simulator, start_in_terminal, monkeypatch, columns):
    sign_in(simulator, kind="codex", refresh_token=None, expires_at=time.time() - 60)
    terminal = start_in_terminal("chatgpt", "doctor", columns=columns)
    terminal.end()
    lines = terminal.screen.splitlines()
    assert max(len(line) for line in lines if "/" not in line) < columns
    assert "'llm chatgpt import'" in terminal.screen
    assert " ".join(terminal.screen.split()).count("Renew it with Codex CLI, then run") == 1


# Shells


@pytest.mark.parametrize(
    "arguments", [["use"], ["status", "--account"], ["login", "--account"], ["logout", "--account"]]
)
def test_shells_complete_accounts(simulator, arguments):
    def offered(incomplete):
        complete = ShellComplete(cli, {}, "llm", "_LLM_COMPLETE")
        found = complete.get_completions(["chatgpt", *arguments], incomplete)
        return [item.value for item in found]

    assert offered("") == []
    for name in ("default", "work", "weekend"):
        sign_in(simulator, name)
    assert offered("w") == ["work", "weekend"]
    (llm.user_dir() / "chatgpt-oauth.json").write_text("{")
    assert offered("w") == []


# Help


def test_help_is_short_and_plain():
    texts = [GROUP.help]
    for command in GROUP.commands.values():
        texts.append(command.help)
        options = [p for p in command.params if isinstance(p, click.Option)]
        texts += [option.help for option in options if option.name != "help"]
    for text in texts:
        first = text.splitlines()[0]
        assert len(first) <= 60, first
        assert not first.endswith("."), first
        assert first[0].isupper(), first


# Models


def test_models_says_that_the_service_chooses_the_effort(signed_in, run_llm):
    result = run_llm("chatgpt", "models")
    assert "the service chooses" in result.stderr
    assert "the service chooses" in " ".join(run_llm("chatgpt", "models", "--help").stdout.split())
