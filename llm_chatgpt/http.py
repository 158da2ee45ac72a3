"""Send requests: a side request with its whole answer, or a prompt with a stream.

Every failure of the HTTP library becomes a ConnectionFailed in this file and nowhere else.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import json
import re
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from llm_chatgpt import clients, config
from llm_chatgpt.errors import ChatGPTError, ConnectionFailed
from llm_chatgpt.text import in_words, printable
from llm_chatgpt.values import as_mapping


def fetch_errors() -> tuple[type[Exception], ...]:
    """Return what fetching an attachment can raise: llm may use either library for it."""
    loaded = [sys.modules[name] for name in ("httpx", "httpx2") if name in sys.modules]
    library_errors = (error for http in loaded for error in (http.HTTPError, http.InvalidURL))
    return (OSError, ValueError, *library_errors)


# Failures --------------------------------------------------------------------------


@contextlib.contextmanager
def _failures_of(url: str) -> Iterator[None]:
    """Turn the HTTP library's errors into ConnectionFailed."""
    try:
        yield
    except Exception as error:
        if failure := _failure(error, url):
            raise failure from error
        raise


def _failure(error: BaseException | None, url: str) -> ConnectionFailed | None:
    """Return the ConnectionFailed for an error of the HTTP library; None for any other."""
    http = clients.library()
    if isinstance(error, http.RequestError):
        return _explain(error, urlsplit(url).netloc)
    if isinstance(error, http.InvalidURL):
        return ConnectionFailed(f"{printable(url, 100)} is not a valid address.")
    return None


def _explain(error: Exception, host: str) -> ConnectionFailed:
    """Explain a failed request in one sentence, without its address and headers."""
    http = clients.library()
    message = str(error)
    if isinstance(error, http.TimeoutException):
        return ConnectionFailed(
            f"{host} did not answer in time.", stalled=isinstance(error, http.ReadTimeout)
        )
    if isinstance(error, http.ProxyError):
        status = re.search(r"\b[45]\d\d\b", message)
        return ConnectionFailed(
            f"The proxy refused the connection to {host}"
            + (f" (status {status[0]})." if status else ".")
        )
    if isinstance(error, http.DecodingError):
        return ConnectionFailed(f"{host} sent an answer that could not be decoded.")
    if not isinstance(error, http.ConnectError):
        return ConnectionFailed(f"The connection to {host} broke off.")
    if "certificate" in message.lower():
        why = re.search(r"verify failed: ([^(\n]+)", message)
        return ConnectionFailed(
            f"The certificate of {host} was not accepted "
            f"({printable(why[1] if why else message, 200).rstrip('.')}).",
            "If a company's proxy intercepts TLS, set CODEX_CA_CERTIFICATE to its root "
            "certificate; otherwise check this machine's clock.",
        )
    if "ssl" in message.lower():
        return ConnectionFailed(f"Could not open a TLS connection to {host}.")
    way = " through the proxy" if proxy_settings() else ""
    return ConnectionFailed(f"Could not reach {host}{way}.")


def proxy_settings() -> dict[str, str]:
    """Return the proxies that the environment or the system names, by scheme, as httpx does."""
    import urllib.request

    found = urllib.request.getproxies()
    return {scheme: found[scheme] for scheme in ("https", "http", "all") if found.get(scheme)}


def _check_headers(headers: Mapping[str, str]) -> None:
    """Raise ChatGPTError for a value that no header can hold. The value may be a token."""
    for name, value in headers.items():
        if not re.fullmatch(r"[!-~]([\t -~]*[!-~])?", value):
            raise ChatGPTError(
                f"The header {name} cannot be sent: its value has characters that are not allowed.",
                "Check the access token and the LLM_CHATGPT_ settings.",
            )


# Side requests ---------------------------------------------------------------------


