"""The two routes to a ChatGPT plan: a table of what differs between them.

The Codex login is the default. The official one is OpenAI's documented "Sign in with ChatGPT", a
preview (facts: docs/protocol.md). The table has all differences in the use of a login. The
sign-ins themselves stand in device.py, browser.py and official.py, the registrations of the
official route in accounts.py, the Codex route's client id and all default addresses in config.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from llm_chatgpt import config
from llm_chatgpt.text import printable

# Error codes with which OpenAI refuses a refresh token for good, and what to say of the login.
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
    """How logins of one kind are made, renewed and used. The defaults are the Codex login's.

    `account` is the account name used when the user gives none, `plan` is shown in place of the
    plan if the tokens do not name it. With `form`, the token endpoint takes forms for everything.
    Every form also has the `token_fields`. A refresh is refused for good with a code of
    FINAL_REFUSALS, or with an error in JSON that has the status `final_status`.
    """

    # Which logins take this route, by their `kind`.
    kind: str = "login"
    # Signing in, renewing and signing out.
    authorize_path: str = "/oauth/authorize"
    token_path: str = "/oauth/token"  # noqa: S105 - an address
    revoke_path: str = "/oauth/revoke"
    scope: str = "openid profile email offline_access"
    login_option: str = ""
    account: str = "default"
    plan: str = ""
    form: bool = False
    token_fields: Mapping[str, str] = {}
    # A login is renewed so many seconds before its access token expires; None: only after the API
    # has refused the token.
    refresh_leeway: float | None = 5 * 60
    final_status: int | None = 401
    # Whether a session belongs to this plugin alone, so that a logout ends it at OpenAI, too.
    own_session: bool = False
    # Prompts and models. `base_url` takes the origin of the account's workspace.
    base_url: Callable[[str | None], str] = config.base_url
    responses_path: str = "/codex/responses"
    models_path: str = "/codex/models"
    # Empty if the route cannot create images outside a conversation.
    images_path: str = "/codex/images"
    # Whether requests name the account and this client.
    names_account: bool = True
    # Whether an effort can change within a conversation (docs/protocol.md, "Prompt cache").
    effort_updates: bool = True
    # Parts that requests never have, by the names of `OPTIONAL_PARTS` in the backend.
    without: frozenset[str] = frozenset()
    # Whether functions are the first input item, and which tools are refused.
    tools_in_input: bool = False
    refuses_tool: Callable[[str], bool] = lambda kind: False
    # Whether models are listed in the order to show them in, and some only for other clients.
    list_is_ordered: bool = False
    tells_usage: bool = True
    # How often a prompt is sent again after a failure of the server or the network.
    max_resends: int = 4

    def login_command(self, account: str | None = None) -> str:
        """Build the command that signs in under an account's name by this route."""
        named = account and account != self.account
        return f"llm chatgpt login{self.login_option}" + (
            f" --account {printable(account, 60)}" if named else ""
        )


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
    form=True,
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
    without=frozenset({"max_output_tokens", "compression"}),
    tools_in_input=True,
    refuses_tool=lambda kind: kind not in ("function", "web_search"),
    list_is_ordered=True,
    tells_usage=False,
    max_resends=2,
)
