"""Kernels summed, stacked on top of each other, or of which some rows are taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from reparamkit.operators.placed import Embedded, Regrouped
from reparamkit.operators.weight import Weight, by_row, common_device

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, eq=False, repr=False)
class Summed(Weight):
    """The sum of kernels of one shape."""

    parts: tuple[Weight, ...]

    @property
    def device(self) -> torch.device:
        return common_device(*self.parts)

    def rows(self, lo: int, hi: int) -> Tensor:
        out = self.parts[0].rows(lo, hi)
        for part in self.parts[1:]:
            part.accumulate(out, lo, hi)
        return out

    def accumulate(self, out: Tensor, lo: int, hi: int, scale: Tensor | None = None) -> None:
        for part in self.parts:
            part.accumulate(out, lo, hi, scale)


def summed(*weights: Weight) -> Weight:
    """The sum of `weights`, all of one shape; nested sums are flattened."""
    parts: list[Weight] = []
    for weight in weights:
        parts.extend(weight.parts if isinstance(weight, Summed) else (weight,))
    # The first one is written, the others are added to it: a full kernel first saves a pass over zeros.
    parts.sort(key=lambda w: isinstance(w, (Embedded, Regrouped)))
    return Summed(weights[0].shape, tuple(parts))


@dataclass(frozen=True, eq=False, repr=False)
class Stacked(Weight):
    """Kernels on top of each other: output channels of the first, then of the second, ..."""

    parts: tuple[Weight, ...]

    @property
    def device(self) -> torch.device:
        return common_device(*self.parts)

    def accumulate(self, out: Tensor, lo: int, hi: int, scale: Tensor | None = None) -> None:
        start = 0
        for part in self.parts:
            first, last = max(lo, start), min(hi, start + part.shape[0])
            if first < last:
                mine = None if scale is None else scale[first - lo : last - lo]
                part.accumulate(out[first - lo : last - lo], first - start, last - start, mine)
            start += part.shape[0]


def stacked(*weights: Weight) -> Weight:
    """`weights` stacked along the output channels; they agree in everything else."""
    rows = sum(w.shape[0] for w in weights)
    return Stacked((rows, *weights[0].shape[1:]), weights)


@dataclass(frozen=True, eq=False, repr=False)
class Selected(Weight):
    """Some rows of a kernel: the output channels `index` keeps, in its order."""

    inner: Weight
    index: Tensor

    @property
    def device(self) -> torch.device:
        return self.inner.device

    def accumulate(self, out: Tensor, lo: int, hi: int, scale: Tensor | None = None) -> None:
        rows = self.index[lo:hi]
        if rows.numel() == 0:
            return
        first, last = int(rows.min()), int(rows.max()) + 1
        values = self.inner.rows(first, last)[rows - first]
        if scale is not None:
            values = values.mul_(by_row(scale, values.ndim))
        out += values


def selected(weight: Weight, index: Tensor) -> Weight:
    """The output channels of `weight` that `index` ``[n]`` lists."""
    return Selected((index.numel(), *weight.shape[1:]), weight, index)
