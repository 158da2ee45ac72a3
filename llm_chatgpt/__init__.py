"""The plugin's packages and modules, which docs/development.md lists.

The names of `api` can be imported from here, too, except `login`, which is a package.
"""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm_chatgpt import login as login
    from llm_chatgpt.api import *  # type: ignore[no-redef]  # noqa: F403


def __getattr__(name: str) -> Any:
    """Import a name of the Python API when it is used."""
    # `from llm_chatgpt import http` also calls this before it imports the module.
    if find_spec(f"{__name__}.{name}"):
        raise AttributeError(name)
    from llm_chatgpt import api

    return getattr(api, name)
