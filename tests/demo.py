"""Sign in, send prompts and sign out without an account, with the real `llm` command.

python tests/demo.py

Installs llm and this plugin into a virtual environment, starts the simulator on 127.0.0.1, and
shows each command and its output.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile

from environment import ROOT, prepare

# MODEL stands for the model that the login suggests.
COMMANDS = [
    ["chatgpt", "login"],
    ["-m", "MODEL", "Three names for a pet pelican"],
    ["-c", "And one for a walrus", "--usage"],
    ["-m", "chatgpt-gpt-5.2-codex", "Write a haiku about regular expressions"],
    ["chatgpt", "status"],
    ["chatgpt", "models"],
    ["logs", "--short", "-n", "2"],
    ["chatgpt", "logout"],
    ["-m", "MODEL", "Still there?"],
]


def run(
    command: list[str], environment: dict[str, str], *, capture: bool = False
) -> tuple[int, str]:
    """Print a command and run it; return its exit code, and its output if `capture` is set."""
    words = " ".join(f'"{word}"' if " " in word else word for word in command)
    print(f"\n$ llm {words}", flush=True)
    done = subprocess.run(
        ["llm", *command],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if capture else None,
        text=True,
        check=False,
    )
    if capture:
        print(done.stdout, end="", flush=True)
    return done.returncode, done.stdout or ""


def install(environment: dict[str, str]) -> None:
    print("\n$ llm install -e .", flush=True)
    done = subprocess.run(
        ["llm", "install", "-e", "."],
        cwd=ROOT,
        env=environment | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    # pip's long output matters only if it fails.
    print(done.stdout.rstrip().splitlines()[-1] if not done.returncode else done.stdout, flush=True)
    done.check_returncode()


def show(environment: dict[str, str]) -> list[int]:
    """Run all commands and return their exit codes."""
    codes, model = [], ""
    for command in COMMANDS:
        signing_in = command == ["chatgpt", "login"]
        if signing_in:
            print("\n(The simulator approves the code after a moment.)", flush=True)
        if command is COMMANDS[-1]:
            print("\n(Nobody is signed in now, so the next prompt is refused.)", flush=True)
        code, printed = run(
            [model if word == "MODEL" else word for word in command],
            environment,
            capture=signing_in,
        )
        codes.append(code)
        suggested = re.search(r"llm -m (\S+)", printed)
        model = suggested[1] if suggested else model
    return codes


def main() -> int:
    scripts = prepare(".venv-demo", ["llm"])
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LLM_")}
    environment["PATH"] = f"{scripts}{os.pathsep}{environment.get('PATH', '')}"
    # On Windows, subprocess looks for `llm` on this process's PATH.
    os.environ["PATH"] = environment["PATH"]
    simulator = subprocess.Popen(
        [str(scripts / "python"), "tests/simulator"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        with tempfile.TemporaryDirectory() as folder:
            environment["LLM_USER_PATH"] = folder
            print("$ python tests/simulator", flush=True)
            for _ in range(2):
                setting = simulator.stdout.readline().strip() if simulator.stdout else ""
                print(setting, flush=True)
                name, value = setting.removeprefix("export ").split("=", 1)
                environment[name] = value
            install(environment)
            codes = show(environment)
    finally:
        simulator.terminate()
        simulator.wait()
    if codes == [0] * (len(codes) - 1) + [1]:
        print("\nAll of it worked, and the last error was expected.", flush=True)
        return 0
    print(f"\nExit codes: {codes}; only the last should be 1.", flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
