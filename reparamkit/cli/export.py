"""`reparamkit export`: convert a model and write it as ONNX, or as a torch.export program."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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

if TYPE_CHECKING:
    from torch import Tensor, nn


def command(
    model: ModelOption,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write: .onnx, or .pt2 for torch.export.")],
    recipe: RecipeOption = "auto",
    weights: WeightsOption = None,
    policy: PolicyOption = None,
    shape: InputOption = None,
    dynamic: Annotated[
        bool, typer.Option("--dynamic/--static", help="Leave batch and image size free, where the model does.")
    ] = True,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Compare what ONNX Runtime computes with the original.")
    ] = True,
    as_json: JsonOption = False,
    force: ForceOption = False,
) -> None:
    """Convert a model and export it."""
    with exit_codes():
        from reparamkit.cli.example import example_for
        from reparamkit.example import example_input
        from reparamkit.model_source import load_model
        from reparamkit.output import checked_target

        checked_target(output, force=force, suffix="" if output.suffix == ".pt2" else ".onnx")
        original = load_model(model, weights)
        with progress():
            example = example_for(original, shape, recipe, policy)
            deploy = reparamkit.apply(original, recipe, policy=policy, example_inputs=example)
        x = example_input(original, shape)
        if output.suffix == ".pt2":
            _program(deploy, x, output, dynamic, as_json)
            return
        made = reparamkit.export_onnx(
            deploy, output, x, original=original if verify else None, dynamic=dynamic, force=force
        )
        typer.echo(json.dumps({**asdict(made), "file": str(output)}, indent=2)) if as_json else say(str(made))


def _program(deploy: nn.Module, x: Tensor, output: Path, dynamic: bool, as_json: bool) -> None:
    import torch

    from reparamkit.export.program import free_axes
    from reparamkit.output import replacing

    program = reparamkit.export_program(deploy, x, dynamic=dynamic)
    with replacing(output) as temporary, temporary.open("wb") as file:
        torch.export.save(program, file)
    if as_json:
        typer.echo(json.dumps({"file": str(output), "free": free_axes(program)}, indent=2))
        return
    say(f"wrote {output}")
