"""`reparamkit plan`: what `apply` would do."""

from __future__ import annotations

import json

import typer

import reparamkit
from reparamkit.cli.options import ExampleOption, JsonOption, ModelOption, PolicyOption, RecipeOption
from reparamkit.cli.outcome import Exit, exit_codes
from reparamkit.cli.screen import complain, progress, say


def command(
    model: ModelOption,
    recipe: RecipeOption = "auto",
    policy: PolicyOption = None,
    shape: ExampleOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what would be merged and what would be refused, and why. Writes nothing."""
    with exit_codes():
        from reparamkit.cli.example import example_for
        from reparamkit.model_source import load_model

        loaded = load_model(model)
        with progress():
            example = example_for(loaded, shape, recipe, policy)
            plan = reparamkit.plan(loaded, recipe, policy=policy, example_inputs=example)
        if as_json:
            typer.echo(json.dumps(plan.to_dict(), indent=2))
        else:
            say(str(plan))
        if not plan.edits and not plan.transforms:
            complain("nothing would be merged")
            raise typer.Exit(Exit.NOTHING)
