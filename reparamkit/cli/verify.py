"""`reparamkit verify`: does a deploy checkpoint compute what the training weights do?"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

import reparamkit
from reparamkit.cli.options import InputOption, JsonOption, ModelOption, WeightsOption
from reparamkit.cli.outcome import exit_codes
from reparamkit.cli.screen import note_random_weights, progress, say


def command(
    model: ModelOption,
    deploy: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="Deploy checkpoint, written by `apply -o`.")
    ],
    weights: WeightsOption = None,
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", "-r", metavar="RECIPE", help="For a checkpoint that does not say which made it."),
    ] = None,
    shape: InputOption = None,
    rtol: Annotated[
        float | None, typer.Option("--rtol", min=0, help="Allowed error, relative to the largest output.")
    ] = None,
    runs: Annotated[int, typer.Option("--runs", min=1, help="How many random inputs.")] = 3,
    as_json: JsonOption = False,
) -> None:
    """Compare a deploy checkpoint with the training weights on random inputs. Exit 1 when they differ."""
    with exit_codes():
        from reparamkit.example import example_input
        from reparamkit.model_source import load_model
        from reparamkit.progress import watched

        note_random_weights(model, weights)
        original = load_model(model, weights)
        converted = reparamkit.load(original, deploy, recipe=recipe)
        with progress():
            compared = [
                reparamkit.verify(original, converted, example_input(original, shape, seed=seed), rtol=rtol)
                for seed in watched(range(runs), "comparing")
            ]
        worst = max(compared, key=lambda c: c.error)
        if as_json:
            typer.echo(json.dumps({"runs": runs, **asdict(worst)}, indent=2))
            return
        say(f"the same on {runs} inputs: {worst}")
