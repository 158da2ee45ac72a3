"""Addresses, names, times and limits, and the settings in environment variables.

P and a number refer to a fact about the service in docs/protocol.md. Constants that end in _SECONDS
are in seconds. The functions for settings return the value, or the default if it is unset.
"""

from __future__ import annotations

import functools
import os
import re
import sys
import uuid

from llm_chatgpt.errors import ChatGPTError

WINDOWS = os.name == "nt"
# Codex CLI's client id, which this plugin uses, too. It is public and has no secret (P3).
CLIENT_ID = "app_EMoamEEZ73f0CkXaXp7hrann"
DEFAULT_ISSUER = "https://auth.openai.com"  # P1
# The API of the official route, which is also the resource that its tokens are for (P220).
DEFAULT_API_URL = "https://api.openai.com/v1"
# The scope that lets the official route's tokens use the plan.
PLAN_SCOPE = "chatgpt.tokens.use.direct"
# The page with the official route's terms.
OFFICIAL_PAGE = "https://developers.openai.com/siwc"

# Sign-in with a device code (P18 to P21, P29).
DEVICE_CODE_SECONDS = 15 * 60
POLL_INTERVAL_SECONDS = 5
POLL_INTERVAL_LIMITS = (1, 60)
SLOW_DOWN_SECONDS = 5
POLL_MARGIN = 1.2

# Refresh a login without an expiry date when it is this old (P52).
REFRESH_AFTER_SECONDS = 8 * 24 * 3600

# Sign-in through a browser. On the Codex route, OpenAI redirects only to these ports (P32).
REDIRECT_PORTS = (1455, 1457)
BROWSER_LOGIN_SECONDS = 10 * 60
REVOKE_TIMEOUT_SECONDS = 10.0
# How long a sign-in waits for the host of its workspace.
WORKSPACE_TIMEOUT_SECONDS = 5.0
# How long a cancelled caller, a signal handler and the end of the program wait for a refresh that
# has been sent. 'docker stop' kills after 10 seconds.
REFRESH_GRACE_SECONDS = 8.0
# How long a refresh waits for each piece of its answer, and for another program's refresh.
REFRESH_TIMEOUT_SECONDS = 120.0
LOCK_TIMEOUT_SECONDS = 180.0

# HTTP.
CONNECT_TIMEOUT_SECONDS = 15.0
AUTH_TIMEOUT_SECONDS = 30.0
# The largest answer that is read, except for images and answers to prompts.
MAX_REPLY_BYTES = 16 * 2**20
MAX_IMAGE_REPLY_BYTES = 128 * 2**20
# How long to wait for the end of a stream after its last event, so that its connection can
# be reused.
DRAIN_SECONDS = 0.1
KEEPALIVE_SECONDS = 300.0
# A new connection sends this much before it waits for the first acknowledgement (RFC 6928), so
# compressing a smaller request would save no time.
COMPRESS_ABOVE_BYTES = 14_000
# Larger requests usually contain images, which gzip compresses slowly and hardly at all.
GZIP_UP_TO_BYTES = 1_000_000
# An image takes 40 to 120 seconds (P151).
IMAGE_TIMEOUT_SECONDS = 300.0

# An event of this size, such as an image, is parsed in a thread instead of the event loop.
LARGE_EVENT_BYTES = 100_000

# How many further requests a prompt may take if the model wants to continue its answer (P171).
MAX_FURTHER_ROUNDS = 5

# Resends of a prompt, or of the request for a banked reset (P196, P212).
MAX_RESENDS = 4
# The longest pause before a resend, which the server may ask for, and the longest total of these
# pauses for one request. If more is needed, the error is final.
MAX_RETRY_AFTER_SECONDS = 60.0
MAX_RESEND_WAIT_SECONDS = 90.0
# How long to wait after the announced reset before a prompt is sent again.
AFTER_RESET_SECONDS = 5.0
FIRST_RESEND_PAUSE_SECONDS = 0.2

# The model list is fetched again when the server says that it has changed, at most this often.
MODELS_UPDATE_SECONDS = 3600.0
# How long a prompt that has reached a limit waits for the number of banked resets.
RESETS_TIMEOUT_SECONDS = 2.0
# If less than this is left of a usage limit, a note follows the answer.
LOW_ALLOWANCE_PERCENT = 10.0
USAGE_PAGE = "https://chatgpt.com/settings/usage"
DEFAULT_INSTRUCTIONS = "You are a helpful assistant."
IMAGE_TYPES = frozenset({"image/png", "image/jpeg", "image/webp", "image/gif"})
# Types that are sent as files (P126), and the suffix of each.
_OFFICE = "application/vnd.openxmlformats-officedocument"
FILE_TYPES = {
    "application/pdf": ".pdf",
    f"{_OFFICE}.wordprocessingml.document": ".docx",
    f"{_OFFICE}.presentationml.presentation": ".pptx",
    f"{_OFFICE}.spreadsheetml.sheet": ".xlsx",
}
# Types that are sent as text, and the suffix of each. Other files are sent as text if they are
# UTF-8.
TEXT_TYPES = {
    "text/plain": ".txt",
    "text/markdown": ".md",
    "text/csv": ".csv",
    "text/html": ".html",
    "application/json": ".json",
    "application/xml": ".xml",
}
MAX_FILE_MIB = 20


