"""Compare the plugin with llm itself; print a table of ratios and times.

python3 benchmarks/run.py [start instructions long connections first_token over_network ...]

A comparison of CPU times runs both sides alternately (A B B A ...) in processes of their own, with
all packages byte-compiled. A ratio is the median of the pairs' ratios, because a machine's speed
drifts; a single time is the smallest, because noise only adds. If valgrind is installed, the
instructions of the same processes are counted as well, which is slow but hardly varies.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from network import Network  # noqa: E402

from environment import prepare  # noqa: E402

REPEATS = int(os.environ.get("REPEATS", "10"))


def cpu(command: list[str], environment: dict[str, str]) -> tuple[float, int]:
    """Run a process. Returns its CPU seconds (user and system) and its peak memory in KiB."""
    process = subprocess.Popen(
        command,
        env=environment,
        # `python -m` imports from the current folder first, so it must hold no modules.
        cwd=environment["LLM_USER_PATH"],
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


def instructions(command: list[str], environment: dict[str, str]) -> int:
    """Count the instructions of a process with valgrind."""
    done = subprocess.run(
        ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", *command],
        env={**environment, "PYTHONHASHSEED": "0"},
        cwd=environment["LLM_USER_PATH"],
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or not found:
        raise SystemExit(f"{command} failed: {done.stderr[-2000:]}")
    return int(found[1])


class Compared(NamedTuple):
    """CPU seconds, their ratio, and peak memory in KiB of the floor and of the plugin."""

    ratio: float
    floor: float
    plugin: float
    floor_memory: float
    plugin_memory: float


class Timed(NamedTuple):
    """Seconds from a process's start to its first text, and from its last text to its end."""

    first: float
    after: float


