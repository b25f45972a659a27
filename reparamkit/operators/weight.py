"""Kernels as expressions: what a merged kernel *is*, computed row by row only when it is written out.

A merge decides about geometry and conditions; its numbers are wanted only for the merges that are
chosen. So a `Weight` knows its shape at once and its float64 values on demand, in bands of output
channels: a plan costs nothing, and a 70 MB kernel is folded through a few MB of scratch memory.

Every class answers one question, `accumulate`: add rows `lo..hi`, each times its `scale`, into `out`.
Shapes: a kernel is ``[out_channels, in_channels / groups, *kernel_size]``; `kernel_size` may be
empty, which is a linear layer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False, repr=False)
class Weight(ABC):
    """A kernel of known shape whose float64 values are computed on demand."""

    shape: tuple[int, ...]

    def __repr__(self) -> str:
        return f"{type(self).__name__}{self.shape}"

    @abstractmethod
    def accumulate(self, out: Tensor, lo: int, hi: int, scale: Tensor | None = None) -> None:
        """Add ``scale[:, None, ...] * self[lo:hi]`` into `out` ``[hi - lo, *shape[1:]]``, float64."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the values live."""

    def rows(self, lo: int, hi: int) -> Tensor:
        """Rows `lo` to `hi` in float64, ``[hi - lo, *shape[1:]]``."""
        out = torch.zeros(hi - lo, *self.shape[1:], dtype=torch.float64, device=self.device)
        self.accumulate(out, lo, hi)
        return out

    def dense(self) -> Tensor:
        """All rows in float64."""
        return self.rows(0, self.shape[0])

    def bands(self, elements: int = 1 << 19) -> list[tuple[int, int]]:
        """Bounds of the row bands that hold about `elements` values each."""
        step = max(1, elements // max(1, prod(self.shape[1:])))
        return [(lo, min(lo + step, self.shape[0])) for lo in range(0, self.shape[0], step)]


def common_device(*weights: Weight) -> torch.device:
    """Where weights meet: constants of the rules are made on the CPU and follow."""
    devices = [w.device for w in weights]
    return next((d for d in devices if d.type != "cpu"), devices[0])


def by_row(scale: Tensor, ndim: int) -> Tensor:
    """A scale ``[rows]`` in the shape that multiplies rows of `ndim` axes."""
    return scale.reshape(-1, *[1] * (ndim - 1))


@dataclass(frozen=True, eq=False, repr=False)
class Given(Weight):
    """The values of a tensor that exists, in whatever dtype it has."""

    tensor: Tensor

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    def accumulate(self, out: Tensor, lo: int, hi: int, scale: Tensor | None = None) -> None:
        rows = self.tensor[lo:hi].to(out.device)
        if scale is None:
            out += rows
            return
        out.addcmul_(rows.to(torch.float64), by_row(scale, out.ndim))

    def rows(self, lo: int, hi: int) -> Tensor:
        return self.tensor[lo:hi].to(torch.float64, copy=True)


def given(tensor: Tensor) -> Weight:
    """The values of `tensor` ``[out_channels, in_channels / groups, *kernel_size]``."""
    return Given(tuple(tensor.shape), tensor.detach())


@dataclass(frozen=True, eq=False, repr=False)
class Scaled(Weight):
    """Rows times `row_scale` ``[out_channels]`` (or one number)."""

    inner: Weight
    row_scale: Tensor

    @property
    def device(self) -> torch.device:
        return self.inner.device

    def rows(self, lo: int, hi: int) -> Tensor:
        rows = self.inner.rows(lo, hi)
        return rows.mul_(by_row(self.row_scale[lo:hi], rows.ndim))

    def accumulate(self, out: Tensor, lo: int, hi: int, scale: Tensor | None = None) -> None:
        mine = self.row_scale[lo:hi]
        self.inner.accumulate(out, lo, hi, mine if scale is None else mine * scale)


def scaled(weight: Weight, row_scale: Tensor) -> Weight:
    """`weight` with every output channel multiplied by its entry of `row_scale` ``[out_channels]`` or ``[]``."""
    row_scale = row_scale.to(torch.float64).expand(weight.shape[0])
    if isinstance(weight, Scaled):
        return Scaled(weight.shape, weight.inner, weight.row_scale * row_scale)
    return Scaled(weight.shape, weight, row_scale)


@dataclass(frozen=True, eq=False, repr=False)
class ColumnScaled(Weight):
    """Columns times `scale` ``[in_channels]``; a row of group j reads the columns of group j."""

    inner: Weight
    column_scale: Tensor  # [groups, in_channels / groups]

    @property
    def device(self) -> torch.device:
        return self.inner.device

    def accumulate(self, out: Tensor, lo: int, hi: int, scale: Tensor | None = None) -> None:
        group_rows = self.shape[0] // self.column_scale.shape[0]
        group = torch.arange(lo, hi, device=self.device) // group_rows
        columns = self.column_scale[group].reshape(hi - lo, -1, *[1] * (out.ndim - 2))
        rows = self.inner.rows(lo, hi).mul_(columns)
        if scale is not None:
            rows.mul_(by_row(scale, out.ndim))
        out += rows


def column_scaled(weight: Weight, scale: Tensor, groups: int) -> Weight:
    """`weight` with every input channel multiplied by its entry of `scale` ``[in_channels]``."""
    return ColumnScaled(weight.shape, weight, scale.to(torch.float64).reshape(groups, -1))
