"""Choose a login, return tokens that are valid now, and retry a request with renewed ones.

`get_tokens` decides without the lock whether the stored login can be used as it is. If not, a job
in a thread takes the lock, reads the file again, decides again, and refreshes.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import pathlib
import re
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

from llm_chatgpt import config, files
from llm_chatgpt.errors import ChatGPTError, NotSignedIn, RefreshFailed, RequestRefused, StoreError
from llm_chatgpt.login import imported, login_file, oauth
from llm_chatgpt.login.login_file import locked_store, read_store
from llm_chatgpt.login.renewals import Future, Jobs
from llm_chatgpt.login.store import Store
from llm_chatgpt.login.tokens import (
    Tokens,
    is_other_identity,
    needs_refresh,
    still_works,
    token_hash,
    without_secrets,
)
from llm_chatgpt.text import local_time, log, notice, printable


class Credential(NamedTuple):
    """The login that a request uses: an account of the store, or a personal access token.

    `reason` says why it was chosen. `chosen_login` is the account's login at that moment: if the
    login of another user, workspace or route replaces it later, the request fails.
    """

    account: str | None
    reason: str
    access_token: str | None = None
    chosen_login: Tokens | None = None

    def __repr__(self) -> str:
        return without_secrets(self, "account", "reason")


class Rejection(NamedTuple):
    """A 401 from the backend. NO_REJECTION stands for none.

    `access_token` is the rejected token, `date` the answer's Date in Unix seconds (None: this
    machine's clock counts). `ends_login` says that the tokens are dropped if OpenAI refuses the
    renewal for good; it is False for requests other than prompts, and for a proxy's answer.
    """

    access_token: str | None = None
    date: float | None = None
    ends_login: bool = True

    def __repr__(self) -> str:
        return without_secrets(self, "date", "ends_login")

    def concerns(self, tokens: Tokens) -> bool:
        """Check whether the backend rejected these tokens."""
        return tokens.access_token == self.access_token


NO_REJECTION = Rejection()


def choose_credential(key: str | None, store: Store) -> Credential:
    """Choose the login: `key` (--key, key=), else LLM_CHATGPT_ACCOUNT, the default account, llm's
    key "chatgpt", or CODEX_ACCESS_TOKEN, in this order.

    A key is an account's name, else the name of one of llm's keys, else a token (at-...).
    Raises NotSignedIn, whose advice is the next step.
    """
    if key is not None:
        return _named_credential(key, store, "chosen by name")
    if account := config.setting("ACCOUNT"):
        return _named_credential(account, store, "chosen by LLM_CHATGPT_ACCOUNT")
    if login := _stored_login(store.default, store):
        return Credential(store.default, "the default account", chosen_login=login)
    llm_key, variable = files.llm_key("chatgpt"), os.environ.get("CODEX_ACCESS_TOKEN")
    for reason, value in (("llm's key chatgpt", llm_key), ("CODEX_ACCESS_TOKEN", variable)):
        if token := imported.access_token_in(value):
            return Credential(None, reason, token)
    if store.accounts:
        raise NotSignedIn(
            "No default account.",
            f"Choose one with 'llm chatgpt use NAME': {printable(', '.join(store.accounts))}.",
        )
    detail = ": the key chatgpt in 'llm keys' is not an access token (at-...)" if llm_key else ""
    registered_name = next(filter(store.registration, store.registrations), None)
    advice = f"Run '{store.login_command(registered_name)}' first"
    if imported.has_codex_login():
        advice += ", or 'llm chatgpt import' to use Codex CLI's login"
    raise NotSignedIn(f"Not signed in to ChatGPT{detail}.", f"{advice}.")


def _stored_login(name: str, store: Store) -> Tokens | None:
    """Return an account's login; None if it is not signed in.

    Raises NotSignedIn for an entry that this version does not understand. If it were skipped, the
    next login in the order could be another user's.
    """
    if name in store.entries and name not in store.accounts:
        raise NotSignedIn(
            f"The stored login '{printable(name, 60)}' is damaged, or was written by a newer "
            "llm-chatgpt-oauth.",
            f"Run '{store.login_command(name)}' to replace it, or update with 'llm install -U "
            "llm-chatgpt-oauth'.",
        )
    return store.accounts.get(name)


def _named_credential(name: str, store: Store, reason: str) -> Credential:
    if login := _stored_login(name, store):
        return Credential(name, reason, chosen_login=login)
    if store.registration(name):
        raise _signed_out(name, store)
    token = imported.access_token_in(files.llm_key(name) or name)
    if token:
        return Credential(None, reason, token)
    keys = files.llm_keys()
    token_keys = (key for key, value in keys.items() if imported.access_token_in(value))
    raise no_such_account(name, [*store.accounts, *token_keys])


def _signed_out(name: str | None, store: Store) -> NotSignedIn:
    return NotSignedIn(
        f"The account '{printable(name or '', 60)}' is signed out.",
        f"Run '{store.login_command(name)}' to sign in.",
    )


def no_such_account(name: str, accounts: Iterable[str]) -> NotSignedIn:
    """Build the error for an unknown account name. Shows the name unless it may be a token."""
    is_harmless = re.fullmatch(r"(?i)(?!(at|rt|sk)[-_]|eyj)[a-z0-9][\w.@+-]{0,23}", name)
    reason = f"No account named '{name}'." if is_harmless else "No account has this name."
    listed = printable(", ".join(accounts))
    advice = f"Accounts: {listed}." if listed else "Run 'llm chatgpt login' to sign in."
    return NotSignedIn(reason, advice)


# Owners that could not be stored, by the login file's path and a hash of the personal access token.
_unsaved_owners: dict[tuple[pathlib.Path, str], Tokens] = {}
_jobs = Jobs()


def stored_tokens(credential: Credential, store: Store) -> Tokens | None:
    """Return a credential's tokens as stored; None for an access token whose owner is unknown.

    Sends nothing. Raises NotSignedIn if the account has been signed out, or has the login of
    another user, workspace or route now.
    """
    if credential.access_token:
        key = (login_file.store_path(), token_hash(credential.access_token))
        return _unsaved_owners.get(key) or store.identify(credential.access_token)
    return _account_tokens(credential, store)


def _account_tokens(credential: Credential, store: Store) -> Tokens:
    name = credential.account
    tokens = store.get(name)
    if tokens is None:
        raise _signed_out(name, store)
    if credential.chosen_login and is_other_identity(credential.chosen_login, tokens):
        raise NotSignedIn(
            f"The account '{printable(name, 60)}' has another login now.",
            "Send the prompt again to use it.",
        )
    return tokens


def must_renew(account: str | None, tokens: Tokens, rejection: Rejection = NO_REJECTION) -> bool:
    """Return whether a login must be renewed before it is used. Sends nothing.

    Raises RefreshFailed if it has expired or was rejected, and cannot be renewed.
    """
    now = time.time()
    if rejection.concerns(tokens) or not still_works(tokens, now):
        login_command = tokens.route.login_command(account)
        oauth.check_renewable(tokens, login_command, rejection.date or now)
        return True
    return not tokens.refusal and needs_refresh(tokens, now)


@atexit.register
def _finish() -> None:
    with contextlib.suppress(KeyboardInterrupt, ChatGPTError):
        _jobs.wait_for_refresh(ending=True)
        login_file.save_unsaved()


def _refresh(credential: Credential, old: Tokens, rejection: Rejection) -> Tokens:
    """Refresh a login under the store's lock, and store the new tokens at once (P60).

    `old` are the tokens that the caller read. If another thread or process has stored others by
    now, return those. Raises NotSignedIn, RefreshFailed, StoreError.
    """
    name = credential.account or ""
    with locked_store() as writer, _jobs.sending():
        store = read_store()
        if store.unsaved:
            writer.save(store)
        tokens = _account_tokens(credential, store)
        try:
            if not must_renew(name, tokens, rejection) or tokens != old:
                return tokens
            writer.probe()
            new = oauth.refresh_tokens(tokens, login_command=tokens.route.login_command(name))
        except RefreshFailed as error:
            with contextlib.suppress(StoreError):
                store = read_store()
                # A program that ignores the lock may have replaced the login meanwhile.
                if store.accounts.get(name) == tokens:
                    ended = rejection.ends_login and rejection.concerns(tokens)
                    writer.save(store.put_refusal(name, error, ended=ended))
            raise
        writer.save_renewed(store, name, new)
        return new


def _try_refresh(credential: Credential, old: Tokens, rejection: Rejection) -> Tokens:
    """Run `_refresh`. If it fails but the stored tokens still work, warn and return those.

    They may be newer than `old`, or renewed but not yet written.
    """
    try:
        return _refresh(credential, old, rejection)
    except (RefreshFailed, StoreError) as error:
        store = read_store()
        tokens, now = _account_tokens(credential, store), time.time()
        if rejection.concerns(tokens) or not still_works(tokens, now):
            raise
        if credential.account == store.unsaved:
            warning = f"Warning: the login was renewed but not stored. {error.message}"
            _warn_once(login_file.store_path(), warning)
        elif needs_refresh(tokens, now):
            _warn_of_old_token(error.message, tokens)
        return tokens


def _warn_of_old_token(reason: str, tokens: Tokens) -> None:
    until = f" until {local_time(tokens.expires_at)}" if tokens.expires_at else ""
    _warn_once(login_file.store_path(), f"Warning: {reason} The old token works{until}.")


@functools.cache
def _warn_once(path: pathlib.Path, text: str) -> None:
    """Print a warning, once in a process for each login file."""
    notice(text)


def _identify(access_token: str) -> Tokens:
    """Look up the owner of a personal access token, and store it for all programs (P70).

    If it cannot be stored, only this process remembers it. Raises RefreshFailed.
    """
    tokens = None
    try:
        with locked_store() as writer:
            store = read_store()
            tokens = store.identify(access_token) or imported.request_owner(access_token)
            writer.save(store.put_identity(tokens))
    except StoreError as error:
        log.info("The access token's owner is not stored: %s", error)
        tokens = tokens or imported.request_owner(access_token)
        _unsaved_owners[login_file.store_path(), token_hash(access_token)] = tokens
    return tokens


def _tokens_or_job(
    key: str | Credential | None, rejected: str | Rejection | None
) -> Tokens | Future:
    """Return the stored tokens if they can be used as they are, otherwise the future of a job.

    The job renews them, or looks up the owner of a personal access token.

    Raises NotSignedIn, RefreshFailed, StoreError.
    """
    rejection = rejected if isinstance(rejected, Rejection) else Rejection(rejected)
    store = read_store()
    credential = key if isinstance(key, Credential) else choose_credential(key, store)
    tokens = stored_tokens(credential, store)
    if tokens is None:
        token = credential.access_token or ""
        return _jobs.submit(token, lambda: _identify(token))
    needs_lock = credential.account == store.unsaved
    # A 401 for a login that can be renewed is handled under the lock.
    needs_lock = needs_lock or (tokens.renewable and rejection.concerns(tokens))
    if not needs_lock and not must_renew(credential.account, tokens, rejection):
        if tokens.refusal:
            _warn_of_old_token(tokens.refusal, tokens)
        return tokens
    return _jobs.submit((tokens, rejection), lambda: _try_refresh(credential, tokens, rejection))


def get_tokens(
    key: str | Credential | None = None, *, rejected: str | Rejection | None = None
) -> Tokens:
    """Return a login that is valid now, renewed first if it expires within five minutes.

    `key` is an account's name, the name of one of llm's keys, or a personal access token; None
    means the login that `choose_credential` chooses. To stay with one user for several calls, pass
    the Credential that it returns.

    If several threads, tasks and processes ask at once, one of them refreshes and all get its
    result. `rejected` is an access token that the backend has just answered with 401: if the store
    has another one by now, that is returned; otherwise the login is renewed. An official login is
    renewed only if `rejected` is given; its expiry by this machine's clock does not count. Reading
    a valid token takes no lock. Raises NotSignedIn, RefreshFailed, StoreError.
    """
    result = _tokens_or_job(key, rejected)
    return result if isinstance(result, Tokens) else _jobs.result(result)


async def get_tokens_async(
    key: str | Credential | None = None, *, rejected: str | Rejection | None = None
) -> Tokens:
    """Do the same as `get_tokens` without blocking the event loop."""
    result = _tokens_or_job(key, rejected)
    return result if isinstance(result, Tokens) else await _jobs.result_async(result)


Result = TypeVar("Result")


def with_login(key: str | None, action: Callable[[Tokens, str], Result]) -> Result:
    """Call `action(tokens, login_command)`; after a 401, call it again with a renewed login (P61).

    `key` is as for `get_tokens`. `login_command` is the command that signs in again, for errors.
    """
    credential = choose_credential(key, read_store())
    tokens = get_tokens(credential)
    login_command = tokens.route.login_command(credential.account)
    try:
        return action(tokens, login_command)
    except RequestRefused as error:
        if not error.tokens_refused:
            raise
        rejection = Rejection(tokens.access_token, error.date, ends_login=False)
        return action(get_tokens(credential, rejected=rejection), login_command)
