"""Which credential is used, and a token that is good now."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import logging
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from llm_chatgpt import config, files
from llm_chatgpt.errors import ChatGPTError, NotSignedIn, RefreshFailed, StoreError
from llm_chatgpt.login import borrowed, oauth
from llm_chatgpt.login import store as logins
from llm_chatgpt.login.store import Store, locked_store, read_store, store_path
from llm_chatgpt.login.tokens import (
    Tokens,
    needs_refresh,
    refresh_delay,
    still_works,
    token_hash,
    without_secrets,
)
from llm_chatgpt.login.workspace import fetch_workspace
from llm_chatgpt.text import from_now, notice, printable

log = logging.getLogger("llm_chatgpt_oauth")


class Credential(NamedTuple):
    """What a request goes out with: an account of the store, or a personal access token.

    `reason` tells the user why it is this one.
    """

    account: str | None
    reason: str
    access_token: str | None = None

    def __repr__(self) -> str:
        return without_secrets(self, "account", "reason")


def choose_credential(key: str | None, store: Store) -> Credential:
    """Whose login to use: `key` (--key, key=), LLM_CHATGPT_ACCOUNT, the default account,
    llm's key "chatgpt", CODEX_ACCESS_TOKEN. The first of these that is there.

    A key is an account's name, else the name of one of llm's keys, else a token (at-...).
    Raises NotSignedIn, which names the accounts that exist; StoreError for a damaged one.
    """
    variable = config.setting("ACCOUNT")
    if key is not None:
        return _named_credential(key, store, "chosen by name")
    if variable:
        return _named_credential(variable, store, "chosen by LLM_CHATGPT_ACCOUNT")
    if store.get():
        return Credential(store.default, "the default account")
    token = borrowed.access_token_in(files.llm_keys().get("chatgpt"))
    if token:
        return Credential(None, "llm's key chatgpt", token)
    token = borrowed.access_token_in(os.environ.get("CODEX_ACCESS_TOKEN"))
    if token:
        return Credential(None, "CODEX_ACCESS_TOKEN", token)
    if store.accounts:
        raise NotSignedIn(
            "No default account. Choose one with 'llm chatgpt use NAME': "
            f"{name_list(store.accounts)}."
        )
    why = ""
    if files.llm_keys().get("chatgpt"):
        why = ": the key chatgpt in 'llm keys' is not an access token (at-...)"
    known = filter(store.registration, store.registrations)
    command = next(map(store.login_command, known), "llm chatgpt login")
    raise NotSignedIn(f"Not signed in to ChatGPT{why}. Run '{command}' first.")


def _named_credential(name: str, store: Store, reason: str) -> Credential:
    if name and store.get(name):
        return Credential(name, reason)
    if store.registration(name):
        raise NotSignedIn(
            f"The account '{printable(name, 60)}' is signed out. Run "
            f"'{store.login_command(name)}' to sign in."
        )
    keys = files.llm_keys()
    token = borrowed.access_token_in(keys.get(name, name))
    if token:
        return Credential(None, reason, token)
    tokens = (other for other, value in keys.items() if borrowed.access_token_in(value))
    raise no_such_account(name, [*store.accounts, *tokens])


def no_such_account(name: str, names: Iterable[str]) -> NotSignedIn:
    """The error for a name that is not an account's. Shows the name unless it may be a token."""
    shown = re.fullmatch(r"(?i)(?!(at|rt|sk)[-_]|eyj)[a-z0-9][\w.@+-]{0,23}", name)
    what = f"No account named '{name}'." if shown else "No account has this name."
    known = name_list(names)
    if known:
        return NotSignedIn(f"{what} Accounts: {known}.")
    return NotSignedIn(f"{what} Run 'llm chatgpt login' to sign in.")


def name_list(names: Iterable[str]) -> str:
    return ", ".join(printable(name, 60) for name in names)


# Owners of personal access tokens that this process has asked for, by a hash of the token.
identified_owners: dict[str, Tokens] = {}
# Look-ups of an owner that have failed, for those who wait for the same one.
_failed_lookups: dict[str, logins.Failure] = {}
# Renewed logins that could not be written, by store and spent refresh token. This process
# uses them, and tries to write them at later prompts and at its end.
unsaved_pairs: dict[tuple[str, str | None], Tokens] = {}


def present_tokens(credential: Credential, store: Store) -> Tokens | None:
    """What is known of a credential without asking anybody; None if nothing is."""
    if credential.access_token:
        known = identified_owners.get(token_hash(credential.access_token))
        return known or store.identify(credential.access_token)
    stored = store.get(credential.account)
    if stored and unsaved_pairs:
        return unsaved_pairs.get((str(store_path()), stored.refresh_token), stored)
    return stored


