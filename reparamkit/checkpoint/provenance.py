"""What is written beside converted weights: which recipe and versions made them, from which file.

Versions and hashes only: no path, no user, no environment.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from torch import Tensor, nn

from reparamkit.checkpoint.file import Stored, sha256
from reparamkit.errors import CheckpointError, OutputError, RecipeError
from reparamkit.example_form import inputs_of
from reparamkit.output import checked_target, replacing
from reparamkit.recipe import Recipe, load_recipe
from reparamkit.version import __version__

if TYPE_CHECKING:
    from reparamkit.report import Report

RECIPE_FILE = "recipe.yaml"
_PREFIX = "reparamkit."
UPSTREAM = {f"{_PREFIX}names": "upstream"}


def metadata_of(model: nn.Module, report: Report | None, source: Path | None) -> dict[str, str]:
    """The header of a checkpoint of `model`.

    Args:
        model: whose weights are stored.
        report: of the conversion: its recipe, and what its example inputs looked like.
        source: the checkpoint that was converted; only its hash is kept.
    """
    recipe = None if report is None else report.spec
    found = {"format": "pt", f"{_PREFIX}version": __version__, f"{_PREFIX}torch": torch.__version__}
    if recipe is not None:
        text = json.dumps(plain(recipe), sort_keys=True)
        found[f"{_PREFIX}recipe"] = text
        found[f"{_PREFIX}recipe_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    if report is not None and report.example is not None:
        found[f"{_PREFIX}example_inputs"] = json.dumps(report.example)
    if report is not None and report.timed is not None:
        found[f"{_PREFIX}timed"] = json.dumps(report.timed.answers)
    if source is not None:
        found[f"{_PREFIX}source_sha256"] = sha256(source)
    if is_channels_last(model.state_dict()):
        found[f"{_PREFIX}memory_format"] = "channels_last"
    return found


def recipe_in(stored: Stored) -> Recipe | None:
    """The recipe a checkpoint was made with, if it says so.

    Raises:
        CheckpointError: RK910 when what it says is no recipe.
    """
    text = stored.metadata.get(f"{_PREFIX}recipe")
    if text is None:
        return None
    try:
        return load_recipe(json.loads(text))
    except (ValueError, RecursionError, RecipeError) as error:  # nested too deep: the header may be a stranger's
        raise CheckpointError("RK910", f"{stored.path}: the recipe in its metadata is not one: {error}") from error


def example_in(stored: Stored, model: nn.Module) -> Any:
    """Inputs for `model` like those of the conversion; `None` when there were none.

    Raises:
        CheckpointError: RK910 when what the checkpoint says of them cannot be followed.
    """
    return _read(stored, "example_inputs", "example inputs", lambda found: inputs_of(found, model))


def timed_in(stored: Stored) -> dict[str, bool | None] | None:
    """What was timed for the conversion, as `Timings.answers`; `None` when nothing was.

    Raises:
        CheckpointError: RK910 when what the checkpoint says of it cannot be followed.
    """
    found: dict[str, bool | None] | None = _read(stored, "timed", "timings", _answers)
    return found


def _answers(found: Any) -> Any:
    if not isinstance(found, dict) or not all(answer is None or isinstance(answer, bool) for answer in found.values()):
        raise ValueError("expected true, false or null for each question")
    return found


def _read(stored: Stored, key: str, what: str, follow: Callable[[Any], Any]) -> Any:
    """What `follow` makes of an entry; `None` where there is none."""
    text = stored.metadata.get(_PREFIX + key)
    if text is None:
        return None
    try:
        return follow(json.loads(text))
    except (ValueError, RecursionError) as error:  # nested too deep: the header may be a stranger's
        raise CheckpointError("RK910", f"{stored.path}: the {what} in its metadata: {error}") from error


def wants_channels_last(metadata: Mapping[str, str]) -> bool:
    """Whether the weights were in channels_last memory format when they were stored."""
    return metadata.get(f"{_PREFIX}memory_format") == "channels_last"


def has_upstream_names(metadata: Mapping[str, str]) -> bool:
    """Whether the keys are those of the upstream deploy checkpoint."""
    return metadata.items() >= UPSTREAM.items()


def is_channels_last(tensors: Mapping[str, Any]) -> bool:
    """Whether there are images' kernels, and all of them are in channels_last memory format."""
    kernels = [t for t in tensors.values() if isinstance(t, Tensor) and t.dim() == 4]
    strided = any(not t.is_contiguous() for t in kernels)
    return strided and all(t.is_contiguous(memory_format=torch.channels_last) for t in kernels)


def plain(recipe: Recipe) -> dict[str, Any]:
    """A recipe as data that YAML and JSON can hold; what is not said is left out."""
    data: dict[str, Any] = recipe.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_unset=True)
    return {"version": recipe.version, "name": recipe.name, **data, "policy": recipe.policy}


def recipe_text(recipe: Recipe) -> str:
    """A recipe as YAML."""
    text: str = yaml.safe_dump(plain(recipe), sort_keys=False, allow_unicode=True, width=120)
    return text


def checked_recipe_file(folder: Path, recipe: Recipe, *, force: bool) -> Path | None:
    """Where the recipe is to be written; `None` when this very recipe is there already.

    Raises:
        OutputError: RK912 when another file of that name is there and may not be replaced.
    """
    path = folder / RECIPE_FILE
    if path.is_file() and _says_the_same(path, recipe):
        return None
    try:
        checked_target(path, force=force)
    except OutputError as error:
        raise OutputError("RK912", f"{path} is another recipe; choose another folder, or --force") from error
    return path


def _says_the_same(path: Path, recipe: Recipe) -> bool:
    try:
        return plain(load_recipe(path)) == plain(recipe)
    except RecipeError:
        return False


def write_recipe(path: Path, recipe: Recipe, metadata: Mapping[str, str]) -> None:
    """Write a recipe with the versions and hashes as its first lines.

    Raises:
        OutputError: RK912 when the file cannot be written.
    """
    known = {k.removeprefix(_PREFIX): v for k, v in metadata.items() if k.startswith(_PREFIX)}
    lines = [f"# {key}: {known[key]}" for key in ("version", "torch", "source_sha256") if key in known]
    with replacing(path) as temporary:
        temporary.write_text("\n".join([*lines, recipe_text(recipe)]), encoding="utf-8")
