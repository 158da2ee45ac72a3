"""Test the simulator with other people's programs.

python3 tests/clients/run.py [NAME ...]    all of them, or those named

Installs each into a folder of its own in the repository (.venv-client-NAME, which git
ignores), then runs it in a network with loopback only (sandbox.py). Needs Linux,
unshare(1) and ip(8); Codex CLI also needs npm. Not part of CI.
"""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import traceback

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import sandbox  # noqa: E402
from scenarios import SCENARIOS, Scenario  # noqa: E402

from environment import ROOT, prepare  # noqa: E402


def install(scenario: Scenario) -> pathlib.Path:
    """Install the client unless it is up to date, and return the folder of its commands."""
    name = f".venv-client-{scenario.name}"
    if not scenario.npm:
        return prepare(name, [*scenario.packages])
    folder = ROOT / name
    stamp = folder / "made-from"
    if not stamp.exists() or stamp.read_text() != repr(scenario.packages):
        print(f"Setting up {folder} ...", file=sys.stderr, flush=True)
        folder.mkdir(exist_ok=True)
        (folder / "package.json").write_text("{}")
        subprocess.run(["npm", "install", "--silent", *scenario.packages], cwd=folder, check=True)
        stamp.write_text(repr(scenario.packages))
    return folder / "node_modules" / ".bin"


def version(scenario: Scenario, commands: pathlib.Path) -> str:
    """Return the version that is installed."""
    if scenario.npm:
        package = scenario.packages[0].rpartition("@")[0]
        manifest = commands.parent / package / "package.json"
        return str(json.loads(manifest.read_text())["version"])
    package = scenario.packages[0].partition("==")[0].partition("[")[0]
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    command = [str(commands / "python"), "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def try_all(names: list[str]) -> int:
    """Run the scenarios, inside the sandbox, and print how each ended."""
    sandbox.check_sandboxed()
    failed = 0
    for name in names:
        scenario = SCENARIOS[name]
        commands = install(scenario)
        print(f"{name} {version(scenario, commands)}", flush=True)
        for act in scenario.acts:
            with tempfile.TemporaryDirectory(dir=ROOT / ".venv-clients") as path:
                folder = pathlib.Path(path)
                (folder / "tmp").mkdir()
                try:
                    with sandbox.service(folder) as (simulator, authority):
                        act(sandbox.Client(simulator, folder, authority, commands))
                except Exception as error:
                    is_failure = isinstance(error, sandbox.Failed)
                    what = str(error) if is_failure else traceback.format_exc()
                    print(f"  FAILED  {act.__name__}: {what}", flush=True)
                    failed += 1
                else:
                    print(f"  ok      {act.__name__}: {act.__doc__}", flush=True)
    return min(failed, 1)


def main() -> int:
    inside, names = "--inside" in sys.argv, [a for a in sys.argv[1:] if a != "--inside"]
    unknown = set(names) - set(SCENARIOS)
    if unknown or not shutil.which("unshare"):
        print(f"Unknown: {', '.join(unknown)}" if unknown else "Needs unshare(1).")
        return 2
    names = names or list(SCENARIOS)
    if inside:
        return try_all(names)
    scripts = prepare(".venv-clients", ["trustme", "zstandard"])
    for name in names:
        install(SCENARIOS[name])
    with tempfile.TemporaryDirectory() as path:
        command = [str(scripts / "python"), __file__, "--inside", *names]
        return sandbox.enter(command, pathlib.Path(path))


if __name__ == "__main__":
    sys.exit(main())
