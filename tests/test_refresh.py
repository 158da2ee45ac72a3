"""The refresh token works once: who refreshes, when, and what everybody else gets."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import stat
import subprocess
import sys
import threading
import time

import llm
import pytest

import llm_chatgpt_oauth as plugin
from conftest import (
    entry_on_disk,
    expire,
    new_login,
    prompt_in_five_processes,
    sign_in,
)
from disk import fill_disk
from llm_chatgpt import config, files
from llm_chatgpt.login.login_file import locked_store, read_store, store_path
from simulator import Answer, error_answer, web_page


def test_a_good_token_is_used_as_it_is(simulator, signed_in, ask, monkeypatch):
    monkeypatch.setattr("llm_chatgpt.config.LOCK_TIMEOUT_SECONDS", 0.1)
    with locked_store():
        assert ask("hi").text
    assert simulator.refreshes == []


@pytest.mark.parametrize("seconds_left", [-1000, -1, 1, 299])
def test_a_token_that_ends_within_five_minutes_is_renewed(simulator, signed_in, ask, seconds_left):
    old = expire(seconds_left)
    assert ask("hi").text
    assert len(simulator.refreshes) == 1
    request = simulator.refreshes[0]
    assert request.body == {
        "client_id": config.CLIENT_ID,
        "grant_type": "refresh_token",
        "refresh_token": old.refresh_token,
    }
    assert "json" in request.headers["content-type"]
    new = plugin.load_tokens()
    assert new.refresh_token != old.refresh_token
    assert new.expires_at > time.time() + 86400
    used = simulator.seen("/codex/responses")[0].headers["authorization"]
    assert used == f"Bearer {new.access_token}"


def test_a_token_with_more_time_is_not_renewed(simulator, signed_in, ask):
    expire(330)
    assert ask("hi").text
    assert simulator.refreshes == []


def test_missing_fields_keep_their_values(simulator, signed_in):
    old = expire()
    access_token = simulator.sign_in()["access_token"]
    simulator.script("token", Answer(200, {"access_token": access_token}))
    new = plugin.get_tokens()
    assert new.access_token == access_token
    assert (new.refresh_token, new.id_token) == (old.refresh_token, old.id_token)
    assert plugin.load_tokens() == new


PERMANENT = [
    (error_answer(401, "refresh_token_expired"), "has expired"),
    (error_answer(401, "refresh_token_reused"), "renewed elsewhere, probably by a copy"),
    (error_answer(401, "refresh_token_invalidated"), "was ended by OpenAI"),
    (error_answer(400, "REFRESH_TOKEN_EXPIRED"), "has expired"),
    (Answer(401, {"error": "refresh_token_expired"}), "has expired"),
    (Answer(401, {"code": "refresh_token_reused"}), "renewed elsewhere, probably by a copy"),
    (error_answer(401, "token_expired"), "has expired"),
    (error_answer(401, "something_new"), "no longer accepted"),
    (Answer(400, {"error": "invalid_grant"}), "no longer accepted"),
]
PASSING = [
    error_answer(400, "invalid_request"),
    Answer(500),
    Answer(503, "busy"),
    Answer(429),
    web_page(),
    # As a proxy has them, which knows nothing of the login.
    Answer(401),
    Answer(401, "<html>Sign in to the proxy</html>", {"Content-Type": "text/html"}),
    Answer(401, {"message": "Unauthorized"}),
    Answer(200, "junk"),
    Answer(200, [1]),
    Answer(drop=True),
]


@pytest.mark.parametrize(("answer", "words"), PERMANENT)
def test_permanent_refusals_ask_for_a_new_login(simulator, signed_in, ask, answer, words):
    old = expire()
    simulator.script("token", answer)
    with pytest.raises(llm.ModelError, match=words) as caught:
        ask("hi")
    assert caught.value.permanent
    assert "Run 'llm chatgpt login'" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert simulator.prompts == []
    # Nothing is lost: only the refusal is added.
    assert plugin.load_tokens()._replace(refusal=None) == old


@pytest.mark.parametrize("answer", PASSING)
def test_passing_failures_ask_to_try_again(simulator, signed_in, ask, answer):
    old = expire()
    simulator.script("token", answer)
    with pytest.raises(llm.ModelError) as caught:
        ask("hi")
    assert not caught.value.permanent
    assert "rt_" not in str(caught.value)
    assert plugin.load_tokens() == old
    # And the next time it works.
    assert ask("hi").text


@pytest.mark.parametrize("answer", [PASSING[1], PERMANENT[0][0], PASSING[-1]])
def test_a_failed_refresh_does_not_stop_a_token_that_works(simulator, signed_in, answer, run_llm):
    expire(200)
    simulator.script("token", answer)
    result = run_llm("-m", "chatgpt-gpt-6-luna", "hi", "--no-log")
    assert result.exit_code == 0
    assert result.stdout == "This is answer 1. You said: hi\n"
    assert "Warning" in result.stderr
    assert len(simulator.refreshes) == 1


def test_a_newer_pair_on_disk_is_adopted(simulator, signed_in, change_during_the_wait):
    """Another process was faster: it renewed the login after this one read it."""
    expire()
    newer = new_login(simulator)
    adopted = change_during_the_wait(plugin.get_tokens, lambda store: store.put("default", newer))
    assert adopted == newer
    assert simulator.refreshes == []


def test_a_program_without_our_lock_was_faster(simulator, signed_in):
    """`refresh_token_reused`, and by then a newer pair is on disk."""
    expire()
    newer = new_login(simulator)

    def reused(request):
        store_path().write_bytes(read_store().put("default", newer).to_bytes())
        return error_answer(401, "refresh_token_reused")

    simulator.script("token", reused)
    assert plugin.get_tokens() == newer
    assert plugin.load_tokens() == newer


# 401 from the backend ----------------------------------------------------------------


def test_a_401_is_answered_by_one_refresh_and_one_resend(simulator, signed_in, ask):
    simulator.expire_access_tokens()
    assert ask("hi").text == "This is answer 1. You said: hi"
    assert len(simulator.refreshes) == 1
    first, second = simulator.seen("/codex/responses")
    assert first.headers["authorization"] != second.headers["authorization"]
    assert first.raw == second.raw


def test_a_401_looks_at_the_store_first(simulator, signed_in, ask):
    newer = new_login(simulator)

    def unauthorized(request):
        # Meanwhile another process has refreshed.
        plugin.store_tokens(newer)
        return error_answer(401, "token_expired")

    simulator.script("responses", unauthorized)
    assert ask("hi").text
    assert simulator.refreshes == []
    assert (
        simulator.seen("/codex/responses")[1].headers["authorization"].endswith(newer.access_token)
    )


def test_a_second_401_is_told_to_the_person(simulator, signed_in, ask):
    refusal = error_answer(401, "token_invalidated", "Your session has ended.")
    simulator.script("responses", refusal, refusal)
    with pytest.raises(llm.ModelError, match="Run 'llm chatgpt login'") as caught:
        ask("hi")
    assert "Your session has ended" in str(caught.value)
    assert len(simulator.refreshes) == 1
    assert len(simulator.seen("/codex/responses")) == 2


# Writing ------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root writes anywhere")
def test_no_refresh_goes_out_if_it_could_not_be_kept(simulator, signed_in):
    expire()
    folder = store_path().parent
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with pytest.raises(plugin.StoreError, match="Could not write"):
            plugin.get_tokens()
    finally:
        folder.chmod(0o700)
    assert simulator.refreshes == []


def no_writing(monkeypatch):
    """Fails after the probe, which a refresh begins with."""
    replace = files.replace_file

    def fails(source, target):
        if target == store_path():
            raise OSError(5, "Input/output error")
        replace(source, target)

    monkeypatch.setattr("llm_chatgpt.files.replace_file", fails)


def test_a_full_disk_spends_no_refresh_token(simulator, signed_in, monkeypatch):
    expire()
    fill_disk(monkeypatch)
    with pytest.raises(plugin.StoreError, match="No space left on device"):
        plugin.get_tokens()
    assert simulator.refreshes == []


def test_a_full_disk_does_not_stop_a_token_that_works(simulator, signed_in, monkeypatch, caplog):
    old = expire(100)
    fill_disk(monkeypatch)
    assert plugin.get_tokens() == old
    assert "No space left on device" in caplog.text


def test_a_pair_that_could_not_be_stored_is_used_with_a_warning(
    simulator, signed_in, ask, monkeypatch, caplog
):
    old = expire()
    with monkeypatch.context() as context:
        no_writing(context)
        assert ask("hi").text
        assert "renewed but not stored" in caplog.text
        assert entry_on_disk()["refresh_token"] == old.refresh_token
        # This process goes on with it.
        assert ask("again").text
    # And stores it as soon as it can.
    assert ask("later").text
    assert len(simulator.refreshes) == 1
    used = simulator.seen("/codex/responses")[0].headers["authorization"]
    assert used == f"Bearer {entry_on_disk()['access_token']}"


def test_a_pair_that_is_not_stored_is_so_before_it_is_renewed(
    simulator, signed_in, monkeypatch, clock
):
    expire()
    with monkeypatch.context() as context:
        no_writing(context)
        first = plugin.get_tokens()
    clock.shift = 20 * 86400
    with monkeypatch.context() as context:
        fill_disk(context, "chatgpt-oauth.json", after=1)
        second = plugin.get_tokens()
    assert entry_on_disk()["refresh_token"] == first.refresh_token
    assert plugin.get_tokens() == second == plugin.load_tokens()
    assert [r.body["refresh_token"] for r in simulator.refreshes] == [
        signed_in.refresh_token,
        first.refresh_token,
    ]


END_OF_PROCESS = """
import sys, llm_chatgpt_oauth as plugin
from llm_chatgpt import files
from llm_chatgpt.login.login_file import delete_tokens

