"""The main job with no account: sign in, prompt and go on, with the real `llm` command.

python tests/demo.py

Installs llm and this plugin into a virtual environment, starts the simulator on this
machine's loopback, and shows each command and what it prints.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

from environment import ROOT, prepare

COMMANDS = [
    ["chatgpt", "login"],
    ["-m", "chatgpt-gpt-5.2-codex", "Three names for a pet pelican"],
    ["-c", "And one for a walrus", "--usage"],
    ["chatgpt", "status"],
    ["models", "list", "-q", "chatgpt-gpt-6"],
    ["logs", "--short", "-n", "2"],
    ["chatgpt", "logout"],
    ["-m", "chatgpt-gpt-5.2-codex", "Still there?"],
]


def main() -> int:
    scripts = prepare(".venv-demo", ["llm"])
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LLM_")}
    environment["PATH"] = f"{scripts}{os.pathsep}{environment.get('PATH', '')}"
    environment |= {"PIP_QUIET": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    llm = str(scripts / "llm")
    simulator = subprocess.Popen(
        [str(scripts / "python"), "tests/simulator"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        with tempfile.TemporaryDirectory() as folder:
            environment["LLM_USER_PATH"] = folder
            for _ in range(2):
                setting = simulator.stdout.readline().strip() if simulator.stdout else ""
                print(f"$ {setting}", flush=True)
                name, value = setting.removeprefix("export ").split("=", 1)
                environment[name] = value
            codes = []
            for command in [["install", "-e", "."], *COMMANDS]:
                words = " ".join(f'"{word}"' if " " in word else word for word in command)
                print(f"\n$ llm {words}", flush=True)
                done = subprocess.run(
                    [llm, *command],
                    cwd=ROOT,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    check=False,
                )
                codes.append(done.returncode)
    finally:
        simulator.terminate()
        simulator.wait()
    # The last one is refused, because nobody is signed in any more.
    if codes == [0] * (len(codes) - 1) + [1]:
        print("\nAll of it worked.", flush=True)
        return 0
    print(f"\nExit codes: {codes}; only the last should be 1.", flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
