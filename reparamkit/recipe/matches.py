"""What each block of a recipe matches in a model, and how many merges that gives."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from torch import nn

from reparamkit.pipeline import plan
from reparamkit.recipe.model import Recipe
from reparamkit.scope import block_of

_SHOWN = 3


@dataclass(frozen=True)
class Matched:
    """One block and what it matches.

    Attributes:
        block: its place in the recipe, from 0.
        match: its conditions.
        modules: how many modules it has; the first block that matches a module has it.
        merges: how many merges are made in them.
        examples: paths of the first few.
        optional: it is no error if it has none.
    """

    block: int
    match: str
    modules: int
    merges: int
    examples: tuple[str, ...]
    optional: bool

    @property
    def is_wrong(self) -> bool:
        """It matches nothing and should."""
        return self.modules == 0 and not self.optional

    def cells(self) -> tuple[str, ...]:
        """For a table."""
        return (str(self.block), self.match, str(self.modules), str(self.merges), ", ".join(self.examples))


def matches_of(recipe: Recipe, model: nn.Module) -> list[Matched]:
    """What each block has.

    Args:
        recipe: complete (its `extends` is resolved).
        model: in eval mode; not changed.

    Raises:
        ModelError: the model cannot be converted as it is.
    """
    modules: dict[int, list[str]] = {index: [] for index in range(len(recipe.blocks))}
    for path, module in model.named_modules():
        index = next((i for i, b in enumerate(recipe.blocks) if b.match.matches(path, module)), None)
        if index is not None:
            modules[index].append(path or "(the model itself)")
    merges = _merges(recipe, model) if any(modules.values()) else Counter[int]()
    return [
        Matched(
            index,
            ", ".join(f"{k}: {v}" for k, v in block.match.model_dump(by_alias=True, exclude_none=True).items()),
            len(modules[index]),
            merges[index],
            tuple(modules[index][:_SHOWN]),
            block.optional,
        )
        for index, block in enumerate(recipe.blocks)
    ]


def _merges(recipe: Recipe, model: nn.Module) -> Counter[int]:
    """Merges by block; a block that matches nothing is told, not raised."""
    lenient = tuple(block.model_copy(update={"optional": True}) for block in recipe.blocks)
    made = plan(model, recipe.model_copy(update={"blocks": lenient}))
    scopes = {scope.path: scope.block for scope in made.scopes}
    places = {id(block): index for index, block in enumerate(lenient)}
    return Counter(places[id(block)] for p in made.edits if (block := block_of(p.edit, scopes)) is not None)
