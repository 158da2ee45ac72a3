"""The refresh token works once: who refreshes, when, and what everybody else gets."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
import threading
import time

import llm
import pytest

import llm_chatgpt_oauth as plugin
import rooms
from conftest import expire, sign_in, start_llm, wait_until
from simulator import Answer, error_answer, web_page


def test_a_good_token_is_used_as_it_is(simulator, signed_in, ask, monkeypatch):
    def no_lock():
        raise AssertionError("a good token needs no lock")

    rooms.replace(monkeypatch, "locked_store", no_lock)
    assert ask("hi").text
    assert simulator.refreshes == []


@pytest.mark.parametrize("seconds_left", [-1000, -1, 1, 299])
def test_a_token_that_ends_within_five_minutes_is_renewed(simulator, signed_in, ask, seconds_left):
    old = expire(seconds_left)
    assert ask("hi").text
    assert len(simulator.refreshes) == 1
    request = simulator.refreshes[0]
    assert request.body == {
        "client_id": rooms.CLIENT_ID,
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
    (error_answer(401, "refresh_token_reused"), "was used by another program"),
    (error_answer(401, "refresh_token_invalidated"), "was ended by OpenAI"),
    (error_answer(400, "REFRESH_TOKEN_EXPIRED"), "has expired"),
    (Answer(401, {"error": "refresh_token_expired"}), "has expired"),
    (Answer(401, {"code": "refresh_token_reused"}), "was used by another program"),
    (error_answer(401, "token_expired"), "no longer accepted"),
    (error_answer(401, "something_new"), "no longer accepted"),
    (Answer(401), "no longer accepted"),
    (Answer(400, {"error": "invalid_grant"}), "no longer accepted"),
]
PASSING = [
    error_answer(400, "invalid_request"),
    Answer(500),
    Answer(503, "busy"),
    Answer(429),
    web_page(),
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
    # Nothing is lost: the file is as it was.
    assert plugin.load_tokens() == old


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


def test_a_newer_pair_on_disk_is_adopted(simulator, signed_in):
    """Another process was faster, between our look and our lock."""
    expire()
    newer = rooms.tokens_from_reply(simulator.sign_in(), now=time.time())
    with rooms.locked_store() as writer:
        found = []
        thread = threading.Thread(target=lambda: found.append(plugin.get_tokens()))
        thread.start()
        wait_until(lambda: any("chatgpt-refresh" in t.name for t in threading.enumerate()))
        writer.save(rooms.read_store().put(None, newer))
    thread.join()
    assert found == [newer]
    assert simulator.refreshes == []


def test_a_program_without_our_lock_was_faster(simulator, signed_in):
    """`refresh_token_reused`, and by then a newer pair is on disk."""
    expire()
    newer = rooms.tokens_from_reply(simulator.sign_in(), now=time.time())

    def reused(request):
        path = rooms.store_path()
        path.write_bytes(rooms._store_bytes(rooms.read_store().put(None, newer)))
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
    newer = rooms.tokens_from_reply(simulator.sign_in(), now=time.time())

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
    folder = rooms.store_path().parent
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with pytest.raises(plugin.StoreError, match="cannot be written"):
            plugin.get_tokens()
    finally:
        folder.chmod(0o700)
    assert simulator.refreshes == []


def refuse_to_open(monkeypatch, errno=28, reason="No space left on device"):
    real = os.open

    def no_room(path, flags, *rest, **more):
        if str(path).endswith(".tmp"):
            raise OSError(errno, reason)
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", no_room)


def test_a_full_disk_spends_no_refresh_token(simulator, signed_in, monkeypatch):
    expire()
    refuse_to_open(monkeypatch)
    with pytest.raises(plugin.StoreError, match="No space left on device"):
        plugin.get_tokens()
    assert simulator.refreshes == []


def test_a_full_disk_does_not_stop_a_token_that_works(simulator, signed_in, monkeypatch, caplog):
    old = expire(100)
    refuse_to_open(monkeypatch)
    assert plugin.get_tokens() == old
    assert "No space left on device" in caplog.text


def test_a_pair_that_could_not_be_kept_is_used_and_told(
    simulator, signed_in, ask, monkeypatch, caplog
):
    old = expire()
    replace = rooms.replace_file

    def fails(source, target):
        raise OSError(5, "Input/output error")

    rooms.replace(monkeypatch, "replace_file", fails)
    assert ask("hi").text
    assert "could not be kept" in caplog.text
    assert plugin.load_tokens() == old
    # This process goes on with it, and keeps it as soon as it can.
    assert ask("again").text
    assert len(simulator.refreshes) == 1
    rooms.replace(monkeypatch, "replace_file", replace)
    simulator.expire_access_tokens()
    assert ask("later").text
    assert len(simulator.refreshes) == 2
    assert plugin.load_tokens().refresh_token != old.refresh_token


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


def test_twelve_processes_refresh_once(simulator, signed_in, run_llm):
    run_llm("logs", "path")
    run_llm("-m", "chatgpt-gpt-6-luna", "makes logs.db")
    expire()
    simulator.script("token", lambda request: time.sleep(0.3))
    processes = [
        start_llm("-m", "chatgpt-gpt-6-luna", f"number {n}", "--no-log") for n in range(12)
    ]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0] * 12, outputs
    assert sorted(out.split()[-1] for out, _ in outputs) == sorted(str(n) for n in range(12))
    assert len(simulator.refreshes) == 1


def test_a_failure_is_one_callers_to_report(simulator, signed_in, ask, recwarn):
    """Those who waited for the refresh that failed try it once themselves."""
    expire()
    simulator.script("token", lambda request: time.sleep(0.3) or Answer(500))
    if ask.kind == "async":

        async def run():
            calls = (plugin.get_tokens_async() for _ in range(10))
            return await asyncio.gather(*calls, return_exceptions=True)

        found = asyncio.run(run())
    else:
        found = []

        def one():
            try:
                found.append(plugin.get_tokens())
            except plugin.RefreshFailed as error:
                found.append(error)

        threads = [threading.Thread(target=one) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    failed = [f for f in found if isinstance(f, plugin.RefreshFailed)]
    assert len(failed) == 1
    assert len(simulator.refreshes) == 2


def test_a_server_that_is_down_is_asked_twice_not_a_hundred_times(simulator, signed_in):
    expire()
    simulator.script("token", *[lambda request: time.sleep(0.5) or Answer(500)] * 100)

    async def run():
        calls = (plugin.get_tokens_async() for _ in range(100))
        return await asyncio.gather(*calls, return_exceptions=True)

    found = asyncio.run(run())
    assert all(isinstance(f, plugin.RefreshFailed) for f in found)
    assert len(simulator.refreshes) == 2


# Ctrl-C and cancelling ---------------------------------------------------------------


def slow_token(arrived, release):
    def answer(request):
        arrived.set()
        release.wait(20)

    return answer


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


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_ctrl_c_waits_for_the_write(simulator, signed_in, run_llm, kind):
    run_llm("-m", "chatgpt-gpt-6-luna", "makes logs.db")
    old = expire()
    arrived, release = threading.Event(), threading.Event()
    simulator.script("token", slow_token(arrived, release))
    options = ["--async"] if kind == "async" else []
    process = start_llm("-m", "chatgpt-gpt-6-luna", "hi", "--no-log", *options)
    assert arrived.wait(20)
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    release.set()
    out, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "Traceback" not in err
    assert out.strip() == ""
    assert plugin.load_tokens().refresh_token != old.refresh_token
    assert simulator.prompts[1:] == []


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_while_another_process_holds_the_lock_ends_at_once(simulator, signed_in, run_llm):
    run_llm("-m", "chatgpt-gpt-6-luna", "makes logs.db")
    expire()
    code = (
        rooms.IMPORT + "import sys\n"
        "from llm.cli import cli\n"
        "lock = p.locked_store\n"
        "def told():\n"
        "    print('waiting', file=sys.stderr, flush=True)\n"
        "    return lock()\n"
        "p.replace(None, 'locked_store', told)\n"
        "cli(['-m', 'chatgpt-gpt-6-luna', 'hi', '--no-log'])"
    )
    with rooms.locked_store():
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=10)
    assert process.returncode == 1
    assert "Traceback" not in err
    assert simulator.refreshes == []


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
    with pytest.raises(plugin.RefreshFailed, match="used by another program"):
        plugin.refresh_tokens(tokens)


def test_a_login_without_a_refresh_token_cannot_be_renewed(simulator, signed_in):
    plugin.store_tokens(expire()._replace(refresh_token=None))
    with pytest.raises(plugin.RefreshFailed, match="cannot be renewed"):
        plugin.get_tokens()
    assert simulator.refreshes == []


def test_a_process_that_ends_lets_its_refresh_finish(simulator, signed_in):
    old = expire()
    simulator.script("token", lambda request: time.sleep(0.5))
    code = (
        rooms.IMPORT + "import threading, time\n"
        "t = threading.Thread(target=p.get_tokens, daemon=True); t.start()\n"
        "while not any(r.sent for r in p._refreshes.values()): time.sleep(0.01)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
    assert plugin.load_tokens().refresh_token != old.refresh_token


def test_not_signed_in(simulator, ask, run_llm):
    with pytest.raises(llm.NeedsKeyException, match="llm chatgpt login") as caught:
        ask("hi")
    assert "\n" not in str(caught.value)
    result = run_llm("-m", "chatgpt-gpt-6-luna", "hi")
    assert result.exit_code == 1
    assert result.stderr == "Error: Not signed in to ChatGPT. Run 'llm chatgpt login' first.\n"
    assert simulator.requests == []


def test_an_unknown_account_lists_those_there_are(simulator, signed_in):
    with pytest.raises(llm.NeedsKeyException, match="there are: default") as caught:
        plugin.get_tokens("sk-secret-key")
    assert "sk-secret-key" not in str(caught.value)
    assert sign_in(simulator, "work") == plugin.get_tokens("work")
