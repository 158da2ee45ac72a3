"""SIGKILL at any point of a login, a refresh and a logout: the login file stays readable.

.venv/bin/python tests/stress/kill.py [--full]

160 kills of each kind and route with --full, else 5. A child process does the work over and over;
it is killed after a random time, at any of its steps. Afterwards the login file must be readable
and hold the old or the new tokens (after a logout, possibly none).

A login can be lost only by a kill after a refresh was sent and before the new tokens are written.
The script counts these losses, with the simulator near and 100 ms away, and measures the length of
that window.
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
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import llm_chatgpt_oauth as plugin
from conftest import sign_in, sign_in_officially
from llm_chatgpt import http
from llm_chatgpt.login.login_file import store_path
from simulator import Simulator
from simulator.replies import Refusal

KILLS = 160 if "--full" in sys.argv else 5
NETWORK_SECONDS = (0.0, 0.1)

IMPORTS = """
import threading, urllib.request
# Import everything before "go", so that no process is killed during an import.
import filelock, http.server, httpx
import llm_chatgpt_oauth as p
from llm_chatgpt.login.login_file import delete_tokens

def approve(login):
    # Cloudflare, in front of the issuer, refuses urllib's own User-Agent.
    request = urllib.request.Request(login.url, headers={"User-Agent": "Mozilla/5.0"})
    threading.Thread(target=urllib.request.urlopen, args=(request,), daemon=True).start()

print("go", flush=True)
"""
LOGIN = {
    "codex": "p.login(show=lambda code: None)",
    "official": "p.login_officially('default', show=approve)",
}
REFRESH = "p.get_tokens(rejected=p.load_tokens().access_token)"
LOGOUT = "delete_tokens(); p.store_tokens(tokens)"
TOKEN_ENDPOINTS = {"codex": "token", "official": "official_token"}


class Network:
    """Serves a token endpoint whose answers arrive `seconds` late."""

    def __init__(self, simulator: Simulator, endpoint: str, seconds: float):
        self._serve = getattr(simulator, f"serve_{endpoint}")
        self._seconds = seconds
        # When the server had issued the new tokens.
        self.committed = 0.0

    def __call__(self, request: Any) -> Any:
        try:
            return self._serve(request)
        except Refusal as refusal:
            return refusal.answer
        finally:
            self.committed = time.perf_counter()
            time.sleep(self._seconds)


def store_login(simulator: Simulator, route: str) -> plugin.Tokens:
    return sign_in_officially(simulator) if route == "official" else sign_in(simulator)


def is_lost(simulator: Simulator, tokens: plugin.Tokens) -> bool:
    """Check whether the stored tokens are spent: the kill came between request and write."""
    issued = {**simulator.refresh_tokens, **simulator.official_refresh_tokens}
    entry = issued.get(tokens.refresh_token or "")
    return entry is None or entry["state"] != "fresh"


def kill(simulator: Simulator, route: str, what: str, code: str) -> tuple[int, int, int]:
    """Kill a process KILLS times. Returns how often the login file was unreadable or blocked,
    how many logins were lost, and how many temporary files were left behind."""
    unreadable = lost = leftovers = 0
    for _ in range(KILLS):
        store_login(simulator, route)
        program = f"{IMPORTS}\ntokens = p.load_tokens()\nwhile True: {code}"
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        assert process.stdout
        process.stdout.readline()
        time.sleep(random.uniform(0.0, 0.15))
        assert process.poll() is None, "the child ended by itself"
        process.kill()
        process.wait()
        leftovers += len(list(store_path().parent.glob("*.tmp")))
        try:
            found = plugin.load_tokens()
        except plugin.StoreError:
            unreadable += 1
            continue
        if found is None:
            # Only a logout may leave no login.
            lost += what != "logout"
            continue
        lost += is_lost(simulator, found)
        # The next program must not wait for a lock of the killed one.
        start = time.monotonic()
        plugin.store_tokens(found)
        unreadable += time.monotonic() - start > 5
    return unreadable, lost, leftovers


def measure_window(
    simulator: Simulator, route: str, network: Network
) -> tuple[list[float], list[float]]:
    """Measure the milliseconds from the request, and from the server's commit, until the new
    tokens are on disk."""
    from_request: list[float] = []
    from_commit: list[float] = []
    send, replace, sent = http.send, os.replace, 0.0

    def sending(*args: Any, **kwargs: Any) -> Any:
        nonlocal sent
        sent = time.perf_counter()
        return send(*args, **kwargs)

    def replaced(source: Any, target: Any) -> None:
        replace(source, target)
        if target == store_path():
            from_request.append((time.perf_counter() - sent) * 1000)
            from_commit.append((time.perf_counter() - network.committed) * 1000)

    store_login(simulator, route)
    http.send, os.replace = sending, replaced
    try:
        for _ in range(50):
            plugin.get_tokens(rejected=plugin.load_tokens().access_token)
    finally:
        http.send, os.replace = send, replace
    return from_request, from_commit


def in_ms(durations: list[float]) -> str:
    return f"{statistics.median(durations):.1f} ms (at most {max(durations):.1f})"


def main() -> int:
    wrong = 0
    print("route     what     network  kills  unreadable  lost  temporary files")
    for route, endpoint in TOKEN_ENDPOINTS.items():
        with tempfile.TemporaryDirectory() as folder, Simulator() as simulator:
            os.environ.update(simulator.environment, LLM_USER_PATH=folder)
            simulator.approve_after_polls = 0
            simulator.official.earliest_refresh_form = "null"
            work = [("login", LOGIN[route], 0.0), ("logout", LOGOUT, 0.0)]
            work += [("refresh", REFRESH, seconds) for seconds in NETWORK_SECONDS]
            windows = []
            for what, code, seconds in work:
                network = Network(simulator, endpoint, seconds)
                simulator.always[endpoint] = network
                unreadable, lost, leftovers = kill(simulator, route, what, code)
                print(
                    f"{route:<9} {what:<8} {seconds * 1000:>4.0f} ms  {KILLS:>5}  "
                    f"{unreadable:>10}  {lost:>4}  {leftovers:>15}"
                )
                wrong += unreadable + (lost if what != "refresh" else 0)
                if what == "refresh":
                    windows.append((seconds, measure_window(simulator, route, network)))
            for seconds, (from_request, from_commit) in windows:
                print(
                    f"{route}, server {seconds * 1000:.0f} ms away: "
                    f"{in_ms(from_request)} from the request to the write, "
                    f"{in_ms(from_commit)} from the server's commit to the write"
                )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