def timed(command: list[str], environment: dict[str, str]) -> Timed:
    start = time.perf_counter()
    process = subprocess.Popen(
        command,
        env=environment,
        cwd=environment["LLM_USER_PATH"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout
    seen = []
    while data := process.stdout.read1():
        # The line break is printed at the end.
        if data.strip():
            seen.append(time.perf_counter())
    if process.wait():
        raise SystemExit(f"{command} failed")
    end = time.perf_counter()
    return Timed(seen[0] - start, end - seen[-1])


class Bench:
    def __init__(self) -> None:
        scripts = prepare(".venv-bench", [str(ROOT), "trustme"])
        self.python = str(scripts / "python")
        subprocess.run(
            [self.python, "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", "."],
            cwd=ROOT,
            check=True,
        )
        dropped_prefixes = ("LLM_", "PYTHON", "SSL_CERT_")
        plain = {k: v for k, v in os.environ.items() if not k.startswith(dropped_prefixes)}
        # The same llm, without the plugin.
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
        self.network = Network(self.python, self.environment)

    def close(self) -> None:
        self.server.terminate()
        self.network.close()

    def row(self, name: str, aim: str, value: str) -> None:
        """Print a line of the table. The aim applies to the first number of `value`."""
        limit, measured = (re.match(r"[≤+]? ?([\d.]+)", text) for text in (aim, value))
        if limit and measured and float(measured[1]) > float(limit[1]):
            aim += ", missed"
        print(f"| {name} | {value} | {aim} |", flush=True)

    def compare(
        self,
        floor: tuple[list[str], dict[str, str]],
        plugin: tuple[list[str], dict[str, str]],
        repeats: int = REPEATS,
    ) -> Compared:
        cpu(*floor), cpu(*plugin)
        floor_runs, plugin_runs = [], []
        for number in range(repeats):
            sides = [(floor, floor_runs), (plugin, plugin_runs)]
            for side, runs in sides if number % 2 else reversed(sides):
                runs.append(cpu(*side))
        ratios = [b / a for (a, _), (b, _) in zip(floor_runs, plugin_runs, strict=True)]
        return Compared(
            statistics.median(ratios),
            min(time for time, _ in floor_runs),
            min(time for time, _ in plugin_runs),
            statistics.median(memory for _, memory in floor_runs),
            statistics.median(memory for _, memory in plugin_runs),
        )

    def inside(self, what: str, *arguments: str, **settings: str) -> dict[str, float]:
        """Run a measurement of inside.py in a process."""
        done = subprocess.run(
            [self.python, str(ROOT / "benchmarks" / "inside.py"), what, *arguments],
            env={**self.environment, **settings},
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(done.stderr[-3000:])
        return json.loads(done.stdout.splitlines()[-1])

    # Start and short prompts

    @property
    def pairs(self) -> dict[str, tuple[list[str], list[str], str]]:
        """For each row, by its name: the floor's command, the plugin's, and the aim."""
        pairs = {}
        for words in (["--version"], ["models"]):
            name = f"`llm {' '.join(words)}` with the plugin : without"
            pairs[name] = self.bare_llm + words, self.llm + words, "≤ 1.04"
        plugin = ["-m", "chatgpt-gpt-6-luna", "hi", "-R"]
        for more in ([], ["--no-log"], ["--async"]):
            name = " ".join(["a short prompt", *(f"`{word}`" for word in more), ": the floor"])
            floor = [*self.floor, "-m", "floor", "hi", *more]
            pairs[name] = floor, [*self.llm, *plugin, *more], "≤ 1.10"
        return pairs

    def start(self) -> None:
        for name, (floor, plugin, aim) in self.pairs.items():
            found = self.compare((floor, self.environment), (plugin, self.environment))
            self.row(name, aim, f"{found.ratio:.3f} ({found.floor * 1000:.0f} ms)")
        times = [self.inside("import") for _ in range(REPEATS)]
        best = min(t["import_ms"] for t in times)
        self.row("import of the plugin", "", f"{best:.1f} ms")
        best = min(t["register_ms"] for t in times)
        self.row("registering the models", "", f"{best:.2f} ms")
        plugin, truststore = self.inside("tls", "plugin"), self.inside("tls", "truststore")
        for name, what in (
            ("first_ms", "the first TLS connection"),
            ("next_ms", "each one after it"),
        ):
            times = f"{plugin[name]:.1f} ms : {truststore[name]:.1f} ms"
            self.row(f"CPU of {what} : with truststore", "", times)

    def instructions(self) -> None:
        if not shutil.which("valgrind"):
            print("(no valgrind on this machine, so no instructions are counted)", file=sys.stderr)
            return
        for name, (floor, plugin, aim) in self.pairs.items():
            # The first run stores files that later ones read; it does not count.
            cpu(plugin, self.environment)
            a, b = instructions(floor, self.environment), instructions(plugin, self.environment)
            self.row(f"instructions of {name}", aim, f"{b / a:.3f} ({a / 1e6:,.0f} million)")

    # Long answers

    def long(self) -> None:
        count = 200_000
        for kind in ([], ["--async"]):
            settings = {"DELTAS": str(count)}
            base = {"DELTAS": "3"}
            plugin = [*self.llm, "-m", f"chatgpt-deltas-{count}", "hi", "-R", "--no-log", *kind]
            short = [*self.llm, "-m", "chatgpt-deltas-3", "hi", "-R", "--no-log", *kind]
            floor = [*self.floor, "-m", "floor", "hi", "--no-log", *kind]
            few = self.compare((floor, self.environment | base), (short, self.environment), 4)
            many = self.compare((floor, self.environment | settings), (plugin, self.environment), 3)
            floor_us = (many.floor - few.floor) / count * 1e6
            plugin_us = (many.plugin - few.plugin) / count * 1e6
            name = f"a delta of {count:,}{' (async)' if kind else ''}, above the floor's"
            self.row(name, "≤ 30 µs", f"{plugin_us - floor_us:+.1f} µs ({floor_us:.1f} µs)")
            name = f"peak memory of that answer{' (async)' if kind else ''} : the floor's"
            ratio = many.plugin_memory / many.floor_memory
            self.row(name, "≤ 1.1", f"{ratio:.2f} ({many.floor_memory / 1024:.0f} MiB)")

    # Within one process

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
                f"first text after the read of its bytes, in a chunk of {size} KiB (median)",
                "≤ 1 ms",
                f"{found['median_ms']:.2f} ms",
            )

    def requests(self) -> None:
        found = self.inside("image")
        self.row("peak memory of a 10 MB image : its size", "≤ 4", f"{found['ratio']:.2f}")
        found = self.inside("history", "1000")
        self.row("building 1,000 items of history", "≤ 10 ms", f"{found['ms']:.1f} ms")

    # Over a network

    def over_network(self) -> None:
        prompt = ["hi", "-R", "--no-log"]
        floor = [*self.floor, "-m", "floor", *prompt[:1], "--no-log"]
        plugin = [*self.llm, "-m", "chatgpt-deltas-3", *prompt]
        for ms in (20, 80, 200):
            core = [*self.llm, "-m", f"core-{ms}", "hi", "--no-log"]
            sides = {
                "floor": (floor, self.environment),
                "plugin": (plugin, self.network.plugin(ms)),
                "core": (core, self.network.core),
            }
            found = self.medians(sides)
            least = found["floor"].first * 1000 + 3 * ms
            self.row(
                f"first token, round trips {ms} ms : llm's own model : the floor + 3 round trips",
                "",
                f"{found['plugin'].first * 1000:.0f} ms : {found['core'].first * 1000:.0f} ms : "
                f"{least:.0f} ms",
            )
        late = [*self.llm, "-m", "chatgpt-deltas-late", "hi", "-R", "--no-log"]
        found = self.medians({"late": (late, self.environment), "floor": (floor, self.environment)})
        self.row(
            "last token to end of process, the stream open for 1 s more : the floor",
            "",
            f"{found['late'].after * 1000:.0f} ms : {found['floor'].after * 1000:.0f} ms",
        )
        plain = self.network.plugin(80) | {"LLM_CHATGPT_COMPRESS": "0"}
        for kb in (20, 100):
            size = str(kb * 1000)
            times = [
                self.inside("long_prompt", "chatgpt-deltas-3", size, **self.network.plugin(80)),
                self.inside("long_prompt", "chatgpt-deltas-3", size, **plain),
                self.inside("long_prompt", "core-80", size, **self.network.core),
            ]
            self.row(
                f"first token of {kb} kB, round trips 80 ms : not compressed : llm's own model",
                "",
                " : ".join(f"{found['ms']:.0f} ms" for found in times),
            )
        for side, model in (("", "chatgpt-deltas-3"), (" (llm's own model)", "core-0")):
            environment = self.network.core if side else self.network.plugin(0)
            stall = self.inside("stall", model, "100", **environment)
            self.row(
                f"100 async prompts at once over https{side}: longest stall of the loop, time",
                "" if side else "≤ 100 ms",
                f"{stall['stall_ms']:.0f} ms, {stall['ms']:.0f} ms",
            )

    def medians(self, sides: dict[str, tuple[list[str], dict[str, str]]]) -> dict[str, Timed]:
        """Run the sides alternately. Returns each side's medians."""
        found: dict[str, list[Timed]] = {name: [] for name in sides}
        for number in range(REPEATS + 1):
            for name, side in sides.items():
                times = timed(*side)
                if number:
                    found[name].append(times)
        return {
            name: Timed(*map(statistics.median, zip(*times, strict=True)))
            for name, times in found.items()
        }

    def growth(self) -> None:
        for name, what, counts, scale, unit in (
            ("building {:,} turns of history", "history", (1, 10, 100, 1000), 1000, "µs a turn"),
            ("reading {:,} deltas", "deltas", (1, 100, 10_000, 200_000), 1000, "µs a delta"),
            ("{:,} async prompts at once", "at_once", (1, 10, 100), 1, "ms a prompt"),
        ):
            before: tuple[int, float] | None = None
            for count in counts:
                items = count * 2 if what == "history" else count
                ms = self.inside(what, str(items))["ms"]
                slope = ""
                if before:
                    step = (ms - before[1]) / (count - before[0]) * scale
                    slope = f" (slope {step:.1f} {unit})"
                self.row(name.format(count), "linear", f"{ms:.2f} ms{slope}")
                before = count, ms


def main() -> None:
    wanted = sys.argv[1:]
    names = ["start", "instructions", "long", "connections", "first_token", "requests"]
    names += ["over_network", "growth"]
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
