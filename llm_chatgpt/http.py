"""HTTP clients, TLS, whole answers, and why a request failed."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import importlib
import inspect
import json
import os
import re
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from llm_chatgpt import config
from llm_chatgpt.errors import ChatGPTError
from llm_chatgpt.files import os_reason
from llm_chatgpt.text import printable
from llm_chatgpt.values import as_mapping


def http_library() -> Any:
    """httpx2 where llm has loaded it already, else httpx; only what both have is used."""
    return sys.modules.get("httpx2") or importlib.import_module("httpx")


def tls_context() -> Any:
    """What https connections are checked with, certificates read as late as can be.

    SSL_CERT_FILE and SSL_CERT_DIR take the place of the system's certificates,
    CODEX_CA_CERTIFICATE is added to them. Raises ChatGPTError for a file that is none.
    """
    import ssl

    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    context: Any = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if file or folder:
        name = "SSL_CERT_FILE" if file else "SSL_CERT_DIR"
        # A folder that is not there is looked up in vain, without an error.
        _load_certificates(context, name, file or None, folder or None)
    elif sys.platform in ("darwin", "win32"):
        import truststore

        context = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    else:
        _load_certificates(context, "system", *_system_certificates())
    extra = os.environ.get("CODEX_CA_CERTIFICATE")
    if extra:
        _load_certificates(context, "CODEX_CA_CERTIFICATE", extra, None)
    return context


def _load_certificates(context: Any, name: str, file: str | None, folder: str | None) -> None:
    try:
        context.load_verify_locations(file, folder)
    except OSError as error:
        # ssl.SSLError is one, too: the file is there, but holds no certificate.
        reason = "it holds no certificate" if type(error) is not FileNotFoundError else "not there"
        if isinstance(error, PermissionError):
            reason = os_reason(error)
        raise ChatGPTError(
            f"{name} names the certificates in {printable(file or folder)}, which cannot be "
            f"read ({reason}). Correct or unset it."
        ) from error


def _system_certificates() -> tuple[str | None, str | None]:
    """The file and the folder that the system keeps its certificates in; else certifi's.

    A folder with hashed names costs nothing until a certificate is looked up in it; reading
    a file of them all takes longer than a prompt's whole request.
    """
    import ssl

    paths = ssl.get_default_verify_paths()
    file = paths.openssl_cafile if os.path.isfile(paths.openssl_cafile) else None
    folders = [paths.openssl_capath] + ([] if file else [config.CERTIFICATE_FOLDER])
    folder = next(filter(_has_hashed_names, folders), None)
    if file and folder and os.path.dirname(os.path.realpath(file)) == os.path.realpath(folder):
        # The same ones in one file, as Debian keeps them.
        file = None
    if not file and not folder:
        file = next(filter(os.path.isfile, config.CERTIFICATE_FILES), None)
    if not file and not folder:
        # It comes with httpx.
        with contextlib.suppress(ImportError):
            import certifi

            file = certifi.where()
    return file, folder


def _has_hashed_names(folder: str) -> bool:
    with contextlib.suppress(OSError):
        return any(re.fullmatch(r"[0-9a-f]{8}\.\d", name) for name in os.listdir(folder))
    return False


def _client_options(secure: bool) -> dict[str, Any]:
    http = http_library()
    options: dict[str, Any] = {
        "limits": http.Limits(
            max_connections=100,
            max_keepalive_connections=20,
            keepalive_expiry=config.KEEPALIVE_SECONDS,
        ),
        "timeout": http.Timeout(
            config.AUTH_TIMEOUT_SECONDS, connect=config.CONNECT_TIMEOUT_SECONDS, pool=None
        ),
    }
    if secure:
        options["verify"] = tls_context()
    else:
        import ssl

        # This context trusts nobody, so an https address that came this way would fail, not
        # go unchecked. And what is meant for this machine is not handed to a proxy.
        options["verify"] = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        options["trust_env"] = False
    return options


def _new_client(kind: str, secure: bool) -> Any:
    """A `Client` or an `AsyncClient`. Raises ChatGPTError for settings that it cannot use."""
    try:
        return _merge_chunks(getattr(http_library(), kind)(**_client_options(secure)))
    except ImportError as error:
        raise ChatGPTError(
            "A SOCKS proxy is set in the environment, which needs one more package: run "
            "'llm install socksio', or set another proxy in HTTPS_PROXY."
        ) from error
    except (ValueError, http_library().InvalidURL) as error:
        raise ChatGPTError(
            "The proxy that the environment names is no proxy's address. Correct or unset "
            "HTTPS_PROXY (or ALL_PROXY, HTTP_PROXY); it looks like http://host:3128."
        ) from error


class ChunkMerger:
    """Makes one HTTP chunk of those that arrive together, before h11 sees them.

    The service sends every few letters of an answer as a chunk of its own, and h11 takes
    longer for a chunk than all that this module does with it (a benchmark's row). Nothing
    waits for more to come, and what is not understood passes unchanged.
    """

    def __init__(self) -> None:
        self.expect_response()

    def expect_response(self) -> None:
        """A request goes out: what comes next begins with headers."""
        self._state = "head"
        self._head = b""
        # Bytes of the present chunk that are still to come, its CR LF included.
        self._left = 0
        self._size_line = b""

    def feed(self, data: bytes) -> bytes:
        """The same body in larger chunks; b"" when nothing whole has arrived yet."""
        if self._state == "pass":
            return data
        if self._state == "head":
            self._head += data
            head, end, rest = self._head.partition(b"\r\n\r\n")
            if not end:
                return data
            if b"\ntransfer-encoding: chunked" not in head.lower():
                self._state = "pass"
                return data
            self._state, self._head = "body", b""
            return data[: len(data) - len(rest)] + self.feed(rest) if rest else data
        return self._merge(data)

    def _merge(self, data: bytes) -> bytes:
        pieces = []
        position, end = 0, len(data)
        while position < end:
            if self._left:
                taken = min(self._left, end - position)
                # The last two of them are the chunk's CR LF.
                text = taken - max(0, 2 - (self._left - taken))
                if text > 0:
                    pieces.append(data[position : position + text])
                self._left -= taken
                position += taken
                continue
            line_end = data.find(b"\n", position)
            self._size_line += data[position : line_end + 1 or end]
            if line_end < 0:
                break
            line, self._size_line = self._size_line, b""
            position = line_end + 1
            try:
                size = int(line, 16)
            except ValueError:
                size = 0
            if size <= 0:
                # The end, or something that h11 should see as it came.
                self._state = "pass"
                return self._chunk(pieces) + line + data[position:]
            self._left = size + 2
        return self._chunk(pieces)

    @staticmethod
    def _chunk(pieces: list[bytes]) -> bytes:
        merged = b"".join(pieces)
        return b"%x\r\n%s\r\n" % (len(merged), merged) if merged else b""


class _MergingStream:
    """A connection of httpcore's, sync or async, whose answers go through a ChunkMerger."""

    def __init__(self, stream: Any):
        self._stream = stream
        self._merger = ChunkMerger()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @staticmethod
    def _pieces(buffer: bytes) -> Iterator[bytes]:
        """httpcore copies all that is left after each part that the system takes."""
        for start in range(0, len(buffer), config.WRITE_BYTES):
            yield buffer[start : start + config.WRITE_BYTES]


class _SyncMergingStream(_MergingStream):
    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        while True:
            data: bytes = self._stream.read(max_bytes, timeout)
            merged = self._merger.feed(data)
            # Only the end of a connection may look like one.
            if merged or not data:
                return merged

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._merger.expect_response()
        for piece in self._pieces(buffer):
            self._stream.write(piece, timeout)

    def start_tls(self, *args: Any, **kwargs: Any) -> _SyncMergingStream:
        return _SyncMergingStream(self._stream.start_tls(*args, **kwargs))


class _AsyncMergingStream(_MergingStream):
    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        while True:
            data: bytes = await self._stream.read(max_bytes, timeout)
            merged = self._merger.feed(data)
            if merged or not data:
                return merged

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._merger.expect_response()
        for piece in self._pieces(buffer):
            await self._stream.write(piece, timeout)

    async def start_tls(self, *args: Any, **kwargs: Any) -> _AsyncMergingStream:
        return _AsyncMergingStream(await self._stream.start_tls(*args, **kwargs))


def _merge_chunks(client: Any) -> Any:
    """Put ChunkMergers into a client's new connections, if its inside is as we know it.

    httpx has no public place for this; where the private one is gone, answers are read as
    they come, only slower. Connections through a proxy are left as they are.
    """
    pool = getattr(getattr(client, "_transport", None), "_pool", None)
    backend: Any = getattr(pool, "_network_backend", None)
    connect = getattr(backend, "connect_tcp", None)
    if connect is None:
        return client

    def connect_sync(*args: Any, **kwargs: Any) -> _SyncMergingStream:
        return _SyncMergingStream(connect(*args, **kwargs))

    async def connect_async(*args: Any, **kwargs: Any) -> _AsyncMergingStream:
        return _AsyncMergingStream(await connect(*args, **kwargs))

    backend.connect_tcp = connect_async if inspect.iscoroutinefunction(connect) else connect_sync
    return client


_sync_clients: dict[tuple[int, str, bool], Any] = {}
_clients_lock = threading.Lock()
# event loop -> {secure: (client, the generator that closes it with the loop)}
_async_clients: weakref.WeakKeyDictionary[Any, dict[bool, tuple[Any, Any]]]
_async_clients = weakref.WeakKeyDictionary()


def sync_client(url: str) -> Any:
    """This process's HTTP client: one pool of connections, shared by all threads."""
    secure = url.startswith("https:")
    # A forked child must not write into its parent's connections.
    key = (os.getpid(), http_library().__name__, secure)
    with _clients_lock:
        if key not in _sync_clients:
            _sync_clients[key] = _new_client("Client", secure)
        return _sync_clients[key]


async def async_client(url: str) -> Any:
    """The running event loop's HTTP client, closed when the loop shuts down."""
    secure = url.startswith("https:")
    clients = _async_clients.setdefault(asyncio.get_running_loop(), {})
    if secure not in clients:
        client = _new_client("AsyncClient", secure)
        keeper = _keep_open(client)
        clients[secure] = (client, keeper)
        # From its first step on, the loop closes the generator when it shuts down.
        await anext(keeper)
    return clients[secure][0]


async def _keep_open(client: Any) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await client.aclose()


@atexit.register
def close_clients() -> None:
    """Close the connections that threads share. A later request opens new ones."""
    with _clients_lock:
        for (pid, _, _), client in _sync_clients.items():
            if pid == os.getpid():
                client.close()
        _sync_clients.clear()


def lower_names(headers: Any) -> dict[str, str]:
    """An answer's headers by lower-case name, whichever library brought them."""
    return {name.lower(): value for name, value in headers.items()}


class Reply:
    """A whole answer: status, headers by lower-case name, the body, and whose it is."""

    def __init__(
        self, status: int, headers: Mapping[str, str], content: bytes, host: str = "The server"
    ):
        self.status = status
        self.headers = headers
        self.content = content
        self.host = host

    @classmethod
    def of(cls, response: Any) -> Reply:
        host = response.request.url.netloc.decode()
        return cls(response.status_code, lower_names(response.headers), response.content, host)

    @functools.cached_property
    def data(self) -> Any:
        """The body as JSON, None if it is not."""
        try:
            return json.loads(self.content)
        except (ValueError, RecursionError):
            return None

    @property
    def error_code(self) -> str | None:
        """`error` as a string, else `error.code`, else `code`, else `detail.code` (auth.md 5)."""
        data = as_mapping(self.data)
        error, detail = data.get("error"), data.get("detail")
        for code in (
            error,
            as_mapping(error).get("code"),
            data.get("code"),
            as_mapping(detail).get("code"),
        ):
            if isinstance(code, str) and code:
                return code.lower()
        return None

    @property
    def is_web_page(self) -> bool:
        """HTML in place of an answer: Cloudflare, a proxy, a captive portal."""
        return (
            "cf-mitigated" in self.headers
            or "text/html" in self.headers.get("content-type", "").lower()
            or self.content.lstrip()[:1] == b"<"
        )


def transport_reason(error: BaseException) -> str:
    """Why no answer came, in words without an address or a header in them."""
    http = http_library()
    if isinstance(error, http.TimeoutException):
        return "it did not answer in time"
    if isinstance(error, http.ProxyError):
        status = re.search(r"\b[45]\d\d\b", str(error))
        return "the proxy refused" + (f" (status {status[0]})" if status else "")
    if isinstance(error, http.ConnectError):
        words = str(error)
        if "certificate" in words.lower():
            why = re.search(r"verify failed: ([^(\n]+)", words)
            return (
                f"its certificate was not accepted ({printable(why[1] if why else words, 200)}). "
                "Where a company's proxy reads along, name its root certificate in "
                "CODEX_CA_CERTIFICATE (or SSL_CERT_FILE, SSL_CERT_DIR); else check this "
                "machine's clock"
            )
        if "ssl" in words.lower():
            return "no TLS connection came about; a proxy may be in between"
        return "it cannot be reached" + (" through the proxy" if proxy_settings() else "")
    return "the connection broke off"


def proxy_settings() -> dict[str, str]:
    """The proxies that the environment (or the system) names, by scheme, as httpx sees them."""
    import urllib.request

    found = urllib.request.getproxies()
    return {scheme: found[scheme] for scheme in ("https", "http", "all") if found.get(scheme)}


def web_page_message(reply: Reply) -> str:
    ray = reply.headers.get("cf-ray")
    return (
        f"{reply.host} answered with a web page instead of data: Cloudflare or a proxy between "
        "here and OpenAI blocks this network. Try without VPN or proxy, or from another network"
        + (f" (cf-ray {printable(ray, 60)})." if ray else ".")
    )


def drain(reply: Any, chunks: Iterator[bytes]) -> None:
    """Read to the stream's end, so that its connection can be used again; 0.1 s at most.

    In a thread, because a blocking read cannot be given a new time limit. If the end does
    not come, the connection is shut, which also ends the thread.
    """

    def read_on() -> None:
        with contextlib.suppress(Exception):
            for _ in chunks:
                pass

    reader = threading.Thread(target=read_on, name="chatgpt-drain", daemon=True)
    reader.start()
    reader.join(config.DRAIN_SECONDS)
    if reader.is_alive():
        stream = reply.extensions.get("network_stream")
        raw = stream and stream.get_extra_info("socket")
        if raw is not None:
            import socket

            with contextlib.suppress(OSError):
                raw.shutdown(socket.SHUT_RDWR)
        reader.join(config.DRAIN_SECONDS)


async def drain_async(chunks: AsyncIterator[bytes]) -> None:
    async def read_on() -> None:
        async for _ in chunks:
            pass

    with contextlib.suppress(asyncio.TimeoutError, http_library().TransportError):
        await asyncio.wait_for(read_on(), config.DRAIN_SECONDS)
