"""Build the wheel and the source package and try the wheel in a new environment.

python tests/packages.py
"""

from __future__ import annotations

import pathlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile

from environment import ROOT, SCRIPTS, prepare

NEEDED = {str(p.relative_to(ROOT).as_posix()) for p in (ROOT / "llm_chatgpt").rglob("*.py")}
NEEDED.add("llm_chatgpt_oauth.py")


def main() -> int:
    builder = prepare(".venv-build", ["build"]) / "python"
    with tempfile.TemporaryDirectory() as folder:
        here = pathlib.Path(folder)
        command = [builder, "-m", "build", "--outdir", folder]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        wheel, source = next(here.glob("*.whl")), next(here.glob("*.tar.gz"))
        in_wheel = set(zipfile.ZipFile(wheel).namelist())
        with tarfile.open(source) as archive:
            in_source = {name.partition("/")[2] for name in archive.getnames()}
        for name, files in ((wheel.name, in_wheel), (source.name, in_source)):
            if missing := NEEDED - files:
                print(f"{name} lacks {', '.join(sorted(missing))}")
                return 1
        subprocess.run([builder, "-m", "venv", here / "venv"], check=True)
        python = here / "venv" / SCRIPTS / "python"
        subprocess.run([python, "-m", "pip", "install", "-q", wheel], cwd=folder, check=True)
        done = subprocess.run(
            [python, "-m", "llm", "chatgpt", "--help"],
            cwd=folder,
            check=True,
            capture_output=True,
            text=True,
        )
    print(f"{wheel.name} and {source.name} are complete.")
    return 0 if "login" in done.stdout else 1


if __name__ == "__main__":
    sys.exit(main())
