"""Sign in with a browser: PKCE, listener, pasted address."""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import hashlib
import logging
import re
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from llm_chatgpt import config
from llm_chatgpt.errors import ChatGPTError, LoginDenied, LoginExpired, LoginFailed
from llm_chatgpt.login import oauth
from llm_chatgpt.login.routes import CODEX
from llm_chatgpt.login.store import check_writable
from llm_chatgpt.login.tokens import Tokens
from llm_chatgpt.login.workspace import keep_login
from llm_chatgpt.text import in_words, notice, printable

log = logging.getLogger("llm_chatgpt_oauth")


class BrowserLogin:
    """A sign-in that waits for the browser to come back to `redirect_uri`.

    `url` is the page to show to the user. The state and the verifier are secret.
    """

    def __init__(self, port: int):
        self.redirect_uri = f"http://127.0.0.1:{port}/auth/callback"
        self.state = secrets.token_urlsafe(32)
        self.code_verifier = secrets.token_urlsafe(64)
        challenge = hashlib.sha256(self.code_verifier.encode()).digest()
        query = {
            "response_type": "code",
            "client_id": config.CLIENT_ID,
            "redirect_uri": self.redirect_uri,
            "scope": CODEX.scope,
            "code_challenge": base64.urlsafe_b64encode(challenge).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
            "id_token_add_organizations": "true",
            "codex_cli_simplified_flow": "true",
            "state": self.state,
        }
        self.url = f"{config.issuer()}{CODEX.authorize_path}?{urlencode(query, quote_via=quote)}"

    def read(self, query: str) -> oauth.AuthorizationCode | LoginFailed | None:
        """What the query of a redirect brings; None if it is not this sign-in's."""
        fields = parse_qs(query, keep_blank_values=True)
        states, codes = fields.get("state", []), fields.get("code", [])
        # The one suffix that the issuer is known to add (docs/protocol.md).
        wanted = (self.state, f"{self.state}.onboarding_entrypoint=life_sciences")
        # Compared as bytes, because compare_digest takes only ASCII text.
        if len(states) != 1 or not any(
            secrets.compare_digest(states[0].encode(), state.encode()) for state in wanted
        ):
            return None
        if fields.get("error"):
            return _refusal(fields["error"][0], fields.get("error_description", [""])[0])
        if len(codes) != 1 or not codes[0]:
            return LoginFailed(
                "The browser came back without a code. Run 'llm chatgpt login --browser' again."
            )
        return oauth.AuthorizationCode(codes[0], self.code_verifier, self.redirect_uri)

    def read_pasted(self, line: str) -> oauth.AuthorizationCode | LoginFailed | None:
        """What a pasted line brings: the whole address, its query, or the code alone; None if
        it is none of these, or another sign-in's."""
        text = line.strip().strip("'\"<>")
        if re.fullmatch(r"ac_[\w.~+/=-]{8,2000}", text):
            return oauth.AuthorizationCode(text, self.code_verifier, self.redirect_uri)
        try:
            query = urlsplit(text).query or text.lstrip("?")
        except ValueError:
            return None
        return self.read(query)


def _refusal(error: str, description: str) -> LoginFailed:
    if "missing_codex_entitlement" in description:
        return LoginDenied(
            "Codex is not enabled for this workspace. Ask its admin, or sign in to another one."
        )
    if error == "access_denied":
        return oauth.sign_in_declined()
    said = printable(description or error, 200)
    return LoginFailed(f"OpenAI ended the sign-in ({said}). Run 'llm chatgpt login' again.")


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


