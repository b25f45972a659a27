"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="SPEC",
        help="timm:NAME, torchvision:NAME, ultralytics:CFG, hf:CONFIG.json or module:callable (runs your code).",
    ),
]
RecipeOption = Annotated[
    str, typer.Option("--recipe", "-r", metavar="RECIPE", help="A shipped recipe's name, or a YAML file.")
]
PolicyOption = Annotated[
    str | None,
    typer.Option(
        "--policy",
        metavar="NAME",
        help="Overrides the recipe's: cheaper, always, or measured, measured_compile, measured_onnxruntime, "
        "measured_openvino, which time layers on this machine for inputs of the size of --input.",
    ),
]
WeightsOption = Annotated[
    Path | None,
    typer.Option("--weights", "-w", exists=True, dir_okay=False, help="Checkpoint: .safetensors, or .pt with tensors."),
]
InputOption = Annotated[
    str | None,
    typer.Option("--input", "-i", metavar="NxCxHxW", help="Shape of the input, as in 1x3x224x224; otherwise guessed."),
]
ExampleOption = Annotated[
    str | None,
    typer.Option(
        "--input",
        "-i",
        metavar="NxCxHxW",
        help="Shape of an example input: says how many axes layers get; `apply` compares the models on it.",
    ),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace an existing output file.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
