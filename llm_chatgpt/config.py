"""Addresses, names, times, limits and the settings of the environment.

Facts about the service are in docs/protocol.md. Constants that end in _SECONDS are seconds.
"""

from __future__ import annotations

import functools
import os
import re
import sys
import uuid
from collections.abc import Iterator
from urllib.parse import urlsplit

from llm_chatgpt.errors import ChatGPTError

WINDOWS = os.name == "nt"
# The public client of the Codex login; it has no secret (docs/protocol.md, as are all the
# facts of the service below).
CLIENT_ID = "app_EMoamEEZ73f0CkXaXp7hrann"
DEFAULT_ISSUER = "https://auth.openai.com"
DEFAULT_BASE_URL = "https://chatgpt.com/backend-api"
# The official sign-in: the API, also the name of what its tokens are for, and what a user must
# grant so that they can be used.
DEFAULT_API_URL = "https://api.openai.com/v1"
# Where OpenAI explains that sign-in and its terms.
OFFICIAL_PAGE = "https://developers.openai.com/siwc"
PLAN_SCOPE = "chatgpt.tokens.use.direct"
# Names other than those of OpenAI's own clients are served, without a `version` header. Users
# can set both, in case the service begins to insist on some.
ORIGINATOR = "llm_chatgpt_oauth"
# The server hides models that ask for a newer client than this.
MODELS_CLIENT_VERSION = "1.0.0"

# Login by device code.
DEVICE_CODE_SECONDS = 15 * 60
POLL_INTERVAL_SECONDS = 5
POLL_INTERVAL_LIMITS = (1, 60)
SLOW_DOWN_SECONDS = 5
POLL_MARGIN = 1.2

# Refresh a login without an expiry date when it is this old.
REFRESH_AFTER_SECONDS = 8 * 24 * 3600

# Login by browser. OpenAI sends the browser to these ports only.
REDIRECT_PORTS = (1455, 1457)
BROWSER_LOGIN_SECONDS = 10 * 60
REVOKE_TIMEOUT_SECONDS = 10.0
# How long a login waits to learn about its workspace.
WORKSPACE_TIMEOUT_SECONDS = 5.0
# How long a cancelled caller, or a signal that would end the program, waits for a refresh that
# has been sent. 'docker stop' kills after 10 seconds.
REFRESH_GRACE_SECONDS = 8.0
# How long a refresh waits for each piece of its answer. The wait for another program's refresh is
# longer.
REFRESH_TIMEOUT_SECONDS = 120.0
LOCK_TIMEOUT_SECONDS = 180.0

# HTTP.
CONNECT_TIMEOUT_SECONDS = 15.0
AUTH_TIMEOUT_SECONDS = 30.0
# The largest answer to a side request; pictures can be larger.
MAX_REPLY_BYTES = 16 * 2**20
MAX_IMAGE_REPLY_BYTES = 128 * 2**20
# An answer without data for this long counts as stalled, as in the official client.
IDLE_TIMEOUT_SECONDS = 300.0
# How long to wait for the end of a stream after its last event, so that its connection can
# be reused.
DRAIN_SECONDS = 0.1
KEEPALIVE_SECONDS = 300.0
# A new connection carries this much before it waits for the first acknowledgement (RFC 6928).
COMPRESS_ABOVE_BYTES = 14_000
# Larger requests contain images, of which gzip saves little and takes long.
GZIP_UP_TO_BYTES = 1_000_000
# A picture takes 40 to 120 seconds.
IMAGE_TIMEOUT_SECONDS = 300.0

# An event of this size, such as a picture, is read in a thread instead of the event loop.
LARGE_EVENT_BYTES = 100_000

# How often a model may go on after a complete answer.
MAX_FURTHER_ROUNDS = 5

# Sending a prompt again.
MAX_RESENDS = 4
# The longest single wait that the server can ask for; below, all waits of a prompt together.
MAX_RETRY_AFTER_SECONDS = 60.0
# How long after the announced reset a prompt is sent again.
AFTER_RESET_SECONDS = 5.0
MAX_RESEND_WAIT_SECONDS = 90.0
FIRST_RESEND_PAUSE_SECONDS = 0.2

# The model list is fetched again when the server says that it has changed, at most this often.
MODELS_UPDATE_SECONDS = 3600.0
# How long a prompt that has reached a limit waits to learn whether a reset is banked.
RESETS_TIMEOUT_SECONDS = 2.0
# Below this much left of a usage limit, a prompt says so.
LOW_ALLOWANCE_PERCENT = 10.0
USAGE_PAGE = "https://chatgpt.com/settings/usage"
DEFAULT_INSTRUCTIONS = "You are a helpful assistant."
IMAGE_TYPES = frozenset({"image/png", "image/jpeg", "image/webp", "image/gif"})
# Types that are sent as files, and the suffix of each. How sure it is that the service takes
# them: docs/protocol.md.
_OFFICE = "application/vnd.openxmlformats-officedocument"
FILE_TYPES = {
    "application/pdf": ".pdf",
    f"{_OFFICE}.wordprocessingml.document": ".docx",
    f"{_OFFICE}.presentationml.presentation": ".pptx",
    f"{_OFFICE}.spreadsheetml.sheet": ".xlsx",
}
# Types that are sent as text. Files of other types are, too, if their content is UTF-8.
TEXT_TYPES = {
    "text/plain": ".txt",
    "text/markdown": ".md",
    "text/csv": ".csv",
    "text/html": ".html",
    "application/json": ".json",
    "application/xml": ".xml",
}
MAX_FILE_MIB = 20


