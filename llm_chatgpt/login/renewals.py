"""Run renewals in threads, and hold back signals while one is sending a refresh token.

A refresh token works once: a program that ends between the request and the write loses its login.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from llm_chatgpt import config
from llm_chatgpt.errors import RefreshFailed
from llm_chatgpt.login.tokens import Tokens
from llm_chatgpt.threads import start_in_thread, wait_for
from llm_chatgpt.waiting import in_command

Future = concurrent.futures.Future[Tokens]


class Jobs:
    """The running renewals and owner lookups of this process, each in its own thread.

    Neither Ctrl-C nor a cancelled task can stop such a thread between the request and the write.
    Callers wait for the thread, which waits for the store's lock. A ThreadPoolExecutor would not
    do: at exit Python waits for its threads, and these may wait for another program's lock.
    """

    def __init__(self) -> None:
        self.reset()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.reset)

    def reset(self) -> None:
        """Forget all jobs, and create new locks. A forked child has none of its parent's threads,
        and may inherit a lock that nobody will release."""
        self._futures: dict[object, Future] = {}
        self._submit_lock, self._send_lock = threading.Lock(), threading.Lock()
        self._ending = False
        # When to stop waiting for a refresh that was sent (monotonic clock).
        self._deadline: float | None = None

    def submit(self, key: object, job: Callable[[], Tokens]) -> Future:
        """Start a job and return its future. An unfinished job with an equal key is shared."""
        with self._submit_lock:
            future = self._futures.get(key)
            if future is None:
                future = start_in_thread(functools.partial(self._run, key, job))
                self._futures[key] = future
        return future

    def _run(self, key: object, job: Callable[[], Tokens]) -> Tokens:
        try:
            return job()
        finally:
            with self._submit_lock:
                del self._futures[key]

    def result(self, future: Future) -> Tokens:
        """Wait for a job's result."""
        with self._signals_held():
            try:
                wait_for(future)
            except BaseException:
                self.wait_for_refresh()
                raise
        return future.result()

    async def result_async(self, future: Future) -> Tokens:
        """Wait for a job's result without blocking the event loop."""
        with self._signals_held():
            try:
                return await asyncio.wrap_future(future)
            except asyncio.CancelledError:
                await asyncio.to_thread(self.wait_for_refresh)
                raise

    @contextlib.contextmanager
    def sending(self) -> Iterator[None]:
        """Context manager for a refresh and its write, for which `wait_for_refresh` waits.

        The caller holds the store's lock. Raises RefreshFailed if the program is ending.
        """
        with self._send_lock:
            if self._ending:
                raise RefreshFailed("The program is ending.")
            # If `wait_for_refresh` is called now, it waits the full time for this refresh.
            self._deadline = None
            yield

    def wait_for_refresh(self, *, ending: bool = False) -> None:
        """Wait for a refresh that was sent, up to 8 seconds from the first call. If `ending`, no
        other refresh can begin after it, unless the wait timed out."""
        now = time.monotonic()
        self._deadline = self._deadline or now + config.REFRESH_GRACE_SECONDS
        if self._send_lock.acquire(timeout=max(0.0, self._deadline - now)):
            self._ending = ending
            self._deadline = None
            self._send_lock.release()

    @contextlib.contextmanager
    def _signals_held(self) -> Iterator[None]:
        """Hold back the signals that would end the program between a refresh and its write.

        Only in a command, and only if Python's default handlers are installed: other programs keep
        their own handlers.
        """
        handlers: dict[int, Any] = {}

        def obey_later(number: int, _: object) -> None:
            self.wait_for_refresh(ending=number != signal.SIGINT)
            signal.signal(number, handlers[number])
            signal.raise_signal(number)

        if in_command() and threading.current_thread() is threading.main_thread():
            for name in ("SIGINT", "SIGTERM", "SIGHUP"):
                number = getattr(signal, name, None)
                if number is not None and _is_default(signal.getsignal(number)):
                    handlers[number] = signal.signal(number, obey_later)
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)


def _is_default(handler: Any) -> bool:
    # While an event loop runs, asyncio handles Ctrl-C by cancelling the main task.
    is_asyncio = getattr(getattr(handler, "func", None), "__module__", "") == "asyncio.runners"
    return handler in (signal.SIG_DFL, signal.default_int_handler) or is_asyncio
