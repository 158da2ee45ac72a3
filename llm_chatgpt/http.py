"""HTTP: the clients, one side request, the stream of a prompt, and why one failed.

Every failure of the HTTP library becomes a ConnectionFailed in this file and nowhere else.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import functools
import importlib
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from llm_chatgpt import config
from llm_chatgpt.errors import ChatGPTError, ConnectionFailed
from llm_chatgpt.text import in_words, printable
from llm_chatgpt.values import as_mapping


def library() -> Any:
    """httpx2 where llm has loaded it already, else httpx; only what both have is used."""
    return sys.modules.get("httpx2") or importlib.import_module("httpx")


def fetch_errors() -> tuple[type[Exception], ...]:
    """What reading or fetching an attachment can raise: llm may use either library for it."""
    loaded = [sys.modules[name] for name in ("httpx", "httpx2") if name in sys.modules]
    of_libraries = (error for http in loaded for error in (http.HTTPError, http.InvalidURL))
    return (OSError, ValueError, *of_libraries)


# Clients ---------------------------------------------------------------------------


def _new_client(kind: str, secure: bool) -> Any:
    """A `Client` or an `AsyncClient`. Raises ChatGPTError for settings that it cannot use."""
    import ssl

    from llm_chatgpt.certificates import tls_context

    http = library()
    try:
        return getattr(http, kind)(
            limits=http.Limits(keepalive_expiry=config.KEEPALIVE_SECONDS),
            # Loopback needs neither certificates nor a proxy. This context trusts nobody,
            # so an https address that came this way would fail.
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


class _LoopClients:
    """An event loop's clients, by whether they are for https, and the generators that close
    them with the loop."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.clients: dict[bool, Any] = {}
        self.keepers: list[Any] = []


_sync_clients: dict[tuple[int, str, bool], Any] = {}
_async_clients: dict[Any, _LoopClients] = {}


def sync_client(url: str) -> Any:
    """This process's HTTP client: one pool of connections, shared by all threads."""
    secure = url.startswith("https:")
    # A forked child must not write into its parent's connections.
    key = (os.getpid(), library().__name__, secure)
    # Without a lock, which a fork could leave taken: of two new clients the first one stays.
    return _sync_clients.get(key) or _sync_clients.setdefault(key, _new_client("Client", secure))


async def async_client(url: str) -> Any:
    """The running event loop's HTTP client, closed when the loop shuts down."""
    secure = url.startswith("https:")
    for old in [loop for loop in _async_clients if loop.is_closed()]:
        _async_clients.pop(old, None)
    loop = asyncio.get_running_loop()
    of_loop = _async_clients.setdefault(loop, _LoopClients())
    # One prompt makes the client; others that begin at the same time wait for it.
    async with of_loop.lock:
        if secure not in of_loop.clients:
            # In a thread, because it may read the system's certificates.
            client = await asyncio.to_thread(_new_client, "AsyncClient", secure)
            of_loop.clients[secure] = client
            of_loop.keepers.append(keeper := _keep_open(loop, client))
            # From its first step on, the loop closes the generator when it shuts down.
            await anext(keeper)
        return of_loop.clients[secure]


async def _keep_open(loop: Any, client: Any) -> AsyncIterator[None]:
    try:
        yield
    finally:
        _async_clients.pop(loop, None)
        await client.aclose()


@atexit.register
def close_clients() -> None:
    """Close the connections that threads share. A later request opens new ones."""
    for key in list(_sync_clients):
        client = _sync_clients.pop(key)
        if key[0] == os.getpid():
            client.close()


# Failures --------------------------------------------------------------------------


@contextlib.contextmanager
def _failures_of(url: str) -> Iterator[None]:
    """Raise ConnectionFailed in place of everything that the HTTP library raises."""
    try:
        yield
    except Exception as error:
        if failure := _failure(error, url):
            raise failure from error
        raise


def _failure(error: BaseException | None, url: str) -> ConnectionFailed | None:
    """The ConnectionFailed for an exception of the HTTP library; None for any other."""
    http = library()
    if isinstance(error, http.RequestError):
        return _explain(error, urlsplit(url).netloc)
    if isinstance(error, http.InvalidURL):
        return ConnectionFailed(f"{printable(url, 100)} is not a valid address.")
    return None


