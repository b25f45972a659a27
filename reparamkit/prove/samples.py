"""The random numbers of proofs. They are the same for each merge, so those of one size are drawn once."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

_KEPT = 16  # sizes; blocks that are alike follow each other


class Samples:
    """Draws from generators of its own, always with the same seeds; what is drawn is not to be written to."""

    def __init__(self) -> None:
        self._drawn: OrderedDict[Any, list[Tensor]] = OrderedDict()

    def inputs(self, shapes: Sequence[Sequence[int]], device: torch.device) -> list[Tensor]:
        """Normal numbers of these shapes, float64."""
        return self._once("normal", 20260729, shapes, device, torch.randn)

    def mix(self, count: int, device: torch.device) -> Tensor:
        """`count` weights between 0.5 and 1.5, float64."""
        return self._once("mix", 20260730, [[count]], device, _weights)[0]

    def _once(
        self, kind: str, seed: int, shapes: Sequence[Sequence[int]], device: torch.device, draw: Callable[..., Tensor]
    ) -> list[Tensor]:
        key = (kind, tuple(map(tuple, shapes)), device)
        known = self._drawn.get(key)
        # A module of the user's may have written to its input all the same.
        if known is None or any(t._version for t in known):
            generator = torch.Generator(device=device).manual_seed(seed)
            known = [draw(shape, generator=generator, device=device, dtype=torch.float64) for shape in shapes]
            self._drawn[key] = known
        self._drawn.move_to_end(key)
        if len(self._drawn) > _KEPT:
            self._drawn.popitem(last=False)
        return known


def _weights(shape: Sequence[int], **options: Any) -> Tensor:
    return torch.rand(shape, **options) + 0.5
