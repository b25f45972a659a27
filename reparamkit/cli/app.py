"""The commands, put together."""

from __future__ import annotations

import logging
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import reparamkit
from reparamkit.cli import (
    apply,
    bench,
    deadline,
    demo,
    expand,
    explain,
    export,
    plan,
    plugins,
    recipes,
    report,
    rules,
    verify,
)
from reparamkit.cli.screen import be_quiet, log_to_screen

_EVERYWHERE = frozenset({"-v", "-vv", "--verbose", "-q", "--quiet"})


class _Commands(TyperGroup):
    """Takes the options that mean the same everywhere behind a command as well as in front of it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        ours = [arg for arg in args[:end] if arg in _EVERYWHERE]
        return super().parse_args(ctx, [*ours, *(arg for arg in args[:end] if arg not in _EVERYWHERE), *args[end:]])


app = typer.Typer(
    name="reparamkit",
    cls=_Commands,
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
    verbose: Annotated[int, typer.Option("--verbose", "-v", count=True, help="Say more; twice for everything.")] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors and JSON only.")] = False,
    timeout: Annotated[
        float | None, typer.Option("--timeout", metavar="SECONDS", min=0.01, help="Give up after this time (exit 5).")
    ] = None,
) -> None:
    """Exit codes: 0 done, 1 not verified, 2 wrong usage, recipe or model, 3 nothing merged, 4 refused, 5 timeout."""
    if timeout is not None:
        deadline.start(timeout)
    be_quiet(quiet)
    log_to_screen(logging.ERROR if quiet else (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)])


app.command("apply")(apply.command)
app.command("expand")(expand.command)
app.command("plan")(plan.command)
app.command("bench")(bench.command)
app.command("report")(report.command)
app.command("export")(export.command)
app.command("verify")(verify.command)
app.add_typer(recipes.app, name="recipes")
app.command("rules")(rules.command)
app.add_typer(plugins.app, name="plugins")
app.command("explain")(explain.command)
app.command("demo")(demo.command)
