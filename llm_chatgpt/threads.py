"""Run functions in threads, in the caller's click context."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import math
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import click

Result = TypeVar("Result")


def start_in_thread(function: Callable[[], Result]) -> concurrent.futures.Future[Result]:
    """Run a function in a daemon thread: the program can end without waiting for it."""
    future: concurrent.futures.Future[Result] = concurrent.futures.Future()
    # Mark it as running, so that a cancelled task cannot cancel it for other tasks.
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=_in_this_context(run), daemon=True).start()
    return future


def wait_for(future: concurrent.futures.Future[Any], seconds: float = math.inf) -> bool:
    """Wait until a future is done. Returns False if it is not done after `seconds`."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        # Poll: Ctrl-C cannot interrupt a long wait on Windows.
        if concurrent.futures.wait([future], timeout=min(left, 0.25)).done:
            return True
    return False


async def in_thread(function: Callable[..., Result], *arguments: Any) -> Result:
    """Run a function in a thread without blocking the event loop."""
    return await asyncio.to_thread(_in_this_context(function), *arguments)


def _in_this_context(function: Callable[..., Result]) -> Callable[..., Result]:
    """Wrap a function so that it runs in the current click context, which `notice` needs."""
    context = click.get_current_context(silent=True)

    def run(*arguments: Any) -> Result:
        with context.scope(cleanup=False) if context else contextlib.nullcontext():
            return function(*arguments)

    return run
