"""SIGKILL at any point of a login, a refresh and a logout: the store always reads.

python tests/stress/kill.py [--full]

500 kills with --full, else 30. A child process does the work over and over; it is killed after
a random time, which falls everywhere between its first step and its last. Afterwards the store
must read, and hold the old or the new pair (after a logout: none). The one loss that cannot be
ruled out, a kill between the server's answer and the write, is counted and its length measured.
"""

from __future__ import annotations

import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import llm_chatgpt_oauth as plugin
from conftest import new_login
from llm_chatgpt.login import oauth
from llm_chatgpt.login.store import store_path
from simulator import Simulator

KILLS = 500 if "--full" in sys.argv else 30

IMPORTS = "import llm_chatgpt_oauth as p\nfrom llm_chatgpt.login.store import delete_tokens"
WORK = {
    "login": """
while True:
    p.login(show=lambda code: None)
""",
    "refresh": """
while True:
    p.store_tokens(p.load_tokens()._replace(expires_at=0.0))
    p.get_tokens()
""",
    "logout": """
tokens = p.load_tokens()
while True:
    delete_tokens()
    p.store_tokens(tokens)
""",
}


def measure_window(simulator: Simulator) -> list[float]:
    """Milliseconds between the server's answer being in and the new pair being on disk."""
    gaps: list[float] = []
    answered = 0.0
    parse, replace = oauth.tokens_from_reply, os.replace

    def parsed(*args, **kwargs):
        nonlocal answered
        answered = time.perf_counter()
        return parse(*args, **kwargs)

    def replaced(source, target):
        replace(source, target)
        gaps.append((time.perf_counter() - answered) * 1000)

    for _ in range(50):
        tokens = plugin.load_tokens()
        assert tokens
        plugin.store_tokens(tokens._replace(expires_at=0.0))
        oauth.tokens_from_reply, os.replace = parsed, replaced
        try:
            plugin.get_tokens()
        finally:
            oauth.tokens_from_reply, os.replace = parse, replace
    return gaps


def main() -> int:
    wrong = 0
    with tempfile.TemporaryDirectory() as folder, Simulator() as simulator:
        os.environ.update(simulator.environment, LLM_USER_PATH=folder)
        simulator.approve_after_polls = 0
        print("what     kills  unreadable  lost  leftovers swept")
        for what, code in WORK.items():
            unreadable = lost = swept = 0
            kills = KILLS // len(WORK)
            for _ in range(kills):
                tokens = new_login(simulator)
                assert tokens
                plugin.store_tokens(tokens)
                program = f"{IMPORTS}\nprint('go', flush=True)\n{code}"
                process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
                assert process.stdout
                process.stdout.readline()
                time.sleep(random.uniform(0.0, 0.15))
                assert process.poll() is None, "the child ended by itself"
                process.kill()
                process.wait()
                swept += len(list(store_path().parent.glob("*.tmp")))
                try:
                    found = plugin.load_tokens()
                except plugin.StoreError:
                    unreadable += 1
                    continue
                if found is None:
                    # Only a logout may leave nobody signed in.
                    lost += what != "logout"
                    continue
                entry = simulator.refresh_tokens.get(found.refresh_token or "")
                # The pair on disk was spent: the kill came between the answer and the write.
                lost += entry is None or entry["state"] != "fresh"
                # And the next program goes on at once, whatever the dead one held.
                start = time.monotonic()
                plugin.store_tokens(found)
                unreadable += time.monotonic() - start > 5
            print(f"{what:<8} {kills:>5}  {unreadable:>10}  {lost:>4}  {swept:>15}")
            wrong += unreadable
            wrong += lost if what != "refresh" else 0
        plugin.store_tokens(tokens)
        gaps = measure_window(simulator)
        print(
            "between the answer and the write: "
            f"median {statistics.median(gaps):.2f} ms, longest {max(gaps):.2f} ms of {len(gaps)}"
        )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
