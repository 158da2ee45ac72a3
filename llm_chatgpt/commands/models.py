"""llm chatgpt models and refresh."""

from __future__ import annotations

import json
from typing import Any

import click

from llm_chatgpt.backend.catalogue import ModelInfo, remembered_models
from llm_chatgpt.backend.fetch import fetch_models
from llm_chatgpt.commands.common import (
    account_option,
    chatgpt,
    echo_table,
    present_login,
    with_login,
)


@chatgpt.command(name="models")
@account_option
@click.option("all_", "--all", is_flag=True, help="Also those that are hidden in ChatGPT's apps")
@click.option("json_", "--json", is_flag=True, help="Output as JSON")
def models_command(account: str | None, all_: bool, json_: bool) -> None:
    """List the models that this login has

    Shows what was last fetched; 'llm chatgpt refresh' fetches anew.

    \b
        llm chatgpt models
        llm chatgpt models --all --json
    """
    tokens = present_login(account)
    models = remembered_models(tokens) if tokens else None
    if models is None or not models.models:
        models = with_login(account, fetch_models)
    shown = models.by_rank if all_ else models.listed
    if json_:
        click.echo(json.dumps([_model_json(model) for model in shown], indent=2))
        return
    rows: list[tuple[str, ...]]
    rows = [("MODEL", "CONTEXT", "REASONING EFFORTS (* default)", "SERVICE TIERS")]
    for model in shown:
        efforts = [
            f"{effort}*" if effort == model.default_effort else effort
            for effort in model.efforts or ()
        ]
        context = f"{model.context_window:,}" if model.context_window else "?"
        name = f"chatgpt-{model.slug}" + (" (hidden)" if model.hidden else "")
        rows.append((name, context, " ".join(efforts), " ".join(model.service_tiers)))
    echo_table(rows)


def _model_json(model: ModelInfo) -> dict[str, Any]:
    return {
        "model_id": f"chatgpt-{model.slug}",
        "slug": model.slug,
        "name": model.display_name,
        "hidden": model.hidden,
        "context_window": model.context_window,
        "default_reasoning_effort": model.default_effort,
        "reasoning_efforts": list(model.efforts or ()),
        "service_tiers": list(model.service_tiers),
        "images": model.takes_images,
        "successor": model.upgrade,
    }


@chatgpt.command()
@account_option
def refresh(account: str | None) -> None:
    """Fetch the list of models anew and say what came and went

    \b
        llm chatgpt refresh
    """
    tokens = present_login(account)
    before = remembered_models(tokens) if tokens else None
    models = with_login(account, fetch_models)
    old = {model.slug for model in before.models} if before else set()
    new = {model.slug: model for model in models.by_rank}
    for slug in new:
        if slug not in old:
            click.echo(f"New:  chatgpt-{slug}")
    for slug in sorted(old - set(new)):
        click.echo(f"Gone: chatgpt-{slug}")
    count = len(models.listed)
    changed = "" if set(new) != old else ", as before"
    click.echo(f"This login has {count} model{'' if count == 1 else 's'}{changed}.")
