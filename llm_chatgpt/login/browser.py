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
from llm_chatgpt.login.oauth import AuthorizationCode, exchange_authorization_code
from llm_chatgpt.login.tokens import Tokens
from llm_chatgpt.login.workspace import keep_login
from llm_chatgpt.text import in_words, notice, printable

log = logging.getLogger("llm_chatgpt_oauth")


class BrowserLogin:
    """A sign-in that waits for the browser to come back to `redirect_uri` (auth.md 3).

    `url` is for the person. The state and the verifier are secret.
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
            "scope": config.SCOPE,
            "code_challenge": base64.urlsafe_b64encode(challenge).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
            "id_token_add_organizations": "true",
            "codex_cli_simplified_flow": "true",
            "state": self.state,
        }
        self.url = f"{config.issuer()}/oauth/authorize?{urlencode(query, quote_via=quote)}"

    def read(self, query: str) -> AuthorizationCode | LoginFailed | None:
        """What the query of a redirect brings; None if it is not this sign-in's."""
        fields = parse_qs(query, keep_blank_values=True)
        states, codes = fields.get("state", []), fields.get("code", [])
        # auth.md 3.3: the one suffix that the issuer is known to add.
        wanted = (self.state, f"{self.state}.onboarding_entrypoint=life_sciences")
        # As bytes, because only those may hold anything.
        if len(states) != 1 or not any(
            secrets.compare_digest(states[0].encode(), state.encode()) for state in wanted
        ):
            return None
        if fields.get("error"):
            return _declined(fields["error"][0], fields.get("error_description", [""])[0])
        if len(codes) != 1 or not codes[0]:
            return LoginFailed(
                "The browser came back without a code. Run 'llm chatgpt login --browser' again."
            )
        return AuthorizationCode(codes[0], self.code_verifier, self.redirect_uri)

    def read_pasted(self, line: str) -> AuthorizationCode | LoginFailed | None:
        """The same for what a person pastes: the whole address, its query, or the code."""
        text = line.strip().strip("'\"<>")
        if "code=" in text or "error=" in text:
            return self.read(urlsplit(text).query or text.lstrip("?"))
        if re.fullmatch(r"[\w.~+/=-]{8,2000}", text):
            return AuthorizationCode(text, self.code_verifier, self.redirect_uri)
        return None


def _declined(error: str, description: str) -> LoginFailed:
    if "missing_codex_entitlement" in description:
        return LoginDenied(
            "Codex is not enabled for this workspace. Ask its admin, or sign in to another one."
        )
    if error == "access_denied":
        return LoginDenied(
            "The sign-in was declined in the browser. Nothing has changed; run 'llm chatgpt "
            "login --browser' again if that was a mistake."
        )
    said = printable(description or error, 200)
    return LoginFailed(f"OpenAI ended the sign-in ({said}). Nothing has changed; try again.")


def open_listener(arrived: Callable[[str], tuple[int, str]], sent: threading.Event) -> Any:
    """A server on one of the registered ports of 127.0.0.1, which is not serving yet.

    `arrived` gets the query of each redirect, in a thread of its own, and returns the
    status and the sentence to answer with; `sent` is set when an answer of status 200 has
    left. All other requests get 404. Raises LoginFailed if all ports are taken.
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
            page = (
                '<!doctype html><meta charset="utf-8"><title>llm chatgpt login</title>'
                "<style>body{font:1.2em sans-serif;margin:4em auto;max-width:32em}</style>"
                f"<p>{html.escape(sentence)}</p>"
            ).encode()
            self.send_response(status)
            for name, value in (
                ("Content-Type", "text/html; charset=utf-8"),
                ("Content-Length", str(len(page))),
                ("Connection", "close"),
                ("Cache-Control", "no-store"),
                ("Referrer-Policy", "no-referrer"),
                ("X-Content-Type-Options", "nosniff"),
                ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'"),
            ):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(page)
            if status == 200:
                sent.set()

        def log_message(self, *_: Any) -> None:
            # The addresses hold codes.
            pass

    class Listener(socketserver.ThreadingTCPServer):
        daemon_threads = True
        # Elsewhere this only skips the wait after an earlier sign-in. On Windows it would
        # let another program listen on the same port.
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
        f"The ports {' and '.join(map(str, config.REDIRECT_PORTS))} of this machine are both "
        "taken, and OpenAI sends the browser to no other. End the other sign-in (or program) that "
        "listens there, or use 'llm chatgpt login --device'."
    )


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
    calls `line` with what the person pastes until `stop` is set. `replace` is as for
    `login`. Raises LoginFailed and its kinds, StoreError.
    """
    import queue

    # From the listener's threads what a redirect brought, from the terminal's its lines.
    arrivals: queue.SimpleQueue[AuthorizationCode | LoginFailed | str] = queue.SimpleQueue()
    # What the page says at the end. Whoever reloads it hears the same.
    outcome: concurrent.futures.Future[str] = concurrent.futures.Future()
    redirected, page_sent, stop = threading.Event(), threading.Event(), threading.Event()

    def arrived(query: str) -> tuple[int, str]:
        result = request.read(query)
        if result is None:
            return 400, "This page belongs to another sign-in. Start again from your terminal."
        arrivals.put(result)
        redirected.set()
        return 200, outcome.result(timeout=2 * config.AUTH_TIMEOUT_SECONDS)

    def tell_page(sentence: str) -> None:
        if not outcome.done():
            outcome.set_result(sentence)

    def replace_asking(old: Tokens, new: Tokens) -> bool:
        tell_page("OpenAI has signed you in. Go back to the terminal: it has a question.")
        return replace is None or replace(old, new)

    def wait() -> AuthorizationCode | LoginFailed:
        end = clock() + config.BROWSER_LOGIN_SECONDS
        while clock() < end:
            try:
                # In short waits, because Windows cannot interrupt a long one.
                arrival = arrivals.get(timeout=0.25)
            except queue.Empty:
                continue
            result = request.read_pasted(arrival) if isinstance(arrival, str) else arrival
            if result is not None:
                return result
            notify("That is not the address of this sign-in's last page, nor its code.")
        raise LoginExpired(
            f"Nobody signed in within {in_words(config.BROWSER_LOGIN_SECONDS)}. Run 'llm chatgpt "
            "login --browser' again."
        )

    with open_listener(arrived, page_sent) as listener:
        request = BrowserLogin(listener.server_address[1])
        threading.Thread(target=listener.serve_forever, args=(0.05,), daemon=True).start()
        try:
            show(request)
            if read_lines:
                reader = threading.Thread(target=read_lines, args=(arrivals.put, stop), daemon=True)
                reader.start()
            result = wait()
            stop.set()
            if isinstance(result, LoginFailed):
                raise result
            tokens = keep_login(exchange_authorization_code(result), account, replace_asking)
            tell_page("Signed in. You can close this page and go back to the terminal.")
            return tokens
        except BaseException as error:
            failed = error.message if isinstance(error, ChatGPTError) else "It was broken off."
            tell_page(f"The sign-in did not work. {failed}")
            raise
        finally:
            stop.set()
            if redirected.is_set():
                page_sent.wait(2)
            listener.shutdown()
