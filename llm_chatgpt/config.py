"""Addresses, names, times, limits and the settings of the environment."""

from __future__ import annotations

import functools
import os
import re
import sys
import uuid
from urllib.parse import urlsplit

from llm_chatgpt.errors import ChatGPTError

WINDOWS = os.name == "nt"
# auth.md 1: the public client of the Codex login; it has no secret.
CLIENT_ID = "app_EMoamEEZ73f0CkXaXp7hrann"
DEFAULT_ISSUER = "https://auth.openai.com"
DEFAULT_BASE_URL = "https://chatgpt.com/backend-api"
# The name and version that the backend is told. responses.md 1: foreign names are served,
# no `version` header is needed; both can be overridden for the day the service gates.
ORIGINATOR = "llm_chatgpt_oauth"
# responses.md 10: the server hides models that ask for a newer client than this.
MODELS_CLIENT_VERSION = "1.0.0"
# auth.md 2: the code lives 15 minutes; `interval` is a string, a number or missing.
DEVICE_CODE_SECONDS = 15 * 60
POLL_INTERVAL_SECONDS = 5
POLL_INTERVAL_LIMITS = (1, 60)
SLOW_DOWN_SECONDS = 5
# auth.md 5: refresh five minutes before the end; with no readable end, after 8 days.
REFRESH_LEEWAY_SECONDS = 5 * 60
REFRESH_AFTER_SECONDS = 8 * 24 * 3600
# auth.md 1, 3.3: the redirect addresses that are registered have these ports.
REDIRECT_PORTS = (1455, 1457)
SCOPE = "openid profile email offline_access"
BROWSER_LOGIN_SECONDS = 10 * 60
# auth.md 6
REVOKE_TIMEOUT_SECONDS = 10.0
# How long a login waits to hear where its workspace is served.
ORIGIN_TIMEOUT_SECONDS = 5.0
# Certificates of systems whose OpenSSL is not the one that Python was built with.
CERTIFICATE_FOLDER = "/etc/ssl/certs"
CERTIFICATE_FILES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/cert.pem")
# How long a cancelled caller waits for a refresh that is already out.
REFRESH_GRACE_SECONDS = 10.0
# Waiting for another program's refresh takes longer than that refresh may.
REFRESH_TIMEOUT_SECONDS = 60.0
LOCK_TIMEOUT_SECONDS = 90.0
CONNECT_TIMEOUT_SECONDS = 15.0
AUTH_TIMEOUT_SECONDS = 30.0
# responses.md 6: the official client gives up after 300 s without a frame.
IDLE_TIMEOUT_SECONDS = 300.0
# How long to wait for the end of a stream after its last event, to keep the connection.
DRAIN_SECONDS = 0.1
KEEPALIVE_SECONDS = 300.0
WRITE_BYTES = 128 * 1024
# How much of what has arrived is read before its first text leaves.
FEED_BYTES = 8 * 1024
# Resends happen only while nothing has been shown (responses.md 9).
MAX_RESENDS = 4
MAX_RESEND_WAIT_SECONDS = 30.0
FIRST_RESEND_PAUSE_SECONDS = 0.2
# responses.md 10: the official client asks every 5 minutes; here only when the list changed.
MODELS_UPDATE_SECONDS = 3600.0
MODELS_UPDATE_TIMEOUT_SECONDS = 2.0
# Below this much of a usage window, the person is told.
LOW_ALLOWANCE_PERCENT = 10.0
USAGE_PAGE = "https://chatgpt.com/settings/usage"
DEFAULT_INSTRUCTIONS = "You are a helpful assistant."
IMAGE_TYPES = frozenset({"image/png", "image/jpeg", "image/webp", "image/gif"})
# Our metadata on llm's parts, so that no other plugin's is taken for ours or ours for theirs.
METADATA_KEY = "chatgpt"
SESSION_NAMESPACE = uuid.UUID("8a2ff0b5-5e0b-5c5e-9d0f-0d8f6c1f7b1a")


def setting(name: str) -> str | None:
    """The environment variable LLM_CHATGPT_<name>, None when unset or empty."""
    return os.environ.get(f"LLM_CHATGPT_{name}") or None


def issuer() -> str:
    """Where logins happen: LLM_CHATGPT_ISSUER, else https://auth.openai.com."""
    return _service_url("ISSUER", DEFAULT_ISSUER)


def base_url(origin: str | None = None) -> str:
    """The backend: LLM_CHATGPT_BASE_URL, else at the origin that serves the account's
    workspace, else https://chatgpt.com/backend-api."""
    return _service_url("BASE_URL", f"{origin}/backend-api" if origin else DEFAULT_BASE_URL)


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
        f"LLM_CHATGPT_{name} must be an https:// address (http:// only on this "
        "machine's loopback), because tokens are sent to it. Correct or unset it."
    )


def idle_timeout() -> float:
    """Seconds without a byte after which an answer counts as stalled."""
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
    """An honest name: this plugin, its version, the system, and llm's version."""
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
