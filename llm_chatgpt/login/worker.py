"""The thread that renews logins, and the signals that wait while it sends a refresh token."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from llm_chatgpt import config
from llm_chatgpt.errors import RefreshFailed
from llm_chatgpt.login.tokens import Tokens
from llm_chatgpt.waiting import in_command

# A login, and what the user should be told about it.
Renewed = tuple[Tokens, str]
Future = concurrent.futures.Future[Renewed]


class Worker:
    """The one thread of this process that renews logins, one after another.

    Neither Ctrl-C nor a cancelled task can stop it between the request, which spends the
    refresh token, and the write. Callers wait for it, and it waits for other processes at
    the store's lock. It is not a ThreadPoolExecutor because Python waits for that one's threads
    at exit, here perhaps for another program's lock.
    """

    def __init__(self) -> None:
        self.start_afresh()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.start_afresh)

    def start_afresh(self) -> None:
        """Forget thread and locks. A forked child has none of its parent's threads, and perhaps
        a lock that nobody holds."""
        self._jobs: queue.SimpleQueue[tuple[Future, Callable[[], Renewed]]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="chatgpt-refresh", daemon=True)
        self._starting, self._sending = threading.Lock(), threading.Lock()
        self._ending = False
        # How long the end of the program waits for a refresh that is out, by the monotonic clock.
        self._deadline: float | None = None

    def submit(self, job: Callable[[], Renewed]) -> Future:
        future: Future = Future()
        self._jobs.put((future, job))
        with self._starting:
            if not self._thread.ident:
                self._thread.start()
        return future

    def _work(self) -> None:
        while True:
            future, job = self._jobs.get()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(job())
                except BaseException as error:
                    future.set_exception(error)
            # Else they would stay alive until the next job, with an error and its frames.
            del future, job

    def result(self, future: Future) -> Renewed:
        """Wait for a job's result."""
        with self._signals_held():
            try:
                # Poll: Ctrl-C cannot interrupt a long wait on Windows.
                while not concurrent.futures.wait([future], timeout=0.25).done:
                    pass
            except BaseException:
                self.settle()
                raise
        return future.result()

    async def result_async(self, future: Future) -> Renewed:
        """`result` for an event loop, which it does not block."""
        with self._signals_held():
            try:
                return await asyncio.wrap_future(future)
            except asyncio.CancelledError:
                await asyncio.to_thread(self.settle)
                raise

    @contextlib.contextmanager
    def sending(self) -> Iterator[None]:
        """Make `settle` wait, from before the request until the new refresh token is written."""
        with self._sending:
            if self._ending:
                raise RefreshFailed("The program is ending.")
            self._deadline = None
            yield

    def settle(self, *, ending: bool = False) -> None:
        """Wait for a refresh that is out, up to 8 seconds from the first call. With `ending`
        none follows it."""
        now = time.monotonic()
        self._deadline = self._deadline or now + config.REFRESH_GRACE_SECONDS
        if self._sending.acquire(timeout=max(0.0, self._deadline - now)):
            self._ending = ending
            self._deadline = None
            self._sending.release()

    @contextlib.contextmanager
    def _signals_held(self) -> Iterator[None]:
        """Hold back the signals that would end the program while a refresh token is out.

        Only at the command line, and only where Python handles them as it does by default:
        another program has its own plans for its signals.
        """
        replaced: dict[int, Any] = {}

        def obey_later(number: int, _: object) -> None:
            self.settle(ending=number != signal.SIGINT)
            signal.signal(number, replaced[number])
            signal.raise_signal(number)

        if in_command() and threading.current_thread() is threading.main_thread():
            for name in ("SIGINT", "SIGTERM", "SIGHUP"):
                number = getattr(signal, name, None)
                if number is not None and _is_default(signal.getsignal(number)):
                    replaced[number] = signal.signal(number, obey_later)
        try:
            yield
        finally:
            for number, handler in replaced.items():
                signal.signal(number, handler)


def _is_default(handler: Any) -> bool:
    # While an event loop runs, asyncio handles Ctrl-C by cancelling the main task.
    of_asyncio = getattr(getattr(handler, "func", None), "__module__", "") == "asyncio.runners"
    return handler in (signal.SIG_DFL, signal.default_int_handler) or of_asyncio
