"""Concurrent callers renew a login once, and no cancellation, exit or fork interrupts it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import os
import subprocess
import sys
import threading
import time

import llm
import pytest

import llm_chatgpt_oauth as plugin
from conftest import expire, prompt_in_five_processes
from simulator import Answer, error_answer


def all_at_once(kind, count):
    """Call `get_tokens` `count` times at once. Returns the tokens or the error of each call."""
    if kind == "async":

        async def run():
            calls = (plugin.get_tokens_async() for _ in range(count))
            return await asyncio.gather(*calls, return_exceptions=True)

        return asyncio.run(run())
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        calls = [pool.submit(plugin.get_tokens) for _ in range(count)]
    return [call.exception() or call.result() for call in calls]


def test_threads_refresh_once(simulator, signed_in):
    expire()
    simulator.script("token", lambda request: time.sleep(0.5))
    assert all_at_once("sync", 16) == [plugin.load_tokens()] * 16
    assert len(simulator.refreshes) == 1


def test_tasks_refresh_once_and_the_loop_goes_on(simulator, signed_in):
    expire()
    simulator.script("token", lambda request: time.sleep(0.3))

    async def run():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.01)

        ticker = asyncio.create_task(tick())
        model = llm.get_async_model("chatgpt-gpt-6-luna")
        texts = await asyncio.gather(*(model.prompt(f"p{n}").text() for n in range(40)))
        ticker.cancel()
        return texts, ticks

    texts, ticks = asyncio.run(run())
    assert [text.rsplit(" ", 1)[1] for text in texts] == [f"p{n}" for n in range(40)]
    assert len(simulator.refreshes) == 1
    assert ticks > 15


def test_five_processes_refresh_once(simulator, signed_in):
    expire()
    simulator.script("token", lambda request: time.sleep(0.3))
    prompt_in_five_processes()
    assert len(simulator.refreshes) == 1


@pytest.mark.parametrize(
    "answer", [Answer(500), Answer(drop=True), error_answer(401, "refresh_token_reused")]
)
def test_all_that_wait_for_a_refresh_get_its_failure(simulator, signed_in, ask, answer):
    """After a lost answer the refresh token may be used up, so no other call sends it."""
    expire()
    simulator.script("token", lambda request: time.sleep(0.5) or answer)
    errors = all_at_once(ask.kind, 20)
    assert [type(error) for error in errors] == [plugin.RefreshFailed] * 20
    assert len({str(error) for error in errors}) == 1
    assert len(simulator.refreshes) == 1


def test_a_shared_failure_causes_one_warning(simulator, signed_in, ask, caplog):
    old = expire(200)
    simulator.script("token", lambda request: time.sleep(0.5) or Answer(500))
    assert all_at_once(ask.kind, 20) == [old] * 20
    assert len(simulator.refreshes) == 1
    assert caplog.text.count("The old token works until") == 1


def test_a_temporary_failure_is_not_remembered(simulator, signed_in, clock):
    expire()
    simulator.script("token", Answer(500))
    with pytest.raises(plugin.RefreshFailed):
        plugin.get_tokens()
    assert plugin.get_tokens()
    # The same if the clock was ahead during the failure.
    expire()
    simulator.script("token", Answer(500))
    clock.shift = 86400
    with pytest.raises(plugin.RefreshFailed):
        plugin.get_tokens()
    clock.shift = 0
    assert plugin.get_tokens()


def test_many_coroutines_need_no_threads_of_their_own(simulator, signed_in):
    expire()
    during = []
    simulator.script("token", lambda request: during.append(threading.active_count()))
    before = threading.active_count()
    assert set(all_at_once("async", 200)) == {plugin.load_tokens()}
    assert during[0] - before < 10


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("lifetime", [10, 300])
def test_a_short_lived_token_is_renewed_once_for_all_calls(simulator, signed_in, kind, lifetime):
    expire()
    simulator.account = dataclasses.replace(simulator.account, access_token_seconds=lifetime)
    for entry in simulator.refresh_tokens.values():
        entry["account"] = simulator.account
    simulator.script("token", lambda request: time.sleep(0.5))
    assert len(set(all_at_once(kind, 24))) == 1
    assert len(simulator.refreshes) == 1


# Cancelled tasks, and processes that end or fork


def delayed_answer(arrived, release):
    def answer_late(request):
        arrived.set()
        release.wait(20)

    return answer_late


def test_a_cancelled_task_waits_for_the_write(simulator, signed_in):
    old = expire()
    arrived, release = threading.Event(), threading.Event()
    simulator.script("token", delayed_answer(arrived, release))

    async def run():
        task = asyncio.create_task(plugin.get_tokens_async())
        await asyncio.to_thread(arrived.wait)
        task.cancel()
        await asyncio.sleep(0.05)
        assert not task.done()
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert plugin.load_tokens().refresh_token != old.refresh_token
    assert len(simulator.refreshes) == 1


def test_a_cancelled_task_does_not_disturb_the_others(simulator, signed_in):
    expire()
    arrived, release = threading.Event(), threading.Event()
    simulator.script("token", delayed_answer(arrived, release))

    async def run():
        first, second = (asyncio.create_task(plugin.get_tokens_async()) for _ in range(2))
        await asyncio.to_thread(arrived.wait)
        first.cancel()
        release.set()
        return await second

    assert asyncio.run(run()) == plugin.load_tokens()


def test_a_process_ends_only_after_its_refresh(simulator, signed_in):
    old = expire()
    arrived, release = threading.Event(), threading.Event()
    simulator.script("token", delayed_answer(arrived, release))
    code = (
        "import threading, llm_chatgpt_oauth as plugin\n"
        "threading.Thread(target=plugin.get_tokens, daemon=True).start()\n"
        "input()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    assert arrived.wait(20)
    process.stdin.write(b"\n")
    process.stdin.close()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    release.set()
    assert process.wait(20) == 0
    assert plugin.load_tokens().refresh_token != old.refresh_token


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_can_renew_a_login(simulator, signed_in):
    expire()
    plugin.get_tokens()
    expire()
    child = os.fork()
    if not child:
        os._exit(plugin.get_tokens().access_token == signed_in.access_token)
    assert os.waitpid(child, 0)[1] == 0
    assert len(simulator.refreshes) == 2


FORKED_WHILE_IMPORTING = """
import importlib.abc, importlib.util, os, signal, sys, threading, time

class Slow(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.startswith("filelock"):
            importing.set()
            time.sleep(0.2)

importing = threading.Event()
import llm_chatgpt_oauth as plugin
sys.meta_path.insert(0, Slow())
thread = threading.Thread(target=plugin.store_tokens, args=(plugin.load_tokens(),))
thread.start()
assert importing.wait(20)
child = os.fork()
if not child:
    signal.alarm(20)
    try:
        plugin.store_tokens(plugin.load_tokens(), "child")
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)
thread.join()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_during_the_import_of_the_lock_does_not_block_the_child(simulator, signed_in):
    command = [sys.executable, "-W", "ignore", "-c", FORKED_WHILE_IMPORTING]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert plugin.load_tokens("child") == signed_in
