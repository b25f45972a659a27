"""Where recipes are found: shipped with reparamkit, in a plugin's folder, or in a file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from reparamkit.errors import RecipeError
from reparamkit.recipe.file import SUFFIXES
from reparamkit.recipe.problem import closest, quoted

Folders = Mapping[str, Sequence[Path]] | Sequence[Path]  # of plugins, by their name or without

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def shipped_recipes() -> dict[str, Traversable]:
    """The recipes that come with reparamkit: name without `.yaml` -> file."""
    # In a wheel the folder lies inside the package, in a checkout beside it.
    folder: Traversable = files("reparamkit") / "recipes"
    if not folder.is_dir():
        folder = Path(__file__).parents[2] / "recipes"
    if not folder.is_dir():
        return {}
    found = {stem(file.name): file for file in folder.iterdir() if file.name.endswith(SUFFIXES)}
    return dict(sorted(found.items()))


def find_in(folders: Folders, name: str) -> Path | None:
    """The recipe of a bare name, or of `plugin:name`, in folders of plugins; None if there is none.

    Raises:
        RecipeError: RK705 if two plugins have a recipe of that name.
    """
    plugin, _, bare = name.rpartition(":")
    if not _PLAIN_NAME.fullmatch(bare):
        return None
    found = [
        folder / f"{stem(bare)}{suffix}"
        for names, folder in _named(folders)
        for suffix in SUFFIXES
        if (not plugin or _plugin_name(plugin) in names) and (folder / f"{stem(bare)}{suffix}").is_file()
    ]
    if len(found) > 1:
        places = ", ".join(str(path) for path in found)
        raise RecipeError("RK705", f"{quoted(name)} is the name of several recipes: {places}")
    return found[0] if found else None


def not_found(name: str) -> RecipeError:
    """The error that says which recipes there are."""
    shipped = list(shipped_recipes())
    near = closest(stem(name), shipped) if shipped else ""
    listed = "" if near.startswith(" (known") else f"; shipped recipes: {', '.join(shipped)}"
    return RecipeError("RK705", f"there is no recipe {quoted(name)}{near}{listed}")


def stem(name: str) -> str:
    """The name without `.yaml` or `.yml`."""
    return next((name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)), name)


def _named(folders: Folders) -> Iterator[tuple[set[str], Path]]:
    """Each folder with the names its plugin goes by."""
    if not isinstance(folders, Mapping):
        yield from ((_plugin_names(folder), folder) for folder in folders)
        return
    for name, paths in folders.items():
        yield from (({_plugin_name(name)}, folder) for folder in paths)


def _plugin_names(folder: Path) -> set[str]:
    """`hello` for `reparamkit_hello/recipes`: a plugin is called by its package."""
    return {_plugin_name(part) for part in (folder.name, folder.parent.name)}


def _plugin_name(text: str) -> str:
    return text.lower().replace("-", "_").removeprefix("reparamkit_")
