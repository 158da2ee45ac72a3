"""Run the tests in a virtual environment created for them.

python tests/run.py [--oldest] [arguments for pytest]

--oldest tests with the oldest versions that pyproject.toml allows, instead of the newest.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys

from environment import DEVELOPMENT, ROOT, prepare


def main() -> int:
    arguments = sys.argv[1:]
    installs = [DEVELOPMENT]
    name = ".venv"
    if "--oldest" in arguments:
        arguments.remove("--oldest")
        text = (ROOT / "pyproject.toml").read_text()
        listed = text.partition("\ndependencies = [")[2].partition("\n]")[0]
        pairs = re.findall(r'^ +"([\w-]+)>=([\d.]+)', listed, re.MULTILINE)
        installs.append([f"{package}=={version}" for package, version in pairs])
        name = ".venv-oldest"
    scripts = prepare(name, *installs)
    if not arguments:
        print("Running all tests takes a few minutes, on slow machines up to 15.", flush=True)
    pytest = [
        str(scripts / "python"),
        "-m",
        "pytest",
        "-n",
        # Many tests wait for programs that they have started.
        str(max(2, (os.cpu_count() or 1) * 2)),
        "--dist",
        "loadgroup",
        *arguments,
    ]
    return subprocess.run(pytest, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
