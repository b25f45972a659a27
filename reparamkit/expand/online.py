"""Branches that are trained through their merged kernel: one convolution a step, as OREPA does.

A linear, shift-invariant map is known by what it makes of impulses (and, for its bias, of nothing). So each step the
branches run on a few tiny images with one 1 in each, the responses are put together to a kernel, and that kernel runs
on the batch. Autograd takes care of the rest; the activations of the branches are never stored.

Source: Hu et al., Online Convolutional Re-parameterization, CVPR 2022, §3.2 (there by formulas for each kind of
branch). Condition: nothing in the branches depends on the batch, so no batch norm and no dropout.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from math import prod
from typing import Any

import torch
from torch import Tensor

from reparamkit.expand.layer import Layer
from reparamkit.expand.plain import run_layer


class Impulses:
    """Where to put impulses, and where to find the taps of a kernel in the responses.

    Tap ``j`` answers an impulse at position ``c`` in output ``(c + p - j d) / s``, for left padding ``p``, dilation
    ``d`` and stride ``s``; with a stride, ``s`` impulses next to each other are needed to see every tap. All stay so
    far from the border that no output that is read looks beyond it.

    Args:
        layer: the kernel's geometry.
    """

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        axes = range(layer.nd)
        low = [max(0, -layer.padding[a][0]) for a in axes]
        high = [max(0, -layer.padding[a][1]) for a in axes]
        self.start = [layer.span[a] + low[a] for a in axes]
        self.size = [self.start[a] + layer.stride[a] + layer.span[a] + high[a] for a in axes]
        self.phases = prod(layer.stride)
        self.taps = [self._tap(tap) for tap in product(*map(range, layer.kernel_size))]

    def run(self, branches: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """What `branches` make of `x`, by one convolution with their merged kernel."""
        weight, bias = self.kernel(branches(self.images(x)))
        return run_layer(self.layer, x, weight, bias)

    def _tap(self, tap: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
        """Which impulse shows this tap, and in which output position."""
        phase, where = 0, []
        for axis, j in enumerate(tap):
            stride, low = self.layer.stride[axis], self.layer.padding[axis][0]
            at = self.start[axis] + low - j * self.layer.dilation[axis]
            shift = -at % stride
            phase = phase * stride + shift
            where.append((at + shift) // stride)
        return phase, tuple(where)

    def images(self, like: Tensor) -> Tensor:
        """One image an impulse, ``[phases * in_channels / groups + 1, in_channels, *size]``; the last is empty."""
        layer = self.layer
        inside = layer.in_channels // layer.groups
        images = like.new_zeros(self.phases * inside + 1, layer.in_channels, *self.size)
        for phase, shift in enumerate(product(*map(range, layer.stride))):
            place = tuple(start + s for start, s in zip(self.start, shift, strict=True))
            for channel in range(inside):
                at: Any = (phase * inside + channel, slice(channel, None, inside), *place)
                images[at] = 1.0
        return images

    def kernel(self, responses: Tensor) -> tuple[Tensor, Tensor]:
        """Weight ``[out_channels, in_channels / groups, *kernel_size]`` and bias from the responses."""
        layer = self.layer
        origin: Any = (-1, slice(None), *self.taps[0][1])
        bias = responses[origin]
        clean = responses[:-1] - responses[-1:]
        by_phase = clean.unflatten(0, (self.phases, -1))
        found: list[Any] = [(phase, slice(None), slice(None), *where) for phase, where in self.taps]
        taps = [by_phase[at] for at in found]
        weight = torch.stack(taps).permute(2, 1, 0)
        return weight.reshape(layer.out_channels, -1, *layer.kernel_size), bias
