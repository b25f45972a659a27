"""Whether a black box is the operator that was read off it: random inputs of several sizes, batches, magnitudes."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import torch
from torch import Tensor

from reparamkit.operators import Conv
from reparamkit.probe.blackbox import BlackBox, Unmeasurable
from reparamkit.probe.geometry import EPS, Geometry

RTOL = 1e-9
MAGNITUDES = (1e-6, 1e-3, 1.0, 1e3, 1e6)
_ROUNDING = 64 * EPS  # of the result as a whole: where the bias is far larger than what an input adds to it


def check_homogeneous(box: BlackBox, shape: tuple[int, ...]) -> None:
    """A cheap look first: a module is no operator if twice or minus the input does not give twice or minus the answer.

    Raises:
        Unmeasurable: RK610 with the deviation, RK612 when two answers to one input differ.
    """
    x = _random(box, shape, 1)
    nothing, once = box(torch.zeros_like(x)), box(x)
    if not torch.equal(once, box(x)):
        raise Unmeasurable("RK612", "two calls with one input differ")
    for factor in (-1.0, 2.0, 1e-3, 1e3):
        _compare(box(factor * x), nothing + factor * (once - nothing), nothing, f"{factor:g} times an input")


def prove(box: BlackBox, op: Conv, geometry: Geometry, ranks: tuple[int, ...]) -> float:
    """The largest relative deviation of `op` from `box`.

    Args:
        box: the module.
        op: what it seems to be.
        geometry: of `op`, and a size that the module takes.
        ranks: numbers of axes that inputs of a linear layer may have.

    Raises:
        Unmeasurable: RK610 with the deviation when it is more than 1e-9.
    """
    worst = 0.0
    for seed, (shape, factor, sign) in enumerate(_cases(geometry, ranks)):
        x = _random(box, shape, seed)
        x = factor * (x if sign == 0 else sign * x.abs())
        what = f"an input of {'x'.join(map(str, shape))}, {'of one sign, ' if sign else ''}magnitude {factor:g}"
        worst = max(worst, _compare(box(x), op.apply(x), op.apply(torch.zeros_like(x)), what))
    return worst


def proof_positions(geometry: Geometry) -> int:
    """Positions of all inputs of `prove` together."""
    return sum(prod(shape[2:]) * shape[0] for shape, _, _ in _cases(geometry, (2,)))


def _cases(geometry: Geometry, ranks: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], float, int]]:
    """(Shape, magnitude, sign of all numbers or 0)."""
    if not geometry.nd:
        shapes = [(2 + rank % 2, *range(2, rank), geometry.channels) for rank in ranks]
    else:
        spread = [(1, _smallest(geometry), 0), (2, geometry.base, 1), (3, geometry.base + 4, -1)]
        spread.append((1, 2 * geometry.base + 3, 1))
        shapes = [(n, geometry.channels, *_sizes(size, step, geometry)) for n, size, step in spread]
    yield from ((shape, 1.0, 0) for shape in shapes)
    middle = shapes[min(1, len(shapes) - 1)]
    yield from ((middle, factor, 0) for factor in MAGNITUDES)
    yield from ((middle, factor, sign) for factor in (1.0, MAGNITUDES[-1]) for sign in (1, -1))


def _smallest(geometry: Geometry) -> int:
    """A size at which some position of the result sees as much border as any."""
    axes = zip(geometry.extent, geometry.padding, strict=True)
    return max(max(e - lo - hi, (e + 1) // 2, 2) for e, (lo, hi) in axes)


def _sizes(size: int, step: int, geometry: Geometry) -> tuple[int, ...]:
    return tuple(size + axis * step for axis in range(geometry.nd))


def _random(box: BlackBox, shape: tuple[int, ...], seed: int) -> Tensor:
    generator = torch.Generator(device=box.device).manual_seed(20260729 + seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64, device=box.device)


def _compare(got: Tensor, wanted: Tensor, nothing: Tensor, what: str) -> float:
    """Deviation relative to what the input adds to the answer to zeros."""
    if got.shape != wanted.shape:
        raise Unmeasurable("RK610", f"{what} gives {tuple(got.shape)}, the operator {tuple(wanted.shape)}")
    gap, linear, whole = (float(t.abs().max()) for t in (got - wanted, wanted - nothing, wanted))
    error = gap / linear if linear else gap
    if not gap <= RTOL * linear + _ROUNDING * whole:
        raise Unmeasurable("RK610", f"for {what} it is {error:.3g} (relative) from what an operator would give")
    return error
