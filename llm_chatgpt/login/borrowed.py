"""Access tokens (at-...) and Codex CLI's login."""

from __future__ import annotations

import json
import os
import pathlib
import re
import time

from llm_chatgpt import config, http
from llm_chatgpt.errors import LoginFailed, RefreshFailed
from llm_chatgpt.files import os_reason
from llm_chatgpt.login.oauth import auth_host, unexpected
from llm_chatgpt.login.tokens import (
    AUTH_CLAIM,
    Tokens,
    parse_jwt_claims,
    still_works,
    tokens_from_reply,
)
from llm_chatgpt.text import local_time
from llm_chatgpt.values import as_mapping, as_number, as_text


def codex_auth_path(path: str | None = None) -> pathlib.Path:
    """Codex CLI's login file: below `path`, else $CODEX_HOME, else ~/.codex (auth.md 7)."""
    chosen = pathlib.Path(path or os.environ.get("CODEX_HOME") or "~/.codex").expanduser()
    return chosen / "auth.json" if chosen.is_dir() or not path else chosen


def read_codex_login(path: pathlib.Path) -> Tokens:
    """The access token in Codex CLI's login file, and whose it is (auth.md 7).

    Never its refresh token: that works once, for one program. Raises LoginFailed.
    """
    again = "Use 'llm chatgpt login' instead, or sign in with Codex CLI again."
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise LoginFailed(
            f"There is no {path}. Codex CLI may keep its login in the system's keyring: set "
            'cli_auth_credentials_store = "file" in its config.toml and sign in there again, '
            "or use 'llm chatgpt login'."
        ) from error
    except OSError as error:
        raise LoginFailed(f"{path} cannot be read ({os_reason(error)}). {again}") from error
    except (ValueError, RecursionError):
        # Without its cause, which would show what the file holds.
        raise LoginFailed(f"{path} is not readable as JSON. {again}") from None
    fields = as_mapping(data)
    held = as_mapping(fields.get("tokens"))
    access_token = as_text(held.get("access_token"))
    mode = fields.get("auth_mode")
    if mode == "personalAccessToken" or (mode is None and fields.get("personal_access_token")):
        raise LoginFailed(
            f"{path} holds a personal access token. Give it to llm: 'llm keys set chatgpt'."
        )
    if mode not in (None, "chatgpt") or access_token is None:
        raise LoginFailed(f"{path} holds no ChatGPT login. {again}")
    tokens = tokens_from_reply(
        {"access_token": access_token, "id_token": held.get("id_token")}, now=time.time()
    )
    claims = parse_jwt_claims(access_token) or {}
    assert tokens is not None
    tokens = tokens._replace(
        id_token=None,
        # It was made some time ago, so its length says nothing of when it ends.
        expires_at=as_number(claims.get("exp")),
        account_id=as_text(held.get("account_id")) or tokens.account_id,
        kind="codex",
    )
    if not still_works(tokens, time.time()):
        raise LoginFailed(
            f"The access token in {path} ended {local_time(tokens.expires_at or 0)}. Run Codex "
            "CLI once, which renews it, and import again."
        )
    return tokens


def request_whoami(access_token: str) -> Tokens:
    """A personal access token with its owner, as the issuer tells it (auth.md 7).

    Raises RefreshFailed.
    """
    library = http.http_library()
    url = f"{config.issuer()}/api/accounts/v1/user-auth-credential/whoami"
    headers = {"User-Agent": config.user_agent(), "Authorization": f"Bearer {access_token}"}
    try:
        response = http.sync_client(url).get(url, headers=headers)
    except library.TransportError as error:
        raise RefreshFailed(
            f"Whose access token this is was not found out: {auth_host()}: "
            f"{http.transport_reason(error)}. Check the network and try again.",
            permanent=False,
        ) from error
    reply = http.Reply.of(response)
    if reply.status == 401:
        raise access_token_refused()
    if reply.is_web_page:
        raise RefreshFailed(http.web_page_message(reply), permanent=False)
    if reply.status != 200 or not isinstance(reply.data, dict):
        raise RefreshFailed(unexpected(reply, "say whose access token this is"), permanent=False)
    # Names vary between the issuer's endpoints, and none of these is sure.
    fields = {**reply.data, **as_mapping(reply.data.get(AUTH_CLAIM))}

    def first(*names: str) -> str | None:
        return next((text for name in names if (text := as_text(fields.get(name)))), None)

    return Tokens(
        access_token,
        account_id=first("chatgpt_account_id", "account_id"),
        email=first("email"),
        plan=first("chatgpt_plan_type", "plan_type", "plan"),
        fedramp=fields.get("chatgpt_account_is_fedramp") is True,
        kind="access_token",
    )


def access_token_refused() -> RefreshFailed:
    return RefreshFailed(
        "OpenAI does not accept this access token (any more), and it cannot be renewed. Whoever "
        "made it in the workspace's settings, or the workspace's admin, can make a new one; "
        "then run 'llm keys set chatgpt', or put it where the old one was.",
        permanent=True,
    )


def access_token_in(value: object) -> str | None:
    """The personal access token that a setting holds (auth.md 7: at-...), None if it is none."""
    text = value.strip() if isinstance(value, str) else ""
    return text if re.fullmatch(r"at-[!-~]+", text) else None


def check_borrowed(tokens: Tokens, rejected: str | None) -> None:
    """Raises RefreshFailed for a token that has ended and is not ours to refresh."""
    refused = tokens.access_token == rejected
    if tokens.kind == "access_token" and refused:
        raise access_token_refused()
    if tokens.kind == "codex" and (refused or not still_works(tokens, time.time())):
        raise RefreshFailed(
            "The login that came from Codex CLI has ended, and only Codex CLI can renew it. Run "
            "Codex CLI once and then 'llm chatgpt import', or sign in: 'llm chatgpt login'.",
            permanent=True,
        )