def open_listener(arrived: Callable[[str], tuple[int, str]], sent: threading.Event) -> Any:
    """A server on one of the registered ports of 127.0.0.1, which is not serving yet.

    `arrived` gets the query of each redirect, in a thread of its own, and returns the status
    and the sentence to answer with; `sent` is set when an answer of status 200 has left. All
    other requests get 404. Raises LoginFailed if all ports are in use.
    """
    import html
    import http.server
    import socket
    import socketserver

    class Handler(http.server.BaseHTTPRequestHandler):
        # Browsers open connections ahead that they may never use.
        timeout = 30
        server_version = "llm-chatgpt-oauth"
        sys_version = ""

        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            status, sentence = 404, "There is nothing here."
            if path == "/auth/callback":
                status, sentence = arrived(query)
            page = (PAGE + html.escape(sentence)).encode()
            self.send_response(status)
            for name, value in {**PAGE_HEADERS, "Content-Length": str(len(page))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(page)
            if status == 200:
                sent.set()

        def log_message(self, *_: Any) -> None:
            """Log nothing: the addresses hold codes."""

    class Listener(socketserver.ThreadingTCPServer):
        daemon_threads = True
        # Elsewhere this only skips the wait after an earlier sign-in. On Windows it would let
        # another program listen on the same port.
        allow_reuse_address = not config.WINDOWS

        def server_bind(self) -> None:
            exclusive = getattr(socket, "SO_EXCLUSIVEADDRUSE", None)
            if config.WINDOWS and exclusive is not None:
                self.socket.setsockopt(socket.SOL_SOCKET, exclusive, 1)
            super().server_bind()

        def handle_error(self, *_: Any) -> None:
            log.debug("A request to the sign-in's listener broke off", exc_info=True)

    for port in config.REDIRECT_PORTS:
        with contextlib.suppress(OSError):
            return Listener(("127.0.0.1", port), Handler)
    raise LoginFailed(
        f"Ports {' and '.join(map(str, config.REDIRECT_PORTS))} are both in use, and OpenAI allows "
        "no others. End the other sign-in, or use 'llm chatgpt login --device'."
    )


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


def login_with_browser(
    account: str | None = None,
    *,
    show: Callable[[BrowserLogin], None],
    read_lines: Callable[[Callable[[str], None], threading.Event], None] | None = None,
    notify: Callable[[str], None] = notice,
    replace: Callable[[Tokens, Tokens], bool] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Tokens:
    """Sign in with a browser that comes back to this machine, and store the login.

    `show` presents the address; `read_lines(line, stop)`, if given, runs in a thread and
    calls `line` with what the user pastes until `stop` is set. `account` and `replace` are as
    for `login`. Raises LoginFailed and its kinds, StoreError.
    """
    import queue

    check_writable()
    # From the listener's threads what a redirect brought, from the terminal its lines.
    arrivals: queue.SimpleQueue[oauth.AuthorizationCode | LoginFailed | str] = queue.SimpleQueue()
    page, stop = _Page(), threading.Event()

    def arrived(query: str) -> tuple[int, str]:
        result = request.read(query)
        if result is None:
            return 400, "This page belongs to another sign-in. Start again from your terminal."
        arrivals.put(result)
        return 200, page.wait()

    def replace_asking(old: Tokens, new: Tokens) -> bool:
        page.show("OpenAI has signed you in. Go back to the terminal: it has a question.")
        return replace is None or replace(old, new)

    with open_listener(arrived, page.sent) as listener:
        request = BrowserLogin(listener.server_address[1])
        threading.Thread(target=listener.serve_forever, args=(0.05,), daemon=True).start()
        try:
            show(request)
            if read_lines:
                lines = (arrivals.put, stop)
                reader = threading.Thread(target=read_lines, args=lines, daemon=True)
                reader.start()
            approved = _wait_for_code(request, arrivals, notify, clock)
            stop.set()
            if read_lines:
                # Else it may take the answer to the question that `replace` asks.
                reader.join(1)
            tokens = oauth.exchange_authorization_code(approved)
            tokens = keep_login(tokens, account, replace_asking)
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
            listener.shutdown()


def _wait_for_code(
    request: BrowserLogin,
    arrivals: Any,
    notify: Callable[[str], None],
    clock: Callable[[], float],
) -> oauth.AuthorizationCode:
    """The code that a redirect or a pasted line brings. Raises LoginFailed and its kinds."""
    import queue

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
        f"Nobody signed in within {in_words(config.BROWSER_LOGIN_SECONDS)}. Run 'llm chatgpt "
        "login --browser' again."
    )
