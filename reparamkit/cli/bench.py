"""`reparamkit bench`: a model before and after its conversion."""

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
from reparamkit.cli.screen import progress, say, show


def command(
    model: ModelOption,
    recipe: RecipeOption = "auto",
    weights: WeightsOption = None,
    policy: PolicyOption = None,
    shape: InputOption = None,
    engines: Annotated[
        list[str] | None,
        typer.Option("--engine", "-e", help="eager, compile, onnxruntime or openvino; may be given several times."),
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=2, help="Both models are timed in each.")] = 15,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Compute threads.")] = 1,
    plot: Annotated[Path | None, typer.Option("--plot", help="Write bars here (.svg).")] = None,
    as_json: JsonOption = False,
    force: ForceOption = False,
) -> None:
    """Measure a model before and after its conversion: time, multiply-accumulates, parameters, memory."""
    with exit_codes():
        from reparamkit.bench import bench
        from reparamkit.cli.example import example_for
        from reparamkit.example import example_input
        from reparamkit.model_source import load_model
        from reparamkit.output import checked_target, write_text

        if plot is not None:
            checked_target(plot, force=force, suffix=".svg")
        original = load_model(model, weights)
        with progress():
            example = example_for(original, shape, recipe, policy)
            deploy = reparamkit.apply(original, recipe, policy=policy, example_inputs=example)
            found = bench(
                original,
                deploy,
                example_input(original, shape),
                engines=engines or ["eager"],
                rounds=rounds,
                threads=threads,
            )
        if plot is not None:
            write_text(plot, found.to_svg(), force=force, suffix=".svg")
        if as_json:
            typer.echo(found.to_json())
            return
        say(str(found).partition("\n")[0])
        show(("", "before", "after", "change"), found.rows())
        if plot is not None:
            say(f"wrote {plot}")
