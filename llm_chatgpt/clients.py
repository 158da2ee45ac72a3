"""The HTTP clients, which keep connections for the next request.

All threads share one client, each event loop has its own. A forked child must not write into its
parent's connections, so it gets new clients. Requests to this machine's loopback have clients
without certificates and proxies.
"""

from __future__ import annotations

import asyncio
import atexit
import importlib
import os
import sys
from collections.abc import AsyncIterator
from typing import Any

from llm_chatgpt import config
from llm_chatgpt.errors import ChatGPTError


def library() -> Any:
    """Return httpx2 where llm has loaded it already, else httpx. Only use what both have."""
    return sys.modules.get("httpx2") or importlib.import_module("httpx")


def _new_client(kind: str, secure: bool) -> Any:
    """Create a `Client` or an `AsyncClient`. Raises ChatGPTError for settings it cannot use."""
    import ssl

    from llm_chatgpt.certificates import tls_context

    http = library()
    try:
        return getattr(http, kind)(
            limits=http.Limits(keepalive_expiry=config.KEEPALIVE_SECONDS),
            # The second context trusts no certificate: an https address would fail with it.
            verify=tls_context() if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            trust_env=secure,
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


class _ThreadClients:
    """The clients that all threads of a process share.

    There is no lock, because a fork could leave it locked forever: of two clients that are created
    at the same time, the first one stays.
    """

    def __init__(self) -> None:
        self._clients: dict[tuple[int, str, bool], Any] = {}

    def get(self, secure: bool) -> Any:
        key = (os.getpid(), library().__name__, secure)
        return self._clients.get(key) or self._clients.setdefault(
            key, _new_client("Client", secure)
        )

    def close(self) -> None:
        for key in list(self._clients):
            client = self._clients.pop(key)
            if key[0] == os.getpid():
                client.close()


class _LoopClients:
    """The clients of one event loop, which are closed when the loop shuts down."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._clients: dict[bool, Any] = {}
        self._closers: list[AsyncIterator[None]] = []

    async def get(self, secure: bool) -> Any:
        # One prompt creates the client; others that begin at the same time wait for it.
        async with self._lock:
            if secure not in self._clients:
                # In a thread, because it may read the system's certificates.
                client = await asyncio.to_thread(_new_client, "AsyncClient", secure)
                self._clients[secure] = client
                self._closers.append(closer := self._close_with_loop(client))
                # Once it has begun, the loop finishes the generator when it shuts down.
                await anext(closer)
            return self._clients[secure]

    async def _close_with_loop(self, client: Any) -> AsyncIterator[None]:
        try:
            yield
        finally:
            _of_loops.pop(asyncio.get_running_loop(), None)
            await client.aclose()


_of_threads = _ThreadClients()
_of_loops: dict[asyncio.AbstractEventLoop, _LoopClients] = {}


def sync_client(url: str) -> Any:
    """Return the client for requests of threads to this address."""
    return _of_threads.get(url.startswith("https:"))


async def async_client(url: str) -> Any:
    """Return the running event loop's client for this address."""
    for closed in [loop for loop in _of_loops if loop.is_closed()]:
        _of_loops.pop(closed, None)
    clients = _of_loops.setdefault(asyncio.get_running_loop(), _LoopClients())
    return await clients.get(url.startswith("https:"))


@atexit.register
def close_clients() -> None:
    """Close the connections that threads share. A later request opens new ones."""
    _of_threads.close()
