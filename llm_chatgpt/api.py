"""The Python API for other programs (docs/reference.md).

Its names can also be imported from `llm_chatgpt_oauth`, and all but `login` from `llm_chatgpt`.
The modules that define them may change. `import x as x` tells type checkers that `x` is public.
"""

from llm_chatgpt.backend.tools import ImageGeneration as ImageGeneration
from llm_chatgpt.errors import AccountTaken as AccountTaken
from llm_chatgpt.errors import ChatGPTError as ChatGPTError
from llm_chatgpt.errors import DeviceLoginDisabled as DeviceLoginDisabled
from llm_chatgpt.errors import LoginDenied as LoginDenied
from llm_chatgpt.errors import LoginExpired as LoginExpired
from llm_chatgpt.errors import LoginFailed as LoginFailed
from llm_chatgpt.errors import NotSignedIn as NotSignedIn
from llm_chatgpt.errors import RefreshFailed as RefreshFailed
from llm_chatgpt.errors import RequestRefused as RequestRefused
from llm_chatgpt.errors import SlowDown as SlowDown
from llm_chatgpt.errors import StoreError as StoreError
from llm_chatgpt.errors import StreamFailed as StreamFailed
from llm_chatgpt.errors import UsageLimitReached as UsageLimitReached
from llm_chatgpt.login.browser import BrowserLogin as BrowserLogin
from llm_chatgpt.login.browser import login_with_browser as login_with_browser
from llm_chatgpt.login.credentials import get_tokens as get_tokens
from llm_chatgpt.login.credentials import get_tokens_async as get_tokens_async
from llm_chatgpt.login.device import DeviceCode as DeviceCode
from llm_chatgpt.login.device import login as login
from llm_chatgpt.login.device import poll_for_token as poll_for_token
from llm_chatgpt.login.device import request_device_code as request_device_code
from llm_chatgpt.login.login_file import load_tokens as load_tokens
from llm_chatgpt.login.login_file import store_tokens as store_tokens
from llm_chatgpt.login.oauth import refresh_tokens as refresh_tokens
from llm_chatgpt.login.official import OfficialLogin as OfficialLogin
from llm_chatgpt.login.official import login_officially as login_officially
from llm_chatgpt.login.tokens import Tokens as Tokens
from llm_chatgpt.login.tokens import extract_account_id as extract_account_id
from llm_chatgpt.login.tokens import parse_jwt_claims as parse_jwt_claims
