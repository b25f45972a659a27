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
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

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


def _device(*weights: Weight) -> torch.device:
    """Where weights meet: constants of the rules are made on the CPU and follow."""
    devices = [w.device for w in weights]
    return next((d for d in devices if d.type != "cpu"), devices[0])


def _by_row(scale: Tensor, ndim: int) -> Tensor:
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
        out.addcmul_(rows.to(torch.float64), _by_row(scale, out.ndim))

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
        return rows.mul_(_by_row(self.row_scale[lo:hi], rows.ndim))

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
            rows.mul_(_by_row(scale, out.ndim))
        out += rows


def column_scaled(weight: Weight, scale: Tensor, groups: int) -> Weight:
    """`weight` with every input channel multiplied by its entry of `scale` ``[in_channels]``."""
    return ColumnScaled(weight.shape, weight, scale.to(torch.float64).reshape(groups, -1))


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
            rows = rows.mul_(_by_row(scale, rows.ndim))
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


@dataclass(frozen=True, eq=False, repr=False)
class Summed(Weight):
    """The sum of kernels of one shape."""

    parts: tuple[Weight, ...]

    @property
    def device(self) -> torch.device:
        return _device(*self.parts)

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
        return _device(*self.parts)

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
            values = values.mul_(_by_row(scale, values.ndim))
        out += values


def selected(weight: Weight, index: Tensor) -> Weight:
    """The output channels of `weight` that `index` ``[n]`` lists."""
    return Selected((index.numel(), *weight.shape[1:]), weight, index)


@dataclass(frozen=True, eq=False, repr=False)
class Composed(Weight):
    """The kernel of ``outer(inner(x))`` for kernels of the same number of groups (DBB transform III).

    Tap (k2, k1) lands at ``outer_step * k2 + inner_step * k1``: one product of channel matrices a tap of `outer`.
    """

    outer: Weight
    inner: Weight
    groups: int
    outer_step: tuple[int, ...]
    inner_step: tuple[int, ...]

    @property
    def device(self) -> torch.device:
        return _device(self.outer, self.inner)

    def accumulate(self, out: Tensor, lo: int, hi: int, scale: Tensor | None = None) -> None:
        group_rows = self.shape[0] // self.groups
        row = lo
        while row < hi:
            group = row // group_rows
            end = min(hi, (group + 1) * group_rows)
            mine = None if scale is None else scale[row - lo : end - lo]
            self._add(out[row - lo : end - lo], group, row, end, mine)
            row = end

    def _add(self, out: Tensor, group: int, lo: int, hi: int, scale: Tensor | None) -> None:
        middle = self.inner.shape[0] // self.groups
        inner = self.inner.rows(group * middle, (group + 1) * middle)  # [M/g, I/g, *k1]
        outer = self.outer.rows(lo, hi)  # [rows, M/g, *k2]
        if scale is not None:
            outer.mul_(_by_row(scale, outer.ndim))
        columns = inner.reshape(middle, -1)
        for tap in product(*map(range, outer.shape[2:])):
            matrix = outer[_at(slice(None), tap)] @ columns
            out[_window(tap, self)] += matrix.reshape(-1, *inner.shape[1:])


@dataclass(frozen=True, eq=False, repr=False)
class RowComposed(Weight):
    """The kernel of ``outer(inner(x))`` where `outer` has one tap set a channel: rows of `inner`, scaled tap by tap."""

    outer: Weight
    inner: Weight
    outer_step: tuple[int, ...]
    inner_step: tuple[int, ...]

    @property
    def device(self) -> torch.device:
        return _device(self.outer, self.inner)

    def accumulate(self, out: Tensor, lo: int, hi: int, scale: Tensor | None = None) -> None:
        outer = self.outer.rows(lo, hi)
        for tap in product(*map(range, outer.shape[2:])):
            factor = outer[_at(0, tap)]
            part = factor if scale is None else factor * scale
            self.inner.accumulate(out[_window(tap, self)], lo, hi, part)


def _at(column: int | slice, tap: tuple[int, ...]) -> tuple[Any, ...]:
    return (slice(None), column, *tap)


def _window(tap: tuple[int, ...], weight: Composed | RowComposed) -> tuple[Any, ...]:
    """Where the kernel of `inner` lands for one tap of `outer`."""
    axes = zip(tap, weight.outer_step, weight.inner_step, weight.inner.shape[2:], strict=True)
    return (
        slice(None),
        slice(None),
        *(slice(a * t, a * t + b * (k - 1) + 1, b) for t, a, b, k in axes),
    )


def composed(
    outer: Weight,
    inner: Weight,
    groups: int,
    outer_step: Sequence[int],
    inner_step: Sequence[int],
) -> Weight:
    """The kernel of `outer` after `inner`, taps `outer_step` and `inner_step` apart.

    Both have `groups` groups, or `outer` has one channel in and out a group (`groups` is then that of `inner`).
    """
    axes = zip(outer_step, inner_step, outer.shape[2:], inner.shape[2:], strict=True)
    kernel = tuple(a * (k2 - 1) + b * (k1 - 1) + 1 for a, b, k2, k1 in axes)
    shape = (outer.shape[0], inner.shape[1], *kernel)
    steps = tuple(outer_step), tuple(inner_step)
    if outer.shape[1] == 1 and outer.shape[0] == inner.shape[0]:
        return RowComposed(shape, outer, inner, *steps)
    return Composed(shape, outer, inner, groups, *steps)
