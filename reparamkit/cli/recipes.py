"""`reparamkit recipes`: the recipes that are shipped or that plugins bring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from reparamkit.cli.outcome import exit_codes
from reparamkit.cli.screen import say, show
from reparamkit.errors import RecipeError

app = typer.Typer(help="List recipes, or show one.", invoke_without_command=True)


@app.callback()
def listed(context: typer.Context) -> None:
    """List the recipes; `recipes show NAME` prints one."""
    if context.invoked_subcommand is not None:
        return
    with exit_codes():
        from reparamkit.recipe.lookup import shipped_recipes

        entries: list[tuple[str, str | Path]] = [(name, name) for name in shipped_recipes()]
        for plugin, folders in _folders().items():
            files = sorted(file for folder in folders for file in folder.glob("*.y*ml"))
            entries += [(f"{plugin}:{file.stem}", file) for file in files]
        show(("name", "what"), [(name, _about(spec)) for name, spec in entries])


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
