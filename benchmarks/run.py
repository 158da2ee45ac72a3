"""How this plugin compares with llm itself: a table of ratios, taken in one run.

python3 benchmarks/run.py [words of the rows to run]

Each comparison runs both sides in turn (A B A B ...) in processes of their own, with every
package byte-compiled, and compares the smallest CPU time of each, because noise only adds.
"""

from __future__ import annotations

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from environment import prepare  # noqa: E402

REPEATS = int(os.environ.get("REPEATS", "10"))


def cpu(command: list[str], environment: dict[str, str]) -> tuple[float, int]:
    """User and system CPU seconds of a process, and its peak memory in KiB."""
    process = subprocess.Popen(
        command,
        env=environment,
        cwd=tempfile.gettempdir(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr
    errors = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command} failed: {errors.decode()[-2000:]}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss


class Bench:
    def __init__(self) -> None:
        scripts = prepare(".venv-bench", [str(ROOT)])
        self.python = str(scripts / "python")
        subprocess.run(
            [self.python, "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", "."],
            cwd=ROOT,
            check=True,
        )
        plain = {k: v for k, v in os.environ.items() if not k.startswith(("LLM_", "PYTHON"))}
        # The same llm without the plugin, which looks for plugins all the same.
        bare = str(prepare(".venv-floor", ["llm"]) / "python")
        for name in (".venv-bench", ".venv-floor"):
            packages = next((ROOT / name).glob("lib/python*/site-packages"))
            subprocess.run(
                [self.python, "-m", "compileall", "-q", "-j", "0", str(packages)],
                env=plain,
                check=False,
                stdout=subprocess.DEVNULL,
            )
        self.folder = tempfile.mkdtemp()
        self.environment = {**plain, "LLM_USER_PATH": self.folder, "PYTHONDONTWRITEBYTECODE": "1"}
        self.server = subprocess.Popen(
            [self.python, str(ROOT / "benchmarks" / "server.py")],
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.server.stdout
        self.environment.update(json.loads(self.server.stdout.readline()))
        self.llm = [self.python, "-m", "llm"]
        self.bare_llm = [bare, "-m", "llm"]
        self.floor = [bare, str(ROOT / "benchmarks" / "floor.py")]

    def close(self) -> None:
        self.server.terminate()

    def row(self, name: str, target: str, value: str) -> None:
        print(f"| {name} | {value} | {target} |", flush=True)

    def compare(
        self,
        a: tuple[list[str], dict[str, str]],
        b: tuple[list[str], dict[str, str]],
        repeats: int = REPEATS,
    ) -> tuple[float, float, int, int]:
        """The CPU seconds of both sides, and their peak memory in KiB."""
        cpu(*a), cpu(*b)
        first, second = [], []
        for _ in range(repeats):
            first.append(cpu(*a))
            second.append(cpu(*b))
        return (
            min(t for t, _ in first),
            min(t for t, _ in second),
            int(statistics.median(m for _, m in first)),
            int(statistics.median(m for _, m in second)),
        )

    def inside(self, what: str, *arguments: str, **settings: str) -> dict[str, float]:
        """A measurement within one process: see inside.py."""
        done = subprocess.run(
            [self.python, str(ROOT / "benchmarks" / "inside.py"), what, *arguments],
            env={**self.environment, **settings},
            cwd=tempfile.gettempdir(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(done.stderr[-3000:])
        return json.loads(done.stdout.splitlines()[-1])

    # 1. Start

    def start(self) -> None:
        for words in (["--version"], ["models"]):
            a, b, _, _ = self.compare(
                (self.bare_llm + words, self.environment), (self.llm + words, self.environment)
            )
            name = f"`llm {' '.join(words)}` with the plugin : without"
            self.row(name, "≤ 1.02", f"{b / a:.3f} ({a * 1000:.0f} ms)")
        times = [self.inside("import") for _ in range(REPEATS)]
        best = min(t["import_ms"] for t in times)
        self.row("import of the module", "≤ 10 ms", f"{best:.1f} ms")
        best = min(t["register_ms"] for t in times)
        self.row("registering the models", "", f"{best:.2f} ms")

    # 2. One short prompt

    def prompt(self) -> None:
        ours = ["-m", "chatgpt-gpt-6-luna", "hi", "-R"]
        for name, more in (("", []), (" `--no-log`", ["--no-log"]), (" `--async`", ["--async"])):
            a, b, _, _ = self.compare(
                ([*self.floor, "-m", "floor", "hi", *more], self.environment),
                (self.llm + ours + more, self.environment),
            )
            self.row(
                f"a short prompt{name} : the floor", "≤ 1.10", f"{b / a:.3f} ({a * 1000:.0f} ms)"
            )

    # 3. Long answers

    def long(self) -> None:
        count = 200_000
        for kind in ([], ["--async"]):
            settings = {"DELTAS": str(count)}
            base = {"DELTAS": "3"}
            ours = [*self.llm, "-m", f"chatgpt-deltas-{count}", "hi", "-R", "--no-log", *kind]
            short = [*self.llm, "-m", "chatgpt-deltas-3", "hi", "-R", "--no-log", *kind]
            floor = [*self.floor, "-m", "floor", "hi", "--no-log", *kind]
            a0, b0, _, _ = self.compare(
                (floor, self.environment | base), (short, self.environment), 4
            )
            a, b, ma, mb = self.compare(
                (floor, self.environment | settings), (ours, self.environment), 3
            )
            floor_us = (a - a0) / count * 1e6
            ours_us = (b - b0) / count * 1e6
            name = f"a delta of {count:,}{' (async)' if kind else ''}, above the floor's"
            self.row(name, "≤ 6 µs", f"{ours_us - floor_us:+.1f} µs ({floor_us:.1f} µs)")
            name = f"peak memory of that answer{' (async)' if kind else ''} : the floor's"
            self.row(name, "≤ 1.1", f"{mb / ma:.2f} ({ma / 1024:.0f} MiB)")

    # 4. to 7. Within one process

    def connections(self) -> None:
        for kind in ("sync", "async", "threads"):
            found = self.inside("connections", kind)
            self.row(
                f"connections for {found['requests']:.0f} requests ({kind})",
                "1" if kind != "threads" else "≤ 8",
                f"{found['connections']:.0f}",
            )
        found = self.inside("connections", "hundred")
        self.row(
            "connections for 100 async prompts at once", "≤ 100", f"{found['connections']:.0f}"
        )

    def first_token(self) -> None:
        for size in (1, 64, 1024):
            found = self.inside("first_token", str(size))
            self.row(
                f"first text after its bytes, in a chunk of {size} KiB (median)",
                "≤ 1 ms",
                f"{found['median_ms']:.2f} ms",
            )

    def requests(self) -> None:
        found = self.inside("image")
        self.row("peak memory of a 10 MB image : its size", "≤ 3.5", f"{found['ratio']:.2f}")
        found = self.inside("history", "1000")
        self.row("building 1,000 items of history", "≤ 10 ms", f"{found['ms']:.1f} ms")

    def growth(self) -> None:
        for turns in (1, 10, 100):
            found = self.inside("history", str(turns * 2))
            self.row(f"building {turns} turns of history", "linear", f"{found['ms']:.3f} ms")
        for count in (1, 100, 10_000, 200_000):
            found = self.inside("deltas", str(count))
            self.row(
                f"reading {count:,} deltas",
                "linear",
                f"{found['ms']:.2f} ms ({found['ms'] / count * 1000:.1f} µs each)",
            )
        for count in (1, 10, 100):
            found = self.inside("at_once", str(count))
            self.row(
                f"{count} async prompts at once",
                "linear",
                f"{found['ms']:.1f} ms ({found['ms'] / count:.2f} ms each)",
            )


def main() -> None:
    wanted = sys.argv[1:]
    names = ["start", "prompt", "long", "connections", "first_token", "requests", "growth"]
    bench = Bench()
    try:
        print("| what | measured (the floor) | aim |\n|---|---|---|", flush=True)
        for name in names:
            if not wanted or name in wanted:
                getattr(bench, name)()
    finally:
        bench.close()


if __name__ == "__main__":
    main()
