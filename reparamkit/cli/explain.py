"""`reparamkit explain`: what a code means and what can be done."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from reparamkit.cli.options import JsonOption
from reparamkit.cli.outcome import Exit
from reparamkit.cli.screen import complain, say, show


def command(
    code: Annotated[str | None, typer.Argument(help="As in RK312; left out, all codes are listed.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Explain an error or refusal code."""
    from reparamkit.catalogue import catalogue, entry

    try:
        found = list(catalogue().values()) if code is None else [entry(code)]
    except KeyError as error:
        complain(error.args[0])
        raise typer.Exit(Exit.USAGE) from None
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in found], indent=2))
    elif code is None:
        show(("code", "title"), [(one.code, one.title) for one in found])
    else:
        say(str(found[0]))
