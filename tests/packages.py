"""Build the wheel and the source package, and try both.

python tests/packages.py

The wheel is installed in a new environment, where a typed program can use it. The source package
is unpacked, and a few of its own tests are run there.
"""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile

from environment import DEVELOPMENT, ROOT, SCRIPTS, prepare

NEEDED = {str(p.relative_to(ROOT).as_posix()) for p in (ROOT / "llm_chatgpt").rglob("*.py")}
NEEDED |= {"llm_chatgpt_oauth.py", "llm_chatgpt/py.typed"}
SUBSET = ("docs", "replay", "cassettes", "startup")


def build(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Build the wheel and the source package, and return their paths."""
    builder = prepare(".venv-build", ["build"]) / "python"
    command = [builder, "-m", "build", "--outdir", folder]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return next(folder.glob("*.whl")), next(folder.glob("*.tar.gz"))


def missing_files(wheel: pathlib.Path, source: pathlib.Path) -> list[str]:
    with tarfile.open(source) as archive:
        in_source = {name.partition("/")[2] for name in archive.getnames()}
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    tracked = set(listed.stdout.split()) - {".gitignore"}
    lacking = NEEDED - set(zipfile.ZipFile(wheel).namelist())
    return sorted(f"{wheel.name} lacks {name}" for name in lacking) + sorted(
        f"{source.name} lacks {name}" for name in (NEEDED | tracked) - in_source
    )


# If the names had no types, mypy would report that "type: ignore" is unused.
TYPED_PROGRAM = """
from llm_chatgpt import NotSignedIn, Tokens, get_tokens

tokens: Tokens = get_tokens()
number: int = get_tokens()  # type: ignore[assignment]
error: type[Exception] = NotSignedIn
"""


def try_wheel(wheel: pathlib.Path, folder: pathlib.Path) -> None:
    """Run the installed command, and check the documentation's programs with mypy --strict."""
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv" / SCRIPTS / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", wheel], cwd=folder, check=True)
    version = subprocess.run(
        [python, "-m", "llm", "chatgpt", "--version"], cwd=folder, check=True, capture_output=True
    )
    assert wheel.name.split("-")[1].encode() in version.stdout
    examples = re.findall(
        r"^```python\n(.*?)^```",
        (ROOT / "docs/reference.md").read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )
    for number, example in enumerate(examples):
        (folder / f"example{number}.py").write_text(example)
    (folder / "example_of_types.py").write_text(TYPED_PROGRAM)
    mypy = prepare(".venv", DEVELOPMENT) / "mypy"
    subprocess.run(
        [mypy, "--strict", "--python-executable", python, *folder.glob("example*.py")],
        cwd=folder,
        check=True,
    )


def try_source(source: pathlib.Path, folder: pathlib.Path) -> None:
    """Run a few tests where the source package is unpacked."""
    with tarfile.open(source) as archive:
        archive.extractall(folder)
    unpacked = folder / source.name.removesuffix(".tar.gz")
    python = prepare(".venv", DEVELOPMENT) / "python"
    # PYTHONPATH comes before the checkout, which is installed in that environment.
    environment = {**os.environ, "PYTHONPATH": str(unpacked)}
    code = "import llm_chatgpt; print(llm_chatgpt.__file__)"
    found = subprocess.run(
        [python, "-c", code],
        cwd=folder,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    assert found.stdout.startswith(str(unpacked)), found.stdout
    files = [f"tests/test_{name}.py" for name in SUBSET]
    subprocess.run(
        [python, "-m", "pytest", "-q", "-n", "2", *files],
        cwd=unpacked,
        env=environment,
        check=True,
    )


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name).resolve()
        wheel, source = build(folder)
        if missing := missing_files(wheel, source):
            print(*missing, sep="\n")
            return 1
        try_wheel(wheel, folder)
        try_source(source, folder)
    print(f"{wheel.name} and {source.name} are complete.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
