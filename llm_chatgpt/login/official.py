"""Sign in on OpenAI's official route, "Sign in with ChatGPT" (P215 to P237).

The first sign-in under an account's name registers this installation: OpenAI issues a client id,
which later sign-ins under that name send.
"""

from __future__ import annotations

import contextlib
import secrets
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from llm_chatgpt import config, files, http
from llm_chatgpt.errors import AccountTaken, LoginDenied, LoginFailed, RefreshFailed, StoreError
from llm_chatgpt.login import oauth
from llm_chatgpt.login.login_file import check_writable, locked_store, read_store
from llm_chatgpt.login.new_login import store_new_login
from llm_chatgpt.login.oauth import AuthorizationCode
from llm_chatgpt.login.routes import OFFICIAL
from llm_chatgpt.login.tokens import Tokens, parse_jwt_claims
from llm_chatgpt.values import as_http_date, as_number, as_text

APP_NAME = "llm-chatgpt-oauth"
# The client id to send until OpenAI has issued one (P220).
UNREGISTERED = "dynamic_agent_client"


class OfficialLogin(oauth.AuthorizeRequest):
    """An AuthorizeRequest of the official route (P220). Its nonce is secret, too.

    `account` is for error messages, which name the command that signs in again.
    """

    # A code alone lacks the client id that OpenAI issues with it (P225).
    takes_code = False

    def __init__(self, port: int, registered: Mapping[str, Any], account: str):
        self.nonce = secrets.token_urlsafe(32)
        self._client_id = as_text(registered.get("client_id")) or ""
        parameters = {
            "client_id": self._client_id or UNREGISTERED,
            "ext_agent_host_id": host_id(),
            "nonce": self.nonce,
            **OFFICIAL.token_fields,
        }
        if not self._client_id:
            parameters["agent_name_hint"] = APP_NAME
            self.expected = frozenset({"code", "client_id"})
        elif registered.get("declined") is True:
            # Without this, OpenAI would not ask again after the user has declined.
            parameters["prompt"] = "consent"
        super().__init__(OFFICIAL, "127.0.0.1", port, OFFICIAL.login_command(account), parameters)

    def approval(self, fields: oauth.Fields) -> AuthorizationCode:
        """Read the approval, with the client id for its exchange (P226 to P230)."""
        approval = super().approval(fields)
        if fields.get("iss", [config.issuer()]) != [config.issuer()]:
            raise self.failure("The browser came back from another issuer.")
        client_ids = fields.get("client_id", [self._client_id])
        if len(client_ids) > 1 or client_ids[0] in ("", UNREGISTERED):
            raise self.failure(
                "The browser came back with an incomplete address: OpenAI has not registered this "
                "installation."
            )
        scope = fields.get("scope", [""])[0]
        return approval._replace(client_id=client_ids[0], nonce=self.nonce, scope=scope)


def login_officially(
    account: str | None = None,
    *,
    show: Callable[[OfficialLogin], None],
    read_lines: oauth.ReadLines | None = None,
    replace: Callable[[Tokens, Tokens], bool] | None = None,
    new: bool = False,
) -> Tokens:
    """Sign in on the official route and store the login under `account` (None: `official`).

    `new` registers with OpenAI again, so that any ChatGPT user may sign in, and ends the session of
    the replaced login. The other arguments are as for `login_with_browser`. Raises LoginFailed and
    its subclasses, StoreError.
    """
    # Imported here, because http.server takes time to load.
    from llm_chatgpt.login import callback

    check_writable()
    name = account or OFFICIAL.account
    registered = registration(name)
    try:
        approval = callback.wait_for_approval(
            lambda port: OfficialLogin(port, {} if new else registered, name),
            ports=(0,),
            show=show,
            read_lines=read_lines,
        )
        old_id = as_text(registered.get("client_id")) if new else None
        return store_new_login(_exchange(approval, name, old_id), account, replace)
    except LoginDenied:
        if registration(name):
            _save_registration(name, declined=True)
        raise
    except AccountTaken:
        if new and registered:
            # The old login stays, so restore its registration.
            _save_registration(name, **registered)
        raise


def registration(name: str) -> Mapping[str, Any]:
    """Read an account's registration; empty if there is none or the file cannot be read."""
    with contextlib.suppress(StoreError):
        return read_store().registration(name)
    return {}


