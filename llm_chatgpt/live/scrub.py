"""Remove secrets from recordings and reports: tokens, codes, ids, emails and cookies.

A value is secret if its field is one of `_PRIVATE_FIELDS`, or if it matches `_SECRET`. Only
harmless headers are kept.
"""

from __future__ import annotations

import json
import re
import urllib.parse
from collections.abc import Iterable, Mapping

from llm_chatgpt.live.recording import Exchange
from llm_chatgpt.login.tokens import Tokens

_PRIVATE_FIELDS = (
    "(?:(?:access|refresh|id)_token|device_auth_id|user_code|authorization_code|code_verifier"
    "|code_challenge|encrypted_content|(?:chatgpt_)?(?:account|user|account_user)_id|sub|jti|sid"
    "|safety_identifier|session_id|at_hash|id|call_id|item_id|prompt_cache_key|per_user_salt"
    "|profile_picture_url|sso_connection_name|encrypted_auth_metadata|given_name|family_name"
    "|nickname|picture)"
)
_FIELD = re.compile(rf'"({_PRIVATE_FIELDS})"(\s*:\s*)"((?:[^"\\]|\\.)+)"')
_ID_PREFIX = "(?:resp|msg|rs|fc|ws|ig|cmp|user|org|acct|acc|call|ts|req|sess)[_-]"
_SECRET = re.compile(
    # JWTs, including truncated ones; other tokens, codes and keys.
    r"(?<![\w-])eyJ[\w-]{3,}(?:\.[\w-]+)*|Bearer [\w.-]{6,}|gAAAA[\w-]{6,}"
    r"|(?<![\w-])(?:rt|at|ac|sk)[_.-](?=[\w-]*\d)[\w-]{6,}|deviceauth_(?=\w*\d)\w{6,}"
    # Client ids of the official route: each belongs to one user.
    r"|oaiapp_\w+"
    # Random ids, UUIDs, emails, cookies.
    rf"|(?<![\w-]){_ID_PREFIX}(?=[\w-]*\d)[\w-]{{8,}}"
    r"|\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"
    r"|[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+|(?i:cookie)\W{2,6}\w+=[^\"\\\r\n]*"
)
_HARMLESS_HEADERS = re.compile(
    r"accept|content-type|user-agent|originator|date|etag|retry-after|location|x-models-etag"
    r"|openai-(model|version)|x-codex-(?!turn-state).*|x-.*-(percent|minutes|seconds)"
)


class Scrubber:
    """Replaces each secret with a placeholder, the same one throughout a recording."""

    def __init__(self) -> None:
        self._placeholders: dict[str, str] = {}

    def text(self, text: str) -> str:
        """Scrub JSON, or a stream of events with JSON in them."""
        text = _FIELD.sub(lambda m: f'"{m[1]}"{m[2]}"{self._value(m[1], m[3])}"', text)
        return _SECRET.sub(lambda match: self.replacement("secret", match[0]), text)

    def body(self, content: bytes, content_type: str = "") -> bytes:
        """Scrub the body of a request or an answer."""
        text = content.decode("utf-8", "replace")
        if "x-www-form-urlencoded" in content_type:
            fields = {k: self._value(k, v) for k, v in urllib.parse.parse_qsl(text)}
            return urllib.parse.urlencode(fields).encode()
        return self.text(text).encode()

    def headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Return the harmless headers, scrubbed."""
        harmless = {k: v for k, v in headers.items() if _HARMLESS_HEADERS.fullmatch(k.lower())}
        return {name: self.text(value) for name, value in harmless.items()}

    def replacement(self, field: str, secret: str) -> str:
        """Return the placeholder for a secret. A placeholder is returned unchanged."""
        if secret.startswith("scrubbed-"):
            return secret
        if secret not in self._placeholders:
            count = sum(p.startswith(f"scrubbed-{field}-") for p in self._placeholders.values())
            self._placeholders[secret] = f"scrubbed-{field}-{count + 1}"
        return self._placeholders[secret]

    def _value(self, field: str, value: str) -> str:
        # `code` is secret only in forms; in JSON it is an error code. An `id` is secret only with a
        # known prefix: a service tier's id, for example, is not secret.
        is_private = re.fullmatch(f"{_PRIVATE_FIELDS}|code", field)
        if is_private and (field != "id" or re.match(_ID_PREFIX, value)):
            return self.replacement(field, value)
        return self.text(value)


def cassette(exchanges: Iterable[Exchange]) -> str:
    """Return exchanges as a vcrpy cassette without secrets. It is JSON, which is valid YAML."""
    scrubber = Scrubber()

    def header_lists(headers: Mapping[str, str]) -> dict[str, list[str]]:
        return {name: [value] for name, value in scrubber.headers(headers).items()}

    interactions = []
    for exchange in exchanges:
        content_type = exchange.request_headers.get("content-type", "")
        request = {
            "method": exchange.method,
            "uri": exchange.url,
            "body": scrubber.body(exchange.request_content, content_type).decode(),
            "headers": header_lists(exchange.request_headers),
        }
        response = {
            "status": {"code": exchange.status, "message": ""},
            "headers": header_lists(exchange.headers),
            "body": {"string": scrubber.body(exchange.reply.content).decode()},
        }
        interactions.append({"request": request, "response": response})
    return json.dumps({"version": 1, "interactions": interactions}, indent=1, ensure_ascii=False)


def secrets_in(text: str) -> list[str]:
    """Return the probable tokens, cookies, ids and emails in a text."""
    return _SECRET.findall(text)


def remove_secrets(text: str, tokens: Tokens) -> str:
    """Remove secrets, and everything that identifies the user, from a text."""
    identity = (tokens.account_id, tokens.email, tokens.workspace, tokens.subject)
    for secret in (*filter(None, identity), *secrets_in(text)):
        text = text.replace(secret, "[removed]")
    return text
