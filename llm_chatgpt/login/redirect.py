"""Wait for a browser that comes back to this machine: listener, page, pasted address.

Every sign-in through a browser runs through `sign_in`; what is particular to one stands in its
own file. Imported when a sign-in begins, because http.server takes time to load.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import html
import http.server
import logging
import queue
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from llm_chatgpt import config
from llm_chatgpt.errors import ChatGPTError, LoginExpired, LoginFailed
from llm_chatgpt.login.store import check_writable
from llm_chatgpt.login.tokens import Tokens
from llm_chatgpt.text import in_words, notice

log = logging.getLogger("llm_chatgpt_oauth")

PAGE = (
    '<!doctype html><meta charset="utf-8"><title>llm chatgpt login</title>'
    "<style>body{font:1.2em sans-serif;margin:4em auto;max-width:32em}</style><p>"
)
PAGE_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Connection": "close",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
}
# The names under which a browser reaches this machine.
OWN_NAMES = ("127.0.0.1", "localhost", "[::1]")
Arrived = Callable[[str], tuple[int, str]]
Replace = Callable[[Tokens, Tokens], bool]


class SignIn(Protocol):
    """A sign-in that waits for the browser to come back to `redirect_uri`.

    `url` is the page to show to the user, `command` the command that starts such a sign-in.
    """

    url: str
    redirect_uri: str
    command: str

    def read(self, query: str) -> Any:
        """What the query of a redirect brings: what the user has approved, or LoginFailed; None
        if it is not this sign-in's."""

    def read_pasted(self, line: str) -> Any:
        """The same for a line that was pasted."""


Request = TypeVar("Request", bound=SignIn)