def may_be_text(kind: object) -> bool:
    """Check whether an attachment of this type may be text, such as source code."""
    family = str(kind).partition("/")[0]
    return kind == "image/svg+xml" or family not in ("image", "audio", "video", "font")


# The key of the plugin's metadata on llm's parts.
METADATA_KEY = "chatgpt"
# The namespace of the UUIDs that name conversations for the prompt cache (P213).
SESSION_NAMESPACE = uuid.UUID("8a2ff0b5-5e0b-5c5e-9d0f-0d8f6c1f7b1a")


def setting(name: str) -> str | None:
    """Return the environment variable LLM_CHATGPT_<name>; None if it is unset or empty."""
    return os.environ.get(f"LLM_CHATGPT_{name}") or None


def is_off(name: str) -> bool:
    """Check whether LLM_CHATGPT_<name> is 0, no, off or false."""
    return (setting(name) or "").lower() in ("0", "no", "off", "false")


def originator() -> str:
    """Return the client's name for headers. The service accepts third-party names, too (P82)."""
    return setting("ORIGINATOR") or "llm_chatgpt_oauth"


def models_client_version() -> str:
    """Return the client version for model lists.

    The server hides models that need a newer client (P197).
    """
    return setting("CLIENT_VERSION") or "1.0.0"


def named_models() -> list[str]:
    """Return the slugs in LLM_CHATGPT_MODELS, which are separated by commas."""
    names = (name.strip() for name in (setting("MODELS") or "").split(","))
    return [name.removeprefix("chatgpt-") for name in names if name]


def redirect_host() -> str:
    """Return the host to which the browser is redirected after the sign-in.

    Raises ChatGPTError if the setting is neither 127.0.0.1 nor localhost.
    """
    host = setting("REDIRECT_HOST") or "127.0.0.1"
    if host not in ("127.0.0.1", "localhost"):
        raise ChatGPTError(
            "LLM_CHATGPT_REDIRECT_HOST must be 127.0.0.1 or localhost, because OpenAI sends "
            "the browser to no other host.",
            "Correct or unset it.",
        )
    return host


def issuer() -> str:
    """Return the address of the sign-in host."""
    return _service_url("ISSUER", DEFAULT_ISSUER)


def base_url(origin: str | None = None) -> str:
    """Return the backend's address (P2). `origin` is the workspace's own host, if it has one."""
    return _service_url("BASE_URL", f"{origin or 'https://chatgpt.com'}/backend-api")


def is_workspace_origin(value: object) -> bool:
    """Check whether tokens may be sent to this origin: https, and chatgpt.com or a subdomain."""
    return bool(re.fullmatch(r"https://([a-z0-9-]+\.)*chatgpt\.com", str(value)))


def api_url() -> str:
    """Return the address of the official route's API (P218)."""
    return _service_url("API_URL", DEFAULT_API_URL)


def _service_url(name: str, default: str) -> str:
    url = (setting(name) or default).rstrip("/")
    host = r"https://[^\s/:@?#]+|http://(localhost|127(\.\d{1,3}){3}|\[::1\])"
    if not re.fullmatch(rf"({host})(:\d+)?(/\S*)?", url):
        raise ChatGPTError(
            f"LLM_CHATGPT_{name} must be an https:// address (http:// only on this machine's "
            "loopback), because tokens are sent to it.",
            "Correct or unset it.",
        )
    return url


def longest_limit_wait() -> float:
    """Return how many seconds a prompt may wait for a limit to reset; infinity for "1".

    Raises ChatGPTError for a value that is not a duration.
    """
    value = setting("WAIT") or "0"
    if value in ("0", "1"):
        return float("inf") if value == "1" else 0.0
    parts = re.fullmatch(r"(\d{1,6})([smhd])", value.lower())
    if parts is None:
        raise ChatGPTError("LLM_CHATGPT_WAIT must be 0, 1 or a duration such as 90s, 30m or 6h.")
    return float(parts[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[parts[2]]


def idle_timeout() -> float:
    """Return the number of seconds without data after which an answer counts as stalled (P159).

    Raises ChatGPTError for a value that is not a number above 0.
    """
    value = setting("TIMEOUT") or "300"
    if not re.fullmatch(r"\d*\.?\d+", value) or float(value) == 0:
        raise ChatGPTError("LLM_CHATGPT_TIMEOUT must be a number of seconds above 0.")
    return float(value)


@functools.cache
def user_agent() -> str:
    """Return the User-Agent: this plugin, its version, the system, and llm's version (P14, P75)."""
    from importlib.metadata import version

    python = ".".join(map(str, sys.version_info[:2]))
    return (
        f"llm-chatgpt-oauth/{version('llm-chatgpt-oauth')} "
        f"({sys.platform}; Python {python}) llm/{version('llm')}"
    )
