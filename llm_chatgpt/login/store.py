"""chatgpt-oauth.json: read, lock, write whole."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import secrets
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from llm_chatgpt import config
from llm_chatgpt.errors import StoreError
from llm_chatgpt.files import os_reason, replace_file, sync_folder, user_dir
from llm_chatgpt.login.tokens import Tokens, is_workspace_origin, token_hash
from llm_chatgpt.text import in_words
from llm_chatgpt.values import as_mapping, as_number, as_text

STORE_VERSION = 1
DEFAULT_ACCOUNT = "default"
CODEX_ACCOUNT = "codex"


class Store(NamedTuple):
    """What chatgpt-oauth.json holds: the logins by account name, which of them is meant by
    default, and whose each personal access token is, by a hash of the token."""

    default: str = DEFAULT_ACCOUNT
    accounts: Mapping[str, Tokens] = {}
    identities: Mapping[str, Mapping[str, Any]] = {}

    def get(self, account: str | None = None) -> Tokens | None:
        return self.accounts.get(account or self.default)

    def login_name(self, account: str | None = None) -> str:
        """The name a new login gets. One of our own does not go under a name that stands
        for somebody else's program."""
        if account:
            return account
        present = self.get()
        return DEFAULT_ACCOUNT if present and present.kind != "login" else self.default

    def put(self, account: str | None, tokens: Tokens) -> Store:
        """With the login added. Without a name it becomes the default."""
        name = self.login_name(account)
        default = self.default if account and self.default in self.accounts else name
        return Store(default, {**self.accounts, name: tokens}, self.identities)

    def without(self, account: str | None) -> Store:
        """With the login left out. Who is meant by default stays open then: another
        account must not be used unasked."""
        name = account or self.default
        rest = {other: tokens for other, tokens in self.accounts.items() if other != name}
        return self._replace(accounts=rest)

    def identify(self, access_token: str) -> Tokens | None:
        """A personal access token with what is known of its owner; None if nothing is."""
        identity = self.identities.get(token_hash(access_token))
        if identity is None:
            return None
        return tokens_from_store({**identity, "access_token": access_token, "kind": "access_token"})

    def put_identity(self, tokens: Tokens) -> Store:
        identity = {
            name: value
            for name, value in tokens._asdict().items()
            if name in ("account_id", "email", "plan", "fedramp", "origin")
        }
        known = {**self.identities, token_hash(tokens.access_token): identity}
        return self._replace(identities=known)


def store_path() -> pathlib.Path:
    """The login file, beside llm's keys.json."""
    return user_dir() / "chatgpt-oauth.json"


def read_store() -> Store:
    """The store as it is on disk; empty when there is no file. Takes no lock.

    Raises StoreError for a file that is damaged, foreign, unreadable or from the future.
    """
    path = store_path()
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return Store()
    except OSError as error:
        raise StoreError(
            f"The login file {path} cannot be read ({os_reason(error)}). "
            "Give yourself read access to it, or move it away and run 'llm chatgpt login'."
        ) from error
    try:
        data = json.loads(raw)
        if isinstance(data, dict) and isinstance(data.get("version"), int):
            if data["version"] > STORE_VERSION:
                raise StoreError(
                    f"The login file {path} was written by a newer llm-chatgpt-oauth. "
                    "Upgrade with 'llm install -U llm-chatgpt-oauth'; it is left as it is.",
                    code="newer_version",
                )
            default = data["default"]
            accounts = {name: tokens_from_store(entry) for name, entry in data["accounts"].items()}
            identities = {k: as_mapping(v) for k, v in as_mapping(data.get("identities")).items()}
            if isinstance(default, str):
                return Store(default, accounts, identities)
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        pass
    raise StoreError(
        f"The login file {path} is damaged or not this plugin's. "
        "Run 'llm chatgpt login' to sign in again and replace it.",
        code="damaged",
    )


def tokens_from_store(entry: Any) -> Tokens:
    if not isinstance(entry["access_token"], str):
        raise TypeError("access_token")
    origin, kind = entry.get("origin"), entry.get("kind")
    return Tokens(
        access_token=entry["access_token"],
        refresh_token=as_text(entry.get("refresh_token")),
        id_token=as_text(entry.get("id_token")),
        expires_at=as_number(entry.get("expires_at")),
        refreshed_at=as_number(entry.get("refreshed_at")) or 0.0,
        account_id=as_text(entry.get("account_id")),
        email=as_text(entry.get("email")),
        plan=as_text(entry.get("plan")),
        fedramp=entry.get("fedramp") is True,
        origin=origin if is_workspace_origin(origin) else None,
        kind=kind if kind in ("codex", "access_token") else "login",
    )


def _store_bytes(store: Store) -> bytes:
    data = {
        "version": STORE_VERSION,
        "default": store.default,
        "accounts": {name: t._asdict() for name, t in store.accounts.items()},
        "identities": dict(store.identities),
    }
    return json.dumps(data, indent=2).encode() + b"\n"


