"""What the tests of published blocks share: how far a block collapses, and what is told about the rest."""

from __future__ import annotations

from typing import Any

from torch import nn

import reparamkit
from tests.helpers import codes, convert, counts

Shape = tuple[int, ...]
IMAGES: tuple[Shape, ...] = ((1, 8, 7, 7), (2, 8, 14, 9), (1, 8, 8, 10))


def collapses(
    block: nn.Module,
    convs: int,
    *shapes: Shape,
    norms: int = 0,
    refused: frozenset[str] | set[str] = frozenset(),
    recipe: Any = None,
    seed: int = 0,
    **options: Any,
) -> nn.Module:
    """Convert `block` with random numbers in every layer; compare in float64 and count what is left.

    Args:
        block: the training form; counted are its convolutions and linear layers, and its normalisations.
        convs: the least number of convolutions and linear layers that computes the same.
        *shapes: inputs to compare on, images of 8 channels by default.
        norms: normalisations left.
        refused: exactly the codes of what was refused.
        recipe: the recipe of the family; without one, `auto`.
        seed: of the random numbers.
        **options: of `reparamkit.apply`.
    """
    deploy, report = convert(block, *(shapes or IMAGES), recipe=recipe, seed=seed, **options)
    assert counts(deploy) == (convs, norms), f"{deploy}\n{report}"
    assert codes(report) == set(refused), str(report)
    assert isinstance(deploy, type(block))
    _, again = reparamkit.apply(deploy, recipe, return_report=True, **options)
    assert again.merged == ()
    return deploy
