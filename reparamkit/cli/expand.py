"""`reparamkit expand`: give a plain model branches and write the checkpoint that training starts from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

import reparamkit
from reparamkit.cli.options import ForceOption, JsonOption, ModelOption
from reparamkit.cli.outcome import Exit, exit_codes
from reparamkit.cli.screen import complain, say


def command(
    model: ModelOption,
    recipe: Annotated[
        str, typer.Option("--recipe", "-r", metavar="RECIPE", help="A recipe with an expand section, or a YAML file.")
    ],
    weights: Annotated[
        Path | None,
        typer.Option("--weights", "-w", exists=True, dir_okay=False, help="Checkpoint of the plain model."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the expanded weights here (.safetensors).")
    ] = None,
    scratch: Annotated[
        bool, typer.Option("--scratch", help="Start from initial numbers, not from the model's.")
    ] = False,
    as_json: JsonOption = False,
    force: ForceOption = False,
) -> None:
    """Expand a plain model: its layers get the branches of a recipe; `apply` takes them away again."""
    with exit_codes():
        from reparamkit.checkpoint import checked_output
        from reparamkit.checkpoint.file import write
        from reparamkit.model_source import load_model

        if output is not None:
            checked_output(output, None, force=force)
        loaded = load_model(model, weights)
        init: Literal["scratch"] | None = "scratch" if scratch else None
        expanded, report = reparamkit.expand(loaded, recipe, inplace=True, init=init, return_report=True)
        if as_json:
            typer.echo(json.dumps(report.to_dict(), indent=2))
        else:
            say(str(report))
        if not report.layers:
            complain("nothing was expanded")
            raise typer.Exit(Exit.NOTHING)
        if output is None:
            return
        metadata = {"reparamkit": reparamkit.__version__, "expanded_by": report.recipe}
        write(output, expanded.state_dict(), metadata, force=force)
        if not as_json:
            say(f"wrote {output}")
