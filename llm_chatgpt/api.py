"""The Python API for other programs (docs/reference.md).

Its names can also be imported from `llm_chatgpt_oauth`, and all but `login` from `llm_chatgpt`.
The modules that define them may change.
"""

from llm_chatgpt.backend.tools import ImageGeneration
from llm_chatgpt.errors import (
    AccountTaken,
    ChatGPTError,
    DeviceLoginDisabled,
    LoginDenied,
    LoginExpired,
    LoginFailed,
    NotSignedIn,
    RefreshFailed,
    RequestRefused,
    SlowDown,
    StoreError,
    StreamFailed,
    UsageLimitReached,
)
from llm_chatgpt.login.browser import BrowserLogin, login_with_browser
from llm_chatgpt.login.credentials import get_tokens, get_tokens_async
from llm_chatgpt.login.device import DeviceCode, login, poll_for_token, request_device_code
from llm_chatgpt.login.login_file import load_tokens, store_tokens
from llm_chatgpt.login.oauth import refresh_tokens
from llm_chatgpt.login.official import OfficialLogin, login_officially
from llm_chatgpt.login.tokens import Tokens, extract_account_id, parse_jwt_claims

__all__ = [
    "AccountTaken",
    "BrowserLogin",
    "ChatGPTError",
    "DeviceCode",
    "DeviceLoginDisabled",
    "ImageGeneration",
    "LoginDenied",
    "LoginExpired",
    "LoginFailed",
    "NotSignedIn",
    "OfficialLogin",
    "RefreshFailed",
    "RequestRefused",
    "SlowDown",
    "StoreError",
    "StreamFailed",
    "Tokens",
    "UsageLimitReached",
    "extract_account_id",
    "get_tokens",
    "get_tokens_async",
    "load_tokens",
    "login",
    "login_officially",
    "login_with_browser",
    "parse_jwt_claims",
    "poll_for_token",
    "refresh_tokens",
    "request_device_code",
    "store_tokens",
]
