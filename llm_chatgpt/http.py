"""Send requests: `send` returns a whole answer, the streams yield the answer to a prompt.

This module turns every error of the HTTP library during a request into a ConnectionFailed.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import re
import socket
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from llm_chatgpt import clients, config
from llm_chatgpt.errors import ChatGPTError, ConnectionFailed
from llm_chatgpt.text import in_words, printable
from llm_chatgpt.threads import start_in_thread, wait_for
from llm_chatgpt.values import as_mapping, json_object


def fetch_errors() -> tuple[type[Exception], ...]:
    """Return the errors that llm can raise when it fetches an attachment with httpx or httpx2."""
    loaded = [sys.modules[name] for name in ("httpx", "httpx2") if name in sys.modules]
    library_errors = (error for http in loaded for error in (http.HTTPError, http.InvalidURL))
    return (OSError, ValueError, *library_errors)


# Failures --------------------------------------------------------------------------


@contextlib.contextmanager
def _failures_of(url: str) -> Iterator[None]:
    """Turn the HTTP library's errors into ConnectionFailed."""
    http = clients.library()
    try:
        yield
    except http.RequestError as error:
        raise _explain(error, urlsplit(url).netloc) from error
    except http.InvalidURL as error:
        raise ConnectionFailed(f"{printable(url, 100)} is not a valid address.") from error


def _explain(error: Exception, host: str) -> ConnectionFailed:
    """Explain a failed request in one sentence, without its address and headers."""
    http = clients.library()
    message = str(error)
    if isinstance(error, http.TimeoutException):
        stalled = isinstance(error, http.ReadTimeout)
        return ConnectionFailed(f"{host} did not answer in time.", stalled=stalled)
    if isinstance(error, http.ProxyError):
        status = re.search(r"\b[45]\d\d\b", message)
        reason = f" (status {status[0]})" if status else ""
        return ConnectionFailed(f"The proxy refused the connection to {host}{reason}.")
    if isinstance(error, http.DecodingError):
        return ConnectionFailed(f"{host} sent an answer that could not be decoded.")
    if not isinstance(error, http.ConnectError):
        return ConnectionFailed(f"The connection to {host} broke off.")
    if "certificate" in message.lower():
        cause = re.search(r"verify failed: ([^(\n]+)", message)
        reason = printable(cause[1] if cause else message, 200).rstrip(".")
        return ConnectionFailed(
            f"The certificate of {host} was not accepted ({reason}).",
            "If a company's proxy intercepts TLS, set CODEX_CA_CERTIFICATE to its root "
            "certificate; otherwise check this machine's clock.",
        )
    if "ssl" in message.lower():
        return ConnectionFailed(f"Could not open a TLS connection to {host}.")
    via = " through the proxy" if proxy_settings() else ""
    return ConnectionFailed(f"Could not reach {host}{via}.")


def proxy_settings() -> dict[str, str]:
    """Return the proxies that the environment or the system names, by scheme, as httpx does."""
    import urllib.request

    proxies = urllib.request.getproxies()
    return {scheme: proxies[scheme] for scheme in ("https", "http", "all") if proxies.get(scheme)}


def _check_headers(headers: Mapping[str, str]) -> None:
    """Raise ChatGPTError for a header that cannot be sent.

    The message does not show the value, which may be a token.
    """
    for name, value in headers.items():
        if not re.fullmatch(r"[!-~]([\t -~]*[!-~])?", value):
            raise ChatGPTError(
                f"The header {name} cannot be sent: its value has characters that are not allowed.",
                "Check the access token and the LLM_CHATGPT_ settings.",
            )


# Whole answers ---------------------------------------------------------------------


