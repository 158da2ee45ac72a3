"""Takes secrets out of recordings and reports: tokens, codes, ids, emails and cookies."""

from __future__ import annotations

import base64
import json
import re
import urllib.parse
from collections.abc import Iterable, Mapping

from llm_chatgpt.live.recording import Recorded
from llm_chatgpt.login.tokens import Tokens, parse_jwt_claims

SECRET_FIELDS = [
    *("access_token", "refresh_token", "id_token", "device_auth_id", "user_code", "code"),
    *("authorization_code", "code_verifier", "code_challenge", "encrypted_content"),
    *("obfuscation", "account_id", "user_id", "chatgpt_account_id", "chatgpt_user_id"),
    *("chatgpt_account_user_id", "safety_identifier", "sub", "jti", "session_id", "sid"),
    *("at_hash", "id", "call_id", "item_id", "prompt_cache_key"),
    *("profile_picture_url", "sso_connection_name", "per_user_salt", "encrypted_auth_metadata"),
]
# All others may name the user, or say where a request came from.
_HARMLESS_HEADERS = re.compile(
    r"accept|content-(type|encoding)|user-agent|originator|date|etag|retry-after|location"
    r"|openai-(model|version)|x-models-etag|x-codex-(?!turn-state).*|x-.*-(percent|minutes|seconds)"
)
_JWT = re.compile(r"eyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_EMAIL = re.compile(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+")
_FIELD = re.compile(r'"(' + "|".join(SECRET_FIELDS) + r')"(\s*:\s*)"((?:[^"\\]|\\.)+)"')
_UUID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")
# Claims with the name or the face of the user.
_NAMES = ("name", "given_name", "family_name", "nickname", "picture")
# A client id of the official route belongs to one user.
_CLIENT_ID = re.compile(r"oaiapp_\w+")
_MARK = "scrubbed-"
EXAMPLE_EMAIL = "ada@example.com"
# What stands for such a client id, and for the port that a browser comes back to.
SCRUBBED_CLIENT_ID = "oaiapp_scrubbed"
_PORT = re.compile(r"127\.0\.0\.1:\d+")


class Scrubber:
    """Replaces each secret by a name that stays the same within one recording."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def name(self, field: str, value: str) -> str:
        # What was scrubbed before stays; error codes and models are no secrets.
        if _MARK in value or (field == "code" and re.fullmatch(r"[a-z_]{4,60}", value)):
            return value
        if value in self._names:
            return self._names[value]
        secret_id = re.match(r"(resp|msg|rs|fc|ws|ig|user|org)[_-]", value) or _UUID.match(value)
        if field == "id" and not secret_id:
            return value
        if value not in self._names:
            same = sum(1 for name in self._names.values() if name.startswith(f"{_MARK}{field}-"))
            self._names[value] = f"{_MARK}{field}-{same + 1}"
        return self._names[value]

    def jwt(self, token: str) -> str:
        header, payload, signature = token.split(".")
        if signature == "scrubbed":
            return token
        claims = parse_jwt_claims(token)
        if claims is None:
            return self.name("token", token)
        claims = {k: v for k, v in claims.items() if k not in _NAMES}
        plain = self.text(json.dumps(claims))
        payload = base64.urlsafe_b64encode(plain.encode()).rstrip(b"=").decode()
        return f"{header}.{payload}.scrubbed"

    def text(self, text: str) -> str:
        """JSON, or a stream of events with JSON in them."""
        text = _JWT.sub(lambda match: self.jwt(match[0]), text)

        def field(match: re.Match[str]) -> str:
            value = match[3]
            scrubbed = value if _JWT.fullmatch(value) else self.name(match[1], value)
            return f'"{match[1]}"{match[2]}"{scrubbed}"'

        text = _FIELD.sub(field, text)
        # Accounts are also listed without a field's name.
        text = _UUID.sub(lambda match: self.name("uuid", match[0]), text)
        text = _CLIENT_ID.sub(SCRUBBED_CLIENT_ID, text)
        return _EMAIL.sub(EXAMPLE_EMAIL, text)

    def body(self, body: bytes | str | None, content_type: str) -> bytes:
        if not body:
            return b""
        text = body if isinstance(body, str) else body.decode("utf-8", "replace")
        if "x-www-form-urlencoded" in content_type:
            pairs = [
                (k, _PORT.sub("127.0.0.1:1", _CLIENT_ID.sub(SCRUBBED_CLIENT_ID, v)))
                for k, v in urllib.parse.parse_qsl(text)
            ]
            # A form's `code` is never an error's.
            fields = {"code": "authorization_code"}
            named = [
                (k, self.name(fields.get(k, k), v) if k in SECRET_FIELDS else v) for k, v in pairs
            ]
            return urllib.parse.urlencode(named).encode()
        return self.text(text).encode()

    def headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Those that say nothing about the user."""
        harmless = {k: v for k, v in headers.items() if _HARMLESS_HEADERS.fullmatch(k.lower())}
        return {name: self.text(value) for name, value in harmless.items()}