def _explain(error: Exception, host: str) -> ConnectionFailed:
    """One sentence on a failed request, with no address or header in it."""
    http = library()
    words = str(error)
    if isinstance(error, http.TimeoutException):
        return ConnectionFailed(
            f"{host} did not answer in time.", stalled=isinstance(error, http.ReadTimeout)
        )
    if isinstance(error, http.ProxyError):
        status = re.search(r"\b[45]\d\d\b", words)
        return ConnectionFailed(
            f"The proxy refused the connection to {host}"
            + (f" (status {status[0]})." if status else ".")
        )
    if isinstance(error, http.DecodingError):
        return ConnectionFailed(f"{host} sent an answer that could not be decoded.")
    if not isinstance(error, http.ConnectError):
        return ConnectionFailed(f"The connection to {host} broke off.")
    if "certificate" in words.lower():
        why = re.search(r"verify failed: ([^(\n]+)", words)
        return ConnectionFailed(
            f"The certificate of {host} was not accepted "
            f"({printable(why[1] if why else words, 200).rstrip('.')}).",
            "If a company's proxy intercepts TLS, set CODEX_CA_CERTIFICATE to its root "
            "certificate; otherwise check this machine's clock.",
        )
    if "ssl" in words.lower():
        return ConnectionFailed(f"Could not open a TLS connection to {host}.")
    way = " through the proxy" if proxy_settings() else ""
    return ConnectionFailed(f"Could not reach {host}{way}.")


def proxy_settings() -> dict[str, str]:
    """The proxies that the environment (or the system) names, by scheme, as httpx sees them."""
    import urllib.request

    found = urllib.request.getproxies()
    return {scheme: found[scheme] for scheme in ("https", "http", "all") if found.get(scheme)}


def _check_headers(headers: Mapping[str, str]) -> None:
    """Raise ChatGPTError for a value that no header may hold; the value may be a token."""
    for name, value in headers.items():
        if not re.fullmatch(r"[!-~]([\t -~]*[!-~])?", value):
            raise ChatGPTError(
                f"The header {name} cannot be sent: its value has characters that are not allowed.",
                "Check the access token and the LLM_CHATGPT_ settings.",
            )


# Side requests ---------------------------------------------------------------------


class Reply:
    """A whole answer. `headers` have lower-case names; `certificate` is the peer's, as the
    ssl module tells it (None without TLS)."""

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        content: bytes,
        host: str = "The server",
        certificate: Mapping[str, Any] | None = None,
    ):
        self.status = status
        self.headers = headers
        self.content = content
        self.host = host
        self.certificate = certificate

    @functools.cached_property
    def data(self) -> Any:
        """The body as JSON, None if it is not."""
        try:
            return json.loads(self.content)
        except (ValueError, RecursionError):
            return None

    @property
    def error_code(self) -> str | None:
        """`error` as a string, else `error.code`, `code`, `detail.code` or `detail.error_code`,
        in lower case."""
        data = as_mapping(self.data)
        error, detail = data.get("error"), data.get("detail")
        places = (
            error,
            as_mapping(error).get("code"),
            data.get("code"),
            as_mapping(detail).get("code"),
            as_mapping(detail).get("error_code"),
        )
        return next((code.lower() for code in places if isinstance(code, str) and code), None)

    @property
    def is_web_page(self) -> bool:
        """HTML in place of an answer: Cloudflare, a proxy, a captive portal."""
        return (
            "cf-mitigated" in self.headers
            or "text/html" in self.headers.get("content-type", "").lower()
            or self.content.lstrip()[:1] == b"<"
        )

    @property
    def web_page_advice(self) -> tuple[str, str]:
        """What to tell the user about such a page: the reason and the next step."""
        ray = self.headers.get("cf-ray")
        return (
            f"{self.host} answered with a web page: Cloudflare or a proxy blocks this network.",
            "Try without a VPN or proxy, or from another network."
            + (f" [cf-ray {printable(ray, 60)}]" if ray else ""),
        )


def send(
    method: str,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    params: Mapping[str, str] | None = None,
    json: Any = None,
    data: Mapping[str, str] | None = None,
    seconds: float = config.AUTH_TIMEOUT_SECONDS,
    max_bytes: int = config.MAX_REPLY_BYTES,
    whole: bool = True,
) -> Reply:
    """Send one request and return its whole answer, whatever its status.

    `seconds` limits the whole exchange, or without `whole` each wait of it, so that an answer
    counts whenever it comes; `max_bytes` limits the body. Raises ConnectionFailed when no
    readable answer came, ChatGPTError for a setting that cannot be used.
    """
    _check_headers(headers or {})
    outcome: concurrent.futures.Future[Reply] = concurrent.futures.Future()
    given_up = threading.Event()
    arguments = {"headers": headers, "params": params, "json": json, "data": data}
    if not whole:
        return _fetch(method, url, arguments, seconds, max_bytes, given_up)

    def run() -> None:
        try:
            outcome.set_result(_fetch(method, url, arguments, seconds, max_bytes, given_up))
        except BaseException as error:
            outcome.set_exception(error)

    # In a thread, because the library's own limits are for single socket operations.
    threading.Thread(target=run, name="chatgpt-request", daemon=True).start()
    end = time.monotonic() + seconds
    try:
        while (left := end - time.monotonic()) > 0:
            # In short waits, because Windows cannot interrupt a long one.
            if concurrent.futures.wait([outcome], timeout=min(left, 0.25)).done:
                return outcome.result()
    finally:
        given_up.set()
    host = urlsplit(url).netloc
    raise ConnectionFailed(f"{host} did not answer within {in_words(seconds)}.", stalled=True)


