"""Read logins created elsewhere: personal access tokens (at-...) and Codex CLI's login.

The plugin never renews or revokes them.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import time

from llm_chatgpt.errors import LoginFailed, RefreshFailed
from llm_chatgpt.files import os_reason, read_file
from llm_chatgpt.login import oauth
from llm_chatgpt.login.new_login import fetch_workspace
from llm_chatgpt.login.tokens import (
    AUTH_CLAIM,
    FEDRAMP_CLAIM,
    Tokens,
    first_text,
    parse_jwt_claims,
    still_works,
    tokens_from_reply,
)
from llm_chatgpt.text import from_now, printable, short_path
from llm_chatgpt.values import as_mapping, as_number, as_text

SIGN_IN_AGAIN = "Sign in with Codex CLI again, or run 'llm chatgpt login'."


def read_codex_login(location: str | None = None) -> Tokens:
    """Read the access token and its owner from Codex CLI's login file (P64 to P68).

    `location` is that file or its folder (None: $CODEX_HOME, otherwise ~/.codex). Never returns
    the refresh token, which works once and belongs to Codex CLI. Raises LoginFailed.
    """
    home = os.environ.get("CODEX_HOME") or "~/.codex"
    path = pathlib.Path(os.path.expanduser(location or home))
    in_folder = not location or os.path.isdir(path)
    path = path / "auth.json" if in_folder else path
    file_name = short_path(printable(path, 300))
    try:
        return _parse_codex_login(read_file(path), file_name)
    except FileNotFoundError as error:
        keyring_advice = (
            "Codex CLI may store its login in the system's keyring: set "
            'cli_auth_credentials_store = "file" in its config.toml and sign in there again, '
            "or run 'llm chatgpt login'."
        )
        advice = keyring_advice if in_folder else "Name Codex CLI's auth.json or its folder."
        raise LoginFailed(f"There is no {file_name}.", advice) from error
    except OSError as error:
        reason = f"Could not read {file_name} ({os_reason(error)})."
        raise LoginFailed(reason, SIGN_IN_AGAIN) from error


def has_codex_login() -> bool:
    """Check whether Codex CLI has a login that can be imported and has not expired."""
    try:
        read_codex_login()
    except LoginFailed:
        return False
    return True


def _parse_codex_login(content: bytes, file_name: str) -> Tokens:
    """Parse Codex CLI's login file. `file_name` is for messages. Raises LoginFailed."""
    try:
        fields = as_mapping(json.loads(content))
    except (ValueError, RecursionError):
        fields = {}
    stored, mode = as_mapping(fields.get("tokens")), fields.get("auth_mode")
    if mode == "personalAccessToken" or (mode is None and fields.get("personal_access_token")):
        raise LoginFailed(
            f"{file_name} holds a personal access token.", "Store it with 'llm keys set chatgpt'."
        )
    tokens = tokens_from_reply({**stored, "refresh_token": None}, now=time.time())
    if mode not in (None, "chatgpt") or tokens is None:
        raise LoginFailed(f"{file_name} holds no ChatGPT login.", SIGN_IN_AGAIN)
    claims = parse_jwt_claims(tokens.access_token) or {}
    tokens = tokens._replace(
        id_token=None,
        # The token was issued some time ago, so its lifetime does not count from now.
        expires_at=as_number(claims.get("exp")),
        account_id=as_text(stored.get("account_id")) or tokens.account_id,
        kind="codex",
    )
    if not still_works(tokens, time.time()):
        raise LoginFailed(
            f"The access token in {file_name} expired {from_now(tokens.expires_at or 0)}.",
            "Run Codex CLI once to renew it, then run 'llm chatgpt import' again.",
        )
    return tokens


def access_token_in(value: object) -> str | None:
    """Return the personal access token (at-...) in a setting; None if it contains none."""
    text = value.strip() if isinstance(value, str) else ""
    return text if re.fullmatch(r"at-[!-~]+", text) else None


def request_owner(access_token: str) -> Tokens:
    """Ask the issuer for the owner of a personal access token, and the service for the owner's
    workspace (P70, P71). Raises RefreshFailed."""
    path = "/api/accounts/v1/user-auth-credential/whoami"
    headers = {"Authorization": f"Bearer {access_token}"}
    reply = oauth.ask_issuer("GET", path, RefreshFailed, headers=headers)
    if reply.status == 401:
        raise oauth.access_token_rejected()
    if reply.status != 200 or not reply.data:
        raise RefreshFailed(*oauth.explain(reply, "say who owns this access token"))
    # The field names of this endpoint are unknown: try the names that other endpoints use (P70).
    holders = [as_mapping(reply.data.get(AUTH_CLAIM)), reply.data]
    tokens = Tokens(
        access_token,
        account_id=first_text(holders, "chatgpt_account_id", "account_id"),
        email=first_text(holders, "email"),
        plan=first_text(holders, "chatgpt_plan_type", "plan_type", "plan"),
        fedramp=any(holder.get(FEDRAMP_CLAIM) is True for holder in holders),
        kind="access_token",
    )
    return fetch_workspace(tokens)
