"""Write the weights of a converted model, and the recipe beside them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from reparamkit.checkpoint.file import safetensors_module, write
from reparamkit.checkpoint.provenance import checked_recipe_file, metadata_of, write_recipe
from reparamkit.output import checked_target

if TYPE_CHECKING:
    from reparamkit.recipe import Recipe
    from reparamkit.report import Report


def save(
    model: nn.Module,
    file: str | os.PathLike[str],
    report: Report | None = None,
    *,
    source: str | os.PathLike[str] | None = None,
    force: bool = False,
) -> None:
    """Write the weights of `model` as safetensors, and the recipe that made them as `recipe.yaml` beside them.

    Args:
        model: whose weights; shared tensors are stored once, channels_last ones in row-major order.
        file: its name ends in .safetensors. It is complete or as it was.
        report: of the conversion; without it, no recipe is written and `load` has to be told.
        source: the checkpoint that was converted: its hash is stored, not its name.
        force: replace existing files.

    Raises:
        CheckpointError: RK910 safetensors is not installed, RK913 the model has state that is no tensor.
        OutputError: RK912 a file exists or cannot be written.
    """
    path = Path(file)
    recipe = None if report is None else report.spec
    recipe_path = checked_output(path, recipe, force=force)
    metadata = metadata_of(model, recipe, None if source is None else Path(source))
    write(path, model.state_dict(), metadata, force=force)
    if recipe_path is not None and recipe is not None:
        write_recipe(recipe_path, recipe, metadata)


def checked_output(file: Path, recipe: Recipe | None, *, force: bool) -> Path | None:
    """Raise when `save` could not write; asked before the work, not after it.

    Returns:
        Where the recipe goes; `None` for nowhere.

    Raises:
        CheckpointError: RK910 when safetensors is not installed.
        OutputError: RK912 when a file exists or cannot be written.
    """
    checked_target(file, force=force, suffix=".safetensors")
    safetensors_module()
    return None if recipe is None else checked_recipe_file(file.parent, recipe, force=force)
