"""Sign in by OpenAI's official route, "Sign in with ChatGPT".

The first sign-in registers this installation: OpenAI issues a client id, which later ones name
again. What OpenAI asks of such a sign-in is in docs/protocol.md, "The official route".
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from llm_chatgpt import config, http
from llm_chatgpt.errors import LoginDenied, LoginFailed, StoreError
from llm_chatgpt.login import oauth
from llm_chatgpt.login.accounts import Failure
from llm_chatgpt.login.browser import AuthorizeRequest
from llm_chatgpt.login.routes import OFFICIAL
from llm_chatgpt.login.store import locked_store, read_store
from llm_chatgpt.login.tokens import Tokens, parse_jwt_claims, tokens_from_reply
from llm_chatgpt.login.workspace import keep_login
from llm_chatgpt.text import notice, printable
from llm_chatgpt.values import as_mapping, as_number, as_text

APP_NAME = "llm-chatgpt-oauth"
# The client id of an installation that has none yet.
UNREGISTERED = "dynamic_agent_client"


class Approval(NamedTuple):
    """What the browser brings back: a code that works once, and for which client id.

    `nonce` is what the ID token must repeat.
    """

    code: oauth.AuthorizationCode
    client_id: str
    scope: str | None
    nonce: str


class OfficialLogin(AuthorizeRequest):
    """An AuthorizeRequest of the official route. Its nonce is secret, too."""

    def __init__(self, port: int, known: Mapping[str, Any], command: str):
        self.nonce = secrets.token_urlsafe(32)
        self._client_id = client_id = as_text(known.get("client_id")) or ""
        own = {
            "client_id": client_id or UNREGISTERED,
            **({} if client_id else {"agent_name_hint": APP_NAME}),
            # Else whoever has declined would not be asked again.
            **({"prompt": "consent"} if client_id and known.get("declined") is True else {}),
            "ext_agent_host_id": host_id(),
            **OFFICIAL.token_fields,
            "nonce": self.nonce,
        }
        super().__init__(OFFICIAL, "127.0.0.1", port, command, own)

    def read(self, query: str) -> Approval | LoginFailed | None:
        """What the query of a redirect brings; None if it is not this sign-in's."""
        fields = self.fields(query)
        if fields is None:
            return None
        error = fields.get("error", [""])[0]
        if error == "access_denied":
            return oauth.sign_in_declined(self.command)
        if error:
            return self._failed(f"OpenAI ended the sign-in ({printable(error, 100)}).")
        if fields.get("iss", [config.issuer()]) != [config.issuer()]:
            return self._failed("The browser came back from another issuer.")
        codes, client_ids = fields.get("code", []), fields.get("client_id", [])
        if len(codes) != 1 or not codes[0] or len(client_ids) > 1:
            return self._failed("The browser came back with an incomplete address.")
        issued = (client_ids or [self._client_id])[0]
        if not issued or issued == UNREGISTERED:
            return self._failed("OpenAI has not registered this installation.")
        return Approval(self.approved(codes[0]), issued, fields.get("scope", [None])[0], self.nonce)

    def read_pasted(self, line: str) -> Approval | LoginFailed | None:
        """The same for a pasted address, which must be complete: a code alone lacks the client
        id that was issued with it."""
        address, _, query = line.strip().strip("'\"<>").partition("?")
        return self.read(query.partition("#")[0]) if address == self.redirect_uri else None

    def _failed(self, what: str) -> LoginFailed:
        return LoginFailed(f"{what} Run '{self.command}' again.")


