"""Recipes: load one from a name, a file, YAML text or a mapping.

    text -> file -> data and places -> check -> Recipe -> extends resolved

`python -m reparamkit.recipe` prints the JSON Schema that is kept in `recipes/schema.json`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from reparamkit.errors import CODES, RecipeError
from reparamkit.recipe.check import Ops, check
from reparamkit.recipe.file import SUFFIXES, read_bytes, read_file, read_mapping, read_text
from reparamkit.recipe.lookup import Folders, find_in, not_found, shipped_recipes, stem
from reparamkit.recipe.model import Recipe
from reparamkit.recipe.problem import Document, Problem, closest, quoted

MAX_EXTENDS = 8


def load_recipe(
    spec: str | os.PathLike[str] | Mapping[str, Any] | Recipe | None,
    *,
    folders: Folders = (),
    ops: Ops | None = None,
) -> Recipe:
    """Load a recipe and what it extends.

    Args:
        spec: None for the shipped `auto`; a path; the name of a shipped recipe, or of one in
            `folders` (`plugin:name` to say whose); YAML text (anything with a line break); a
            mapping; a `Recipe`.
        folders: directories of recipes that plugins bring, by plugin or in a row.
        ops: operations that branches may use; by default the built-in ones and those of installed plugins.

    Returns:
        The recipe, complete: its `extends` is None.

    Raises:
        RecipeError: RK705 if there is no such recipe, else all that is wrong in it.
    """
    if isinstance(spec, Recipe):
        if spec.extends is None:
            return spec
        spec = spec.model_dump(by_alias=True, exclude_unset=True)
    if spec is None:
        return _shipped("auto")
    return _complete(_open(spec, folders), ops)


@dataclass(frozen=True)
class _Source:
    """A document, the folder it may extend files of (None: no files), and who it is."""

    document: Document
    folder: Path | None
    identity: str


@cache
def _shipped(name: str) -> Recipe:
    """A shipped recipe never changes, and recipes are frozen: each is read once."""
    return _complete(_open_shipped(name))


def _open(spec: object, folders: Folders) -> _Source:
    if isinstance(spec, Mapping):
        return _Source(read_mapping(spec), None, "mapping")
    if isinstance(spec, str) and ("\n" in spec or "\r" in spec):
        return _Source(read_text(spec, "<text>"), None, "text")
    if isinstance(spec, str):
        return _open_named(spec, folders)
    if isinstance(spec, os.PathLike):
        return _open_path(Path(os.fsdecode(spec)), os.fsdecode(spec))
    message = f"expected a name, a path, text or a mapping, got {type(spec).__name__}"
    raise RecipeError("RK704", message)


def _open_named(name: str, folders: Folders) -> _Source:
    path = Path(name)
    # No recipe file lacks the suffix, so a file or folder called `repvgg` does not hide the recipe.
    if path.suffix.lower() in SUFFIXES and _is_there(path):
        return _open_path(path, name)
    if stem(name) in shipped_recipes():
        return _open_shipped(stem(name))
    if (found := find_in(folders, name)) is not None:
        return _open_path(found, str(found))
    if _is_there(path) and not path.is_dir():
        return _open_path(path, name)  # says what is wrong with it
    raise not_found(name)


def _open_shipped(name: str) -> _Source:
    file = shipped_recipes()[name]  # may lie in a zip file, so it has no path
    return _Source(read_bytes(file.read_bytes(), file.name), None, f"shipped:{name}")


def _open_path(path: Path, label: str) -> _Source:
    document = read_file(path, _printable(label))
    return _Source(document, path.resolve().parent, str(path.resolve()))


def _complete(source: _Source, ops: Ops | None = None) -> Recipe:
    """The recipe with everything it extends merged in, nearest first."""
    recipe = check(source.document, ops)
    own = name = recipe.extends
    current, seen = source, [source.identity]
    while own is not None and name is not None:
        try:
            current = _open_parent(name, current)
            parent = check(current.document, ops)
        except _Refused as refused:
            # Further up, the reason would speak of names that only a foreign file holds.
            reason = str(refused) if len(seen) == 1 else _without_text(own, refused.code)
            raise _at_extends(source, refused.code, reason) from None
        except RecipeError as error:
            raise _at_extends(source, error.code, _without_text(own, error.code)) from None
        if current.identity in seen:
            raise _at_extends(source, "RK708", f"{quoted(own)} comes back to where it started")
        if len(seen) > MAX_EXTENDS:
            raise _at_extends(source, "RK708", f"more than {MAX_EXTENDS} recipes in one chain")
        seen.append(current.identity)
        recipe, name = _merge(recipe, parent), parent.extends
    return recipe


class _Refused(Exception):
    """Why a recipe cannot be extended; becomes a RecipeError at the place that says so."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


def _open_parent(name: str, child: _Source) -> _Source:
    """A file below the child's folder, else a shipped recipe; nothing else can be reached."""
    parts = PurePosixPath(name).parts
    if "\0" in name or "\\" in name or ":" in name or name.startswith("/") or ".." in parts:
        raise _Refused("RK708", "expected a shipped recipe or a file below this recipe's folder")
    if child.folder is not None and name.endswith(SUFFIXES):
        path = _below(child.folder, name)
        if path is not None:
            return _open_path(path, name)
    if stem(name) in shipped_recipes():
        return _open_shipped(stem(name))
    near = closest(stem(name), shipped_recipes())
    raise _Refused("RK705", f"there is no recipe {quoted(name)} to extend{near}")


def _below(folder: Path, name: str) -> Path | None:
    """The file, with links followed; None if there is none."""
    try:
        path = (folder / name).resolve(strict=True)
    except (OSError, ValueError, RuntimeError):
        return None
    if not path.is_relative_to(folder.resolve()):
        raise _Refused("RK708", f"{quoted(name)} leads out of this recipe's folder")
    return path


def _without_text(name: str, code: str) -> str:
    # The file may be one that the reader of this message should not see: nothing of it is quoted.
    return f"{quoted(name)} cannot be extended ({code} {CODES[code]}); load it alone to see why"


def _at_extends(source: _Source, code: str, message: str) -> RecipeError:
    return source.document.error([Problem(code, message, ("extends",))])


def _merge(child: Recipe, parent: Recipe) -> Recipe:
    """What the child says wins; its blocks come first, since the first match has the module."""
    given = {name: getattr(child, name) for name in child.model_fields_set}
    verify = {name: getattr(child.verify, name) for name in child.verify.model_fields_set}
    merged = {
        **given,
        "extends": None,
        "blocks": child.blocks + parent.blocks,
        "expand": child.expand + parent.expand,
        "disable": tuple(dict.fromkeys(child.disable + parent.disable)),
        "verify": parent.verify.model_copy(update=verify),
    }
    return parent.model_copy(update=merged)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _printable(label: str) -> str:
    return label if label.isprintable() else quoted(label)
