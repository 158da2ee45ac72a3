"""chatgpt-oauth.json: read, lock, write whole."""

from __future__ import annotations

import contextlib
import json
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from llm_chatgpt import config, files
from llm_chatgpt.errors import RefreshFailed, StoreError
from llm_chatgpt.login.routes import CODEX, OFFICIAL
from llm_chatgpt.login.tokens import Tokens, header_safe, is_workspace_origin, token_hash
from llm_chatgpt.text import in_words, notice, printable, short_path
from llm_chatgpt.values import as_mapping, as_number, as_text

STORE_VERSION = 1
DEFAULT_ACCOUNT = CODEX.account
CODEX_ACCOUNT = "codex"


class Failure(NamedTuple):
    """A refresh that failed. `at` is Unix seconds. `permanent` means that only a new login
    helps, `rejected` that the backend had also refused the access token."""

    message: str
    code: str | None
    permanent: bool
    rejected: bool
    at: float

    @classmethod
    def of(cls, error: RefreshFailed, *, rejected: bool = False) -> Failure:
        return cls(error.message, error.code, error.permanent, rejected, time.time())

    def to_error(self) -> RefreshFailed:
        return RefreshFailed(self.message, permanent=self.permanent, code=self.code)


class Store(NamedTuple):
    """What chatgpt-oauth.json holds.

    `accounts` are the logins by account name, `default` names the one that prompts use (empty
    when one of several must be chosen first). `identities` tell who owns each personal access
    token, by a hash of the token; `failures` which refreshes have failed, by a hash of the
    refresh token. `damaged` holds the accounts' entries that cannot be read, as they are in
    the file. `registrations` are the client ids that the official route has issued, by account
    name, each with its issuer and owner; they outlive logouts.
    """

    default: str = DEFAULT_ACCOUNT
    accounts: Mapping[str, Tokens] = {}
    identities: Mapping[str, Mapping[str, Any]] = {}
    failures: Mapping[str, Failure] = {}
    damaged: Mapping[str, Any] = {}
    registrations: Mapping[str, Mapping[str, Any]] = {}

    def get(self, account: str | None = None) -> Tokens | None:
        """An account's login (None: the default account's), None if it has none.

        Raises StoreError (code "damaged") if its entry cannot be read.
        """
        name = account or self.default
        if name in self.damaged:
            raise StoreError(
                f"The login '{printable(name, 60)}' in {short_path(store_path())} is damaged. Run "
                f"'{self.login_command(name)}' to replace it.",
                code="damaged",
            )
        return self.accounts.get(name)

    def put(self, name: str, tokens: Tokens) -> Store:
        """With an account's tokens replaced, and nothing else changed."""
        return self._replace(accounts={**self.accounts, name: tokens})

    def add(self, name: str, tokens: Tokens, *, as_default: bool) -> Store:
        """With a new login. The only account is the default in any case."""
        added = self.put(name, tokens)
        return added._replace(default=name) if as_default or len(added.accounts) == 1 else added

    def without(self, name: str) -> Store:
        """With an account left out. The last one left becomes the default."""
        rest = {other: tokens for other, tokens in self.accounts.items() if other != name}
        default = "" if name == self.default else self.default
        return self._replace(
            default=next(iter(rest)) if len(rest) == 1 else default,
            accounts=rest,
            damaged={other: entry for other, entry in self.damaged.items() if other != name},
        )

    def identify(self, access_token: str) -> Tokens | None:
        """A personal access token with its owner; None if the owner is not known."""
        identity = self.identities.get(token_hash(access_token))
        if identity is None:
            return None
        return tokens_from_store({**identity, "access_token": access_token, "kind": "access_token"})

    def registration(self, name: str) -> Mapping[str, Any]:
        """What the issuer in use has registered under an account's name; empty if nothing."""
        found = as_mapping(self.registrations.get(name))
        return found if found.get("issuer") == config.issuer() else {}

    def register(self, name: str, **fields: Any) -> Store:
        """With what is known of a registration; `fields` are those of official Tokens."""
        entry = {**self.registration(name), "issuer": config.issuer(), **fields}
        return self._replace(registrations={**self.registrations, name: entry})

    def login_command(self, name: str | None) -> str:
        """The command that signs in again under an account's name, by the same route."""
        tokens = self.accounts.get(name or "")
        signed_out = OFFICIAL if self.registration(name or "") else CODEX
        return (tokens.route if tokens else signed_out).login_command(name)

    def put_identity(self, tokens: Tokens) -> Store:
        names = ("account_id", "email", "plan", "fedramp", "origin", "workspace")
        identity = {name: getattr(tokens, name) for name in names}
        known = {**self.identities, token_hash(tokens.access_token): identity}
        return self._replace(identities=known)

    def failure(self, tokens: Tokens) -> Failure | None:
        """What the last refresh of these tokens ended in, if it failed."""
        return self.failures.get(_pair_hash(tokens))

    def put_failure(self, tokens: Tokens, failure: Failure) -> Store:
        return self._replace(failures={**self.failures, _pair_hash(tokens): failure})

    def to_bytes(self) -> bytes:
        # A failure ends with its refresh token: a new login has another one.
        present = set(map(_pair_hash, self.accounts.values()))
        failures = {k: f._asdict() for k, f in self.failures.items() if k in present}
        data = {
            "version": STORE_VERSION,
            "default": self.default,
            "accounts": {
                **self.damaged,
                **{name: tokens._asdict() for name, tokens in self.accounts.items()},
            },
            "identities": dict(self.identities),
            "registrations": dict(self.registrations),
            "failures": failures,
        }
        return json.dumps(data, indent=2).encode() + b"\n"


