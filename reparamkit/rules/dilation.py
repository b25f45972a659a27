"""core/dilation: a dilated kernel is a sparse plain one.

Formula (Ding et al., UniRepLKNet, CVPR 2024, eq. 1): a kernel with dilation `d` is a kernel on the grid of
any divisor `e` of `d` whose taps stand ``d / e`` apart, zeros between them. Two branches meet on the greatest
common divisor of their dilations and of the distance between their first taps. An axis with one tap fits any
dilation.

Always exact; whether the zeros pay is for the policy to decide.
"""

from __future__ import annotations

from dataclasses import replace
from math import gcd

from reparamkit.operators import Conv, Operator, Stencil
from reparamkit.operators.placed import embedded
from reparamkit.rule import Align, Rule

RULE = "core/dilation"


def on_grid(op: Conv, grid: tuple[int, ...]) -> Conv:
    """The same map with dilation `grid`, a divisor of its own on every axis with more than one tap."""
    step = [d // g if k > 1 else 1 for d, g, k in zip(op.dilation, grid, op.kernel_size, strict=True)]
    if all(s == 1 for s in step):
        return op
    size = [s * (k - 1) + 1 for s, k in zip(step, op.kernel_size, strict=True)]
    dilation = tuple(g if k > 1 else d for d, g, k in zip(op.dilation, grid, op.kernel_size, strict=True))
    return replace(op, weight=embedded(op.weight, size, [0] * op.nd, step), dilation=dilation)


def align(a: Operator, b: Operator) -> tuple[Operator, Operator]:
    """Give both a common dilation on which their taps coincide."""
    if isinstance(a, Stencil) and isinstance(b, Stencil):
        one, other = align(a.one, b.one)
        assert isinstance(one, Conv)
        assert isinstance(other, Conv)
        return (a if one is a.one else Stencil(one)), (b if other is b.one else Stencil(other))
    if not (isinstance(a, Conv) and isinstance(b, Conv)) or a.nd != b.nd:
        return a, b
    grid = tuple(_grid(a, b, axis) for axis in range(a.nd))
    return _free(on_grid(a, grid), grid), _free(on_grid(b, grid), grid)


def _free(op: Conv, grid: tuple[int, ...]) -> Conv:
    """An axis with one tap takes the grid as its dilation, when that is what lets the taps meet."""
    if op.dilation == grid or not any(k == 1 for k in op.kernel_size):
        return op
    return replace(op, dilation=grid)


def _grid(a: Conv, b: Conv, axis: int) -> int:
    steps = [op.dilation[axis] for op in (a, b) if op.kernel_size[axis] > 1]
    distance = abs(a.padding[axis][0] - b.padding[axis][0])
    return gcd(*steps, distance) or 1


rules: tuple[Rule, ...] = (Align(RULE, 10, align),)
