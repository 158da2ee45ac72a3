"""The HTTP clients, which keep connections for the next request.

All threads of a process share one client; each event loop has its own. The dictionaries below hold
them, because nothing else outlives a request.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import importlib
import os
import sys
from collections.abc import AsyncIterator
from typing import Any

from llm_chatgpt import config
from llm_chatgpt.errors import ChatGPTError

# Sync clients by process id, because a forked child must not write into its parent's connections;
# async clients by event loop. There is no lock, because a fork could leave it locked forever. If
# two threads create a client at the same time, both use the one that is stored first.
_sync_clients: dict[int, Any] = {}
_async_clients: dict[asyncio.AbstractEventLoop, _LoopClient] = {}


@functools.cache
def library() -> Any:
    """Return httpx2 if llm has already loaded it, else httpx. Callers use only what both have."""
    return sys.modules.get("httpx2") or importlib.import_module("httpx")


def timeout(seconds: float) -> Any:
    """Return the time limits of a request: `seconds` for each wait, at most 15 to connect."""
    connect = min(seconds, config.CONNECT_TIMEOUT_SECONDS)
    return library().Timeout(seconds, connect=connect, pool=None)


def sync_client() -> Any:
    """Return the client that all threads of this process share."""
    process = os.getpid()
    return _sync_clients.get(process) or _sync_clients.setdefault(process, _new_client("Client"))


async def async_client() -> Any:
    """Return the running event loop's client."""
    for closed in [loop for loop in _async_clients if loop.is_closed()]:
        _async_clients.pop(closed, None)
    return await _async_clients.setdefault(asyncio.get_running_loop(), _LoopClient()).get()


@atexit.register
def close_clients() -> None:
    """Close the client that threads share. A later request opens a new one."""
    if client := _sync_clients.pop(os.getpid(), None):
        client.close()


class _LoopClient:
    """The client of one event loop, which is closed when the loop shuts down."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._client: Any = None

    async def get(self) -> Any:
        # The first prompt creates the client; others that begin at the same time wait for it.
        async with self._lock:
            if self._client is None:
                # In a thread, because it may read the system's certificates.
                self._client = await asyncio.to_thread(_new_client, "AsyncClient")
                self._closer = self._close_with_loop()
                # Start the generator: when the loop shuts down, it finishes started generators.
                await anext(self._closer)
            return self._client

    async def _close_with_loop(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            _async_clients.pop(asyncio.get_running_loop(), None)
            await self._client.aclose()


def _new_client(kind: str) -> Any:
    """Create a `Client` or an `AsyncClient`. Raises ChatGPTError for settings it cannot use."""
    from llm_chatgpt.certificates import tls_context

    http = library()
    try:
        return getattr(http, kind)(
            limits=http.Limits(keepalive_expiry=config.KEEPALIVE_SECONDS),
            verify=tls_context(),
            # No proxy for plain http, which goes to this machine's loopback only.
            mounts={"http://": None},
        )
    except ImportError as error:
        raise ChatGPTError(
            "A SOCKS proxy needs one more package.",
            "Run 'llm install socksio', or set another proxy in HTTPS_PROXY.",
        ) from error
    except (ValueError, http.InvalidURL) as error:
        raise ChatGPTError(
            "The proxy address in HTTPS_PROXY (or ALL_PROXY, HTTP_PROXY) is not valid.",
            "Correct or unset it; it looks like http://host:3128.",
        ) from error
