"""Takes secrets out of recordings and reports: tokens, codes, ids, emails and cookies.

A value is secret if its field is in `_PRIVATE_FIELDS`, or if it has one of the forms in `_SECRET`.
Of headers, only those that are known to be harmless are kept.
"""

from __future__ import annotations

import base64
import json
import re
import urllib.parse
from collections.abc import Iterable, Mapping

from llm_chatgpt.live.recording import Exchange
from llm_chatgpt.login.tokens import Tokens, parse_jwt_claims

_PRIVATE_FIELDS = (
    r"(access|refresh|id)_token|device_auth_id|user_code|authorization_code|code_(verifier|challenge)"
    r"|encrypted_content|(chatgpt_)?(account|user|account_user)_id|safety_identifier|sub|jti|sid"
    r"|session_id|at_hash|id|call_id|item_id|prompt_cache_key|profile_picture_url|per_user_salt"
    r"|sso_connection_name|encrypted_auth_metadata|given_name|family_name|nickname|picture"
)
_FIELD = re.compile(rf'"(?P<field>{_PRIVATE_FIELDS})"(?P<colon>\s*:\s*)"(?P<value>([^"\\]|\\.)+)"')
_RANDOM_ID = "(?:resp|msg|rs|fc|ws|ig|cmp|user|org|acct|acc|call|ts|req|sess)[_-]"
_SECRET = re.compile(
    # JWTs, also those that were cut off; the other tokens, codes and keys.
    r"(?<![\w-])eyJ[\w-]{3,}(?:\.[\w-]+)*|Bearer [\w.-]{6,}|gAAAA[\w-]{6,}"
    r"|(?<![\w-])(?:rt|at|ac|sk)[_.-](?=[\w-]*\d)[\w-]{6,}|deviceauth_(?=\w*\d)\w{6,}"
    # Client ids of the official route, which belong to one user each.
    r"|oaiapp_\w+"
    # Random ids, UUIDs, emails, cookies.
    rf"|(?<![\w-]){_RANDOM_ID}(?=[\w-]*\d)[\w-]{{8,}}"
    r"|\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"
    r"|[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+|(?i:cookie)\W{2,6}\w+="
)
_HARMLESS_HEADERS = re.compile(
    r"accept|content-(type|encoding)|user-agent|originator|date|etag|retry-after|location"
    r"|openai-(model|version)|x-models-etag|x-codex-(?!turn-state).*|x-.*-(percent|minutes|seconds)"
)
# The values that take the place of secrets.
EXAMPLE_EMAIL = "ada@example.com"
SCRUBBED_CLIENT_ID = "oaiapp_scrubbed"
_SCRUBBED = re.compile(rf"scrubbed-.*|{EXAMPLE_EMAIL}|{SCRUBBED_CLIENT_ID}|eyJ.*\.scrubbed")
# The header of every scrubbed JWT: {"alg":"none"}.
_JWT_HEADER = "eyJhbGciOiJub25lIn0"


class Scrubber:
    """Replaces each secret by a name that stays the same within one recording."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def text(self, text: str) -> str:
        """Scrub JSON, or a stream of events with JSON in them."""

        def field(match: re.Match[str]) -> str:
            name, colon, value = match["field"], match["colon"], match["value"]
            return f'"{name}"{colon}"{self._value(name, value)}"'

        text = _FIELD.sub(field, text)
        return _SECRET.sub(lambda match: self._secret("id", match[0]), text)

    def body(self, content: bytes, content_type: str) -> bytes:
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

    def _value(self, field: str, value: str) -> str:
        # In JSON, a `code` is an error's. The ids of service tiers are no secrets.
        secret = re.fullmatch(f"{_PRIVATE_FIELDS}|code", field)
        if secret and (field != "id" or re.match(_RANDOM_ID, value)):
            return self._secret(field, value)
        return self.text(value)

    def _secret(self, field: str, value: str) -> str:
        if _SCRUBBED.fullmatch(value):
            return value
        if value.startswith("eyJ"):
            return self._jwt(value)
        if value.startswith("oaiapp_"):
            return SCRUBBED_CLIENT_ID
        if "@" in value:
            return EXAMPLE_EMAIL
        if value not in self._names:
            same = sum(1 for name in self._names.values() if name.startswith(f"scrubbed-{field}-"))
            self._names[value] = f"scrubbed-{field}-{same + 1}"
        return self._names[value]

    def _jwt(self, token: str) -> str:
        """Replace the secrets in the claims; without the user's name, and without a signature."""
        claims = {k: v for k, v in (parse_jwt_claims(token) or {}).items() if k != "name"}
        payload = base64.urlsafe_b64encode(self.text(json.dumps(claims)).encode())
        return f"{_JWT_HEADER}.{payload.rstrip(b'=').decode()}.scrubbed"


def cassette(exchanges: Iterable[Exchange]) -> str:
    """Write exchanges without secrets, as vcrpy reads them: JSON, which is YAML as well."""
    scrubber = Scrubber()

    def headers(headers: Mapping[str, str]) -> dict[str, list[str]]:
        # Bodies are recorded without their compression.
        kept = scrubber.headers(headers)
        return {name: [value] for name, value in kept.items() if name != "content-encoding"}

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
            "body": {"string": scrubber.body(one.reply.content, "").decode()},
        }
        interactions.append({"request": request, "response": response})
    text = json.dumps({"version": 1, "interactions": interactions}, indent=1, ensure_ascii=False)
    return f"{text}\n"


def secrets_in(text: str) -> list[str]:
    """Return what looks like a token, a cookie, an id or an email in a text."""
    return [s for s in _SECRET.findall(text) if not _SCRUBBED.fullmatch(s)]


def harmless(text: str, tokens: Tokens) -> str:
    """Remove everything from a text that identifies the user or lets anybody in."""
    own = (tokens.account_id, tokens.email, tokens.workspace, tokens.subject)
    for secret in (*filter(None, own), *secrets_in(text)):
        text = text.replace(secret, "[removed]")
    return text