def cassette(recorded: Iterable[Recorded]) -> str:
    """The exchanges without secrets, as vcrpy reads them: JSON, which is YAML as well.

    Raises ValueError if anything in it still looks like a secret.
    """
    scrubber = Scrubber()
    interactions = []
    for one in recorded:
        kind = one.request_headers.get("content-type", "")
        request = {
            "method": one.method,
            "uri": one.url,
            "body": scrubber.body(one.request_body, kind).decode(),
            "headers": _lists(scrubber.headers(one.request_headers)),
        }
        response = {
            "status": {"code": one.status, "message": ""},
            "headers": _lists(scrubber.headers(one.headers)),
            "body": {"string": scrubber.body(one.reply.content, "").decode()},
        }
        interactions.append({"request": request, "response": response})
    text = json.dumps({"version": 1, "interactions": interactions}, indent=1, ensure_ascii=False)
    if left := secrets_in(text):
        raise ValueError(f"{len(left)} secrets are left")
    return text + "\n"


def _lists(headers: Mapping[str, str]) -> dict[str, list[str]]:
    """Headers as vcrpy has them; bodies are recorded without their compression."""
    return {name: [value] for name, value in headers.items() if name != "content-encoding"}


_SECRETS = re.compile(
    # Tokens, keys and codes; emails; cookies; UUIDs; ids that are random.
    r"(?<![\w-])(?:rt|at|ac|sk)[_.-](?=[\w-]*\d)[\w-]{6,}|deviceauth_(?=\w*\d)\w{6,}|gAAAA[\w-]{6,}"
    r"|oaiapp_(?!scrubbed)\w+|Bearer [\w.-]{6,}|(?i:cookie)\W{2,6}\w+="
    r"|(?<![\w-])(?:resp|msg|rs|fc|ws|ig|cmp|user|org|acct|acc|call|ts|req|sess)[_-](?=[\w-]*\d)"
    r"[\w-]{8,}"
)


def secrets_in(text: str) -> list[str]:
    """What looks like a token, a cookie, an id or an email in a text."""
    found = [*_SECRETS.findall(text), *_UUID.findall(text)]
    found += [email for email in _EMAIL.findall(text) if email != EXAMPLE_EMAIL]
    # A token may have been cut off.
    tokens = re.findall(r"(?<![\w-])eyJ[\w.-]{6,}", text)
    return found + [token for token in tokens if not token.endswith(".scrubbed")]


def harmless(text: str, tokens: Tokens | None) -> str:
    """A line of a report without anything that identifies the user or lets anybody in."""
    known = [tokens.account_id, tokens.email, tokens.workspace, tokens.subject] if tokens else []
    for secret in [*filter(None, known), *secrets_in(text)]:
        text = text.replace(secret, "[removed]")
    return text
