"""Sign in through a browser on the Codex route."""

from __future__ import annotations

import functools
from collections.abc import Callable

from llm_chatgpt import config
from llm_chatgpt.login import oauth
from llm_chatgpt.login.login_file import check_writable
from llm_chatgpt.login.new_login import store_new_login
from llm_chatgpt.login.routes import CODEX
from llm_chatgpt.login.tokens import Tokens


class BrowserLogin(oauth.AuthorizeRequest):
    """An AuthorizeRequest of the Codex route, optionally for one workspace.

    `account` is for error messages, which name the command that signs in again.
    """

    def __init__(self, port: int, workspace: str | None = None, account: str | None = None):
        parameters = {
            "client_id": config.CLIENT_ID,
            "id_token_add_organizations": "true",
            "codex_cli_simplified_flow": "true",
        }
        if workspace is not None:
            parameters["allowed_workspace_id"] = workspace
        login_command = f"{CODEX.login_command(account)} --browser"
        super().__init__(CODEX, config.redirect_host(), port, login_command, parameters)


def login_with_browser(
    account: str | None = None,
    *,
    show: Callable[[BrowserLogin], None],
    read_lines: oauth.ReadLines | None = None,
    replace: Callable[[Tokens, Tokens], bool] | None = None,
    workspace: str | None = None,
) -> Tokens:
    """Sign in through a browser that is redirected to this machine, and store the login.

    `show` presents the address. `read_lines(use_line, stop)`, if given, runs in a thread and calls
    `use_line` with each pasted line until `stop` is set. `account`, `replace` and `workspace` are
    as for `login`; the request also names the workspace. Raises LoginFailed and its subclasses,
    StoreError.
    """
    # Imported here, because http.server takes time to load.
    from llm_chatgpt.login import callback

    check_writable()
    approval = callback.wait_for_approval(
        functools.partial(BrowserLogin, workspace=workspace, account=account),
        host=config.redirect_host(),
        ports=config.REDIRECT_PORTS,
        show=show,
        read_lines=read_lines,
    )
    tokens = oauth.exchange_for_login(approval)
    return store_new_login(tokens, account, replace, workspace)
