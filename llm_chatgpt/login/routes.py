"""The two routes to a ChatGPT plan, and a table of the differences between them.

The Codex route is the default. The official route is OpenAI's documented "Sign in with ChatGPT", a
preview (P215). Code that uses a login reads the table through `tokens.route`. Other modules contain
these differences:

- how each route signs in: device.py and browser.py (Codex), official.py
- the kinds of login, including imported ones, and how users are told apart: tokens.py
- which errors of the issuer mean that a registration is gone: oauth.py, official.py, store.py
- the error codes of prompts on the official route: backend/refusals.py
- the registrations that the official route needs: store.py
- the Codex route's client id and all default addresses: config.py
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from llm_chatgpt import config
from llm_chatgpt.text import printable

# Error codes that refuse a refresh token permanently (P54, P55, P240), each with the end of the
# sentence "Your ChatGPT login ...".
FINAL_REFUSALS: Mapping[str, str] = {
    "invalid_grant": "is no longer accepted",
    "invalid_refresh_token": "is no longer accepted",
    "refresh_token_expired": "has expired",
    "token_expired": "has expired",
    "refresh_token_invalidated": "was ended by OpenAI",
    "refresh_token_reused": "was renewed elsewhere, probably by a copy of the login file, or a "
    "renewal's answer was lost",
}


class Route(NamedTuple):
    """A row of the table, with the values of the Codex route as defaults."""

    # The `kind` of the logins on this route.
    kind: str = "login"
    # Signing in, renewing and signing out (P4, P9, P216).
    authorize_path: str = "/oauth/authorize"
    token_path: str = "/oauth/token"  # noqa: S105 - an address
    revoke_path: str = "/oauth/revoke"
    scope: str = "openid profile email offline_access"
    # The option of `llm chatgpt login` for this route.
    login_option: str = ""
    # The account name used when the user gives none.
    account: str = "default"
    # Shown instead of the tokens' plan, unless empty.
    plan: str = ""
    # Whether refreshes and revocations are sent as forms instead of JSON (P50, P238).
    sends_forms: bool = False
    # Fields to add to every request to the token endpoint.
    token_fields: Mapping[str, str] = {}
    # Seconds between the renewal of a login and its access token's expiry; None: the login is
    # renewed only after the API has refused the token (P52, P239).
    refresh_leeway: float | None = 5 * 60
    # The status of a JSON error that refuses a refresh token permanently, whatever its code (P55).
    final_status: int | None = 401
    # Whether a session belongs to this plugin alone, so that a logout also ends it at OpenAI.
    own_session: bool = False
    # Prompts and models. `base_url` takes the origin of the account's workspace, or None.
    base_url: Callable[[str | None], str] = config.base_url
    responses_path: str = "/codex/responses"
    models_path: str = "/codex/models"
    # Empty if the route cannot create images outside a conversation.
    images_path: str = "/codex/images"
    # Whether requests name the account and this client (P245).
    names_account: bool = True
    # Whether the service accepts changes of the effort within a conversation (P214, P255).
    effort_updates: bool = True
    # Parts that requests never contain (P254), by their names in backend/optional_parts.py.
    omitted_parts: frozenset[str] = frozenset()
    # Whether functions are sent as the first input item (P256).
    tools_in_input: bool = False
    # Whether the service refuses a type of tool (P260).
    refuses_tool: Callable[[str], bool] = lambda kind: False
    # Whether the service lists models in display order, and marks those to hide (P262).
    lists_in_order: bool = False
    # Whether the service reports the plan's usage (P12, P219).
    reports_usage: bool = True
    # The most resends of a prompt on this route, but never more than `config.MAX_RESENDS`.
    max_resends: int = config.MAX_RESENDS

    def login_command(self, account: str | None = None) -> str:
        """Build the command that signs in under an account's name on this route."""
        is_named = account and account != self.account
        option = f" --account {printable(account, 60)}" if is_named else ""
        return f"llm chatgpt login{self.login_option}{option}"


CODEX = Route()
OFFICIAL = Route(
    kind="official",
    authorize_path="/api/accounts/authorize",
    token_path="/api/accounts/oauth/token",  # noqa: S106 - an address
    revoke_path="/api/accounts/oauth/revoke",
    scope=f"openid profile email offline_access resource.invoke {config.PLAN_SCOPE}",
    login_option=" --official",
    account="official",
    plan="official",
    sends_forms=True,
    token_fields={"resource": config.DEFAULT_API_URL},
    refresh_leeway=None,
    final_status=None,
    own_session=True,
    base_url=lambda origin: config.api_url(),
    responses_path="/responses",
    models_path="/models",
    images_path="",
    names_account=False,
    effort_updates=False,
    omitted_parts=frozenset({"max_output_tokens", "compression"}),
    tools_in_input=True,
    refuses_tool=lambda kind: kind not in ("function", "web_search"),
    lists_in_order=True,
    reports_usage=False,
    max_resends=2,
)
