"""At the command line, signals wait for a refresh whose request has been sent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import llm_chatgpt_oauth as plugin
from conftest import TELL_WAITING, expire, make_logs, start_llm
from llm_chatgpt.login.login_file import locked_store

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
SIGNALS = {
    "SIGTERM": [signal.SIGTERM],
    "a closed window": [signal.SIGHUP],
    "Ctrl-C": [signal.SIGINT],
    "Ctrl-C, repeated": [signal.SIGINT] * 4,
    "Ctrl-C, then SIGTERM": [signal.SIGINT, signal.SIGTERM],
}


@pytest.fixture
def slow_refresh(simulator, signed_in):
    """Delay the answer to a refresh. Yields two events: `arrived`, which the request sets, and
    `release`, which lets the answer go."""
    make_logs()
    expire()
    arrived, release = threading.Event(), threading.Event()

    def answer_late(request):
        arrived.set()
        release.wait(30)

    simulator.script("token", answer_late)
    yield arrived, release
    release.set()


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_waits_for_the_write(simulator, signed_in, slow_refresh, kind, name):
    arrived, release = slow_refresh
    options = ["--async"] if kind == "async" else []
    process = start_llm("-m", "chatgpt-gpt-6-luna", "hi", "--no-log", *options)
    assert arrived.wait(30)
    for number in SIGNALS[name]:
        process.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.2)
    release.set()
    out, err = process.communicate(timeout=30)
    # The signal takes effect after the write.
    assert process.returncode in (1, *(-number for number in SIGNALS[name]))
    assert (process.returncode == 1) == (set(SIGNALS[name]) == {signal.SIGINT})
    assert out.strip() == ""
    assert "Traceback" not in err
    assert plugin.load_tokens().refresh_token != signed_in.refresh_token
    assert not simulator.prompts


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_does_not_wait_for_ever(simulator, signed_in, slow_refresh, number):
    arrived, _ = slow_refresh
    code = (
        "from llm_chatgpt import config; config.REFRESH_GRACE_SECONDS = 1.0\n"
        "from llm.cli import cli; cli(['-m', 'chatgpt-gpt-6-luna', 'hi', '--no-log'])"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.DEVNULL)
    assert arrived.wait(30)
    start = time.monotonic()
    # The grace period begins with the first signal; later signals do not extend it.
    for _ in range(3):
        process.send_signal(number)
        time.sleep(0.2)
    process.wait(20)
    assert 0.9 < time.monotonic() - start < 6
    assert plugin.load_tokens().refresh_token == signed_in.refresh_token


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_does_not_wait_for_the_lock(simulator, signed_in, number):
    make_logs()
    expire()
    code = (
        f"{TELL_WAITING}\n"
        "from llm.cli import cli; cli(['-m', 'chatgpt-gpt-6-luna', 'hi', '--no-log'])"
    )
    with locked_store():
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr.readline() == "waiting for the lock\n"
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
    assert process.returncode == (1 if number == signal.SIGINT else -number)
    assert "Traceback" not in err
    assert simulator.refreshes == []


LIBRARY = "import llm_chatgpt_oauth as p; p.get_tokens()"
OWN_HANDLER = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
from llm.cli import cli
cli(["-m", "chatgpt-gpt-6-luna", "hi", "--no-log"])
"""


@pytest.mark.parametrize(("code", "end"), [(LIBRARY, -signal.SIGTERM), (OWN_HANDLER, 7)])
def test_other_programs_keep_their_signals(simulator, signed_in, slow_refresh, code, end):
    arrived, release = slow_refresh
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.DEVNULL)
    assert arrived.wait(30)
    process.send_signal(signal.SIGTERM)
    if end < 0:
        assert process.wait(5) == end
        return
    # The program's own handler ends the program. Every exit waits for the write.
    release.set()
    assert process.wait(20) == end
