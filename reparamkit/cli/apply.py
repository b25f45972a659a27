"""`reparamkit apply`: convert a model and write the deploy checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import reparamkit
from reparamkit.cli.options import (
    ExampleOption,
    ForceOption,
    JsonOption,
    ModelOption,
    PolicyOption,
    RecipeOption,
    WeightsOption,
)
from reparamkit.cli.outcome import Exit, exit_codes
from reparamkit.cli.recipes import load_recipe_of
from reparamkit.cli.screen import complain, note_random_weights, progress, say

if TYPE_CHECKING:
    from reparamkit.recipe import Recipe
    from reparamkit.report import Report


def command(
    model: ModelOption,
    recipe: RecipeOption = "auto",
    weights: WeightsOption = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the converted weights here (.safetensors).")
    ] = None,
    policy: PolicyOption = None,
    shape: ExampleOption = None,
    as_json: JsonOption = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit 4, writing nothing, when anything is refused.")
    ] = False,
    verify: Annotated[bool, typer.Option("--verify/--no-verify", help="Prove every merge in float64.")] = True,
    upstream_names: Annotated[
        bool, typer.Option("--upstream-names", help="Call the weights as the upstream deploy checkpoint does.")
    ] = False,
    force: ForceOption = False,
) -> None:
    """Convert a model: multi-branch blocks become single-path ones, proven in float64."""
    with exit_codes():
        from reparamkit.checkpoint import checked_output, save
        from reparamkit.cli.example import example_for
        from reparamkit.model_source import load_model

        if output is not None:
            checked_output(output, _named(recipe, policy), force=force)
        loaded = load_model(model, weights)
        example = example_for(loaded, shape, recipe, policy)
        options: dict[str, Any] = {"policy": policy, "verify": verify, "example_inputs": example}
        with progress():
            converted, report = reparamkit.apply(loaded, recipe, inplace=True, return_report=True, **options)
        if as_json:
            typer.echo(report.to_json())
        else:
            say(str(report))
        _stop_unless_useful(report, strict)
        if output is None:
            return
        note_random_weights(model, weights)
        save(converted, output, report, source=weights, upstream_names=upstream_names, force=force)
        if not as_json:
            say(f"wrote {output}")


def _named(recipe: str, policy: str | None) -> Recipe:
    loaded = load_recipe_of(recipe)
    return loaded if policy is None else loaded.model_copy(update={"policy": policy})


def _stop_unless_useful(report: Report, strict: bool) -> None:
    refusals = len(report.refused) + len(report.untraceable)
    if strict and refusals:
        complain(f"--strict: {refusals} refusals")
        raise typer.Exit(Exit.REFUSED)
    if not report.merged:
        complain("nothing was merged")
        raise typer.Exit(Exit.NOTHING)
