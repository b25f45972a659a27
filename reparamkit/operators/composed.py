"""The kernel of one convolution after another (DBB §3, transform III)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from reparamkit.operators.weight import Weight, by_row, common_device

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import Tensor


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
        return common_device(self.outer, self.inner)

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
            outer.mul_(by_row(scale, outer.ndim))
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
        return common_device(self.outer, self.inner)

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
