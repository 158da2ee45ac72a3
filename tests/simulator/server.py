"""The HTTP server on 127.0.0.1: routes, scripted faults, and the record of every request."""

from __future__ import annotations

import contextlib
import gzip
import html
import io
import json
import socket
import ssl
import sys
import threading
import time
import urllib.parse
import uuid
import zlib
from collections import deque
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from .plan import Plan
from .replies import Answer, Refusal, Request, Stream, web_page

ROUTES = {
    ("POST", "/api/accounts/deviceauth/usercode"): "usercode",
    ("POST", "/api/accounts/deviceauth/token"): "device_token",
    ("GET", "/oauth/authorize"): "authorize",
    ("POST", "/oauth/token"): "token",
    ("POST", "/oauth/revoke"): "revoke",
    ("GET", "/api/accounts/v1/user-auth-credential/whoami"): "whoami",
    ("POST", "/backend-api/codex/responses"): "responses",
    ("GET", "/backend-api/codex/responses"): "websocket",
    ("GET", "/backend-api/codex/models"): "models",
    ("GET", "/backend-api/wham/usage"): "usage",
    ("GET", "/backend-api/wham/accounts/check"): "accounts",
    ("GET", "/backend-api/wham/rate-limit-reset-credits"): "resets",
    ("POST", "/backend-api/wham/rate-limit-reset-credits/consume"): "redeem",
    ("POST", "/backend-api/codex/images/generations"): "draw",
    ("POST", "/backend-api/codex/images/edits"): "edit",
    ("GET", "/.well-known/openid-configuration"): "discovery",
    ("GET", "/.well-known/jwks.json"): "jwks",
    ("GET", "/api/accounts/authorize"): "official_authorize",
    ("POST", "/api/accounts/oauth/token"): "official_token",
    ("POST", "/api/accounts/oauth/revoke"): "official_revoke",
    ("GET", "/v1/models"): "official_models",
    ("POST", "/v1/responses"): "official_responses",
    ("GET", "/v1/responses"): "websocket",
}


