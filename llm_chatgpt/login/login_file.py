"""Read, lock and write the login file, chatgpt-oauth.json.

Readers take no lock, because the file is complete at every moment. Every change is made under the
lock: read the file again, change the `Store`, save it.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pathlib
import time
from collections.abc import Iterator
from typing import NamedTuple

from llm_chatgpt import config, files
from llm_chatgpt.errors import StoreError
from llm_chatgpt.login.store import DEFAULT_ACCOUNT, STORE_VERSION, Store
from llm_chatgpt.login.tokens import Tokens
from llm_chatgpt.text import in_words, notice, short_path

# Bytes to reserve for the tokens that a sign-in or a refresh adds to the file.
SPARE_BYTES = 16384
WRITE_ADVICE = "Make the folder writable, or choose another with LLM_USER_PATH."
# By the login file's path: the refresh token that was spent, and the renewed login that this
# process could not write. There is at most one for a file: the next renewal writes it first.
_unsaved: dict[pathlib.Path, tuple[str | None, Tokens]] = {}
# Stands for a file that is damaged as a whole: a store whose only login is damaged.
_DAMAGED = Store({"default": DEFAULT_ACCOUNT, "accounts": {DEFAULT_ACCOUNT: None}})


@contextlib.contextmanager
def _os_errors_as(
    failure: str, advice: str = WRITE_ADVICE, code: str | None = "unwritable"
) -> Iterator[None]:
    """Context manager that turns an OSError into a StoreError: failure, cause and advice."""
    try:
        yield
    # filelock raises NotImplementedError on a file system without locks.
    except (OSError, NotImplementedError) as error:
        raise StoreError(f"{failure} ({files.os_reason(error)}).", advice, code=code) from error


def store_path() -> pathlib.Path:
    """Return the path of the login file, in the folder of llm's keys.json.

    Raises StoreError (code "unwritable") if that folder is missing and cannot be created.
    """
    try:
        return files.user_dir() / "chatgpt-oauth.json"
    except OSError as error:
        raise StoreError(
            f"Could not create the folder {error.filename} ({files.os_reason(error)}).",
            "Set LLM_USER_PATH to a folder that you can write to.",
            code="unwritable",
        ) from error


def read_store(*, if_damaged: Store | None = None) -> Store:
    """Read the login file, and add the renewed login that this process could not write.

    Returns an empty store if there is no file, and `if_damaged`, if given, for a file that is not a
    store at all. Raises StoreError; its code is "damaged" for such a file, "newer_version" for one
    written by a later version of this plugin.
    """
    path = store_path()
    shown_path = short_path(path)
    advice = "Give yourself read access to it, or move it away and run 'llm chatgpt login'."
    with _os_errors_as(f"Could not read the login file {shown_path}", advice, code=None):
        if not path.exists():
            return Store()
        raw = files.read_file(path)
    try:
        data = json.loads(raw)
        if data["version"] > STORE_VERSION:
            raise StoreError(
                f"A newer llm-chatgpt-oauth has written the login file {shown_path}.",
                "Update with 'llm install -U llm-chatgpt-oauth'.",
                code="newer_version",
            )
        if not isinstance(data["default"], str) or not isinstance(data["accounts"], dict):
            raise ValueError("not a store")
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        if if_damaged:
            return if_damaged
        raise StoreError(
            f"The login file {shown_path} is damaged.",
            "Run 'llm chatgpt login' to replace it.",
            code="damaged",
        ) from error
    store = Store(data)
    spent, renewed = _unsaved.get(path, ("", None))
    for name, tokens in store.accounts.items():
        if renewed and tokens.refresh_token == spent:
            store = store.put(name, renewed)
            store.unsaved = name
    return store


class StoreWriter(NamedTuple):
    """Writer of the login file, for the holder of its lock. Only `locked_store` creates it."""

    path: pathlib.Path

    def save(self, store: Store) -> None:
        """Write a store that was read under this lock. Raises StoreError."""
        self.write(self.path, store.to_bytes())
        _unsaved.pop(self.path, None)

    def save_renewed(self, store: Store, name: str, tokens: Tokens) -> None:
        """Write an account's renewed login. Until that succeeds, this process remembers it.

        Raises StoreError.
        """
        _unsaved[self.path] = store.accounts[name].refresh_token, tokens
        self.save(store.put(name, tokens))

    def save_shorter(self, store: Store) -> None:
        """Write a store from which logins were removed. If that fails, as on a full disk, overwrite
        the file in place. Raises StoreError."""
        try:
            self.save(store)
        except StoreError as error:
            try:
                files.shorten_in_place(self.path, store.to_bytes())
            except OSError:
                raise error from None
            notice(f"Warning: {error.reason}. The login was removed from the old file instead.")

    def write(
        self, path: pathlib.Path, content: bytes, failure: str = "Could not write the login file"
    ) -> None:
        """Replace the login file, or another file in its folder, atomically. Raises StoreError."""
        if self.path.is_symlink():
            raise StoreError(
                f"{short_path(self.path)} is a symbolic link, which the plugin does not overwrite.",
                "Put the file itself there, or point LLM_USER_PATH to its folder.",
                code="unwritable",
            )
        with _os_errors_as(f"{failure} in {short_path(path.parent)}"):
            files.remove_leftovers(path)
            files.write_whole(path, content)

    def probe(self) -> None:
        """Raise StoreError unless a new login could be written now.

        Call it before showing a code or sending a refresh token: each works only once.
        """
        size = self.path.stat().st_size if self.path.exists() else 0
        probe = self.path.with_name(f"{self.path.name}.probe.tmp")
        self.write(probe, b" " * (size + SPARE_BYTES))
        # Deletes the probe, too: its name ends in .tmp.
        files.remove_leftovers(self.path)

    def read_to_add(self) -> Store:
        """Read the store before a login is added. If the whole file is damaged, copy it and return
        an empty store. Raises StoreError."""
        store = read_store(if_damaged=_DAMAGED)
        if store is not _DAMAGED:
            return store
        copy = self.path.with_name(f"{self.path.name}.damaged-{time.time():.0f}")
        self.write(copy, self.path.read_bytes(), "Could not copy the damaged login file")
        notice(f"The login file was damaged. A copy is stored as {short_path(copy)}.")
        return Store()


if hasattr(os, "register_at_fork"):
    # A child that is forked during the first import of filelock could never finish that import.
    os.register_at_fork(before=lambda: importlib.import_module("filelock"))


@contextlib.contextmanager
def locked_store(seconds: float | None = None) -> Iterator[StoreWriter]:
    """Hold the lock of the login file, which excludes all other threads and processes.

    The operating system releases the lock of a process that dies. Raises StoreError if another
    program holds it for `seconds` (None: config.LOCK_TIMEOUT_SECONDS), or if the file system has no
    locks.
    """
    import filelock

    path = store_path()
    shown_path = short_path(f"{path}.lock")
    limit = config.LOCK_TIMEOUT_SECONDS if seconds is None else seconds
    lock = filelock.FileLock(f"{path}.lock", timeout=limit, mode=0o600)
    with _os_errors_as(f"Could not lock {shown_path}"):
        try:
            lock.acquire()
        except filelock.Timeout as error:
            raise StoreError(
                f"Another program has held {shown_path} for {in_words(limit)}.",
                "Wait for it or end it, then try again.",
            ) from error
    try:
        yield StoreWriter(path)
    finally:
        lock.release()


def check_writable() -> None:
    """Raise StoreError unless a new login could be stored now. Leaves only the lock file behind."""
    with locked_store() as writer:
        # Raises StoreError if the file cannot be read, or a newer version has written it.
        read_store(if_damaged=_DAMAGED)
        writer.probe()


def save_unsaved() -> None:
    """Write the renewed login that this process could not write. Raises StoreError."""
    if _unsaved and read_store().unsaved:
        with locked_store(config.REFRESH_GRACE_SECONDS) as writer:
            writer.save(read_store())


def load_tokens(account: str | None = None) -> Tokens | None:
    """Return an account's stored login (None: the default account's), without renewing it.

    None if the account is not signed in. Raises StoreError.
    """
    return read_store().get(account)


def store_tokens(tokens: Tokens, account: str | None = None) -> str:
    """Store a login under an account's name, replacing an older one; return the name.

    Without a name, it becomes the default account's login. A damaged file is copied and replaced.
    Raises StoreError.
    """
    with locked_store() as writer:
        store = writer.read_to_add()
        name = account or store.default or DEFAULT_ACCOUNT
        writer.save(store.add(name, tokens, as_default=account is None))
    return name


def delete_tokens(
    account: str | None = None, *, everything: bool = False
) -> dict[str, Tokens | None]:
    """Delete an account's login from this machine (None: the default account's).

    Returns the deleted logins by account name; None stands for an entry that this version does not
    understand. `everything` deletes all accounts, the stored owners of access tokens, and the
    copies of damaged files. A file that is damaged as a whole counts as a damaged entry of the
    account `default`: deleting that empties the file. Raises StoreError.
    """
    with locked_store() as writer:
        store = read_store(if_damaged=_DAMAGED)
        chosen_name = store.default if account is None else account
        names = [name for name in store.entries if everything or name == chosen_name]
        if everything:
            writer.save_shorter(store.only_registrations())
            for copy in writer.path.parent.glob(f"{writer.path.name}.damaged-*"):
                with _os_errors_as(f"Could not delete {short_path(copy)}"):
                    copy.unlink()
        elif names:
            writer.save_shorter(store.without(chosen_name))
    return {name: store.accounts.get(name) for name in names}
