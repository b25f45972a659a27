"""Convolution as a value, for any number of spatial axes; with none it is a linear layer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from reparamkit.operators.joined import stacked as stacked_weight
from reparamkit.operators.placed import regrouped
from reparamkit.operators.vector import Vector, is_zero, stacked, values, vector
from reparamkit.operators.weight import Weight, given

if TYPE_CHECKING:
    from torch import Tensor

Pad = tuple[int, int]


@dataclass(frozen=True, eq=False, slots=True)
class Conv:
    """``y = weight * pad(x) + bias``, a cross-correlation as in `torch.nn.ConvNd`.

    Attributes:
        weight: ``[out_channels, in_channels / groups, *kernel_size]``.
        bias: ``[out_channels]``; `None` is zeros.
        stride: one a spatial axis.
        padding: (before, after) of each spatial axis; negative amounts crop.
        dilation: one a spatial axis.
        groups: channel groups.
        padding_mode: "zeros", "reflect", "replicate" or "circular".
        pad_value: what "zeros" pads with, ``[in_channels]``; `None` is zeros.
    """

    weight: Weight
    bias: Vector | None = None
    stride: tuple[int, ...] = ()
    padding: tuple[Pad, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    padding_mode: str = "zeros"
    pad_value: Vector | None = None

    @property
    def nd(self) -> int:
        """Number of spatial axes."""
        return len(self.weight.shape) - 2

    @property
    def out_channels(self) -> int:
        """Channels of the result."""
        return self.weight.shape[0]

    @property
    def in_channels(self) -> int:
        """Channels of the input."""
        return self.weight.shape[1] * self.groups

    @property
    def kernel_size(self) -> tuple[int, ...]:
        """Taps of each spatial axis."""
        return self.weight.shape[2:]

    @property
    def reads_padding(self) -> bool:
        """Whether any output position looks beyond the input."""
        return any(p > 0 for pad in self.padding for p in pad)

    @property
    def extent(self) -> tuple[int, ...]:
        """Input positions the kernel spans on each axis."""
        return tuple(d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel_size, strict=True))

    @property
    def params(self) -> int:
        """Numbers a module of this shape stores."""
        return prod(self.weight.shape) + (0 if self.bias is None else self.out_channels)

    @property
    def macs(self) -> int:
        """Multiply-accumulates per output position."""
        return prod(self.weight.shape)

    def apply(self, x: Tensor) -> Tensor:
        """The result for `x` ``[N, in_channels, *spatial]`` in float64; for tests and proofs."""
        x = padded(x, self.padding, self.padding_mode, self.pad_value)
        bias = values(self.bias, self.out_channels, x.device)
        if self.nd == 0:
            weight = regrouped(self.weight, self.groups, 1).dense()
            return F.linear(x, weight, bias)
        conv = (F.conv1d, F.conv2d, F.conv3d)[self.nd - 1]
        return conv(x, self.weight.dense(), bias, self.stride, 0, self.dilation, self.groups)


def padded(x: Tensor, padding: tuple[Pad, ...], mode: str, value: Vector | None) -> Tensor:
    """`x` ``[N, C, *spatial]`` with `padding` on its spatial axes, cropped where an amount is negative."""
    if not any(p for pad in padding for p in pad):
        return x
    amounts = [p for pad in reversed(padding) for p in pad]
    grow, crop = [max(p, 0) for p in amounts], [min(p, 0) for p in amounts]
    if not any(grow):
        return F.pad(x, crop)
    if mode != "zeros":
        return F.pad(F.pad(x, grow, mode=mode), crop)
    if is_zero(value):
        return F.pad(F.pad(x, grow), crop)
    assert value is not None
    shift = value.value.expand(x.shape[1]).reshape(1, -1, *[1] * len(padding))
    return F.pad(F.pad(x - shift, grow) + shift, crop)


def conv(
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: tuple[int, ...] | None = None,
    padding: tuple[Pad, ...] | None = None,
    dilation: tuple[int, ...] | None = None,
    groups: int = 1,
    padding_mode: str = "zeros",
) -> Conv:
    """A `Conv` from tensors; stride 1, no padding and dilation 1 unless given.

    Args:
        weight: ``[out_channels, in_channels / groups, *kernel_size]``.
        bias: ``[out_channels]``.
        stride: one a spatial axis.
        padding: (before, after) a spatial axis.
        dilation: one a spatial axis.
        groups: channel groups.
        padding_mode: as in `torch.nn.Conv2d`.
    """
    nd = weight.ndim - 2
    return Conv(
        given(weight),
        None if bias is None else vector(bias),
        stride or (1,) * nd,
        padding or ((0, 0),) * nd,
        dilation or (1,) * nd,
        groups,
        padding_mode,
    )


def with_groups(op: Conv, groups: int) -> Conv:
    """The same map written with `groups` groups, a divisor of its own."""
    if groups == op.groups:
        return op
    return replace(op, weight=regrouped(op.weight, op.groups, groups), groups=groups)


def pointwise(op: Conv) -> bool:
    """Whether every position of the result depends on that position of the input alone."""
    plain = all(k == 1 for k in op.kernel_size) and all(s == 1 for s in op.stride)
    return plain and not any(p for pad in op.padding for p in pad)


def channelwise(scale: Tensor, shift: Tensor | None, nd: int, channels: int) -> Conv:
    """``scale * x + shift`` per channel as a convolution with one tap and `channels` groups (a scaled dirac)."""
    column = scale.to(torch.float64).expand(channels).reshape(channels, 1, *[1] * nd)
    bias = None if shift is None else shift.to(torch.float64).expand(channels)
    return conv(column, bias, groups=channels)


def stack(parts: list[Conv]) -> Conv:
    """The outputs of `parts`, convolutions of one geometry over one input, one after the other."""
    first = parts[0]
    return replace(
        first,
        weight=stacked_weight(*[p.weight for p in parts]),
        bias=stacked([(p.bias, p.out_channels) for p in parts], first.weight.device),
    )
