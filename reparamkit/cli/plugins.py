"""`reparamkit plugins`: which plugins are installed, what they bring, and which could not be loaded."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reparamkit.cli.options import JsonOption
from reparamkit.cli.outcome import exit_codes
from reparamkit.cli.screen import say, show

if TYPE_CHECKING:
    from reparamkit.registry import Registry


app = typer.Typer(help="List the installed plugins, or start one.", invoke_without_command=True)


@app.callback()
def listed(
    context: typer.Context,
    everything: Annotated[bool, typer.Option("--all", help="Also the built-in rules, which are a plugin too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List the installed plugins; `plugins new NAME` starts one."""
    if context.invoked_subcommand is not None:
        return
    with exit_codes():
        found = registry()
        plugins = [_described(found, name, origin) for name, origin in found.plugins if everything or name != "core"]
        failures = [{"plugin": f.plugin, "from": f.distribution, "error": f.error} for f in found.failures]
        if as_json:
            typer.echo(json.dumps({"plugins": plugins, "failures": failures}, indent=2))
            return
        _print(plugins, failures)


@app.command("new")
def started(
    name: Annotated[str, typer.Argument(help="Lower-case words with dashes, as in my-layers.")],
    into: Annotated[
        Path, typer.Option("--into", exists=True, file_okay=False, help="Where the new folder goes.")
    ] = Path(),
) -> None:
    """Write a plugin that can be installed and whose tests pass, to start from."""
    with exit_codes():
        from reparamkit.scaffold import new_plugin

        folder = new_plugin(name, into)
        say(f"wrote {folder}; next: cd {folder} && pip install -e '.[test]' && pytest")


def registry() -> Registry:
    """The registry; plugins that cannot be loaded are listed by this command and no reason to warn here."""
    from reparamkit.loading import default_registry

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="reparamkit plugin")
        return default_registry()


def _described(found: Registry, name: str, origin: str) -> dict[str, Any]:
    return {
        "plugin": name,
        "from": origin,
        "rules": sorted({rule.rule for rule in found.rules if rule.origin == name and rule.rule}),
        "recipe_folders": [str(folder) for folder in found.recipe_folders.get(name, ())],
    }


def _print(plugins: list[dict[str, Any]], failures: list[dict[str, str]]) -> None:
    if not plugins and not failures:
        say("no plugins are installed")
    if plugins:
        show(("plugin", "from", "rules"), [(p["plugin"], p["from"], ", ".join(p["rules"])) for p in plugins])
    if failures:
        say("could not be loaded:")
        show(("plugin", "from", "error"), [(f["plugin"], f["from"], f["error"]) for f in failures])
