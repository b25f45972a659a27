"""`reparamkit demo`: expand, train, convert and compare a small network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reparamkit.cli.outcome import Exit, exit_codes
from reparamkit.cli.screen import complain


def command(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the two checkpoints.")] = Path(
        "demo-output"
    ),
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="How long to train.")] = 15,
) -> None:
    """Give a plain network branches, train it on handwritten digits, take them away again, and compare."""
    with exit_codes():
        try:
            from reparamkit.demo import run
        except ModuleNotFoundError as error:
            complain(f"{error.name} is not installed: pip install 'reparamkit[demo]'")
            raise typer.Exit(Exit.USAGE) from None
        if not run(output, epochs):
            complain("the converted network does not predict the same")
            raise typer.Exit(Exit.WRONG)
