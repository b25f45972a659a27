"""`reparamkit plan`: what `apply` would do."""

from __future__ import annotations

import json

import typer

import reparamkit
from reparamkit.cli.options import JsonOption, ModelOption, PolicyOption, RecipeOption
from reparamkit.cli.outcome import Exit, exit_codes
from reparamkit.cli.screen import complain, say


def command(
    model: ModelOption,
    recipe: RecipeOption = "auto",
    policy: PolicyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what would be merged and what would be refused, and why. Computes and writes nothing."""
    with exit_codes():
        from reparamkit.model_source import load_model

        plan = reparamkit.plan(load_model(model), recipe, policy=policy)
        if as_json:
            typer.echo(json.dumps(plan.to_dict(), indent=2))
        else:
            say(str(plan))
        if not plan.edits:
            complain("nothing would be merged")
            raise typer.Exit(Exit.NOTHING)