def login_officially(
    account: str | None = None,
    *,
    show: Callable[[OfficialLogin], None],
    read_lines: Callable[[Callable[[str], None], threading.Event], None] | None = None,
    notify: Callable[[str], None] = notice,
    replace: Callable[[Tokens, Tokens], bool] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Tokens:
    """Sign in by the official route and store the login under `account` (None: `official`).

    The arguments are those of `login_with_browser`. Raises LoginFailed and its kinds,
    StoreError.
    """
    # Only here, because http.server takes time to load.
    from llm_chatgpt.login import redirect

    name = account or OFFICIAL.account

    def start(port: int) -> OfficialLogin:
        return OfficialLogin(port, registration(name), OFFICIAL.login_command(name))

    def finish(approved: Approval, replace: redirect.Replace) -> Tokens:
        return keep_login(_exchange(approved, name), account, replace)

    try:
        return redirect.sign_in(
            start,
            finish,
            hosts=("127.0.0.1",),
            ports=(0,),
            names=("127.0.0.1",),
            show=show,
            read_lines=read_lines,
            notify=notify,
            replace=replace,
            clock=clock,
        )
    except LoginDenied:
        if registration(name):
            _remember(name, declined=True)
        raise


def registration(name: str) -> Mapping[str, Any]:
    """What is registered under an account's name; empty if nothing is, or it cannot be read."""
    with contextlib.suppress(StoreError):
        return read_store().registration(name)
    return {}


def host_id() -> str:
    """This installation's name for OpenAI: made once, no secret, kept over all logouts.

    Raises StoreError.
    """
    with locked_store() as writer:
        path = writer.path.with_name("chatgpt-host-id")
        with contextlib.suppress(OSError, ValueError):
            stored = path.read_text().strip()
            return f"urn:uuid:{uuid.UUID(stored.removeprefix('urn:uuid:'))}"
        new = f"urn:uuid:{uuid.uuid4()}"
        writer.write(path, f"{new}\n".encode())
        return new


def _exchange(approved: Approval, name: str) -> Tokens:
    """The login that an approval brings. Raises LoginFailed, StoreError.

    The client id is stored before anything else can fail: without it, the next sign-in would
    register a second time.
    """
    command = OFFICIAL.login_command(name)
    with locked_store() as writer:
        store = writer.mended()
        known = store.registration(name)
        # Another sign-in under this name may have registered meanwhile.
        if as_text(known.get("client_id")) not in (None, approved.client_id):
            raise LoginFailed(
                f"OpenAI has answered for another registration. Run '{command}' again."
            )
        writer.save(store.register(name, client_id=approved.client_id))
    reply = oauth.exchange(approved.code, OFFICIAL, approved.client_id, command)
    data = as_mapping(reply.data)
    claims = parse_jwt_claims(data.get("id_token")) or {}
    problem = _id_token_problem(claims, reply, approved)
    if problem:
        raise LoginFailed(
            f"OpenAI's answer does not belong to this sign-in ({problem}). Nothing was stored. "
            f"Run '{command}' again."
        )
    if as_text(known.get("subject")) not in (None, claims["sub"]):
        raise LoginFailed(
            "This is another ChatGPT user than before under this name. To add this one, run "
            f"'{OFFICIAL.login_command('NAME')}'."
        )
    _remember(name, subject=claims["sub"], declined=False)
    granted = as_text(data.get("scope")) or approved.scope or OFFICIAL.scope
    owner = Tokens(
        "",
        kind="official",
        issuer=config.issuer(),
        client_id=approved.client_id,
        subject=claims["sub"],
    )
    tokens = tokens_from_reply(data, old=owner, now=time.time())
    permitted = config.PLAN_SCOPE in granted.split()
    if not permitted or tokens is None or not tokens.refresh_token:
        denied = LoginDenied(
            "Signed in, but without permission to use your ChatGPT plan. Allow it when you run "
            f"'{command}' again."
        )
        if not permitted:
            _end_older_login(name, approved.client_id, denied.message)
        raise denied
    return tokens


def _end_older_login(name: str, client_id: str, why: str) -> None:
    """Use no longer what the user has just not permitted again."""
    with locked_store() as writer:
        store = writer.mended()
        old = store.accounts.get(name)
        if old and old.client_id == client_id:
            failure = Failure(why, None, permanent=True, rejected=True, at=time.time())
            writer.save(store.put_failure(name, failure))


def _remember(name: str, **fields: Any) -> None:
    with locked_store() as writer:
        writer.save(writer.mended().register(name, **fields))


def _id_token_problem(claims: Mapping[str, Any], reply: http.Reply, approved: Approval) -> str:
    """What is wrong with an ID token; empty if nothing is (docs/protocol.md).

    Its signature is not checked: the token comes straight from the issuer over TLS, which
    OpenID Connect accepts instead (Core 3.1.3.7), and every well-kept library for it brings a
    compiled cryptography package along.
    """
    from email.utils import parsedate_to_datetime

    try:
        # The issuer's own clock, because this machine's may be wrong.
        now = parsedate_to_datetime(reply.headers.get("date", "")).timestamp()
    except (TypeError, ValueError):
        now = time.time()
    checks = {
        "issuer": claims.get("iss") == config.issuer(),
        "audience": claims.get("aud") in (approved.client_id, [approved.client_id]),
        "authorized party": claims.get("azp", approved.client_id) == approved.client_id,
        "expiry": (as_number(claims.get("exp")) or 0.0) > now,
        "nonce": claims.get("nonce") == approved.nonce,
        "subject": as_text(claims.get("sub")) is not None,
    }
    return next((name for name, holds in checks.items() if not holds), "")
