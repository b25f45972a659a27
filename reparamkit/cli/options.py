"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="SPEC",
        help="timm:NAME, torchvision:NAME, ultralytics:CFG or package.module:callable (the last runs your code).",
    ),
]
RecipeOption = Annotated[
    str, typer.Option("--recipe", "-r", metavar="RECIPE", help="A shipped recipe's name, or a YAML file.")
]
PolicyOption = Annotated[
    str | None, typer.Option("--policy", metavar="NAME", help="Overrides the recipe's: cheaper, always.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