class StoreWriter:
    """The store while this process holds its lock. Made by `locked_store` alone."""

    def __init__(self, path: pathlib.Path):
        self.path = path

    def save(self, store: Store) -> None:
        """Write the store whole: whoever reads sees the old file or the new one."""
        with self.reserved(0) as commit:
            commit(store)

    @contextlib.contextmanager
    def reserved(self, spare: int = 16384) -> Iterator[Callable[[Store], None]]:
        """A file beside the store, private and with room for it, and the function that
        fills it and puts it in the store's place.

        Opening it first proves that a new pair could be written before a refresh token,
        which works once, is spent. Raises StoreError.
        """
        temporary = self.path.with_name(f"{self.path.name}.{secrets.token_hex(8)}.tmp")
        try:
            if self.path.is_symlink():
                raise OSError("it is a symbolic link")
            self._remove_leftovers()
            handle = os.open(
                temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600
            )
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            with os.fdopen(handle, "r+b") as file:
                try:
                    if hasattr(os, "fchmod"):
                        os.fchmod(file.fileno(), 0o600)
                    if spare:
                        size = self.path.stat().st_size if self.path.exists() else 0
                        file.write(b" " * (size + spare))
                        file.flush()
                        os.fsync(file.fileno())
                except OSError as error:
                    raise self._unwritable(error) from error

                def commit(store: Store) -> None:
                    try:
                        data = _store_bytes(store)
                        file.seek(0)
                        file.write(data)
                        file.truncate()
                        file.flush()
                        os.fsync(file.fileno())
                        file.close()
                        replace_file(temporary, self.path)
                        sync_folder(self.path.parent)
                    except OSError as error:
                        raise self._unwritable(error) from error

                yield commit
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _remove_leftovers(self) -> None:
        # Only a killed process leaves one, and no other writer lives while we hold the lock.
        for leftover in self.path.parent.glob(f"{self.path.name}.*.tmp"):
            with contextlib.suppress(OSError):
                leftover.unlink()

    def _unwritable(self, error: OSError) -> StoreError:
        return StoreError(
            f"The login file {self.path} cannot be written ({os_reason(error)}). Make the "
            "folder writable, or choose another with LLM_USER_PATH.",
            code="unwritable",
        )


@contextlib.contextmanager
def locked_store() -> Iterator[StoreWriter]:
    """Hold the store's lock, against every thread and process of this machine.

    The operating system drops the lock of a process that dies. Raises StoreError after
    config.LOCK_TIMEOUT_SECONDS, or where no lock can be made.
    """
    import filelock

    path = store_path()
    lock = filelock.FileLock(f"{path}.lock", timeout=config.LOCK_TIMEOUT_SECONDS, mode=0o600)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise StoreError(
            f"Another program has held {path}.lock for {in_words(config.LOCK_TIMEOUT_SECONDS)}. "
            "Wait for it or end it, then try again."
        ) from error
    except (OSError, NotImplementedError) as error:
        reason = os_reason(error) if isinstance(error, OSError) else "locks are not supported"
        raise StoreError(
            f"The login file's lock {path}.lock cannot be taken ({reason}). Make the folder "
            "writable, or choose another with LLM_USER_PATH."
        ) from error
    try:
        yield StoreWriter(path)
    finally:
        lock.release()


def load_tokens(account: str | None = None) -> Tokens | None:
    """The stored login of an account (None: the default one) as it is, without refreshing.

    None when there is none. Raises StoreError.
    """
    return read_store().get(account)


def store_tokens(tokens: Tokens, account: str | None = None) -> str:
    """Keep a login under an account's name, in place of an older one; return the name.

    Without a name it is the default account's. A damaged file is replaced: this is what
    mends it. Raises StoreError.
    """
    with locked_store() as writer:
        try:
            store = read_store()
        except StoreError as error:
            if error.code != "damaged":
                raise
            store = Store()
        name = store.login_name(account)
        writer.save(store.put(account, tokens))
    unsaved_pairs.pop((str(store_path()), name), None)
    return name


def delete_tokens(
    account: str | None = None, *, before: Callable[[Tokens], None] | None = None
) -> bool:
    """Forget an account's login on this machine; False if there was none.

    `before` is called with it, while nobody can refresh it. Raises StoreError.
    """
    with locked_store() as writer:
        store = read_store()
        name = account or store.default
        tokens = store.get(name)
        if tokens is None:
            return False
        if before:
            before(tokens)
        writer.save(store.without(name))
    unsaved_pairs.pop((str(store_path()), name), None)
    return True


# Pairs that were refreshed but could not be written, for this process's next prompts.
unsaved_pairs: dict[tuple[str, str], Tokens] = {}