class Listener(socketserver.ThreadingTCPServer):
    """A server on one address of this machine's loopback, which is not serving yet.

    `arrived` gets the query of each redirect, in a thread of its own, and returns the status
    and the sentence to answer with; `sent` is set when an answer of status 200 has left. All
    other requests get an error status.
    """

    daemon_threads = True

    def __init__(self, host: str, port: int, arrived: Arrived, sent: threading.Event):
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # Elsewhere this only skips the wait after an earlier sign-in. On Windows it would let
        # another program listen on the same port.
        self.allow_reuse_address = not config.WINDOWS
        self.arrived, self.sent = arrived, sent
        # What requests may say in their `Host` headers.
        self.own_hosts: list[list[str]] = []
        super().__init__((host, port), _Handler)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def server_bind(self) -> None:
        exclusive = getattr(socket, "SO_EXCLUSIVEADDRUSE", None)
        if config.WINDOWS and exclusive is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, exclusive, 1)
        super().server_bind()

    def handle_error(self, *_: Any) -> None:
        log.debug("A request to the sign-in's listener broke off", exc_info=True)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Listener
    # Browsers open connections ahead that they may never use.
    timeout = 30
    server_version = "llm-chatgpt-oauth"
    sys_version = ""

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        # A page elsewhere can give this machine a name of its own and send requests to that.
        if self.headers.get_all("Host") not in self.server.own_hosts:
            self.send_error(400)
        elif path != "/auth/callback":
            self.send_error(404)
        else:
            self._answer(*self.server.arrived(query))

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer without repeating anything of the request, as the original does."""
        self._answer(code, "There is nothing here.")

    def _answer(self, status: int, sentence: str) -> None:
        page = (PAGE + html.escape(sentence)).encode()
        self.send_response(status)
        for name, value in {**PAGE_HEADERS, "Content-Length": str(len(page))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(page)
        if status == 200:
            self.server.sent.set()

    def log_message(self, *_: Any) -> None:
        """Log nothing: the addresses hold codes."""


def open_listeners(
    hosts: Sequence[str], ports: Sequence[int], arrived: Arrived, sent: threading.Event
) -> list[Listener]:
    """A listener on each host, on the first port that is free on all of them.

    An IPv6 host is left out on a machine without IPv6. Raises LoginFailed if all ports are in
    use.
    """
    hosts = [host for host in hosts if ":" not in host or _has_ipv6()]
    for port in ports:
        listeners: list[Listener] = []
        try:
            for host in hosts:
                # Port 0 has become a real one after the first host.
                same = listeners[0].port if listeners else port
                listeners.append(Listener(host, same, arrived, sent))
        except OSError:
            for listener in listeners:
                listener.server_close()
        else:
            return listeners
    raise LoginFailed(
        f"Ports {' and '.join(map(str, ports))} are both in use, and OpenAI allows no others. "
        "End the other sign-in, or use 'llm chatgpt login --device'."
    )


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


class _Page:
    """The page that the browser ends on. Whoever reloads it reads the same sentence."""

    def __init__(self) -> None:
        self.asked, self.sent = threading.Event(), threading.Event()
        self._sentence: concurrent.futures.Future[str] = concurrent.futures.Future()

    def show(self, sentence: str) -> None:
        """Decide what the page says. Only the first call counts."""
        if not self._sentence.done():
            self._sentence.set_result(sentence)

    def wait(self) -> str:
        """What the page says, once that is decided."""
        self.asked.set()
        return self._sentence.result(timeout=2 * config.AUTH_TIMEOUT_SECONDS)


@contextlib.contextmanager
def _listening(
    start: Callable[[int], Request],
    arrivals: queue.SimpleQueue[Any],
    page: _Page,
    *,
    hosts: Sequence[str],
    ports: Sequence[int],
    names: Sequence[str],
) -> Iterator[Request]:
    """The request that `start` makes, while its redirects are answered with `page` and what
    they bring is put into `arrivals`. Raises LoginFailed if all ports are in use."""

    def arrived(query: str) -> tuple[int, str]:
        result = request.read(query)
        if result is None:
            return 400, "This page belongs to another sign-in. Start again from your terminal."
        arrivals.put(result)
        return 200, page.wait()

    with contextlib.ExitStack() as stack:
        listeners = open_listeners(hosts, ports, arrived, page.sent)
        for listener in listeners:
            stack.enter_context(listener)
        request = start(listeners[0].port)
        for listener in listeners:
            listener.own_hosts = [[f"{name}:{listener.port}"] for name in names]
            threading.Thread(target=listener.serve_forever, args=(0.05,), daemon=True).start()
            stack.callback(listener.shutdown)
        yield request


def sign_in(
    start: Callable[[int], Request],
    finish: Callable[[Any, Replace], Tokens],
    *,
    hosts: Sequence[str],
    ports: Sequence[int],
    names: Sequence[str] = OWN_NAMES,
    show: Callable[[Request], None],
    read_lines: Callable[[Callable[[str], None], threading.Event], None] | None = None,
    notify: Callable[[str], None] = notice,
    replace: Replace | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Tokens:
    """Sign in with a browser that comes back to one of `ports` on all `hosts`, by these `names`.

    `start(port)` makes the request that `show` presents. `finish(approved, replace)` turns what
    its `read` has returned into a login and stores that; it calls this `replace` in place of
    the one given here. `read_lines(line, stop)`, if given, runs in a thread and calls `line`
    with what the user pastes until `stop` is set. Raises LoginFailed and its kinds, StoreError.
    """
    check_writable()
    # From the listeners' threads what a redirect brought, from the terminal its lines.
    arrivals: queue.SimpleQueue[Any] = queue.SimpleQueue()
    page, stop = _Page(), threading.Event()

    def replace_asking(old: Tokens, new: Tokens) -> bool:
        page.show("OpenAI has signed you in. Go back to the terminal: it has a question.")
        return replace is None or replace(old, new)

    with _listening(start, arrivals, page, hosts=hosts, ports=ports, names=names) as request:
        try:
            show(request)
            if read_lines:
                lines = (arrivals.put, stop)
                reader = threading.Thread(target=read_lines, args=lines, daemon=True)
                reader.start()
            approved = _wait_for_approval(request, arrivals, notify, clock)
            stop.set()
            if read_lines:
                # Else it may take the answer to the question that `replace` asks.
                reader.join(1)
            tokens = finish(approved, replace_asking)
            page.show("Signed in. You can close this page and go back to the terminal.")
            return tokens
        except BaseException as error:
            failed = error.message if isinstance(error, ChatGPTError) else "It was interrupted."
            page.show(f"The sign-in did not work. {failed}")
            raise
        finally:
            stop.set()
            if page.asked.is_set():
                page.sent.wait(2)


def _wait_for_approval(
    request: SignIn,
    arrivals: queue.SimpleQueue[Any],
    notify: Callable[[str], None],
    clock: Callable[[], float],
) -> Any:
    """What a redirect or a pasted line brings. Raises LoginFailed and its kinds."""
    end = clock() + config.BROWSER_LOGIN_SECONDS
    while clock() < end:
        try:
            # In short waits, because Windows cannot interrupt a long one.
            arrival = arrivals.get(timeout=0.25)
        except queue.Empty:
            continue
        result = request.read_pasted(arrival) if isinstance(arrival, str) else arrival
        if isinstance(result, LoginFailed):
            raise result
        if result is not None:
            return result
        root = request.redirect_uri.removesuffix("auth/callback")
        notify(f"That isn't the right address. Copy the whole address,\nstarting with {root}.")
    raise LoginExpired(
        f"Nobody signed in within {in_words(config.BROWSER_LOGIN_SECONDS)}. "
        f"Run '{request.command}' again."
    )
