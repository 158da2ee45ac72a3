"""Takes secrets out of recordings and reports: tokens, codes, ids, emails and cookies.

A value is secret if its field is one of `_PRIVATE_FIELDS`, or if it has one of the forms in
`_SECRET`. Of headers, only those that are known to be harmless are kept.
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
    # JWTs, also those that were cut off; the other tokens, codes and keys.
    r"(?<![\w-])eyJ[\w-]{3,}(?:\.[\w-]+)*|Bearer [\w.-]{6,}|gAAAA[\w-]{6,}"
    r"|(?<![\w-])(?:rt|at|ac|sk)[_.-](?=[\w-]*\d)[\w-]{6,}|deviceauth_(?=\w*\d)\w{6,}"
    # Client ids of the official route, which belong to one user each.
    r"|oaiapp_\w+"
    # Random ids, UUIDs, emails, cookies.
    rf"|(?<![\w-]){_ID_PREFIX}(?=[\w-]*\d)[\w-]{{8,}}"
    r"|\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"
    r"|[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+|(?i:cookie)\W{2,6}\w+="
)
_HARMLESS_HEADERS = re.compile(
    r"accept|content-type|user-agent|originator|date|etag|retry-after|location|x-models-etag"
    r"|openai-(model|version)|x-codex-(?!turn-state).*|x-.*-(percent|minutes|seconds)"
)


class Scrubber:
    """Replaces each secret by a name that stays the same within one recording."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

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
        """Return the headers that say nothing about the user."""
        harmless = {k: v for k, v in headers.items() if _HARMLESS_HEADERS.fullmatch(k.lower())}
        return {name: self.text(value) for name, value in harmless.items()}

    def replacement(self, field: str, secret: str) -> str:
        """Return the name that takes the place of a secret; a name is its own replacement."""
        if secret.startswith("scrubbed-"):
            return secret
        if secret not in self._names:
            same = sum(1 for name in self._names.values() if name.startswith(f"scrubbed-{field}-"))
            self._names[secret] = f"scrubbed-{field}-{same + 1}"
        return self._names[secret]

    def _value(self, field: str, value: str) -> str:
        # In JSON, a `code` is an error's. The ids of service tiers are no secrets.
        is_private = re.fullmatch(f"{_PRIVATE_FIELDS}|code", field)
        if is_private and (field != "id" or re.match(_ID_PREFIX, value)):
            return self.replacement(field, value)
        return self.text(value)


def cassette(exchanges: Iterable[Exchange]) -> str:
    """Write exchanges without secrets, as vcrpy reads them: JSON, which is YAML as well."""
    scrubber = Scrubber()

    def headers(headers: Mapping[str, str]) -> dict[str, list[str]]:
        return {name: [value] for name, value in scrubber.headers(headers).items()}

    interactions = []
    for one in exchanges:
        kind = one.request_headers.get("content-type", "")
        request = {
            "method": one.method,
            "uri": one.url,
            "body": scrubber.body(one.request_content, kind).decode(),
            "headers": headers(one.request_headers),
        }
        response = {
            "status": {"code": one.status, "message": ""},
            "headers": headers(one.headers),
            "body": {"string": scrubber.body(one.reply.content).decode()},
        }
        interactions.append({"request": request, "response": response})
    return json.dumps({"version": 1, "interactions": interactions}, indent=1, ensure_ascii=False)


def secrets_in(text: str) -> list[str]:
    """Return what looks like a token, a cookie, an id or an email in a text."""
    return _SECRET.findall(text)


def harmless(text: str, tokens: Tokens) -> str:
    """Remove everything from a text that identifies the user or lets anybody in."""
    own = (tokens.account_id, tokens.email, tokens.workspace, tokens.subject)
    for secret in (*filter(None, own), *secrets_in(text)):
        text = text.replace(secret, "[removed]")
    return text