class Reply:
    """A whole answer. `headers` have lower-case names. `certificate` is the peer's certificate in
    the form of the ssl module; None without TLS."""

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
        """The body as JSON; None if it is not JSON."""
        try:
            return json.loads(self.content)
        except (ValueError, RecursionError):
            return None

    @property
    def error_code(self) -> str | None:
        """The first code among `error`, `error.code`, `code`, `detail.code` and
        `detail.error_code`, in lower case (docs/protocol.md, "Errors")."""
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
        """Whether the body is HTML: from Cloudflare, a proxy or a captive portal."""
        return (
            "cf-mitigated" in self.headers
            or "text/html" in self.headers.get("content-type", "").lower()
            or self.content.lstrip()[:1] == b"<"
        )

    @property
    def web_page_advice(self) -> tuple[str, str]:
        """The reason and the next step to tell the user about such a page."""
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

    `seconds` limits the whole exchange, or without `whole` each single wait, so that a late
    answer is still used. `max_bytes` limits the body. Raises ConnectionFailed when no readable
    answer came, ChatGPTError for a setting that cannot be used.
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

    # In a thread, because the library limits only single socket operations.
    threading.Thread(target=run, name="chatgpt-request", daemon=True).start()
    end = time.monotonic() + seconds
    try:
        while (left := end - time.monotonic()) > 0:
            # In short waits: Ctrl-C cannot interrupt a long one on Windows.
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
    http = clients.library()
    connect = min(seconds, config.CONNECT_TIMEOUT_SECONDS)
    timeout = http.Timeout(seconds, connect=connect, pool=None)
    with (
        _failures_of(url),
        clients.sync_client(url).stream(method, url, timeout=timeout, **arguments) as response,
    ):
        certificate = _certificate(response)
        content = bytearray()
        for chunk in response.iter_bytes():
            content += chunk
            if given_up.is_set():
                break
            if len(content) > max_bytes:
                host, size = urlsplit(url).netloc, max_bytes // 2**20
                raise ConnectionFailed(f"{host} sent an answer of more than {size} MiB.")
        return Reply(
            response.status_code,
            lower_names(response.headers),
            bytes(content),
            urlsplit(url).netloc,
            certificate,
        )


def lower_names(headers: Any) -> dict[str, str]:
    """Return an answer's headers by lower-case name."""
    return {name.lower(): value for name, value in headers.items()}


def _certificate(response: Any) -> Mapping[str, Any] | None:
    stream = response.extensions.get("network_stream")
    connection = stream and stream.get_extra_info("ssl_object")
    # A system that checks certificates itself may not show them.
    return connection and (connection.getpeercert() or {})


# The stream of a prompt --------------------------------------------------------------
#
# These are classes, because a generator-based context manager cannot be closed while it waits: an
# async answer that is abandoned would end in contextlib's RuntimeError.


class _Stream:
    """The answer to a prompt while it arrives: its `status`, its `headers`, and its body.

    `request` holds the arguments of the library's `build_request`; entering the `with` block sends
    it. Raises ConnectionFailed, also for an error of the library inside the block. A block that
    ends without an exception has read all that matters: the rest of the stream is read for a
    moment, so that the connection can be used again.
    """

    def __init__(self, request: Mapping[str, Any]):
        _check_headers(request["headers"])
        self._request = request

    def _opened(self, response: Any) -> None:
        self._response = response
        self.status: int = response.status_code
        self.headers = lower_names(response.headers)

    def _has_rest(self, error: BaseException | None) -> bool:
        return error is None and not self._response.is_closed

    def _raise_failure(self, error: BaseException | None) -> None:
        if failure := _failure(error, self._request["url"]):
            raise failure from error


# `drain` is the thread that reads the rest of this thread's last answer. Only the next request
# waits for it: a program can end without the rest.
_of_thread = threading.local()


class SyncStream(_Stream):
    def __enter__(self) -> SyncStream:
        url = self._request["url"]
        client = clients.sync_client(url)
        # The next request of a chain needs the connection of the last one.
        if drain := getattr(_of_thread, "drain", None):
            drain.join(config.DRAIN_SECONDS)
        with _failures_of(url):
            self._opened(client.send(client.build_request(**self._request), stream=True))
        self._chunks = self._response.iter_bytes()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if self._has_rest(error):
            _of_thread.drain = threading.Thread(
                target=self._drain, name="chatgpt-drain", daemon=True
            )
            _of_thread.drain.start()
            return
        self._response.close()
        self._raise_failure(error)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._chunks)

    def read(self) -> bytes:
        return b"".join(self._chunks)

    def _drain(self) -> None:
        """Read to the end. The connection is shut if that takes too long: nothing can give a
        blocking read another time limit."""

        def shut() -> None:
            stream = self._response.extensions.get("network_stream")
            raw = stream and stream.get_extra_info("socket")
            if raw is not None:
                with contextlib.suppress(OSError):
                    raw.shutdown(socket.SHUT_RDWR)

        limit = threading.Timer(config.DRAIN_SECONDS, shut)
        limit.daemon = True
        limit.start()
        with contextlib.suppress(Exception):
            self.read()
        limit.cancel()
        self._response.close()


class AsyncStream(_Stream):
    async def __aenter__(self) -> AsyncStream:
        url = self._request["url"]
        client = await clients.async_client(url)
        with _failures_of(url):
            self._opened(await client.send(client.build_request(**self._request), stream=True))
        self._chunks = self._response.aiter_bytes()
        return self

    async def __aexit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        try:
            if self._has_rest(error):
                with contextlib.suppress(Exception):
                    await asyncio.wait_for(self.read(), config.DRAIN_SECONDS)
        finally:
            await self._response.aclose()
        self._raise_failure(error)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self._chunks)

    async def read(self) -> bytes:
        return b"".join([chunk async for chunk in self._chunks])
