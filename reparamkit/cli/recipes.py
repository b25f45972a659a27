"""`reparamkit recipes`: the recipes that are shipped or that plugins bring."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reparamkit.cli.options import ForceOption, JsonOption, ModelOption
from reparamkit.cli.outcome import Exit, exit_codes
from reparamkit.cli.screen import complain, say, show
from reparamkit.errors import RecipeError

if TYPE_CHECKING:
    from reparamkit.recipe import Recipe

app = typer.Typer(help="List, show, check or draft recipes.", invoke_without_command=True)


@app.callback()
def listed(context: typer.Context) -> None:
    """List the recipes; `recipes show NAME` prints one."""
    if context.invoked_subcommand is None:
        all_of_them()


@app.command("list")
def all_of_them(as_json: JsonOption = False) -> None:
    """List the recipes that are shipped and those of plugins."""
    with exit_codes():
        from reparamkit.recipe.lookup import shipped_recipes

        entries: list[tuple[str, str | Path]] = [(name, name) for name in shipped_recipes()]
        for plugin, folders in _folders().items():
            files = sorted(file for folder in folders for file in folder.glob("*.y*ml"))
            entries += [(f"{plugin}:{file.stem}", file) for file in files]
        rows = [(name, _about(spec)) for name, spec in entries]
        if as_json:
            typer.echo(json.dumps([{"name": name, "what": what} for name, what in rows], indent=2))
            return
        show(("name", "what"), rows)


def _about(spec: str | Path) -> str:
    """The description; a plugin's broken recipe does not hide the others."""
    from reparamkit.recipe import load_recipe

    try:
        return " ".join((load_recipe(spec).description or "").split())
    except RecipeError as error:
        return str(error).partition("\n")[0]


@app.command("show")
def shown(name: Annotated[str, typer.Argument(help="A recipe's name, or a YAML file.")]) -> None:
    """Print a recipe as it is written."""
    with exit_codes():
        say(_text(name).rstrip("\n"))


@app.command("schema")
def schema() -> None:
    """Print the JSON Schema of recipes, for editors."""
    from reparamkit.recipe import recipe_schema

    typer.echo(json.dumps(recipe_schema(), indent=2))


@app.command("check")
def checked(
    file: Annotated[str, typer.Argument(help="A YAML file, or a recipe's name.")],
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="SPEC", help="Also say what each block matches there."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check a recipe; with a model, say what each of its blocks matches. Exit 3 when one matches nothing."""
    with exit_codes():
        found = load_recipe_of(file)
        if model is None:
            text = {"recipe": found.name, "blocks": len(found.blocks), "policy": found.policy}
            typer.echo(json.dumps(text, indent=2)) if as_json else say(f"{found.name}: {len(found.blocks)} blocks, ok")
            return
        from reparamkit.model_source import load_model
        from reparamkit.recipe.matches import matches_of

        rows = matches_of(found, load_model(model))
        if as_json:
            typer.echo(json.dumps([asdict(row) for row in rows], indent=2))
        else:
            show(("block", "match", "modules", "merges", "for example"), [row.cells() for row in rows])
        if any(row.is_wrong for row in rows):
            complain("a block that is not optional matches no module")
            raise typer.Exit(Exit.NOTHING)


@app.command("init")
def drafted(
    model: ModelOption,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Write the recipe here (.yaml), and its JSON Schema beside it; otherwise print it."
        ),
    ] = None,
    name: Annotated[str, typer.Option("--name", help="Name of the recipe.")] = "mine",
    force: ForceOption = False,
) -> None:
    """Write a recipe from what `plan` finds in a model: a start to edit, which merges the same."""
    with exit_codes():
        from reparamkit.model_source import load_model
        from reparamkit.output import checked_target
        from reparamkit.recipe.draft import draft, write_draft

        if output is not None:
            checked_target(output, force=force, suffix=".yaml")
        text = draft(load_model(model), name)
        if output is None:
            typer.echo(text, nl=False)
            return
        schema = write_draft(output, text, force=force)
        say(f"wrote {output}, and {schema} for editors")


def load_recipe_of(spec: str) -> Recipe:
    """The recipe of this name or in this file; plugins' recipes are found too."""
    from reparamkit.recipe import load_recipe

    return load_recipe(spec, folders=_folders())


def _folders() -> Mapping[str, Sequence[Path]]:
    from reparamkit.cli.plugins import registry

    return registry().recipe_folders


def _text(name: str) -> str:
    from reparamkit.recipe import load_recipe
    from reparamkit.recipe.lookup import find_in, shipped_recipes, stem

    folders = _folders()
    load_recipe(name, folders=folders)  # says what is wrong with the name or the file
    if Path(name).is_file():
        return Path(name).read_text(encoding="utf-8")
    if stem(name) in shipped_recipes():
        return shipped_recipes()[stem(name)].read_text(encoding="utf-8")
    found = find_in(folders, name)
    return "" if found is None else found.read_text(encoding="utf-8")
