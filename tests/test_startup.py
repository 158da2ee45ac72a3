"""Loading the plugin is cheap: no heavy imports, no lock, no network."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest

HEAVY = {"httpx", "httpx2", "filelock", "http.server", "webbrowser", "ssl", "truststore"}
# Modules that only prompts, `llm chatgpt` or other programs need.
LATER = {
    "llm_chatgpt.api",
    "llm_chatgpt.http",
    "llm_chatgpt.login.credentials",
    "llm_chatgpt.backend.prompt_run",
    "llm_chatgpt.commands.login",
}


def run(code: str, **settings: str) -> Any:
    """Run code in a new interpreter, and return the JSON that it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_the_plugin_imports_nothing_heavy():
    loaded = run(
        "import click, json, sys, llm.cli; before = set(sys.modules)\n"
        "import llm_chatgpt_oauth; llm_chatgpt_oauth.register_models(lambda *models: None)\n"
        "llm_chatgpt_oauth.register_commands(click.Group())\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))",
        # Otherwise llm itself imports the plugin, before `before` is set.
        LLM_LOAD_PLUGINS="",
    )
    assert "llm_chatgpt_oauth" in loaded
    assert not (HEAVY | LATER).intersection(loaded)


@pytest.mark.parametrize("package", ["llm_chatgpt_oauth", "llm_chatgpt"])
def test_the_python_api_is_imported_on_first_use(package):
    missing = run(
        "import json, sys\n"
        f"import {package} as package\n"
        f"assert 'llm_chatgpt.api' not in sys.modules\n"
        f"from {package} import Tokens, UsageLimitReached, get_tokens, login\n"
        "from llm_chatgpt import api\n"
        "names = [name for name in dir(api) if name[0] != '_'] + ['nothing']\n"
        "print(json.dumps([name for name in names\n"
        "    if getattr(package, name, None) is not getattr(api, name, '')]))",
        LLM_LOAD_PLUGINS="",
    )
    # In `llm_chatgpt`, `login` is the package, not the API's function.
    assert missing == (["login"] if package == "llm_chatgpt" else []) + ["nothing"]


def test_registration_reads_one_file_and_sends_nothing(signed_in):
    folder = pathlib.Path(os.environ["LLM_USER_PATH"])
    lock = folder / "chatgpt-oauth.json.lock"
    lock.unlink()
    seen = run(
        "import json, os, sys, llm; seen = []\n"
        "def hook(event, args):\n"
        "    name = os.path.basename(str(args[0])) if event == 'open' else event\n"
        "    if name.startswith(('chatgpt-', 'socket.connect')): seen.append(name)\n"
        "sys.addaudithook(hook)\n"
        "assert 'chatgpt-gpt-6-sol' in {model.model_id for model in llm.get_models()}\n"
        "print(json.dumps(seen))"
    )
    assert seen == ["chatgpt-models.json"]
    assert not lock.exists()
