"""The commands, put together."""

from __future__ import annotations

from typing import Annotated

import typer

import reparamkit
from reparamkit.cli import apply, demo, expand, plan, plugins, recipes, rules

app = typer.Typer(
    name="reparamkit",
    help="Turn multi-branch PyTorch models into single-path ones that compute the same.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(reparamkit.__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Exit codes: 0 done, 1 verification failed, 2 wrong usage, recipe or model, 3 nothing merged, 4 refused."""


app.command("apply")(apply.command)
app.command("expand")(expand.command)
app.command("plan")(plan.command)
app.add_typer(recipes.app, name="recipes")
app.command("rules")(rules.command)
app.command("plugins")(plugins.command)
app.command("demo")(demo.command)