class Simulator(Plan):
    """The whole service. `with Simulator() as simulator:` runs it; its attributes are settings."""

    def __init__(self, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        super().__init__()
        self.requests: list[Request] = []
        self.scripts: dict[str, deque[Any]] = {name: deque() for name in ROUTES.values()}
        # Functions that answer requests to an endpoint while nothing is scripted for it.
        self.always: dict[str, Callable[[Request], Any]] = {}
        handler = type("Handler", (_Handler,), {"simulator": self})
        self._server = _Server(("127.0.0.1", port), handler)
        if tls is not None:
            # The handshake is left to the thread that serves the connection.
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.port = self._server.server_address[1]
        scheme = "https" if tls else "http"
        self.issuer = self.public_issuer = f"{scheme}://127.0.0.1:{self.port}"
        self.base_url = f"{self.issuer}/backend-api"
        self.api_url = f"{self.issuer}/v1"

    def __enter__(self) -> Simulator:
        threading.Thread(target=self._server.serve_forever, args=(0.002,), daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.shutdown()
        self.close()

    def close(self) -> None:
        """Release the port. Needed only for a simulator that was not entered."""
        self._server.server_close()

    @property
    def environment(self) -> dict[str, str]:
        """The settings that point the plugin at the simulator."""
        return {
            "LLM_CHATGPT_ISSUER": self.issuer,
            "LLM_CHATGPT_BASE_URL": self.base_url,
            "LLM_CHATGPT_API_URL": self.api_url,
        }

    def script(self, endpoint: str, *answers: Any) -> None:
        """Set the next answers of an endpoint, which is one of the names in ROUTES.

        Each is an Answer, a Stream, None for the normal answer, or a function of the request
        that returns one of these.
        """
        self.scripts[endpoint].extend(answers)

    def respond(self, endpoint: str, request: Request) -> Answer | Stream:
        """Return the scripted answer, or the normal one."""
        with self.lock:
            waiting = self.scripts[endpoint]
            answer = waiting.popleft() if waiting else self.always.get(endpoint)
        if callable(answer):
            answer = answer(request)
        if answer is None:
            # Cloudflare refuses the User-Agent of Python's urllib (P14), but not an empty one.
            if request.headers.get("user-agent", "").startswith("Python-urllib"):
                return web_page()
            try:
                answer = getattr(self, f"serve_{endpoint}")(request)
            except Refusal as refusal:
                answer = refusal.answer
        return answer

    def serve_websocket(self, request: Request) -> Answer:
        """Refuse a WebSocket, so that clients continue over HTTPS."""
        if request.headers.get("upgrade", "").lower() == "websocket":
            return Answer(426, {"detail": "Upgrade Required"})
        return Answer(405, {"detail": "Method Not Allowed"}, {"Allow": "POST"})

    def seen(self, path: str) -> list[Request]:
        """Return the requests whose path ends with `path`."""
        return [request for request in self.requests if request.path.endswith(path)]

    @property
    def refreshes(self) -> list[Request]:
        return [r for r in self.seen("/oauth/token") if r.body["grant_type"] == "refresh_token"]

    @property
    def prompts(self) -> list[Any]:
        """The bodies of all prompts to the Codex backend."""
        return [r.body for r in self.seen("/codex/responses") if r.method == "POST"]

    @property
    def official_prompts(self) -> list[Any]:
        """The bodies of all prompts of the official route."""
        return [r.body for r in self.seen("/v1/responses") if r.method == "POST"]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that has disconnected needs no traceback.
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    simulator: Simulator
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server_version = "simulator"

    def log_message(self, *_: Any) -> None:
        pass

    def date_time_string(self, timestamp: float | None = None) -> str:
        now = self.simulator.clock() if timestamp is None else timestamp
        return super().date_time_string(int(now))

    def do_GET(self) -> None:
        request = self._read()
        with self.simulator.lock:
            self.simulator.requests.append(request)
        endpoint = ROUTES.get((request.method, request.path))
        if endpoint is not None:
            answer = self.simulator.respond(endpoint, request)
        elif request.path == "/codex/device":
            page = f"<h1>Enter the code</h1><p>{html.escape(self.simulator.issuer)}</p>"
            answer = Answer(200, page, {"Content-Type": "text/html"})
        else:
            answer = Answer(404, {"detail": "Not Found"})
        if isinstance(answer, Stream):
            self._stream(answer)
        else:
            self._send(answer)

    do_POST = do_GET

    def _read(self) -> Request:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        parts = urllib.parse.urlsplit(self.path)
        body: Any = None
        plain = _decompressed(raw, headers.get("content-encoding", ""))
        kind = headers.get("content-type", "")
        if "json" in kind:
            with contextlib.suppress(ValueError):
                body = json.loads(plain)
        elif "x-www-form-urlencoded" in kind:
            body = dict(urllib.parse.parse_qsl(plain.decode()))
        return Request(
            self.command,
            parts.path,
            dict(urllib.parse.parse_qsl(parts.query)),
            headers,
            plain,
            body,
            self.client_address[1],
            time.monotonic(),
        )

    def _send(self, answer: Answer) -> None:
        time.sleep(answer.delay)
        if answer.drop:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            return
        headers = {"x-request-id": str(uuid.uuid4())} if answer.status >= 400 else {}
        data = answer.body
        if not isinstance(data, (bytes, str)):
            data = "" if data is None else json.dumps(data)
            headers["Content-Type"] = "application/json"
        if isinstance(data, str):
            data = data.encode()
        self.send_response(answer.status)
        for name, value in {**headers, **answer.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if not answer.trickle:
            self.wfile.write(data)
            return
        for byte in data:
            self.wfile.write(bytes([byte]))
            time.sleep(answer.trickle)

    def _stream(self, stream: Stream) -> None:
        self.send_response(200)
        # The live service sends no Content-Type with a stream (docs/protocol.md).
        for name, value in stream.headers.items():
            self.send_header(name, value)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in stream.pieces:
            if isinstance(piece, float):
                time.sleep(piece)
                continue
            self.wfile.write(piece if stream.chunked else b"%x\r\n%s\r\n" % (len(piece), piece))
        if stream.end == "finish":
            self.wfile.write(b"0\r\n\r\n")
            return
        if stream.end == "cut":
            self.connection.shutdown(socket.SHUT_RDWR)
        else:
            with contextlib.suppress(OSError):
                self.connection.recv(1)
        self.close_connection = True


def _decompressed(raw: bytes, encoding: str) -> bytes:
    """Decompress a request's body; empty if it does not match Content-Encoding."""
    if encoding == "zstd":
        import zstandard

        with contextlib.suppress(zstandard.ZstdError):
            return zstandard.ZstdDecompressor().stream_reader(io.BytesIO(raw)).read()
    if encoding == "gzip":
        with contextlib.suppress(OSError, EOFError, zlib.error):
            return gzip.decompress(raw)
    return b"" if encoding else raw
