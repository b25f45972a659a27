"""`reparamkit report`: convert a model and write an HTML report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import reparamkit
from reparamkit.cli.options import (
    ForceOption,
    InputOption,
    JsonOption,
    ModelOption,
    PolicyOption,
    RecipeOption,
    WeightsOption,
)
from reparamkit.cli.outcome import exit_codes
from reparamkit.cli.screen import progress, say


def command(
    model: ModelOption,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write (.html).")] = Path("report.html"),
    recipe: RecipeOption = "auto",
    weights: WeightsOption = None,
    policy: PolicyOption = None,
    shape: InputOption = None,
    run: Annotated[
        bool, typer.Option("--run/--no-run", help="Also run both models once, to compare outputs and count products.")
    ] = True,
    as_json: JsonOption = False,
    force: ForceOption = False,
) -> None:
    """Convert a model and write an HTML report: what merged, what not and why, and what it means for INT8."""
    with exit_codes():
        from reparamkit.bench.compare import size
        from reparamkit.cli.example import example_for
        from reparamkit.example import example_input
        from reparamkit.html import render
        from reparamkit.model_source import load_model
        from reparamkit.output import checked_target, write_text

        checked_target(output, force=force, suffix=".html")
        original = load_model(model, weights)
        x = example_input(original, shape) if run else example_for(original, shape, recipe, policy)
        with progress():
            deploy, report = reparamkit.apply(original, recipe, policy=policy, example_inputs=x, return_report=True)
        sizes = (size(original, x), size(deploy, x)) if run else None
        write_text(output, render(report, original, deploy, sizes=sizes, title=model), force=force, suffix=".html")
        if as_json:
            typer.echo(report.to_json())
        else:
            say(f"wrote {output}: {len(report.merged)} merges, {len(report.refused)} refusals")
