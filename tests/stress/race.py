"""Processes, threads and tasks with an expired token: one refresh for all, an answer for each.

.venv/bin/python tests/stress/race.py [--full]

32 processes (the real `llm`), 32 threads or 200 tasks share a token that has expired or, on the
official route, that the API refuses. The refresh is quick, slow or fails once, or a process is
killed while it holds the lock. Without --full fewer rounds and processes.
Prints the figures; exit code 1 if anything went wrong.
"""

from __future__ import annotations

import asyncio
import collections
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import llm

import llm_chatgpt_oauth as plugin
from conftest import make_logs, sign_in, sign_in_officially
from llm_chatgpt.backend.endpoints import fetch_models
from simulator import Answer, Simulator

FULL = "--full" in sys.argv
ROUNDS = 20 if FULL else 1
PROCESSES = 32 if FULL else 5
THREADS, TASKS = 32, 200


class Codex:
    """Logins that are renewed because they have expired."""

    endpoint = "token"

    def __init__(self, simulator: Simulator):
        self.simulator = simulator
        self.tokens = sign_in(simulator)

    def expire(self) -> None:
        tokens = plugin.load_tokens()
        assert tokens
        plugin.store_tokens(tokens._replace(expires_at=time.time() - 60))


class Official(Codex):
    """Logins that are renewed because the API refuses them."""

    endpoint = "official_token"

    def __init__(self, simulator: Simulator):
        self.simulator = simulator
        simulator.official.earliest_refresh_form = "null"
        self.tokens = sign_in_officially(simulator)

    def expire(self) -> None:
        self.simulator.expire_access_tokens()


def processes(count: int) -> list[str]:
    """Start `count` llm processes at once; return what went wrong in them."""
    command = [sys.executable, "-m", "llm", "-m", "chatgpt-gpt-6-luna", "hi", "--no-log", "-R"]
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    wrong = []
    for process in started:
        out, err = process.communicate(timeout=180)
        if process.returncode or not out.startswith("This is answer"):
            wrong.append(f"exit code {process.returncode}: {err.strip()[-300:]}")
    return wrong


def threads(count: int) -> list[str]:
    model = llm.get_model("chatgpt-gpt-6-luna")
    barrier, wrong = threading.Barrier(count), []

    def one() -> None:
        barrier.wait()
        try:
            assert model.prompt("hi").text().startswith("This is answer")
        except Exception as error:
            wrong.append(repr(error))

    running = [threading.Thread(target=one) for _ in range(count)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return wrong


def tasks(count: int) -> list[str]:
    async def run() -> list[object]:
        model = llm.get_async_model("chatgpt-gpt-6-luna")
        prompts = (model.prompt("hi").text() for _ in range(count))
        return await asyncio.gather(*prompts, return_exceptions=True)

    found = asyncio.run(run())
    return [repr(f) for f in found if not str(f).startswith("This is answer")]


def kill_lock_holder() -> None:
    """Start a process that takes the lock, and kill it 0.3 seconds later."""
    code = (
        "import time\nfrom llm_chatgpt.login.login_file import locked_store\n"
        "with locked_store():\n    print('held', flush=True)\n    time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    threading.Timer(0.3, process.send_signal, [signal.SIGKILL]).start()


def main() -> int:
    print(f"{'route':<9} {'who':<16} {'refresh':<20} rounds  refreshes  failures  seconds a round")
    failures = 0
    for route in (Codex, Official):
        with tempfile.TemporaryDirectory() as folder, Simulator() as simulator:
            os.environ.update(simulator.environment, LLM_USER_PATH=folder)
            os.environ["LLM_CHATGPT_USAGE_NOTE"] = "0"
            failures += race(route(simulator), simulator)
    return 1 if failures else 0


def race(route: Codex, simulator: Simulator) -> int:
    """Run all rounds on one route, and return the number of checks that failed."""
    failures = 0
    name_of_route = type(route).__name__.lower()
    fetch_models(route.tokens)
    # Created beforehand, because llm's own migrations race.
    make_logs()
    kinds = {"processes": (processes, PROCESSES), "threads": (threads, THREADS)}
    kinds["tasks"] = (tasks, TASKS)
    cases = {
        "quick": lambda: None,
        "slow": lambda: simulator.script(route.endpoint, lambda r: time.sleep(1.0)),
        "lock holder killed": kill_lock_holder,
    }
    for kind, (run, count) in kinds.items():
        who = f"{name_of_route:<9} {f'{count} {kind}':<16}"
        for name, prepare in cases.items():
            rounds = ROUNDS if name == "quick" else max(1, ROUNDS // 4)
            sent, wrong, start = collections.Counter(), [], time.monotonic()
            for _ in range(rounds):
                route.expire()
                prepare()
                before = len(simulator.refreshes)
                wrong += run(count)
                sent[len(simulator.refreshes) - before] += 1
            seconds = (time.monotonic() - start) / rounds
            failures += sent != {1: rounds} or bool(wrong)
            total = "+".join(f"{n}*{k}" for k, n in sorted(sent.items()))
            print(f"{who} {name:<20} {rounds:>3}  {total:>9}  {len(wrong):>8}  {seconds:.1f}")
            for line in wrong[:3]:
                print(f"    {line}")
        # Failing once: all threads and tasks that wait report the error. Processes do not share it,
        # and on the official route a 401 may come after it: then a second refresh is sent.
        route.expire()
        simulator.script(route.endpoint, lambda request: time.sleep(1.0) or Answer(500))
        before = len(simulator.refreshes)
        wrong = run(count)
        sent_now = len(simulator.refreshes) - before
        fine = (len(wrong), sent_now) == (count, 1)
        if kind == "processes" or isinstance(route, Official):
            fine = 1 <= len(wrong) <= count and sent_now <= 2
        failures += not fine
        print(f"{who} {'failing once':<20}   1  {sent_now:>9}  {len(wrong):>8}")
    used = [r.body["refresh_token"] for r in simulator.refreshes]
    # Only a token that was answered with 500 may be sent twice: the server has not spent it.
    twice = [t for t, n in collections.Counter(used).items() if n > 1]
    print(f"refresh tokens sent twice: {len(twice)} (after a failure: {len(kinds)} at most)")
    return failures + (len(twice) > len(kinds))


if __name__ == "__main__":
    sys.exit(main())
