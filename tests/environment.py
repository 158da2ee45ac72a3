"""Create virtual environments for the scripts of this repository. Standard library only."""

from __future__ import annotations

import hashlib
import pathlib
import subprocess
import sys
import venv

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCRIPTS = "Scripts" if sys.platform == "win32" else "bin"
# pip's arguments that install the plugin for development.
DEVELOPMENT = ["--editable", ".", "--group", "dev"]


def prepare(name: str, *installs: list[str]) -> pathlib.Path:
    """Create a virtual environment in the repository and return its folder of commands.

    Runs `pip install` with each list of arguments. Creates the environment anew when these,
    pyproject.toml or Python's version change.
    """
    folder = ROOT / name
    scripts = folder / SCRIPTS
    wanted = hashlib.sha256(
        (ROOT / "pyproject.toml").read_bytes() + repr((sys.version, installs)).encode()
    ).hexdigest()
    stamp = folder / "made-from"
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"Setting up {folder} (about a minute) ...", file=sys.stderr, flush=True)
        venv.create(folder, with_pip=True, clear=True)
        pip = [str(scripts / "python"), "-m", "pip", "install", "--quiet"]
        pip.append("--disable-pip-version-check")
        # Older versions of pip do not support dependency groups.
        for arguments in (["--upgrade", "pip>=25.1"], *installs):
            # pip's warnings matter only if it fails.
            done = subprocess.run([*pip, *arguments], cwd=ROOT, stderr=subprocess.PIPE, text=True)
            if done.returncode:
                sys.exit(f"{done.stderr}Could not set up {folder}.")
        stamp.write_text(wanted)
    return scripts