def _fetch(
    method: str,
    url: str,
    arguments: Mapping[str, Any],
    seconds: float,
    max_bytes: int,
    given_up: threading.Event,
) -> Reply:
    http = library()
    connect = min(seconds, config.CONNECT_TIMEOUT_SECONDS)
    timeout = http.Timeout(seconds, connect=connect, pool=None)
    with (
        _failures_of(url),
        sync_client(url).stream(method, url, timeout=timeout, **arguments) as response,
    ):
        certificate = _certificate(response)
        content = bytearray()
        try:
            for chunk in response.iter_bytes():
                content += chunk
                if given_up.is_set():
                    break
                if len(content) > max_bytes:
                    host = urlsplit(url).netloc
                    size = max_bytes // 2**20
                    raise ConnectionFailed(f"{host} sent an answer of more than {size} MiB.")
        except http.DecodingError:
            # An error's status says enough.
            if response.status_code < 400:
                raise
        return Reply(
            response.status_code,
            lower_names(response.headers),
            bytes(content),
            urlsplit(url).netloc,
            certificate,
        )


def lower_names(headers: Any) -> dict[str, str]:
    """An answer's headers by lower-case name, whichever library brought them."""
    return {name.lower(): value for name, value in headers.items()}


def _certificate(response: Any) -> Mapping[str, Any] | None:
    stream = response.extensions.get("network_stream")
    connection = stream and stream.get_extra_info("ssl_object")
    # Where the system itself checks certificates, it may not show them.
    return connection and (connection.getpeercert() or {})


# The stream of a prompt --------------------------------------------------------------
#
# Classes, because a generator that is a context manager cannot be closed while it waits: an
# async answer that is abandoned would end in a RuntimeError of contextlib's.


# `drain` is the thread that reads the rest of this thread's last answer. Nobody waits for it but
# the next request: a program that ends after its last prompt does not.
_of_thread = threading.local()


class SyncStream:
    """The answer to a prompt while it arrives: its status, its headers, and its body.

    `request` holds the arguments of the library's `build_request`. Use it in a `with` block,
    which sends the request. Raises ConnectionFailed, also at the end of a block in which
    reading failed. Leaving the block without an exception counts as having read all that
    matters.
    """

    def __init__(self, request: Mapping[str, Any]):
        _check_headers(request["headers"])
        self._request = request

    def __enter__(self) -> SyncStream:
        url = self._request["url"]
        client = sync_client(url)
        # The next request of a chain is to find the last one's connection free.
        if drain := getattr(_of_thread, "drain", None):
            drain.join(config.DRAIN_SECONDS)
        with _failures_of(url):
            self._response = client.send(client.build_request(**self._request), stream=True)
        self.status: int = self._response.status_code
        self.headers = lower_names(self._response.headers)
        self._chunks = self._response.iter_bytes()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if error is None and not self._response.is_closed:
            _of_thread.drain = self._drain()
            return
        self._response.close()
        if failure := _failure(error, self._request["url"]):
            raise failure from error

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._chunks)

    def read(self) -> bytes:
        """The body of an error; empty if it cannot be decoded, for the status says enough."""
        with contextlib.suppress(library().DecodingError):
            return b"".join(self._chunks)
        return b""

    def _drain(self) -> threading.Thread:
        """Read to the end in a thread, so that the connection can be used again.

        If the end does not come in time, the connection is shut, because a blocking read
        cannot be given a new time limit.
        """

        def shut() -> None:
            stream = self._response.extensions.get("network_stream")
            raw = stream and stream.get_extra_info("socket")
            if raw is not None:
                with contextlib.suppress(OSError):
                    raw.shutdown(socket.SHUT_RDWR)

        def read_on() -> None:
            limit = threading.Timer(config.DRAIN_SECONDS, shut)
            limit.daemon = True
            limit.start()
            with contextlib.suppress(Exception):
                self.read()
            limit.cancel()
            self._response.close()

        reader = threading.Thread(target=read_on, name="chatgpt-drain", daemon=True)
        reader.start()
        return reader


class AsyncStream:
    """`SyncStream` for an event loop."""

    def __init__(self, request: Mapping[str, Any]):
        _check_headers(request["headers"])
        self._request = request

    async def __aenter__(self) -> AsyncStream:
        url = self._request["url"]
        client = await async_client(url)
        with _failures_of(url):
            self._response = await client.send(client.build_request(**self._request), stream=True)
        self.status: int = self._response.status_code
        self.headers = lower_names(self._response.headers)
        self._chunks = self._response.aiter_bytes()
        return self

    async def __aexit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        try:
            if error is None and not self._response.is_closed:
                with contextlib.suppress(Exception):
                    await asyncio.wait_for(self.read(), config.DRAIN_SECONDS)
        finally:
            await self._response.aclose()
        if failure := _failure(error, self._request["url"]):
            raise failure from error

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self._chunks)

    async def read(self) -> bytes:
        with contextlib.suppress(library().DecodingError):
            return b"".join([chunk async for chunk in self._chunks])
        return b""