class AttachmentTypes(frozenset[str]):
    """The types of attachments that a model takes: those listed, and all that may be text.

    llm asks with `in`, and lists the types in its messages.
    """

    def __contains__(self, kind: object) -> bool:
        return super().__contains__(kind) or may_be_text(kind)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(super().__iter__()))


def may_be_text(kind: object) -> bool:
    """Check whether only the content tells if an attachment is text, as with source code."""
    family = str(kind).partition("/")[0]
    return kind == "image/svg+xml" or family not in ("image", "audio", "video", "font")


# The key of the plugin's metadata on llm's parts.
METADATA_KEY = "chatgpt"
SESSION_NAMESPACE = uuid.UUID("8a2ff0b5-5e0b-5c5e-9d0f-0d8f6c1f7b1a")


def setting(name: str) -> str | None:
    """Return the environment variable LLM_CHATGPT_<name>; None if it is unset or empty."""
    return os.environ.get(f"LLM_CHATGPT_{name}") or None


def is_off(name: str) -> bool:
    """Check whether LLM_CHATGPT_<name> is 0, no, off or false."""
    return (setting(name) or "").lower() in ("0", "no", "off", "false")


def originator() -> str:
    """Return the client name: LLM_CHATGPT_ORIGINATOR, otherwise the plugin's own."""
    return setting("ORIGINATOR") or ORIGINATOR


def models_client_version() -> str:
    """Return the `client_version` of model lists: LLM_CHATGPT_CLIENT_VERSION, or 1.0.0."""
    return setting("CLIENT_VERSION") or MODELS_CLIENT_VERSION


def named_models() -> list[str]:
    """Return the slugs in LLM_CHATGPT_MODELS, which are separated by commas."""
    names = (name.strip() for name in (setting("MODELS") or "").split(","))
    return [name.removeprefix("chatgpt-") for name in names if name]


def redirect_host() -> str:
    """Return the host of the redirect URI: LLM_CHATGPT_REDIRECT_HOST, or 127.0.0.1.

    Raises ChatGPTError for a value other than 127.0.0.1 and localhost.
    """
    host = setting("REDIRECT_HOST") or "127.0.0.1"
    if host not in ("127.0.0.1", "localhost"):
        raise ChatGPTError(
            "LLM_CHATGPT_REDIRECT_HOST must be 127.0.0.1 or localhost, because OpenAI sends "
            "the browser to no other host.",
            "Correct or unset it.",
        )
    return host


def residency() -> str | None:
    """Return the region to send instead of the login's: LLM_CHATGPT_RESIDENCY; "off" for none."""
    return setting("RESIDENCY")


def issuer() -> str:
    """Return the sign-in host: LLM_CHATGPT_ISSUER, or https://auth.openai.com."""
    return _service_url("ISSUER", DEFAULT_ISSUER)


def base_url(origin: str | None = None) -> str:
    """Return the backend's address: LLM_CHATGPT_BASE_URL, or below `origin` (the host of the
    account's workspace), or https://chatgpt.com/backend-api."""
    return _service_url("BASE_URL", f"{origin}/backend-api" if origin else DEFAULT_BASE_URL)


def is_workspace_origin(value: object) -> bool:
    """Check whether tokens may be sent to this origin: https, and chatgpt.com or a subdomain."""
    return isinstance(value, str) and bool(
        re.fullmatch(r"https://([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)*chatgpt\.com", value)
    )


def api_url() -> str:
    """Return the official route's API: LLM_CHATGPT_API_URL, or https://api.openai.com/v1."""
    return _service_url("API_URL", DEFAULT_API_URL)


def _service_url(name: str, default: str) -> str:
    url = (setting(name) or default).rstrip("/")
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        # A port that is not a number only shows when it is asked for.
        _ = parts.port
    except ValueError:
        parts, host = urlsplit(""), ""
    if host and parts.scheme == "https":
        return url
    if parts.scheme == "http" and (
        host in ("localhost", "::1") or re.fullmatch(r"127(\.\d{1,3}){3}", host)
    ):
        return url
    raise ChatGPTError(
        f"LLM_CHATGPT_{name} must be an https:// address (http:// only on this machine's "
        "loopback), because tokens are sent to it.",
        "Correct or unset it.",
    )


def longest_limit_wait() -> float:
    """Return how many seconds a prompt may wait for a limit to reset: LLM_CHATGPT_WAIT.

    Unset and "0" are 0, "1" is without end; else a duration such as 90s, 30m or 6h. Raises
    ChatGPTError for anything else.
    """
    value = setting("WAIT") or "0"
    if value in ("0", "1"):
        return float("inf") if value == "1" else 0.0
    parts = re.fullmatch(r"(\d{1,6})([smhd])", value.lower())
    if parts is None:
        raise ChatGPTError("LLM_CHATGPT_WAIT must be 0, 1 or a duration such as 90s, 30m or 6h.")
    return float(parts[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[parts[2]]


def idle_timeout() -> float:
    """Return after how many seconds without data an answer is stalled: LLM_CHATGPT_TIMEOUT.

    Raises ChatGPTError for a value that is no number above 0.
    """
    value = setting("TIMEOUT")
    if value is None:
        return IDLE_TIMEOUT_SECONDS
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ChatGPTError("LLM_CHATGPT_TIMEOUT must be a number of seconds above 0.")
    return seconds


@functools.cache
def user_agent() -> str:
    """Build the User-Agent: this plugin, its version, the system, and llm's version."""
    from importlib import metadata

    def version(package: str) -> str:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return "unknown"

    python = ".".join(map(str, sys.version_info[:2]))
    return (
        f"llm-chatgpt-oauth/{version('llm-chatgpt-oauth')} "
        f"({sys.platform}; Python {python}) llm/{version('llm')}"
    )
