"""Bias, stride, padding and extent of a black box, from its answers to zeros and to single impulses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from reparamkit.operators.conv import Pad
from reparamkit.probe.blackbox import BlackBox, Unmeasurable

EPS = torch.finfo(torch.float64).eps
_UNEVEN = 1e-10  # of the zero response, relative: summed in another order at the border it may differ by rounding
_STEPS = 40  # sizes that are tried, one position more each, until the result has grown twice
_WIDEST = 112


@dataclass(frozen=True)
class Geometry:
    """Where the taps of a kernel stand.

    Attributes:
        nd: spatial axes.
        channels: of the input.
        bias: ``[out_channels]``, float64.
        stride: one a spatial axis.
        extent: input positions the kernel spans.
        padding: (before, after) a spatial axis; negative amounts crop.
        base: a size of every spatial axis that the module takes.
        macs: multiply-accumulates of the module per position of its result there.
    """

    nd: int
    channels: int
    bias: Tensor
    stride: tuple[int, ...]
    extent: tuple[int, ...]
    padding: tuple[Pad, ...]
    base: int
    macs: float

    def positions(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """Positions of the result for an input of `sizes`."""
        axes = zip(sizes, self.padding, self.extent, self.stride, strict=True)
        return tuple((n + lo + hi - e) // s + 1 for n, (lo, hi), e, s in axes)


def zeros(box: BlackBox, batch: int, channels: int, sizes: tuple[int, ...]) -> Tensor:
    """An input of zeros."""
    return torch.zeros(batch, channels, *sizes, dtype=torch.float64, device=box.device)


def bias_of(box: BlackBox, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """The response to zeros ``[out_channels]`` and its sizes.

    Raises:
        Unmeasurable: RK316 when it is not the same at every position.
    """
    y = box(x)
    sizes = tuple(y.shape[2:])
    if not y.numel():
        raise Unmeasurable("RK612", f"it returns nothing for {tuple(x.shape)}")
    centre: Any = (0, slice(None), *(n // 2 for n in sizes))
    middle = y[centre]
    largest = float(y.abs().max())
    uneven = float((y - middle.reshape(1, -1, *[1] * len(sizes))).abs().max())
    if not uneven <= _UNEVEN * largest:
        reason = f"its response to zeros differs by {uneven / largest:.3g} (relative) from position to position"
        raise Unmeasurable("RK316", reason)
    return middle, sizes


def geometry_of(box: BlackBox, nd: int, channels: int, base: int) -> Geometry:
    """Everything about the operator but its numbers.

    Raises:
        Unmeasurable: RK316 when the borders have a bias of their own, RK610 when the result does not grow with the
            input as that of a convolution does.
    """
    bias, first = bias_of(box, zeros(box, 1, channels, (base,) * nd))
    macs = box.macs / max(1, torch.Size(first).numel())
    stride, at, count = _strides(box, nd, channels, base, first)
    low, extent = _support(box, channels, bias, stride, base)
    axes = zip(count, stride, extent, at, low, strict=True)
    padding = tuple((lo, (c - 1) * s + e - n - lo) for c, s, e, n, lo in axes)
    return Geometry(nd, channels, bias, stride, extent, padding, base, macs)


def _strides(
    box: BlackBox, nd: int, channels: int, base: int, first: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Strides; sizes at which the result has just grown, and the sizes of the result there."""
    grown: list[list[tuple[int, int]]] = [[] for _ in range(nd)]
    before = first
    for size in range(base + 1, base + _STEPS):
        if all(len(steps) > 1 for steps in grown):
            break
        now = bias_of(box, zeros(box, 1, channels, (size,) * nd))[1]
        for axis, steps in enumerate(grown):
            if now[axis] not in (before[axis], before[axis] + 1):
                reason = f"one position more of the input gives {now[axis] - before[axis]:+d} of the result"
                raise Unmeasurable("RK610", reason)
            if now[axis] > before[axis]:
                steps.append((size, now[axis]))
        before = now
    if any(len(steps) < 2 for steps in grown):
        sizes = "x".join(map(str, before))
        raise Unmeasurable("RK610", f"its result has {sizes} positions for {base} and for {base + _STEPS - 1}")
    stride = tuple(steps[1][0] - steps[0][0] for steps in grown)
    return stride, tuple(steps[0][0] for steps in grown), tuple(steps[0][1] for steps in grown)


def _support(
    box: BlackBox, channels: int, bias: Tensor, stride: tuple[int, ...], base: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What stands before the first position of the result on each axis, and how many positions the kernel spans."""
    size = base
    while size <= _WIDEST:
        offsets = _offsets(box, channels, bias, stride, size)
        if offsets is not None:
            least = [min(axis) for axis in zip(*offsets, strict=True)]
            most = [max(axis) for axis in zip(*offsets, strict=True)]
            return tuple(-lo for lo in least), tuple(hi - lo + 1 for lo, hi in zip(least, most, strict=True))
        size *= 2
    raise Unmeasurable("RK610", f"one position of the input reaches all of the result, {size // 2} positions wide")


def _offsets(
    box: BlackBox, channels: int, bias: Tensor, stride: tuple[int, ...], size: int
) -> list[tuple[int, ...]] | None:
    """Offsets of the taps that are not zero; `None` when a response reaches the border and may go on behind it."""
    found: list[tuple[int, ...]] = []
    places = list(phases(tuple(size // 2 for _ in stride), stride))
    generator = torch.Generator(device=box.device).manual_seed(20260729)
    column = torch.randn(channels, generator=generator, dtype=torch.float64, device=box.device)
    x = zeros(box, len(places), channels, (size,) * len(stride))
    for at, place in enumerate(places):
        index: Any = (at, slice(None), *place)
        x[index] = column
    y = box(x)
    response = (y - bias.reshape(1, -1, *[1] * len(stride))).abs().amax(1)
    if not bool(torch.isfinite(response).all()):
        raise Unmeasurable("RK610", "its response to an impulse is not finite")
    hit = response > significant(response, bias)
    for at, *output in hit.nonzero().tolist():
        if any(j in (0, n - 1) for j, n in zip(output, response.shape[1:], strict=True)):
            return None
        found.append(tuple(p - j * s for p, j, s in zip(places[at], output, stride, strict=True)))
    if not found:
        raise Unmeasurable("RK610", "an impulse does not change its result")
    return found


def significant(response: Tensor, bias: Tensor) -> float:
    """Below this, a number of a response is what rounding leaves of zero."""
    return float(1e-13 * response.abs().max() + 16 * EPS * bias.abs().max())


def phases(first: tuple[int, ...], stride: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Positions from `first` on that together meet every tap of a kernel with this stride."""
    return product(*(range(p, p + s) for p, s in zip(first, stride, strict=True)))
