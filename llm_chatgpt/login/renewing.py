"""Send a request with a login, and once more with a renewed login after a 401."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from llm_chatgpt.errors import RequestRefused
from llm_chatgpt.login.current import (
    Credential,
    Rejection,
    choose_credential,
    get_tokens,
    get_tokens_async,
)
from llm_chatgpt.login.store import read_store
from llm_chatgpt.login.tokens import Tokens

Result = TypeVar("Result")


def with_login(key: str | None, action: Callable[[Tokens, str], Result]) -> Result:
    """What `action(tokens, login_command)` returns; after a 401 it is tried with a renewed login.

    `key` is as for `get_tokens`. `login_command` is the command that signs in again, which errors
    name.
    """
    credential, command = _chosen(key)
    tokens = get_tokens(credential)
    try:
        return action(tokens, command)
    except RequestRefused as error:
        rejection = _rejection(tokens, error)
        return action(get_tokens(credential, rejected=rejection), command)


async def with_login_async(
    key: str | None, action: Callable[[Tokens, str], Awaitable[Result]]
) -> Result:
    """`with_login` for an event loop."""
    credential, command = _chosen(key)
    tokens = await get_tokens_async(credential)
    try:
        return await action(tokens, command)
    except RequestRefused as error:
        rejection = _rejection(tokens, error)
        return await action(await get_tokens_async(credential, rejected=rejection), command)


def _chosen(key: str | None) -> tuple[Credential, str]:
    """The login that `key` stands for, and the command that signs in to it again."""
    store = read_store()
    credential = choose_credential(key, store)
    return credential, store.login_command(credential.account)


def _rejection(tokens: Tokens, error: RequestRefused) -> Rejection:
    """What a renewal needs to know of a 401. Raises any other error."""
    if not error.tokens_refused:
        raise error
    return Rejection(tokens.access_token, error.date, final=False)
