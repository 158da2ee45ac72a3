"""Looks up names of the plugin wherever they live, while the rooms are being moved into."""

from __future__ import annotations

import pathlib
import sys
from typing import Any

import pytest

import llm_chatgpt_oauth as plugin

# For programs that tests start.
IMPORT = (
    f"import sys; sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r}); import rooms as p\n"
)


def _modules() -> list[Any]:
    package = [m for name, m in sys.modules.items() if name.startswith("llm_chatgpt.")]
    return [plugin, *package]


def __getattr__(name: str) -> Any:
    for module in _modules():
        if name in vars(module):
            return vars(module)[name]
    raise AttributeError(name)


def replace(monkeypatch: pytest.MonkeyPatch | None, name: str, value: Any) -> None:
    """Put a value in a name's place, in every module that has it."""
    found = [module for module in _modules() if name in vars(module)]
    assert found, name
    for module in found:
        if monkeypatch:
            monkeypatch.setattr(module, name, value)
        else:
            setattr(module, name, value)
