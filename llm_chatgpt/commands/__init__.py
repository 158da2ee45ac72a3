"""The group `llm chatgpt`. Only its commands print to stdout."""

from __future__ import annotations

import importlib
import io
import os
import sys
from typing import Any

import click

from llm_chatgpt.errors import ChatGPTError
from llm_chatgpt.text import notice

COMMAND_MODULES = ("accounts", "doctor", "image", "login", "models", "usage")


class _Group(click.Group):
    """A group that imports its commands when one is used, so that other llm commands start fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        _import_commands()
        return super().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        _import_commands()
        return super().get_command(ctx, cmd_name)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ChatGPTError as error:
            if os.environ.get("LLM_RAISE_ERRORS"):
                raise
            notice(f"Error: {error.message}")
            ctx.exit(error.exit_code)


def _import_commands() -> None:
    for module in COMMAND_MODULES:
        importlib.import_module(f"{__name__}.{module}")


@click.group(cls=_Group)
@click.version_option(package_name="llm-chatgpt-oauth", prog_name="llm-chatgpt-oauth")
def chatgpt() -> None:
    """Use OpenAI's models with your ChatGPT subscription"""
    # Print ? for a character that an old code page lacks, instead of failing.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
