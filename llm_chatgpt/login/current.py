"""Which credential is used, and a token that is good now."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterable

from llm_chatgpt import config
from llm_chatgpt.errors import ChatGPTError, NotSignedIn, RefreshFailed, StoreError
from llm_chatgpt.files import llm_keys
from llm_chatgpt.login.borrowed import access_token_in, check_borrowed, request_whoami
from llm_chatgpt.login.oauth import refresh_tokens
from llm_chatgpt.login.store import Store, locked_store, read_store, store_path, unsaved_pairs
from llm_chatgpt.login.tokens import Tokens, needs_refresh, still_works, token_hash
from llm_chatgpt.login.workspace import fetch_origin
from llm_chatgpt.text import notice, printable

log = logging.getLogger("llm_chatgpt_oauth")


class Credential:
    """What a request goes out with: an account of the store, or a personal access token.

    `reason` says to a person why it is this one.
    """

    def __init__(self, account: str | None, reason: str, access_token: str | None = None):
        self.account = account
        self.reason = reason
        self.access_token = access_token

    @property
    def name(self) -> str:
        """Tells it from others, without a secret."""
        return token_hash(self.access_token) if self.access_token else self.account or ""


def choose_credential(key: str | None, store: Store) -> Credential:
    """Whose login to use: `key` (--key, key=), LLM_CHATGPT_ACCOUNT, the default account,
    llm's key "chatgpt", CODEX_ACCESS_TOKEN. The first one that is there.

    A key is an account's name, else the name of one of llm's keys, else a token (at-...).
    Raises NotSignedIn, which names what there is, never the key.
    """
    variable = config.setting("ACCOUNT")
    if key is not None:
        return _named_credential(key, store, "asked for by name", "That")
    if variable:
        where = "LLM_CHATGPT_ACCOUNT"
        return _named_credential(variable, store, f"named by {where}", where)
    if store.default in store.accounts:
        return Credential(store.default, "the default account")
    token = access_token_in(llm_keys().get("chatgpt"))
    if token:
        return Credential(None, "the key chatgpt of 'llm keys'; no account is signed in", token)
    token = access_token_in(os.environ.get("CODEX_ACCESS_TOKEN"))
    if token:
        return Credential(None, "CODEX_ACCESS_TOKEN; no account is signed in", token)
    if store.accounts:
        raise NotSignedIn(
            f"No ChatGPT account is the default one; there are: {name_list(store.accounts)}. "
            "Choose one with 'llm chatgpt use NAME'."
        )
    raise NotSignedIn("Not signed in to ChatGPT. Run 'llm chatgpt login' first.")


def _named_credential(name: str, store: Store, reason: str, where: str) -> Credential:
    if name in store.accounts:
        return Credential(name, reason)
    keys = llm_keys()
    token = access_token_in(keys.get(name, name))
    if token:
        return Credential(None, reason, token)
    there = [*store.accounts, *(name for name, value in keys.items() if access_token_in(value))]
    if there:
        raise NotSignedIn(f"{where} is no ChatGPT account's name; there are: {name_list(there)}.")
    raise NotSignedIn(
        f"{where} is no ChatGPT account's name, and nobody is signed in. Run 'llm chatgpt "
        "login' first, or give an access token (at-...)."
    )


def name_list(names: Iterable[str]) -> str:
    return ", ".join(printable(name, 60) for name in names)


def present_tokens(credential: Credential, store: Store) -> Tokens | None:
    """What is known of a credential without asking; None if nothing is."""
    if credential.access_token:
        known = identified_owners.get(credential.name)
        return known or store.identify(credential.access_token)
    tokens = store.get(credential.account)
    unsaved = unsaved_pairs.get((str(store_path()), credential.name)) if unsaved_pairs else None
    if unsaved and tokens and unsaved.refreshed_at >= tokens.refreshed_at:
        return unsaved
    return tokens


# Owners of access tokens, found out by this process.
identified_owners: dict[str, Tokens] = {}


class _Refresh:
    """One refresh that any number of this process's threads and tasks wait for; for a
    personal access token, the question whose it is.

    It runs in a thread of its own, so that neither Ctrl-C nor a cancelled task can stop it
    between the request, which spends the old refresh token, and the write.
    """

    def __init__(self, credential: Credential, rejected: str | None):
        self.credential = credential
        self.account = credential.account
        self.rejected = rejected
        # Whether the person has heard this refresh's warning.
        self.told = False
        self.future: concurrent.futures.Future[tuple[Tokens, str | None]]
        self.future = concurrent.futures.Future()
        # Running from the start: a cancelled task must not cancel it for the others.
        self.future.set_running_or_notify_cancel()
        self._decision = threading.Lock()
        self._sent = False
        self._abandoned = False

    def run(self) -> None:
        try:
            result: tuple[Tokens, str | None]
            if self.credential.access_token:
                result = self._identify(self.credential.access_token), None
            else:
                result = self._refresh_or_keep()
        except BaseException as error:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)

    def _identify(self, access_token: str) -> Tokens:
        """Ask whose the token is, once for all programs that may keep the answer."""
        tokens: Tokens | None = None
        try:
            with locked_store() as writer:
                store = read_store()
                tokens = store.identify(access_token)
                if tokens is None:
                    tokens = self._ask_whose(access_token)
                    writer.save(store.put_identity(tokens))
        except StoreError as error:
            log.info("The access token's owner cannot be kept: %s", error)
        tokens = tokens or self._ask_whose(access_token)
        identified_owners[token_hash(access_token)] = tokens
        return tokens

    @staticmethod
    def _ask_whose(access_token: str) -> Tokens:
        tokens = request_whoami(access_token)
        return tokens._replace(origin=fetch_origin(tokens))

    def _refresh_or_keep(self) -> tuple[Tokens, str | None]:
        try:
            return self._refresh()
        except (RefreshFailed, StoreError) as error:
            return self._without_refresh(error)

    def _refresh(self) -> tuple[Tokens, str | None]:
        """The tokens to use, and what the person should hear about them."""
        with locked_store() as writer:
            store = read_store()
            tokens = present_tokens(self.credential, store)
            if tokens is None:
                raise NotSignedIn(
                    "The account was signed out meanwhile. Run 'llm chatgpt login' first."
                )
            check_borrowed(tokens, self.rejected)
            if tokens.access_token != self.rejected and not needs_refresh(tokens, time.time()):
                return tokens, None
            with writer.reserved() as commit:
                if not self._may_send():
                    raise RefreshFailed("The program is ending.", permanent=False)
                new = refresh_tokens(tokens)
                key = (str(writer.path), self.credential.name)
                try:
                    commit(store.put(self.account, new))
                except StoreError as error:
                    unsaved_pairs[key] = new
                    return new, (
                        f"Warning: the renewed login is used but could not be kept. {error}"
                    )
                unsaved_pairs.pop(key, None)
                return new, None

    def _without_refresh(self, error: ChatGPTError) -> tuple[Tokens, str | None]:
        """What is stored after a failure, if it still works; else the failure again.

        It may be newer than what failed: a program that does not know our lock was faster.
        """
        tokens = read_store().get(self.account)
        now = time.time()
        if tokens is None or tokens.access_token == self.rejected or not still_works(tokens, now):
            raise error
        if not needs_refresh(tokens, now):
            return tokens, None
        return tokens, f"Warning: {error} Until it ends, the present one is used."

    def _may_send(self) -> bool:
        with self._decision:
            self._sent = not self._abandoned
            return self._sent

    @property
    def sent(self) -> bool:
        return self._sent and not self.future.done()

    def settle(self) -> None:
        """Before leaving: let a request that is out end in a write; stop one that is not."""
        with self._decision:
            self._abandoned = not self._sent
        if self._sent:
            concurrent.futures.wait([self.future], timeout=config.REFRESH_GRACE_SECONDS)


_refreshes: dict[tuple[int, str, str], _Refresh] = {}
_refreshes_lock = threading.Lock()


def _join_refresh(credential: Credential, rejected: str | None) -> tuple[_Refresh, bool]:
    """The refresh under way for this credential, started if there is none (then True)."""
    key = (os.getpid(), str(store_path()), credential.name)
    with _refreshes_lock:
        running = _refreshes.get(key)
        if running is not None and not running.future.done():
            return running, False
        refresh = _refreshes[key] = _Refresh(credential, rejected)
    threading.Thread(target=refresh.run, name="chatgpt-refresh", daemon=True).start()
    return refresh, True


@atexit.register
def _settle_refreshes() -> None:
    with contextlib.suppress(KeyboardInterrupt):
        for refresh in list(_refreshes.values()):
            if not refresh.future.done():
                refresh.settle()


def _good_tokens(key: str | None, rejected: str | None) -> tuple[Credential, Tokens | None]:
    """The credential to use, and its tokens if they can be used as they are; None if they
    must be refreshed (or their owner be asked for) first."""
    store = read_store()
    credential = choose_credential(key, store)
    tokens = present_tokens(credential, store)
    if tokens is None:
        return credential, None
    check_borrowed(tokens, rejected)
    if tokens.access_token == rejected or needs_refresh(tokens, time.time()):
        return credential, None
    return credential, tokens


def get_tokens(key: str | None = None, *, rejected: str | None = None) -> Tokens:
    """A login that is good now, refreshed first if it ends within five minutes.

    `key` is an account's name, the name of one of llm's keys, or a personal access token;
    `choose_credential` tells what None means.

    However many threads, tasks and processes ask at once, one of them refreshes and all
    get its result. `rejected` is an access token that the backend has just answered with
    401: any other one that is stored counts as newer. Reading a good token takes no lock.
    Raises NotSignedIn, RefreshFailed, StoreError.
    """
    first = True
    while True:
        credential, tokens = _good_tokens(key, rejected)
        if tokens is not None:
            return tokens
        refresh, started = _join_refresh(credential, rejected)
        try:
            # In short waits, because Windows cannot interrupt a long one.
            while not concurrent.futures.wait([refresh.future], timeout=0.25).done:
                pass
        except BaseException:
            if refresh.sent:
                concurrent.futures.wait([refresh.future], timeout=config.REFRESH_GRACE_SECONDS)
            raise
        tokens = _refreshed(refresh, rejected, may_try_again=first and not started)
        if tokens is not None:
            return tokens
        first = False


async def get_tokens_async(key: str | None = None, *, rejected: str | None = None) -> Tokens:
    """`get_tokens` for an event loop, which it never blocks."""
    first = True
    while True:
        credential, tokens = _good_tokens(key, rejected)
        if tokens is not None:
            return tokens
        refresh, started = _join_refresh(credential, rejected)
        outcome = asyncio.wrap_future(refresh.future)
        # The failure is read below, from the future that all share.
        outcome.add_done_callback(lambda future: future.cancelled() or future.exception())
        try:
            await asyncio.wait([outcome])
        except asyncio.CancelledError:
            if refresh.sent:
                await asyncio.wait([outcome], timeout=config.REFRESH_GRACE_SECONDS)
            raise
        tokens = _refreshed(refresh, rejected, may_try_again=first and not started)
        if tokens is not None:
            return tokens
        first = False


def _refreshed(refresh: _Refresh, rejected: str | None, *, may_try_again: bool) -> Tokens | None:
    """A finished refresh's tokens; None if a refresh of the caller's own may do better.

    That is so for those who only waited for someone else's, once: a passing failure is one
    caller's to report, and what it brought may be just what this caller was refused.
    """
    try:
        tokens, warning = refresh.future.result()
    except RefreshFailed as error:
        if may_try_again and not error.permanent:
            return None
        raise
    if warning and not refresh.told:
        refresh.told = True
        notice(warning)
    if tokens.access_token == rejected and may_try_again:
        return None
    return tokens