def _pair_hash(tokens: Tokens) -> str:
    return token_hash(tokens.refresh_token or tokens.access_token or tokens.account_key)


def store_path() -> pathlib.Path:
    """The login file, beside llm's keys.json.

    Raises StoreError (code "unwritable") if llm's folder is missing and cannot be made.
    """
    try:
        return files.user_dir() / "chatgpt-oauth.json"
    except OSError as error:
        taken = isinstance(error, (FileExistsError, NotADirectoryError))
        reason = "a file is in its place" if taken else files.os_reason(error)
        raise StoreError(
            f"Could not create the folder {error.filename} ({reason}). Set LLM_USER_PATH to a "
            "folder that you can write to.",
            code="unwritable",
        ) from error


def read_store() -> Store:
    """The store as it is on disk; empty when there is no file. Takes no lock.

    An account whose entry is damaged does not stop the others (`Store.damaged`). Raises
    StoreError; its code is "damaged" for a file that is not a store at all, "newer_version"
    for one that a later version of this plugin has written.
    """
    path = store_path()
    shown = short_path(path)
    try:
        raw = files.read_file(path)
    except FileNotFoundError:
        return Store()
    except OSError as error:
        raise StoreError(
            f"Could not read the login file {shown} ({files.os_reason(error)}). Give yourself "
            "read access to it, or move it away and run 'llm chatgpt login'."
        ) from error
    try:
        data = json.loads(raw)
        version, default, entries = data["version"], data.get("default"), data.get("accounts")
        if version > STORE_VERSION:
            raise StoreError(
                f"A newer llm-chatgpt-oauth has written the login file {shown}. Update with "
                "'llm install -U llm-chatgpt-oauth'.",
                code="newer_version",
            )
        if not isinstance(default, str) or not isinstance(entries, dict):
            raise ValueError("not a store")
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"The login file {shown} is damaged. Run 'llm chatgpt login' to replace it.",
            code="damaged",
        ) from error
    read = {name: tokens_from_store(entry) for name, entry in entries.items()}
    failures = {k: failure_from_store(v) for k, v in as_mapping(data.get("failures")).items()}
    return Store(
        default,
        {name: tokens for name, tokens in read.items() if tokens},
        {k: as_mapping(v) for k, v in as_mapping(data.get("identities")).items()},
        {k: failure for k, failure in failures.items() if failure},
        {name: entries[name] for name, tokens in read.items() if not tokens},
        {k: as_mapping(v) for k, v in as_mapping(data.get("registrations")).items()},
    )


def tokens_from_store(value: object) -> Tokens | None:
    """A login as the file has it; None if it cannot be one."""
    entry = as_mapping(value)
    ended = entry.get("kind") == "official" and entry.get("access_token") == ""
    access_token = "" if ended else header_safe(entry.get("access_token"))
    if access_token is None:
        return None
    names = (
        *("refresh_token", "id_token", "account_id", "email", "plan", "workspace"),
        *("issuer", "client_id", "subject"),
    )
    texts: dict[str, Any] = {name: as_text(entry.get(name)) for name in names}
    origin, kind = entry.get("origin"), entry.get("kind")
    return Tokens(
        access_token,
        expires_at=as_number(entry.get("expires_at")),
        refreshed_at=as_number(entry.get("refreshed_at")) or 0.0,
        fedramp=entry.get("fedramp") is True,
        origin=origin if is_workspace_origin(origin) else None,
        kind=kind if kind in ("codex", "access_token", "official") else "login",
        earliest_refresh_at=as_number(entry.get("earliest_refresh_at")),
        **texts,
    )


def failure_from_store(value: object) -> Failure | None:
    entry = as_mapping(value)
    message, at = as_text(entry.get("message")), as_number(entry.get("at"))
    if message is None or at is None:
        return None
    permanent, rejected = entry.get("permanent") is True, entry.get("rejected") is True
    return Failure(message, as_text(entry.get("code")), permanent, rejected, at)