def check_usable(
    credential: Credential, tokens: Tokens, store: Store, rejected: str | None = None
) -> None:
    """Raises RefreshFailed for a login that can be neither used nor renewed any more.

    Sends nothing: it decides by the expiry date and by what earlier refreshes have ended in.
    `rejected` is an access token that the backend has refused.
    """
    failure, now = store.failure(tokens), time.time()
    works = tokens.access_token != rejected and still_works(tokens, now)
    if failure and failure.permanent and (failure.rejected or not works):
        raise failure.to_error()
    if works:
        return
    if tokens.kind == "access_token":
        raise borrowed.access_token_rejected()
    if tokens.kind == "codex":
        raise borrowed.codex_login_expired()
    if tokens.refresh_token is None:
        raise oauth.sign_in_again("cannot be renewed", store.login_command(credential.account))
    if delay := refresh_delay(tokens, now):
        raise RefreshFailed(
            f"OpenAI renews this login {from_now(now + delay)} at the "
            f"earliest. Try again then, or run '{store.login_command(credential.account)}'."
        )


# A login, and what the user should be told about it.
Renewed = tuple[Tokens, str]
Future = concurrent.futures.Future[Renewed]


class _Worker:
    """The one thread of this process that renews logins, one after another.

    Neither Ctrl-C nor a cancelled task can stop it between the request, which spends the
    refresh token, and the write. Callers wait for it, and it waits for other processes at
    the store's lock.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[Future, Callable[[], Renewed]]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="chatgpt-refresh", daemon=True)
        self._starting, self._sending = threading.Lock(), threading.Lock()
        self._ending = False

    def submit(self, job: Callable[[], Renewed]) -> Future:
        future: Future = concurrent.futures.Future()
        self._jobs.put((future, job))
        with self._starting:
            if not self._thread.ident:
                self._thread.start()
        return future

    def _work(self) -> None:
        while True:
            self._run(*self._jobs.get())

    @staticmethod
    def _run(future: Future, job: Callable[[], Renewed]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(job())
        except BaseException as error:
            future.set_exception(error)
        finally:
            # Else the error's traceback would keep the error alive, and the caller's frames.
            del future

    @contextlib.contextmanager
    def sending(self) -> Iterator[None]:
        """From before a refresh token is sent until its successor is written."""
        with self._sending:
            if self._ending:
                raise RefreshFailed("The program is ending.", permanent=False)
            yield

    def settle(self, *, ending: bool = False) -> None:
        """Wait up to 10 seconds for a request that is out. With `ending` none follows it."""
        if self._sending.acquire(timeout=config.REFRESH_GRACE_SECONDS):
            self._ending = ending
            self._sending.release()


def _start_afresh() -> None:
    # A forked child has none of its parent's threads, and perhaps a lock that nobody holds.
    global _worker
    _worker = _Worker()


_worker = _Worker()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)


@atexit.register
def _finish() -> None:
    with contextlib.suppress(KeyboardInterrupt, ChatGPTError):
        _worker.settle(ending=True)
        if unsaved_pairs:
            with locked_store(config.REFRESH_GRACE_SECONDS) as writer:
                _save_unsaved(writer)


def _save_unsaved(writer: logins.StoreWriter) -> Store:
    """Write the renewed logins that could not be written before. A login that was replaced or
    deleted since then stays so."""
    store = read_store()
    saved = []
    for name, stored in store.accounts.items():
        key = (str(writer.path), stored.refresh_token)
        if key in unsaved_pairs:
            store = store.put(name, unsaved_pairs[key])
            saved.append(key)
    if saved:
        writer.save(store)
    for key in saved:
        del unsaved_pairs[key]
    return store


def _refresh(credential: Credential, rejected: str | None, asked: float) -> Tokens:
    """The refresh: under the store's lock, what is good now; else a new pair, which is written
    before anything else happens.

    `asked` is when the caller began to wait, in Unix seconds. What another thread or process
    has brought about since then, a new pair or a failure, is this caller's result, too.
    Raises NotSignedIn, RefreshFailed, StoreError.
    """
    account = credential.account or ""
    with locked_store() as writer:
        store = read_store()
        stored, tokens = store.get(account), present_tokens(credential, store)
        if stored is None or tokens is None:
            command = store.login_command(account)
            raise NotSignedIn(f"The account was signed out. Run '{command}' first.")
        if tokens is not stored and tokens.refreshed_at < asked:
            store, stored = _save_unsaved(writer), tokens
        refused, now = tokens.access_token == rejected, time.time()
        if not refused and not needs_refresh(tokens, now):
            return tokens
        failure = store.failure(tokens)
        waited = failure is not None and asked <= failure.at <= now
        if failure and (waited or failure.permanent):
            if waited and not refused and still_works(tokens, now):
                # The caller that sent the request tells the user.
                return tokens
            raise failure.to_error()
        with writer.reserved() as commit, _worker.sending():
            try:
                check_usable(credential, tokens, store, rejected)
                command = store.login_command(account)
                new = oauth.refresh_tokens(tokens, login_command=command)
            except RefreshFailed as error:
                failure = logins.Failure.of(error, rejected=refused)
                store = read_store()
                # A program that ignores our lock may have been faster.
                if store.get(account) == stored:
                    if error.permanent and tokens.route.drops_refused_tokens:
                        tokens = tokens.ended()
                        store = store.put(account, tokens)
                    if error.code == "invalid_client":
                        # The next sign-in registers anew.
                        store = store.register(account, client_id=None)
                    with contextlib.suppress(StoreError):
                        commit(store.put_failure(tokens, failure))
                raise
            unsaved_pairs[str(writer.path), stored.refresh_token] = new
            commit(store.put(account, new))
            del unsaved_pairs[str(writer.path), stored.refresh_token]
            return new


def _renewed(credential: Credential, rejected: str | None, asked: float) -> Renewed:
    """The result of a refresh; after a failure what is there, as long as it works.

    That may be newer than what failed, or may just not have been written.
    """
    try:
        return _refresh(credential, rejected, asked), ""
    except (RefreshFailed, StoreError) as error:
        tokens, now = present_tokens(credential, read_store()), time.time()
        if tokens is None or tokens.access_token == rejected or not still_works(tokens, now):
            raise
        if tokens in unsaved_pairs.values():
            return tokens, f"Warning: the login was renewed but not stored. {error.message}"
        if needs_refresh(tokens, now):
            return tokens, f"Warning: {error.message} Using the old token until it expires."
        return tokens, ""


def _identified(access_token: str, asked: float) -> Renewed:
    """A personal access token with its owner, who is looked up once for all programs.

    Where nothing can be stored, this process remembers it. Raises RefreshFailed.
    """
    name = token_hash(access_token)
    tokens, failure = identified_owners.get(name), _failed_lookups.get(name)
    if tokens is None and failure and asked <= failure.at:
        raise failure.to_error()
    if tokens is None:
        try:
            with locked_store() as writer:
                store = read_store()
                tokens = store.identify(access_token) or _look_up_owner(access_token)
                writer.save(store.put_identity(tokens))
        except StoreError as error:
            log.info("The access token's owner is not stored: %s", error)
        identified_owners[name] = tokens = tokens or _look_up_owner(access_token)
    return tokens, ""


def _look_up_owner(access_token: str) -> Tokens:
    try:
        tokens = borrowed.request_owner(access_token)
    except RefreshFailed as error:
        _failed_lookups[token_hash(access_token)] = logins.Failure.of(error)
        raise
    return fetch_workspace(tokens)


def _good_tokens(key: str | None, rejected: str | None) -> Tokens | Future:
    """The tokens that `key` stands for if they are good as they are, else the worker's job
    that brings good ones. Raises NotSignedIn, RefreshFailed, StoreError."""
    store = read_store()
    credential = choose_credential(key, store)
    tokens = present_tokens(credential, store)
    if tokens:
        check_usable(credential, tokens, store, rejected if credential.access_token else None)
        due = tokens.access_token == rejected or needs_refresh(tokens, time.time())
        if not due and tokens not in unsaved_pairs.values():
            return tokens
    now, token = time.time(), credential.access_token
    if token:
        return _worker.submit(lambda: _identified(token, now))
    return _worker.submit(lambda: _renewed(credential, rejected, now))


def get_tokens(key: str | None = None, *, rejected: str | None = None) -> Tokens:
    """A login that is good now, refreshed first if it expires within five minutes.

    `key` is an account's name, the name of one of llm's keys, or a personal access token;
    `choose_credential` tells what None means.

    However many threads, tasks and processes ask at once, one of them refreshes and all get
    its result. `rejected` is an access token that the backend has just answered with 401: a
    different one in the store, which another program has put there, is returned as it is;
    otherwise the login is refreshed. Reading a good token takes no lock. Raises NotSignedIn,
    RefreshFailed, StoreError.
    """
    good = _good_tokens(key, rejected)
    if isinstance(good, Tokens):
        return good
    try:
        # In short waits, because Windows cannot interrupt a long one.
        while not concurrent.futures.wait([good], timeout=0.25).done:
            pass
    except BaseException:
        _worker.settle()
        raise
    return _told(*good.result())


async def get_tokens_async(key: str | None = None, *, rejected: str | None = None) -> Tokens:
    """`get_tokens` for an event loop, which it never blocks."""
    good = _good_tokens(key, rejected)
    if isinstance(good, Tokens):
        return good
    try:
        return _told(*await asyncio.wrap_future(good))
    except asyncio.CancelledError:
        await asyncio.to_thread(_worker.settle)
        raise


def _told(tokens: Tokens, warning: str) -> Tokens:
    if warning:
        notice(warning)
    return tokens
