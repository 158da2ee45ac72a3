"""Wait for the browser's redirect to the loopback, or for a pasted address, on both routes.

Each route's AuthorizeRequest defines the parameters that it sends and accepts. This module is
imported when a sign-in begins, because http.server takes time to load.
"""

from __future__ import annotations

import contextlib
import errno
import html
import http.server
import queue
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

from llm_chatgpt import config
from llm_chatgpt.errors import LoginExpired, LoginFailed
from llm_chatgpt.files import os_reason
from llm_chatgpt.login.oauth import AuthorizationCode, AuthorizeRequest, Fields, ReadLines
from llm_chatgpt.text import in_words, log, notice
from llm_chatgpt.waiting import Waiting

PAGE = (
    '<!doctype html><meta charset="utf-8"><title>llm chatgpt login</title>'
    "<style>body{font:1.2em sans-serif;margin:4em auto;max-width:32em}</style><p>"
)
PAGE_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
}


class Listener(socketserver.ThreadingTCPServer):
    """A server on a port of 127.0.0.1 or ::1. It starts to answer when `serve` is called."""

    daemon_threads = True

    def __init__(self, host: str, port: int):
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def serve(self, request: AuthorizeRequest, deliver: Callable[[Fields], None]) -> None:
        """Answer redirects in threads until `shutdown`. If a redirect belongs to `request`, pass
        its parameters to `deliver`."""
        self.request, self.deliver = request, deliver
        # A browser sends exactly one `Host` header, with one of these two values.
        self.allowed_hosts = [f"127.0.0.1:{self.port}"], [urlsplit(request.redirect_uri).netloc]
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def server_bind(self) -> None:
        # Lets a sign-in listen right after an earlier one. On Windows it would also let another
        # program listen on the same port.
        self.allow_reuse_address = not config.WINDOWS
        exclusive = getattr(socket, "SO_EXCLUSIVEADDRUSE", None)
        if config.WINDOWS and exclusive is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, exclusive, 1)
        super().server_bind()

    def handle_error(self, *_: Any) -> None:
        log.debug("A request to the sign-in's listener broke off", exc_info=True)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Listener
    # Browsers open spare connections, which they may never use.
    timeout = 30
    server_version = "llm-chatgpt-oauth"
    sys_version = ""

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        fields = parse_qs(query, keep_blank_values=True)
        # DNS rebinding: a web page can point its own domain at this machine and send requests.
        if self.headers.get_all("Host") not in self.server.allowed_hosts:
            self.send_error(400)
        elif path != "/auth/callback":
            self.send_error(404)
        elif not self.server.request.owns(fields):
            self._answer(
                400, "This page belongs to another sign-in. Start again from your terminal."
            )
        else:
            # Answer first, because the program may end soon after it has the result.
            try:
                self._answer(200, "Go back to the terminal. You can close this page.")
            finally:
                self.server.deliver(fields)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer with a page that repeats no part of the request, unlike the inherited method."""
        self._answer(code, "There is nothing here.")

    def _answer(self, status: int, sentence: str) -> None:
        page = (PAGE + html.escape(sentence)).encode()
        self.send_response(status)
        for name, value in {**PAGE_HEADERS, "Content-Length": str(len(page))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *_: Any) -> None:
        """Log nothing, because the addresses contain authorization codes."""


def open_listeners(host: str, ports: Sequence[int]) -> list[Listener]:
    """Listen on the first free port (0: any port). Raises LoginFailed if none is free.

    For localhost, which a browser may resolve to ::1 (P32), the port must be free there, too.
    """
    reason = ""
    for port in ports:
        listeners = []
        try:
            listeners.append(Listener("127.0.0.1", port))
            if host == "localhost":
                listeners.append(Listener("::1", port))
            return listeners
        except OSError as error:
            # This machine may have no IPv6.
            if listeners and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                return listeners
            reason = os_reason(error)
            for listener in listeners:
                listener.server_close()
    if not any(ports):
        raise LoginFailed(
            f"No port of 127.0.0.1 is free for the browser's redirect ({reason}).",
            "Close programs that you do not need, then try again.",
        )
    tried = " and ".join(map(str, ports))
    raise LoginFailed(
        f"Could not listen on ports {tried} ({reason}), and OpenAI allows no others.",
        "End the other sign-in, or use --device.",
    )


def wait_for_approval(
    build_request: Callable[[int], AuthorizeRequest],
    *,
    host: str = "127.0.0.1",
    ports: Sequence[int],
    show: Callable[[Any], None],
    read_lines: ReadLines | None,
) -> AuthorizationCode:
    """Wait for a redirect to `host` on one of `ports`, or for a pasted address.

    `build_request(port)` builds the request, and `show(request)` presents it. `read_lines(use_line,
    stop)`, if given, runs in a thread and calls `use_line` with each pasted line until `stop` is
    set. Returns the approval. Raises LoginFailed and its subclasses.
    """
    # Redirects' parameters from the listener's threads, and pasted lines from the reader's thread.
    answers: queue.SimpleQueue[Fields | str] = queue.SimpleQueue()
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(each) for each in open_listeners(host, ports)]
        request = build_request(listeners[0].port)
        for listener in listeners:
            listener.serve(request, answers.put)
            stack.callback(listener.shutdown)
        show(request)
        if read_lines:
            stop = threading.Event()
            reader = threading.Thread(target=read_lines, args=(answers.put, stop), daemon=True)
            reader.start()
            # Wait for the reader to end: it could read the answer to a later question.
            stack.callback(reader.join, 1)
            stack.callback(stop.set)
        limit = config.BROWSER_LOGIN_SECONDS
        stack.enter_context(Waiting("Waiting for the browser", seconds=limit))
        end = time.monotonic() + limit
        while time.monotonic() < end:
            try:
                # Poll: Ctrl-C cannot interrupt a long wait on Windows.
                answer = answers.get(timeout=0.25)
            except queue.Empty:
                continue
            fields_or_message = request.read_pasted(answer) if isinstance(answer, str) else answer
            if not isinstance(fields_or_message, str):
                return request.approval(fields_or_message)
            notice(fields_or_message)
    raise LoginExpired(
        f"Nobody signed in within {in_words(limit)}.", f"Run '{request.login_command}' again."
    )
