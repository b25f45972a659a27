"""The input that a conversion gets: the one whose shape was given, or a guess where the policy times layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


def example_for(model: nn.Module, shape: str | None, recipe: str, policy: str | None) -> Tensor | None:
    """The `example_inputs` of a conversion.

    Args:
        model: reads it.
        shape: as in ``1x3x224x224``, if the user gave one.
        recipe: says which policy is used, unless there is another.
        policy: that one.

    Raises:
        ModelError: RK104 when the shape is none, or is needed and cannot be guessed.
        RecipeError, PluginError: the recipe or policy is wrong.
    """
    from reparamkit.cli.plugins import registry
    from reparamkit.cli.recipes import load_recipe_of
    from reparamkit.example import example_input

    if shape is None and registry().policy(policy or load_recipe_of(recipe).policy).timing is None:
        return None
    return example_input(model, shape)
