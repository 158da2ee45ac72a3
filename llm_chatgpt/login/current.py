"""Which credential is used, and a token that is good now."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import re
import time
from collections.abc import Iterable
from typing import NamedTuple

from llm_chatgpt import config, files
from llm_chatgpt.errors import ChatGPTError, NotSignedIn, RefreshFailed, StoreError
from llm_chatgpt.login import borrowed, oauth
from llm_chatgpt.login import store as logins
from llm_chatgpt.login.accounts import Failure, Store
from llm_chatgpt.login.store import locked_store, read_store
from llm_chatgpt.login.tokens import (
    Tokens,
    is_somebody_else,
    needs_refresh,
    seconds_until_refresh,
    still_works,
    token_hash,
    without_secrets,
)
from llm_chatgpt.login.worker import Future, Renewed, Worker
from llm_chatgpt.login.workspace import fetch_workspace
from llm_chatgpt.text import from_now, local_time, notice, printable

log = logging.getLogger("llm_chatgpt_oauth")


class Credential(NamedTuple):
    """Which login a request uses: an account of the store, or a personal access token.

    `reason` tells the user why it is this one. `owner` is the account's login when it was
    chosen: another user's is not used in its place.
    """

    account: str | None
    reason: str
    access_token: str | None = None
    owner: Tokens | None = None

    def __repr__(self) -> str:
        return without_secrets(self, "account", "reason")


class Rejection(NamedTuple):
    """A 401 from the backend: the access token that it refused, and the answer's Date in Unix
    seconds (None: this machine's clock counts).

    `final` says that the login has ended if it cannot be renewed, either. It is False for side
    requests and for what a proxy has answered.
    """

    access_token: str
    date: float | None = None
    final: bool = True

    def __repr__(self) -> str:
        return without_secrets(self, "date", "final")


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
    if owner := store.get():
        return Credential(store.default, "the default account", owner=owner)
    key = files.llm_key("chatgpt")
    variable = os.environ.get("CODEX_ACCESS_TOKEN")
    for reason, value in (("llm's key chatgpt", key), ("CODEX_ACCESS_TOKEN", variable)):
        if token := borrowed.access_token_in(value):
            return Credential(None, reason, token)
    if store.accounts:
        raise NotSignedIn(
            "No default account.",
            f"Choose one with 'llm chatgpt use NAME': {name_list(store.accounts)}.",
        )
    why = ": the key chatgpt in 'llm keys' is not an access token (at-...)" if key else ""
    known = filter(store.registration, store.registrations)
    advice = f"Run '{next(map(store.login_command, known), 'llm chatgpt login')}' first"
    if borrowed.has_codex_login():
        advice += ", or 'llm chatgpt import' to use Codex CLI's login"
    raise NotSignedIn(f"Not signed in to ChatGPT{why}.", f"{advice}.")


def _named_credential(name: str, store: Store, reason: str) -> Credential:
    if name and (owner := store.get(name)):
        return Credential(name, reason, owner=owner)
    if store.registration(name):
        raise NotSignedIn(
            f"The account '{printable(name, 60)}' is signed out.",
            f"Run '{store.login_command(name)}' to sign in.",
        )
    token = borrowed.access_token_in(files.llm_key(name) or name)
    if token:
        return Credential(None, reason, token)
    keys = files.llm_keys()
    tokens = (other for other, value in keys.items() if borrowed.access_token_in(value))
    raise no_such_account(name, [*store.accounts, *tokens])


def no_such_account(name: str, names: Iterable[str]) -> NotSignedIn:
    """The error for an unknown account name, which it shows unless it may be a token."""
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
_failed_lookups: dict[str, Failure] = {}
# What the user has been warned of.
warned: dict[str, object] = {}


def present_tokens(credential: Credential, store: Store) -> Tokens | None:
    """What is known of a credential without asking anybody; None if nothing is.

    Raises NotSignedIn if the account was signed out, or is another user's, since it was chosen.
    """
    if not credential.access_token:
        return _account_tokens(credential, store)
    known = identified_owners.get(token_hash(credential.access_token))
    return known or store.identify(credential.access_token)


def _account_tokens(credential: Credential, store: Store) -> Tokens:
    tokens, chosen, name = store.get(credential.account), credential.owner, credential.account
    if tokens is None:
        command = store.login_command(name)
        raise NotSignedIn("The account was signed out.", f"Run '{command}' first.")
    if chosen and is_somebody_else(chosen, tokens):
        raise NotSignedIn(
            f"Another user has signed in to the account '{printable(name, 60)}' meanwhile.",
            "Send the prompt again to use that login.",
        )
    return tokens


def check_usable(
    credential: Credential, tokens: Tokens, store: Store, rejection: Rejection | None = None
) -> None:
    """Raises RefreshFailed for a login that can be neither used nor renewed any more.

    Sends nothing: it decides by the expiry date and by what earlier refreshes have ended in.
    """
    failure = store.failure(credential.account)
    if failure and failure.permanent and failure.rejected:
        raise failure.to_error()
    if _is_refused(tokens, rejection) or not still_works(tokens, time.time()):
        _check_renewable(credential, tokens, store, rejection)


def _is_refused(tokens: Tokens, rejection: Rejection | None) -> bool:
    return rejection is not None and tokens.access_token == rejection.access_token


def _check_renewable(
    credential: Credential, tokens: Tokens, store: Store, rejection: Rejection | None
) -> None:
    """Raises RefreshFailed if the refresh token is known to be of no use now."""
    failure, command = store.failure(credential.account), store.login_command(credential.account)
    if failure and failure.permanent:
        raise failure.to_error()
    if tokens.kind == "access_token":
        raise borrowed.access_token_rejected()
    if tokens.kind == "codex":
        raise borrowed.codex_login_expired()
    if tokens.refresh_token is None:
        raise oauth.sign_in_again("cannot be renewed", command)
    oauth.check_issuer(tokens, RefreshFailed, command)
    now = time.time()
    delay = seconds_until_refresh(tokens, (rejection.date if rejection else None) or now)
    if delay:
        raise RefreshFailed(
            f"OpenAI renews this login {from_now(now + delay)} at the earliest.",
            f"Try again then, or run '{command}'.",
        )


_worker = Worker()


@atexit.register
def _finish() -> None:
    with contextlib.suppress(KeyboardInterrupt, ChatGPTError):
        _worker.settle(ending=True)
        if logins.unsaved and read_store().unsaved:
            with locked_store(config.REFRESH_GRACE_SECONDS) as writer:
                writer.save(read_store())


def _refresh(credential: Credential, rejection: Rejection | None, asked: float) -> Tokens:
    """Refresh a login under the store's lock, unless the stored one is good now. A new pair is
    written before anything else happens.

    `asked` is when the caller began to wait, in Unix seconds. What another thread or process
    has brought about since then, a new pair or a failure, is this caller's result, too.
    Raises NotSignedIn, RefreshFailed, StoreError.
    """
    name = credential.account or ""
    with locked_store() as writer:
        store = read_store()
        if store.unsaved:
            writer.save(store)
        tokens = _account_tokens(credential, store)
        refused, now = _is_refused(tokens, rejection), time.time()
        if not refused and (asked <= tokens.refreshed_at <= now or not needs_refresh(tokens, now)):
            return tokens
        final = refused and rejection is not None and rejection.final
        failure = store.failure(name)
        if failure and failure.permanent and final:
            with contextlib.suppress(StoreError):
                writer.save(store.put_failure(name, failure._replace(rejected=True)))
        if failure and asked <= failure.at <= now:
            raise failure.to_error()
        _check_renewable(credential, tokens, store, rejection)
        writer.probe()
        with _worker.sending():
            try:
                new = oauth.refresh_tokens(tokens, login_command=store.login_command(name))
            except RefreshFailed as error:
                with contextlib.suppress(StoreError):
                    store = read_store()
                    # A program that ignores our lock may have been faster.
                    if store.accounts.get(name) == tokens:
                        failure = Failure.of(error, rejected=final)
                        writer.save(store.put_failure(name, failure))
                raise
            logins.unsaved[str(writer.path), tokens.refresh_token] = new
            writer.save(store.put(name, new))
            return new


def _renewed(credential: Credential, rejection: Rejection | None, asked: float) -> Renewed:
    """`_refresh`; if that fails, the stored login as long as it works, with a warning.

    That one may be newer than the one that failed, or one that could not be written.
    """
    try:
        return _refresh(credential, rejection, asked), ""
    except (RefreshFailed, StoreError) as error:
        store = read_store()
        tokens, now = _account_tokens(credential, store), time.time()
        if _is_refused(tokens, rejection) or not still_works(tokens, now):
            raise
        if credential.account in store.unsaved:
            return tokens, f"Warning: the login was renewed but not stored. {error.message}"
        return tokens, _old_token_warning(error, tokens) if needs_refresh(tokens, now) else ""


def _old_token_warning(error: ChatGPTError, tokens: Tokens) -> str:
    until = f" until {local_time(tokens.expires_at)}" if tokens.expires_at else ""
    return f"Warning: {error.message} The old token works{until}."


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
        _failed_lookups[token_hash(access_token)] = Failure.of(error)
        raise
    return fetch_workspace(tokens)


def _good_tokens(
    key: str | Credential | None, rejected: str | Rejection | None
) -> Renewed | Future:
    """The tokens that `key` stands for if they are good as they are, else the worker's job
    that brings good ones. Raises NotSignedIn, RefreshFailed, StoreError."""
    rejection = Rejection(rejected) if isinstance(rejected, str) else rejected
    store, now = read_store(), time.time()
    credential = key if isinstance(key, Credential) else choose_credential(key, store)
    if token := credential.access_token:
        owner = present_tokens(credential, store)
        if owner is None:
            return _worker.submit(lambda: _identified(token, now))
        check_usable(credential, owner, store, rejection)
        return owner, ""
    tokens = _account_tokens(credential, store)
    check_usable(credential, tokens, store)
    refused, failure = _is_refused(tokens, rejection), store.failure(credential.account)
    if not refused and credential.account not in store.unsaved:
        if failure and failure.permanent:
            return tokens, _old_token_warning(failure.to_error(), tokens)
        if not needs_refresh(tokens, now):
            return tokens, ""
    return _worker.submit(lambda: _renewed(credential, rejection, now))


def get_tokens(
    key: str | Credential | None = None, *, rejected: str | Rejection | None = None
) -> Tokens:
    """A login that is good now, refreshed first if it expires within five minutes.

    `key` is an account's name, the name of one of llm's keys, or a personal access token;
    `choose_credential` defines what None means. To stay with one user over several calls, pass
    the Credential that it returns.

    However many threads, tasks and processes ask at once, one of them refreshes and all get
    its result. `rejected` is an access token that the backend has just answered with 401: a
    different one in the store, which another program has put there, is returned as it is;
    otherwise the login is refreshed. A login of the official route is returned as it is
    stored, although it may have expired by this machine's clock: only `rejected` renews it.
    Reading a good token takes no lock. Raises NotSignedIn, RefreshFailed, StoreError.
    """
    good = _good_tokens(key, rejected)
    return _told(*(good if isinstance(good, tuple) else _worker.result(good)))


async def get_tokens_async(
    key: str | Credential | None = None, *, rejected: str | Rejection | None = None
) -> Tokens:
    """`get_tokens` for an event loop, which it never blocks."""
    good = _good_tokens(key, rejected)
    return _told(*(good if isinstance(good, tuple) else await _worker.result_async(good)))


def _told(tokens: Tokens, warning: str) -> Tokens:
    """The login, after its warning was shown; each once in a process."""
    mine = object()
    if warning and warned.setdefault(warning, mine) is mine:
        notice(warning)
    return tokens
