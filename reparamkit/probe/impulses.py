"""The kernel of a black box, read off its responses to one impulse a channel (and a phase of the stride)."""

from __future__ import annotations

from functools import reduce
from itertools import product
from math import gcd, prod
from typing import Any

import torch
from torch import Tensor

from reparamkit.operators import Conv, conv
from reparamkit.probe.blackbox import BlackBox
from reparamkit.probe.geometry import Geometry, phases, significant, zeros

_ACTIVATIONS = 1 << 22  # numbers of a batch of impulses and of its responses


def impulse_sizes(geometry: Geometry) -> tuple[int, ...]:
    """The smallest input on which a whole response, at every phase of the stride, stands inside the result."""
    found = []
    for (lo, hi), extent, stride in zip(geometry.padding, geometry.extent, geometry.stride, strict=True):
        last = _start(lo, extent) + stride - 1
        found.append(max((last + lo) // stride * stride + extent - lo - hi, last + 1))
    return tuple(found)


def _start(low: int, extent: int) -> int:
    """The first position whose response begins inside the result."""
    return max(extent - 1 - low, 0)


def kernel_of(box: BlackBox, geometry: Geometry) -> Conv:
    """The operator with this geometry whose impulse responses are those of `box`."""
    sizes = impulse_sizes(geometry)
    bias = geometry.bias
    weight = bias.new_zeros(len(bias), geometry.channels, *geometry.extent)
    numbers = (geometry.channels + len(bias)) * prod(sizes)
    step = max(1, _ACTIVATIONS // numbers)
    first = tuple(_start(lo, e) for (lo, _), e in zip(geometry.padding, geometry.extent, strict=True))
    for place in phases(first, geometry.stride):
        for at in range(0, geometry.channels, step):
            channels = range(at, min(at + step, geometry.channels))
            x = zeros(box, len(channels), geometry.channels, sizes)
            for row, channel in enumerate(channels):
                x[(row, channel, *place)] = 1
            response = box(x) - bias.reshape(1, -1, *[1] * geometry.nd)
            _fill(weight[:, at : at + len(channels)], response, place, geometry)
    weight[weight.abs() <= significant(weight, bias)] = 0
    return _compact(weight, geometry)


def _fill(weight: Tensor, response: Tensor, place: tuple[int, ...], geometry: Geometry) -> None:
    """Write the taps that an impulse at `place` shows; `response` is ``[channels, out_channels, *sizes]``."""
    axes = []
    for p, (lo, _), extent, stride in zip(place, geometry.padding, geometry.extent, geometry.stride, strict=True):
        axes.append([(tap, (p + lo - tap) // stride) for tap in range(extent) if (p + lo - tap) % stride == 0])
    for taps in product(*axes):
        tap: Any = (..., *(t for t, _ in taps))
        output: Any = (..., *(j for _, j in taps))
        weight[tap] = response[output].T


def _compact(weight: Tensor, geometry: Geometry) -> Conv:
    """The same kernel with its dilation and its groups."""
    dilation = []
    for axis, extent in enumerate(geometry.extent):
        others = [i for i in range(weight.ndim) if i != axis + 2]
        taps = weight.abs().amax(others).nonzero().flatten().tolist()
        dilation.append(reduce(gcd, taps, 0) or extent)
    weight = weight[(slice(None), slice(None), *(slice(None, None, d) for d in dilation))]
    groups = _groups(weight)
    per_out, per_in = weight.shape[0] // groups, weight.shape[1] // groups
    blocks = [weight[g * per_out : (g + 1) * per_out, g * per_in : (g + 1) * per_in] for g in range(groups)]
    bias = geometry.bias if bool(geometry.bias.any()) else None
    return conv(
        torch.cat(blocks).contiguous(),
        bias,
        stride=geometry.stride,
        padding=geometry.padding,
        dilation=tuple(min(d, e) if e > 1 else 1 for d, e in zip(dilation, geometry.extent, strict=True)),
        groups=groups,
    )


def _groups(weight: Tensor) -> int:
    """The most groups in which the kernel can be written."""
    out, into = weight.shape[:2]
    if weight.ndim == 2:
        return 1  # a linear layer has none
    used = weight.reshape(out, into, -1).abs().amax(2) > 0
    rows, columns = used.nonzero(as_tuple=True)
    for groups in range(gcd(out, into), 1, -1):
        if gcd(out, into) % groups == 0 and bool((rows // (out // groups) == columns // (into // groups)).all()):
            return groups
    return 1
