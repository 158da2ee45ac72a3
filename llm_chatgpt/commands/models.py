"""The commands `models` and `refresh`."""

from __future__ import annotations

from typing import Any

import click

from llm_chatgpt import config
from llm_chatgpt.backend.catalogue import ModelInfo, stored_models
from llm_chatgpt.backend.endpoints import fetch_models
from llm_chatgpt.commands import chatgpt, common
from llm_chatgpt.login.credentials import with_login
from llm_chatgpt.text import notice


@chatgpt.command(name="models")
@common.account_option()
@click.option("all_", "--all", is_flag=True, help="Include models that ChatGPT's own apps hide")
@common.json_option
def models_command(account: str | None, all_: bool, json_: bool) -> None:
    """List the models of your login

    Shows the list fetched last; 'llm chatgpt refresh' fetches it again. Unless you set
    -o reasoning_effort, the service chooses the effort.

    \b
        llm chatgpt models
        llm chatgpt models --all --json
    """
    _, tokens = common.stored_login(account)
    models = stored_models(tokens)
    if not models.models:
        models = with_login(account, fetch_models)
    listed = models.by_rank if all_ else models.listed
    if json_:
        common.echo_json([_model_json(model) for model in listed])
    else:
        header = ("MODEL", "CONTEXT", "EFFORTS", "TIERS")
        rows = [header, *map(_model_row, listed)]
        notes = ["(hidden) " * model.hidden + model.description for model in listed]
        common.echo_table(rows, ["", *notes])
        notice("Unless you set -o reasoning_effort, the service chooses the effort.")
        if not tokens.route.reports_usage:
            # OpenAI's wording (P272).
            notice(f"Using ChatGPT plan. Manage usage: {config.USAGE_PAGE}")


def _model_row(model: ModelInfo) -> tuple[str, ...]:
    return (
        model.model_id,
        f"{model.context_window:,}" if model.context_window else "?",
        " ".join(model.efforts),
        " ".join(model.service_tiers),
    )


def _model_json(model: ModelInfo) -> dict[str, Any]:
    return {
        "model_id": model.model_id,
        "slug": model.slug,
        "name": model.display_name,
        "description": model.description,
        "hidden": model.hidden,
        "context_window": model.context_window,
        "default_reasoning_effort": model.default_effort,
        "reasoning_efforts": list(model.efforts),
        "service_tiers": list(model.service_tiers),
        "images": model.takes_images,
        "successor": model.upgrade,
    }


@chatgpt.command()
@common.account_option()
def refresh(account: str | None) -> None:
    """Fetch the list of models again and show what changed

    \b
        llm chatgpt refresh
    """
    before, models = with_login(
        account, lambda t, login: (stored_models(t), fetch_models(t, login))
    )
    old_ids = [model.model_id for model in before.by_rank]
    new_ids = [model.model_id for model in models.by_rank]
    changes = [f"New:  {model_id}" for model_id in new_ids if model_id not in old_ids]
    changes += [f"Gone: {model_id}" for model_id in old_ids if model_id not in new_ids]
    for change in changes:
        click.echo(change)
    count = len(models.listed)
    note = "" if changes else ", no changes"
    click.echo(f"{count} model{'' if count == 1 else 's'}{note}.")
