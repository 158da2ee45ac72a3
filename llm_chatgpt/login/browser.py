"""Sign in with a browser: the authorize address, PKCE, and what the browser brings back."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from llm_chatgpt import config
from llm_chatgpt.errors import LoginDenied, LoginFailed
from llm_chatgpt.login import oauth
from llm_chatgpt.login.routes import CODEX, Route
from llm_chatgpt.login.tokens import Tokens
from llm_chatgpt.login.workspace import keep_login
from llm_chatgpt.text import notice, printable


class AuthorizeRequest:
    """A sign-in that waits for the browser to come back to `redirect_uri`.

    `url` is the page to show to the user, `command` the command that starts such a sign-in; `own`
    are the parameters that only this kind of sign-in has. The state and the verifier are secret.
    """

    # What the issuer may add to the state.
    state_suffixes: tuple[str, ...] = ("",)

    def __init__(self, route: Route, host: str, port: int, command: str, own: Mapping[str, str]):
        self.redirect_uri = f"http://{host}:{port}/auth/callback"
        self.command = command
        self.state = secrets.token_urlsafe(32)
        self.code_verifier = secrets.token_urlsafe(64)
        challenge = hashlib.sha256(self.code_verifier.encode()).digest()
        query = {
            "response_type": "code",
            "redirect_uri": self.redirect_uri,
            "scope": route.scope,
            "code_challenge": base64.urlsafe_b64encode(challenge).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
            "state": self.state,
            **own,
        }
        self.url = f"{config.issuer()}{route.authorize_path}?{urlencode(query, quote_via=quote)}"

    def fields(self, query: str) -> dict[str, list[str]] | None:
        """The parameters of a redirect; None if its state is not this sign-in's."""
        fields = parse_qs(query, keep_blank_values=True)
        states = fields.get("state", [])
        # Compared as bytes, because compare_digest takes only ASCII text.
        if len(states) == 1 and any(
            secrets.compare_digest(states[0].encode(), f"{self.state}{suffix}".encode())
            for suffix in self.state_suffixes
        ):
            return fields
        return None

    def approved(self, code: str) -> oauth.AuthorizationCode:
        return oauth.AuthorizationCode(code, self.code_verifier, self.redirect_uri)


class BrowserLogin(AuthorizeRequest):
    """An AuthorizeRequest of the Codex route."""

    # The one suffix that the issuer is known to add (docs/protocol.md).
    state_suffixes = ("", ".onboarding_entrypoint=life_sciences")

    def __init__(self, port: int, workspace: str | None = None):
        own = {
            "client_id": config.CLIENT_ID,
            "id_token_add_organizations": "true",
            "codex_cli_simplified_flow": "true",
        }
        if workspace is not None:
            own["allowed_workspace_id"] = workspace
        super().__init__(CODEX, config.redirect_host(), port, "llm chatgpt login --browser", own)

    def read(self, query: str) -> oauth.AuthorizationCode | LoginFailed | None:
        """What the query of a redirect brings; None if it is not this sign-in's."""
        fields = self.fields(query)
        if fields is None:
            return None
        codes = fields.get("code", [])
        if fields.get("error"):
            return _refusal(fields["error"][0], fields.get("error_description", [""])[0])
        if len(codes) != 1 or not codes[0]:
            return LoginFailed(f"The browser came back without a code. Run '{self.command}' again.")
        return self.approved(codes[0])

    def read_pasted(self, line: str) -> oauth.AuthorizationCode | LoginFailed | None:
        """What a pasted line brings: the whole address, its query, or the code alone; None if
        it is none of these, or another sign-in's."""
        text = line.strip().strip("'\"<>")
        if re.fullmatch(r"ac_[\w.~+/=-]{8,2000}", text):
            return self.approved(text)
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


def login_with_browser(
    account: str | None = None,
    *,
    show: Callable[[BrowserLogin], None],
    read_lines: Callable[[Callable[[str], None], threading.Event], None] | None = None,
    notify: Callable[[str], None] = notice,
    replace: Callable[[Tokens, Tokens], bool] | None = None,
    workspace: str | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Tokens:
    """Sign in with a browser that comes back to this machine, and store the login.

    `show` presents the address; `read_lines(line, stop)`, if given, runs in a thread and
    calls `line` with what the user pastes until `stop` is set. OpenAI is asked for the
    `workspace` with that id; it, `account` and `replace` are as for `login`. Raises LoginFailed
    and its kinds, StoreError.
    """
    # Only here, because http.server takes time to load.
    from llm_chatgpt.login import redirect

    def finish(approved: oauth.AuthorizationCode, replace: redirect.Replace) -> Tokens:
        return keep_login(oauth.exchange_authorization_code(approved), account, replace, workspace)

    return redirect.sign_in(
        functools.partial(BrowserLogin, workspace=workspace),
        finish,
        # A browser may take localhost for either of these.
        hosts=("127.0.0.1", "::1") if config.redirect_host() == "localhost" else ("127.0.0.1",),
        ports=config.REDIRECT_PORTS,
        show=show,
        read_lines=read_lines,
        notify=notify,
        replace=replace,
        clock=clock,
    )
