"""The content of the login file: accounts, registrations, owners of access tokens. No I/O.

An account's entry has the fields of `Tokens`. Entries and fields that this version does not
understand, because they are damaged or written by a newer version, are kept verbatim. An entry
that `tokens_from_store` cannot read does not count as an account.
"""

from __future__ import annotations

import json
import typing
from collections.abc import Callable, Mapping
from typing import Any

from llm_chatgpt import config
from llm_chatgpt.errors import RefreshFailed
from llm_chatgpt.login.routes import CODEX, OFFICIAL
from llm_chatgpt.login.tokens import KINDS, Tokens, header_safe, token_hash
from llm_chatgpt.values import as_mapping, as_number, as_text

STORE_VERSION = 1
DEFAULT_ACCOUNT = CODEX.account
IMPORTED_ACCOUNT = "codex"


# Readers of the fields of `Tokens`, by type. They return None, or False, for another type.
_READERS: dict[Any, Callable[[object], Any]] = {
    str: as_text,
    str | None: as_text,
    float: as_number,
    float | None: as_number,
    bool: lambda value: value is True,
}
_FIELDS = {name: _READERS[kind] for name, kind in typing.get_type_hints(Tokens).items()}
_FIELDS["origin"] = lambda value: value if config.is_workspace_origin(value) else None


def tokens_from_store(value: object) -> Tokens | None:
    """Read a login from its entry in the file; None if this version cannot use it."""
    entry = as_mapping(value)
    token = entry.get("access_token")
    # An empty token marks a login that OpenAI has ended.
    if (token != "" and header_safe(token) is None) or entry.get("kind", "login") not in KINDS:
        return None
    values = {name: read(entry.get(name)) for name, read in _FIELDS.items()}
    return Tokens(**{"access_token": "", **{k: v for k, v in values.items() if v is not None}})


class Store:
    """The content of the login file. Methods that change something return a new Store.

    `accounts` are the logins by account name, `entries` their JSON in the file. `default` is the
    account that prompts use; empty if the user must choose first. `unsaved` is the account whose
    renewed login this process could not write; empty if there is none. Only `read_store` sets it.
    `registrations` are the client ids issued by the official route, by account name, each with its
    issuer and the user's `subject`; logouts keep them.
    """

    def __init__(self, data: Mapping[str, Any] | None = None):
        self._data = data or {"default": DEFAULT_ACCOUNT, "accounts": {}}
        self.entries: Mapping[str, Any] = self._data["accounts"]
        self.default: str = self._data["default"]
        self.registrations = as_mapping(self._data.get("registrations"))
        logins = {name: tokens_from_store(entry) for name, entry in self.entries.items()}
        self.accounts = {name: tokens for name, tokens in logins.items() if tokens}
        self.unsaved = ""

    def get(self, account: str | None = None) -> Tokens | None:
        """Return an account's login (None: the default account's); None if it is not signed in."""
        return self.accounts.get(account or self.default)

    def put(self, name: str, tokens: Tokens) -> Store:
        """Replace an account's tokens. Keep the fields that this version does not understand."""
        entry = {**as_mapping(self.entries.get(name)), **tokens._asdict()}
        return self._with(accounts={**self.entries, name: entry})

    def _with(self, **fields: Any) -> Store:
        return Store({**self._data, **fields})

    def add(self, name: str, tokens: Tokens, *, as_default: bool) -> Store:
        """Add a login, replacing one of the same name. The first account becomes the default."""
        others = {other: entry for other, entry in self.entries.items() if other != name}
        added = self._with(accounts=others).put(name, tokens)
        return added.with_default(name) if as_default or len(added.accounts) == 1 else added

    def with_default(self, name: str) -> Store:
        return self._with(default=name)

    def without(self, name: str) -> Store:
        """Remove an account. If one account is left, it becomes the default."""
        rest = self._with(accounts={k: v for k, v in self.entries.items() if k != name})
        default = "" if name == self.default else self.default
        return rest.with_default(next(iter(rest.accounts)) if len(rest.accounts) == 1 else default)

    def only_registrations(self) -> Store:
        """Remove all logins, and keep the registrations."""
        return Store()._with(registrations=self.registrations)

    def identify(self, access_token: str) -> Tokens | None:
        """Return a personal access token with its stored owner; None if that is unknown."""
        identity = as_mapping(self._data.get("identities")).get(token_hash(access_token))
        fields = {"access_token": access_token, "kind": "access_token"}
        return tokens_from_store({**identity, **fields}) if isinstance(identity, dict) else None

    def put_identity(self, tokens: Tokens) -> Store:
        identity = {token_hash(tokens.access_token): tokens._replace(access_token="")._asdict()}
        return self._with(identities={**as_mapping(self._data.get("identities")), **identity})

    def registration(self, name: str) -> Mapping[str, Any]:
        """Return an account's registration at the issuer in use; empty if there is none."""
        entry = as_mapping(self.registrations.get(name))
        # Without an entry, do not read the issuer's address, which may be set to an invalid one.
        return entry if entry and entry.get("issuer") == config.issuer() else {}

    def register(self, name: str, **fields: Any) -> Store:
        """Change fields of an account's registration: `client_id`, `subject`, `declined`."""
        entry = {**self.registration(name), "issuer": config.issuer(), **fields}
        return self._with(registrations={**self.registrations, name: entry})

    def login_command(self, name: str | None) -> str:
        """Build the command that signs in again under an account's name, on the same route."""
        tokens = self.accounts.get(name or "")
        last_route = OFFICIAL if self.registration(name or "") else CODEX
        return (tokens.route if tokens else last_route).login_command(name)

    def put_refusal(self, name: str, error: RefreshFailed, *, ended: bool) -> Store:
        """Store the refusal of a refresh if it is permanent (P58). `ended` says that the access
        token was refused, too: drop all tokens."""
        store = self
        if error.permanent:
            tokens = self.accounts[name]._replace(refusal=error.message)
            store = self.put(name, tokens.ended() if ended else tokens)
        # The next sign-in registers again (P241).
        return store.register(name, client_id=None) if error.code == "invalid_client" else store

    def to_bytes(self) -> bytes:
        return json.dumps({"version": STORE_VERSION, **self._data}, indent=2).encode() + b"\n"
