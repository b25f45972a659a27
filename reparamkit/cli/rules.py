"""`reparamkit rules`: which rules there are, what each does, and who brought it."""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING

import typer

from reparamkit.cli.options import JsonOption
from reparamkit.cli.outcome import exit_codes
from reparamkit.cli.screen import show

if TYPE_CHECKING:
    from reparamkit.registry import Registry
    from reparamkit.rule import Rule


def command(as_json: JsonOption = False) -> None:
    """List the rules; recipes switch them by id."""
    with exit_codes():
        from reparamkit.cli.plugins import registry

        rows = _rows(registry())
        if as_json:
            typer.echo(json.dumps([dict(zip(("rule", "from", "what"), row, strict=True)) for row in rows], indent=2))
            return
        show(("rule", "from", "what"), rows)


def _rows(registry: Registry) -> list[tuple[str, str, str]]:
    rows = []
    for rule_id in registry.rule_ids:
        declared = [rule for rule in registry.rules if rule.rule == rule_id]
        rows.append((rule_id, declared[0].origin, _about(rule_id, declared)))
    return rows


def _about(rule_id: str, declared: list[Rule]) -> str:
    """The first line of the module that declares it, without the id some begin with."""
    module = inspect.getmodule(declared[0].run)
    text = (inspect.getdoc(module) or "").partition("\n")[0]
    return text.removeprefix(f"{rule_id}: ")