# No repr, because the content may hold tokens.
@dataclasses.dataclass(repr=False)
class Reply:
    """A whole answer.

    `headers` have lower-case names. `certificate` is the server's, as `getpeercert` returns it;
    empty if the operating system does not show it, None without TLS.
    """

    status: int
    headers: Mapping[str, str]
    content: bytes
    host: str = "The server"
    certificate: Mapping[str, Any] | None = None

    @functools.cached_property
    def data(self) -> Mapping[str, Any]:
        """The JSON object in the body; empty if there is none."""
        return json_object(self.content)

    @property
    def error_code(self) -> str | None:
        """The first error code in the body, in lower case (P174, P263)."""
        data = self.data
        error, detail = data.get("error"), as_mapping(data.get("detail"))
        codes = (
            error,
            as_mapping(error).get("code"),
            data.get("code"),
            detail.get("code"),
            detail.get("error_code"),
        )
        return next((code.lower() for code in codes if isinstance(code, str) and code), None)

    @property
    def is_web_page(self) -> bool:
        """Whether the body is HTML: from Cloudflare (P27), a proxy or a captive portal."""
        return (
            "cf-mitigated" in self.headers
            or "text/html" in self.headers.get("content-type", "").lower()
            or self.content.lstrip()[:1] == b"<"
        )

    @property
    def web_page_error(self) -> tuple[str, str]:
        """The reason and the advice of the error for a body that is a web page."""
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
    seconds: float = config.AUTH_TIMEOUT_SECONDS,
    max_bytes: int = config.MAX_REPLY_BYTES,
    limit_total: bool = True,
    **content: Any,
) -> Reply:
    """Send one request and return its whole answer, whatever its status.

    `content` is `params`, `json` or `data`, as the HTTP library takes them. `seconds` limits the
    exchange in total or, if `limit_total` is False, only each wait for data, so that a late answer
    is still used. `max_bytes` limits the body.

    Raises ConnectionFailed if no readable answer came, and ChatGPTError for an unusable setting.
    """
    _check_headers(headers or {})
    host = urlsplit(url).netloc

    def fetch() -> Reply:
        request = {"headers": headers, "timeout": clients.timeout(seconds), **content}
        client = clients.sync_client()
        with _failures_of(url), client.stream(method, url, **request) as response:
            certificate = _certificate(response)
            body = bytearray()
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > max_bytes:
                    size = max_bytes // 2**20
                    raise ConnectionFailed(f"{host} sent an answer of more than {size} MiB.")
            answer_headers = dict(response.headers)
            return Reply(response.status_code, answer_headers, bytes(body), host, certificate)

    if not limit_total:
        return fetch()
    # In a thread, because the library limits only single socket operations.
    future = start_in_thread(fetch)
    if not wait_for(future, seconds):
        raise ConnectionFailed(f"{host} did not answer within {in_words(seconds)}.")
    return future.result()


def _certificate(response: Any) -> Mapping[str, Any] | None:
    stream = response.extensions.get("network_stream")
    connection = stream and stream.get_extra_info("ssl_object")
    # Where the operating system checks certificates, it may not show them.
    return connection and (connection.getpeercert() or {})


# Streamed answers --------------------------------------------------------------------
#
# These are classes. If a caller abandons an async answer during a wait, a context manager made from
# a generator could not be closed: contextlib would raise RuntimeError.


class _Stream:
    """The answer to a prompt while it arrives: `status`, `headers`, and the body in `chunks`.

    `request` holds the arguments of the library's `build_request`; entering the `with` block sends
    it. Raises ConnectionFailed, also for an error of the library inside the block. After the block,
    unless it raised, the rest of the stream is read for up to 100 ms, so that the connection can be
    reused.
    """

    def __init__(self, request: Mapping[str, Any]):
        _check_headers(request["headers"])
        self._request = request

    def _failures(self) -> contextlib.AbstractContextManager[None]:
        return _failures_of(self._request["url"])

    def _opened(self, response: Any) -> None:
        self._response = response
        self.status: int = response.status_code
        self.headers = dict(response.headers)


# `drain` is the thread that reads the end of this thread's last stream. Only the next request waits
# for it: the program can exit before it ends.
_thread_local = threading.local()


class SyncStream(_Stream):
    def __enter__(self) -> SyncStream:
        client = clients.sync_client()
        # Wait until the last stream's connection can be reused.
        if drain := getattr(_thread_local, "drain", None):
            drain.join(config.DRAIN_SECONDS)
        with self._failures():
            self._opened(client.send(client.build_request(**self._request), stream=True))
        self.chunks: Iterator[bytes] = self._response.iter_bytes()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if error is None and not self._response.is_closed:
            _thread_local.drain = threading.Thread(target=self._drain, daemon=True)
            _thread_local.drain.start()
            return
        self._response.close()
        # Raise an error of the library again, as ConnectionFailed.
        with self._failures():
            if error:
                raise error

    def read(self) -> bytes:
        return b"".join(self.chunks)

    def _drain(self) -> None:
        """Read to the end; shut the connection after 100 ms, because only that ends a slow read."""
        stream = self._response.extensions.get("network_stream")
        connection = stream and stream.get_extra_info("socket")

        def shut() -> None:
            if connection:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

        limit = threading.Timer(config.DRAIN_SECONDS, shut)
        limit.daemon = True
        limit.start()
        with contextlib.suppress(Exception), contextlib.closing(self._response):
            self.read()
        limit.cancel()


class AsyncStream(_Stream):
    async def __aenter__(self) -> AsyncStream:
        client = await clients.async_client()
        with self._failures():
            self._opened(await client.send(client.build_request(**self._request), stream=True))
        self.chunks: AsyncIterator[bytes] = self._response.aiter_bytes()
        return self

    async def __aexit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        try:
            if error is None and not self._response.is_closed:
                with contextlib.suppress(Exception):
                    await asyncio.wait_for(self.read(), config.DRAIN_SECONDS)
        finally:
            await self._response.aclose()
        # Raise an error of the library again, as ConnectionFailed.
        with self._failures():
            if error:
                raise error

    async def read(self) -> bytes:
        return b"".join([chunk async for chunk in self.chunks])