def fails(source, target):
    if target.suffix == ".json":
        raise OSError(5, "Input/output error")
    works(source, target)

works, files.replace_file = files.replace_file, fails
plugin.get_tokens()
files.replace_file = works
"""


@pytest.mark.parametrize("meanwhile", ["", "delete_tokens()"])
def test_the_end_of_the_process_stores_what_could_not_be_stored(simulator, signed_in, meanwhile):
    old = expire()
    code = END_OF_PROCESS + meanwhile
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
    assert len(simulator.refreshes) == 1
    if meanwhile:
        # A logout is final.
        assert plugin.load_tokens() is None
    else:
        assert plugin.load_tokens().refresh_token != old.refresh_token
        assert plugin.get_tokens() == plugin.load_tokens()
        assert len(simulator.refreshes) == 1


# Many at once ---------------------------------------------------------------------------


def test_threads_refresh_once(simulator, signed_in):
    expire()
    simulator.script("token", lambda request: time.sleep(0.2))
    found, barrier = [], threading.Barrier(16)

    def one():
        barrier.wait()
        found.append(plugin.get_tokens())

    threads = [threading.Thread(target=one) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(simulator.refreshes) == 1
    assert len(found) == 16
    assert set(found) == {plugin.load_tokens()}


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


def all_at_once(kind, count):
    """What so many callers get or fail with, all of whom ask before the first has its answer."""
    if kind == "async":

        async def run():
            calls = (plugin.get_tokens_async() for _ in range(count))
            return await asyncio.gather(*calls, return_exceptions=True)

        return asyncio.run(run())
    found = []

    def one():
        try:
            found.append(plugin.get_tokens())
        except plugin.RefreshFailed as error:
            found.append(error)

    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.parametrize("answer", [Answer(500), Answer(drop=True), PERMANENT[1][0]])
def test_who_waited_for_a_refresh_shares_its_failure(simulator, signed_in, ask, answer):
    """After a lost answer the refresh token may be spent, so nobody sends it again."""
    expire()
    simulator.script("token", lambda request: time.sleep(0.5) or answer)
    found = all_at_once(ask.kind, 20)
    assert [type(f) for f in found] == [plugin.RefreshFailed] * 20
    assert len({str(f) for f in found}) == 1
    assert len(simulator.refreshes) == 1


def test_a_shared_failure_is_warned_about_once(simulator, signed_in, ask, caplog):
    old = expire(200)
    simulator.script("token", lambda request: time.sleep(0.5) or Answer(500))
    assert all_at_once(ask.kind, 20) == [old] * 20
    assert len(simulator.refreshes) == 1
    assert caplog.text.count("The old token works until") == 1


def test_a_passing_failure_ends_with_those_who_waited(simulator, signed_in, clock):
    expire()
    simulator.script("token", Answer(500))
    with pytest.raises(plugin.RefreshFailed):
        plugin.get_tokens()
    assert plugin.get_tokens()
    # A clock that was ahead then does not make it last longer.
    expire()
    simulator.script("token", Answer(500))
    clock.shift = 86400
    with pytest.raises(plugin.RefreshFailed):
        plugin.get_tokens()
    clock.shift = 0
    assert plugin.get_tokens()


@pytest.mark.parametrize("count", [200])
def test_many_coroutines_need_no_threads_of_their_own(simulator, signed_in, count):
    expire()
    running = []
    simulator.script("token", lambda request: running.append(threading.active_count()))
    before = threading.active_count()
    assert set(all_at_once("async", count)) == {plugin.load_tokens()}
    assert running[0] - before < 10


# Ctrl-C and cancelling ---------------------------------------------------------------


def slow_token(arrived, release, answer=None):
    def answer_late(request):
        arrived.set()
        release.wait(20)
        return answer

    return answer_late


def test_a_cancelled_task_waits_for_the_write(simulator, signed_in):
    old = expire()
    arrived, release = threading.Event(), threading.Event()
    simulator.script("token", slow_token(arrived, release))

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
    simulator.script("token", slow_token(arrived, release))

    async def run():
        first, second = (asyncio.create_task(plugin.get_tokens_async()) for _ in range(2))
        await asyncio.to_thread(arrived.wait)
        first.cancel()
        release.set()
        return await second

    assert asyncio.run(run()) == plugin.load_tokens()


def test_the_public_functions_work_by_themselves(simulator):
    code = plugin.request_device_code()
    simulator.approve(code.user_code)
    tokens = plugin.poll_for_token(code)
    assert plugin.load_tokens() is None
    plugin.store_tokens(tokens)
    renewed = plugin.refresh_tokens(tokens)
    assert renewed.refresh_token != tokens.refresh_token
    assert plugin.load_tokens() == tokens
    plugin.store_tokens(renewed)
    assert plugin.get_tokens() == renewed
    with pytest.raises(plugin.RefreshFailed, match="renewed elsewhere"):
        plugin.refresh_tokens(tokens)


def test_a_login_without_a_refresh_token_cannot_be_renewed(simulator, signed_in):
    plugin.store_tokens(expire()._replace(refresh_token=None))
    with pytest.raises(plugin.RefreshFailed, match="cannot be renewed"):
        plugin.get_tokens()
    assert simulator.refreshes == []


def test_a_process_that_ends_lets_its_refresh_finish(simulator, signed_in):
    old = expire()
    arrived, release = threading.Event(), threading.Event()
    simulator.script("token", slow_token(arrived, release))
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
def test_a_forked_child_renews_for_itself(simulator, signed_in):
    expire()
    plugin.get_tokens()
    expire()
    child = os.fork()
    if not child:
        os._exit(plugin.get_tokens().access_token == signed_in.access_token)
    assert os.waitpid(child, 0)[1] == 0
    assert len(simulator.refreshes) == 2


def test_not_signed_in(simulator, ask, run_llm):
    with pytest.raises(llm.NeedsKeyException, match="llm chatgpt login") as caught:
        ask("hi")
    assert "\n" not in str(caught.value)
    result = run_llm("-m", "chatgpt-gpt-6-luna", "hi")
    assert result.exit_code == 1
    assert result.stderr == "Error: Not signed in to ChatGPT. Run 'llm chatgpt login' first.\n"
    assert simulator.requests == []


def test_an_unknown_account_lists_those_there_are(simulator, signed_in):
    with pytest.raises(llm.NeedsKeyException, match="Accounts: default") as caught:
        plugin.get_tokens("sk-secret-key")
    assert "sk-secret-key" not in str(caught.value)
    assert sign_in(simulator, "work") == plugin.get_tokens("work")


# Slow, and short --------------------------------------------------------------------------


def test_an_answer_counts_whenever_it_comes(simulator, signed_in, monkeypatch):
    """The time limit is for each piece of it."""
    monkeypatch.setattr("llm_chatgpt.config.REFRESH_TIMEOUT_SECONDS", 0.5)
    expire()
    reply = simulator.sign_in()
    simulator.script("token", Answer(200, reply, trickle=2 / len(json.dumps(reply))))
    started = time.monotonic()
    assert plugin.get_tokens().access_token == reply["access_token"]
    assert time.monotonic() - started > 1
    assert plugin.load_tokens().access_token == reply["access_token"]


def test_a_server_that_does_not_answer_does_not_hold_the_lock_for_ever(
    simulator, signed_in, monkeypatch
):
    monkeypatch.setattr("llm_chatgpt.config.REFRESH_TIMEOUT_SECONDS", 0.3)
    expire()
    release = threading.Event()
    simulator.script("token", slow_token(threading.Event(), release))
    with pytest.raises(plugin.RefreshFailed, match="did not answer in time"):
        plugin.get_tokens()
    release.set()
    assert config.LOCK_TIMEOUT_SECONDS > 120 + config.CONNECT_TIMEOUT_SECONDS


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("lifetime", [10, 300])
def test_a_short_lived_token_is_renewed_once_for_all_who_wait(simulator, signed_in, kind, lifetime):
    expire()
    simulator.account = dataclasses.replace(simulator.account, access_token_seconds=lifetime)
    for entry in simulator.refresh_tokens.values():
        entry["account"] = simulator.account
    simulator.script("token", lambda request: time.sleep(0.5))
    assert len(set(all_at_once(kind, 24))) == 1
    assert len(simulator.refreshes) == 1


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
def test_a_fork_while_the_lock_is_imported(simulator, signed_in):
    command = [sys.executable, "-W", "ignore", "-c", FORKED_WHILE_IMPORTING]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert plugin.load_tokens("child") == signed_in
