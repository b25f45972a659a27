"""Kernels set into larger ones: more taps, other axes, fewer groups; the rest is zeros."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from reparamkit.operators.weight import Weight, by_row

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import Tensor


@dataclass(frozen=True, eq=False, repr=False)
class Embedded(Weight):
    """A kernel set into a larger grid of zeros at `offset`, its taps `step` apart (RepVGG §3.3, UniRepLKNet eq. 1)."""

    inner: Weight
    window: tuple[slice, ...]

    @property
    def device(self) -> torch.device:
        return self.inner.device

    def accumulate(self, out: Tensor, lo: int, hi: int, scale: Tensor | None = None) -> None:
        self.inner.accumulate(out[(slice(None), slice(None), *self.window)], lo, hi, scale)


def embedded(weight: Weight, size: Sequence[int], offset: Sequence[int], step: Sequence[int]) -> Weight:
    """`weight` in a kernel of `size`: tap t of an axis goes to ``offset + step * t``."""
    kernel = weight.shape[2:]
    if tuple(size) == kernel and not any(offset):
        return weight
    window = tuple(slice(o, o + s * (k - 1) + 1, s) for o, s, k in zip(offset, step, kernel, strict=True))
    return Embedded((*weight.shape[:2], *size), weight, window)


@dataclass(frozen=True, eq=False, repr=False)
class OneTap(Weight):
    """A kernel of one tap, for another number of spatial axes."""

    inner: Weight

    @property
    def device(self) -> torch.device:
        return self.inner.device

    def accumulate(self, out: Tensor, lo: int, hi: int, scale: Tensor | None = None) -> None:
        tap = out
        while tap.ndim > 2:
            tap = tap.select(-1, 0)
        while tap.ndim < len(self.inner.shape):
            tap = tap.unsqueeze(-1)
        self.inner.accumulate(tap, lo, hi, scale)


def one_tap(weight: Weight, nd: int) -> Weight:
    """A kernel of one tap as the same map of each position on `nd` spatial axes."""
    return weight if len(weight.shape) == nd + 2 else OneTap((*weight.shape[:2], *[1] * nd), weight)


@dataclass(frozen=True, eq=False, repr=False)
class Regrouped(Weight):
    """A kernel of `blocks` groups for each group of the result, as blocks on the diagonal of that group."""

    inner: Weight
    blocks: int  # groups before / groups after
    group_rows: int  # out_channels / groups before

    @property
    def device(self) -> torch.device:
        return self.inner.device

    def accumulate(self, out: Tensor, lo: int, hi: int, scale: Tensor | None = None) -> None:
        width = self.inner.shape[1]
        row = lo
        while row < hi:
            group = row // self.group_rows
            # A run of whole groups inside one block row of the result is one strided view of `out`.
            last = min(hi, (group // self.blocks + 1) * self.blocks * self.group_rows)
            whole = (last - row) // self.group_rows if row % self.group_rows == 0 else 0
            end = row + whole * self.group_rows if whole else min(last, (group + 1) * self.group_rows)
            rows, column = end - row, group % self.blocks * width
            part = None if scale is None else scale[row - lo : end - lo]
            self._add(out[row - lo : end - lo, column:], self.inner.rows(row, end), part, max(whole, 1))
            row += rows

    @staticmethod
    def _add(out: Tensor, rows: Tensor, scale: Tensor | None, count: int) -> None:
        if scale is not None:
            rows = rows.mul_(by_row(scale, rows.ndim))
        height, width = rows.shape[0] // count, rows.shape[1]
        stride = out.stride()
        view = out.as_strided(
            (count, height, width, *rows.shape[2:]),
            (height * stride[0] + width * stride[1], *stride),
            out.storage_offset(),
        )
        view += rows.reshape(count, height, width, *rows.shape[2:])


def regrouped(weight: Weight, before: int, after: int) -> Weight:
    """A kernel of `before` groups as the same map with `after` groups (a divisor of `before`), zeros added."""
    if before == after:
        return weight
    blocks = before // after
    shape = (weight.shape[0], weight.shape[1] * blocks, *weight.shape[2:])
    return Regrouped(shape, weight, blocks, weight.shape[0] // before)