class StoreWriter:
    """The store while this process holds its lock. Made by `locked_store` alone."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        self.shown = short_path(path)

    def save(self, store: Store) -> None:
        """Write the store whole: whoever reads sees the old file or the new one."""
        with self.reserved(0) as commit:
            commit(store)

    @contextlib.contextmanager
    def reserved(self, spare: int = 16384) -> Iterator[Callable[[Store], None]]:
        """A private file beside the store with `spare` bytes more room than it needs now, and
        the function that writes a store into it and puts it in the old file's place.

        Opening it first proves that a new pair can be written before a refresh token, which
        works once, is spent. Raises StoreError.
        """
        with contextlib.ExitStack() as stack:
            with self.writing():
                if self.path.is_symlink():
                    raise StoreError(
                        f"{self.shown} is a symbolic link, which this plugin never writes through. "
                        "Put the file itself there, or point LLM_USER_PATH to its folder.",
                        code="unwritable",
                    )
                files.remove_leftovers(self.path)
                size = self.path.stat().st_size if spare and self.path.exists() else 0
                write = stack.enter_context(files.new_version(self.path, reserve=size + spare))

            def commit(store: Store) -> None:
                with self.writing():
                    write(store.to_bytes())

            yield commit

    def mended(self) -> Store:
        """The store without what is damaged in it; the damaged file is kept beside it."""
        store = read_any()
        if not store.damaged:
            return store
        aside = self.path.with_name(f"{self.path.name}.damaged-{time.time():.0f}")
        with self.writing(), files.new_version(aside) as write:
            write(files.read_file(self.path))
        notice(f"The login file was damaged. The old one is kept as {short_path(aside)}.")
        return store._replace(damaged={})

    def remove_damaged(self) -> None:
        """Delete the files that `mended` has left."""
        with self.writing():
            for aside in self.path.parent.glob(f"{self.path.name}.damaged-*"):
                aside.unlink()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Around a write beside the store. Raises StoreError in place of OSError."""
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"Could not write the login file {self.shown} ({files.os_reason(error)}). Make "
                "the folder writable, or choose another with LLM_USER_PATH.",
                code="unwritable",
            ) from error


@contextlib.contextmanager
def locked_store(seconds: float | None = None) -> Iterator[StoreWriter]:
    """Hold the store's lock, against every thread and process of this machine.

    The operating system drops the lock of a process that dies. Raises StoreError after so
    many seconds (None: config.LOCK_TIMEOUT_SECONDS), or where no lock can be made.
    """
    import filelock

    path = store_path()
    shown = short_path(f"{path}.lock")
    limit = config.LOCK_TIMEOUT_SECONDS if seconds is None else seconds
    lock = filelock.FileLock(f"{path}.lock", timeout=limit, mode=0o600)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise StoreError(
            f"Another program has held {shown} for {in_words(limit)}. Wait for it or end "
            "it, then try again."
        ) from error
    except (OSError, NotImplementedError) as error:
        reason = files.os_reason(error) if isinstance(error, OSError) else "not supported"
        raise StoreError(
            f"Could not lock {shown} ({reason}). Make the folder writable, or choose "
            "another with LLM_USER_PATH.",
            code="unwritable",
        ) from error
    try:
        yield StoreWriter(path)
    finally:
        lock.release()


def check_writable() -> None:
    """Raises StoreError unless a login could be stored now. Leaves no trace but the lock."""
    with locked_store() as writer, writer.reserved(0):
        read_any()


def load_tokens(account: str | None = None) -> Tokens | None:
    """The stored login of an account (None: the default one) as it is, without refreshing.

    None when there is none. Raises StoreError.
    """
    return read_store().get(account)


def store_tokens(tokens: Tokens, account: str | None = None) -> str:
    """Store a login under an account's name, in place of an older one; return the name.

    Without a name it is the default account's. A damaged file is replaced, and kept beside
    the new one. Raises StoreError.
    """
    with locked_store() as writer:
        store = writer.mended()
        name = account or store.default or DEFAULT_ACCOUNT
        writer.save(store.add(name, tokens, as_default=account is None))
    return name


def delete_tokens(
    account: str | None = None,
    *,
    everything: bool = False,
    before: Callable[[Tokens], None] | None = None,
) -> list[str]:
    """Delete an account's login from this machine; return the names of what was deleted.

    With `everything` all accounts, what is known of access tokens' owners, and the damaged
    files that were kept. A file that is damaged as a whole is emptied. `before` is called
    with each login first, while no program can refresh it; whatever it raises, the login is
    deleted. Raises StoreError.
    """
    with locked_store() as writer:
        store = read_any()
        name = store.default if account is None else account
        present = [*store.accounts, *store.damaged]
        names = present if everything else [other for other in present if other == name]
        try:
            for each in names:
                if before and each in store.accounts:
                    before(store.accounts[each])
        finally:
            if everything:
                writer.save(Store(registrations=store.registrations))
                writer.remove_damaged()
            elif names:
                writer.save(store.without(name))
    return names


def read_any() -> Store:
    """The store; of a file that is damaged as a whole, a damaged default account."""
    try:
        return read_store()
    except StoreError as error:
        if error.code != "damaged":
            raise
        return Store(damaged={DEFAULT_ACCOUNT: None})