def host_id() -> str:
    """Return the id of this installation; create it at the first call. Logouts do not delete it.

    It is not secret. Raises StoreError.
    """
    with locked_store() as writer:
        path = writer.path.with_name("chatgpt-host-id")
        with contextlib.suppress(OSError, ValueError):
            stored = files.read_file(path).decode().strip()
            return f"urn:uuid:{uuid.UUID(stored.removeprefix('urn:uuid:'))}"
        new_id = f"urn:uuid:{uuid.uuid4()}"
        writer.write(path, f"{new_id}\n".encode(), "Could not store this installation's id")
        return new_id


def _exchange(approval: AuthorizationCode, name: str, old_id: str | None) -> Tokens:
    """Store an approval's client id, exchange the approval for a login, and check the ID token.

    The account may be registered under this client id or `old_id`, but under no other. If the user
    declined the use of the plan, the stored login of this client id ends. Raises LoginFailed,
    StoreError.
    """
    registered = _register(approval, name, old_id)
    try:
        reply = oauth.exchange(approval)
    except LoginFailed as error:
        if error.code == "invalid_client":
            _save_registration(name, client_id=None)
        raise
    data = reply.data
    claims = parse_jwt_claims(data.get("id_token")) or {}
    problem = _id_token_problem(claims, reply, approval)
    if problem:
        raise LoginFailed(
            f"OpenAI's answer does not belong to this sign-in ({problem}).",
            f"Nothing was stored. Run '{approval.login_command}' again.",
        )
    if as_text(registered.get("subject")) not in (None, claims["sub"]):
        raise LoginFailed(
            "This account name belongs to another ChatGPT user.",
            f"To add this one, run '{OFFICIAL.login_command('NAME')}'; to replace the other, "
            f"run '{approval.login_command} --new'.",
        )
    granted = as_text(data.get("scope")) or approval.scope or OFFICIAL.scope
    permitted = config.PLAN_SCOPE in granted.split()
    denied = LoginDenied(
        "Signed in, but without permission to use your ChatGPT plan.",
        f"Allow it when you run '{approval.login_command}' again.",
    )
    with locked_store() as writer:
        store = writer.read_to_add().register(name, subject=claims["sub"], declined=not permitted)
        old = store.accounts.get(name)
        if not permitted and old and old.client_id == approval.client_id:
            # Drop the older login: the user declined to renew its permission.
            refusal = RefreshFailed(denied.message, permanent=True)
            store = store.put_refusal(name, refusal, ended=True)
        writer.save(store)
    if not permitted:
        raise denied
    return oauth.read_login(reply, approval)._replace(subject=claims["sub"])


def _register(approval: AuthorizationCode, name: str, old_id: str | None) -> Mapping[str, Any]:
    """Store the client id of an approval, and return its registration (P225 to P228).

    Called before anything else can fail: without the id, the next sign-in would register again.
    """
    with locked_store() as writer:
        store = writer.read_to_add()
        client_id = as_text(store.registration(name).get("client_id"))
        # Another sign-in under this name may have registered meanwhile.
        if client_id not in (None, old_id, approval.client_id):
            raise LoginFailed(
                "OpenAI's answer belongs to another registration.",
                f"Run '{approval.login_command}' again.",
            )
        if client_id != approval.client_id:
            new_id = approval.client_id
            store = store.register(name, client_id=new_id, subject=None, declined=False)
        writer.save(store)
    return store.registration(name)


def _save_registration(name: str, **fields: Any) -> None:
    with locked_store() as writer:
        writer.save(writer.read_to_add().register(name, **fields))


def _id_token_problem(
    claims: Mapping[str, Any], reply: http.Reply, approval: AuthorizationCode
) -> str:
    """Name the check that an ID token fails; empty if it passes (P237).

    Does not check the signature: the token comes from the issuer over TLS, which OpenID Connect
    accepts instead (Core 3.1.3.7). To check signatures, the plugin would need a library that
    depends on a compiled cryptography package.
    """
    # By the issuer's clock, because this machine's may be wrong.
    now = as_http_date(reply.headers.get("date")) or time.time()
    checks = {
        "issuer": claims.get("iss") == config.issuer(),
        "audience": claims.get("aud") in (approval.client_id, [approval.client_id]),
        "authorized party": claims.get("azp", approval.client_id) == approval.client_id,
        "expiry": (as_number(claims.get("exp")) or 0.0) > now,
        "nonce": claims.get("nonce") == approval.nonce,
        "subject": as_text(claims.get("sub")) is not None,
    }
    return next((name for name, passed in checks.items() if not passed), "")
