"""Write the weights of a converted model, and the recipe beside them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from reparamkit.checkpoint.file import safetensors_module, write
from reparamkit.checkpoint.names import upstream_names as named
from reparamkit.checkpoint.provenance import UPSTREAM, checked_recipe_file, metadata_of, write_recipe
from reparamkit.errors import CheckpointError
from reparamkit.loading import default_registry
from reparamkit.output import checked_target
from reparamkit.recipe import load_recipe

if TYPE_CHECKING:
    from reparamkit.pipeline import RecipeLike
    from reparamkit.recipe import Recipe
    from reparamkit.report import Report


def save(
    model: nn.Module,
    file: str | os.PathLike[str],
    report: Report | None = None,
    *,
    source: str | os.PathLike[str] | None = None,
    upstream_names: bool = False,
    force: bool = False,
) -> None:
    """Write the weights of `model` as safetensors, and the recipe that made them as `recipe.yaml` beside them.

    Args:
        model: whose weights; shared tensors are stored once, channels_last ones in row-major order.
        file: its name ends in .safetensors. It is complete or as it was.
        report: of the conversion; without it, no recipe is written and `load` has to be told.
        source: the checkpoint that was converted: its hash is stored, not its name.
        upstream_names: call the weights as the upstream deploy class does (the recipe's `deploy_names`).
        force: replace existing files.

    Raises:
        CheckpointError: RK913 the model has state that is no tensor, or upstream's
            names are not known.
        OutputError: RK912 a file exists or cannot be written.
    """
    path = Path(file)
    recipe = None if report is None else report.spec
    if upstream_names and recipe is None:
        raise CheckpointError("RK913", "upstream_names: only the recipe knows them; pass the report of the conversion")
    recipe_path = checked_output(path, recipe, force=force)
    metadata = metadata_of(model, report, None if source is None else Path(source))
    tensors = upstream_state_dict(model, recipe) if upstream_names and recipe is not None else model.state_dict()
    if upstream_names:
        metadata = {**metadata, **UPSTREAM}
    write(path, tensors, metadata, force=force)
    if recipe_path is not None and recipe is not None:
        write_recipe(recipe_path, recipe, metadata)


def upstream_state_dict(model: nn.Module, recipe: RecipeLike) -> dict[str, Any]:
    """The weights of a converted model under the keys of the upstream deploy checkpoint.

    Args:
        model: converted by `recipe`.
        recipe: its `deploy_names` say which keys differ.

    Returns:
        For ``load_state_dict(..., strict=True)`` of the upstream deploy class, where the recipe's page says so.

    Raises:
        CheckpointError: RK913 when two keys would get one name.
        RecipeError: the recipe is wrong.
    """
    state = model.state_dict()
    names = named(state, load_recipe(recipe, folders=default_registry().recipe_folders).deploy_names)
    return {names[key]: value for key, value in state.items()}


def checked_output(file: Path, recipe: Recipe | None, *, force: bool) -> Path | None:
    """Raise when `save` could not write; asked before the work, not after it.

    Returns:
        Where the recipe goes; `None` for nowhere.

    Raises:
        MissingExtraError: RK921 when safetensors is not installed.
        OutputError: RK912 when a file exists or cannot be written.
    """
    checked_target(file, force=force, suffix=".safetensors")
    safetensors_module()
    return None if recipe is None else checked_recipe_file(file.parent, recipe, force=force)
