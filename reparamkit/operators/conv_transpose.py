"""Transposed convolution as a value."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from torch.nn import functional as F

from reparamkit.operators.vector import Vector, values
from reparamkit.operators.weight import Weight, given

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class ConvTranspose:
    """`torch.nn.ConvTransposeNd` with its kernel the way `Conv` writes it.

    Attributes:
        weight: ``[out_channels, in_channels / groups, *kernel_size]`` (torch stores
            ``[in_channels, out_channels / groups, *kernel_size]``; see `turned`).
        bias: ``[out_channels]``; `None` is zeros.
        stride: one a spatial axis.
        padding: one a spatial axis, torch's meaning.
        output_padding: one a spatial axis.
        dilation: one a spatial axis.
        groups: channel groups.
    """

    weight: Weight
    bias: Vector | None
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    output_padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1

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
    def geometry(self) -> tuple[object, ...]:
        """Everything but the numbers."""
        return (
            self.weight.shape,
            self.stride,
            self.padding,
            self.output_padding,
            self.dilation,
            self.groups,
        )

    @property
    def params(self) -> int:
        """Numbers a module of this shape stores."""
        return prod(self.weight.shape) + (0 if self.bias is None else self.out_channels)

    @property
    def macs(self) -> int:
        """Multiply-accumulates per input position."""
        return prod(self.weight.shape)

    def apply(self, x: Tensor) -> Tensor:
        """The result for `x` ``[N, in_channels, *spatial]`` in float64; for tests and proofs."""
        call = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[self.nd - 1]
        bias = values(self.bias, self.out_channels, x.device)
        weight = turned(self.weight.dense(), self.groups)
        return call(x, weight, bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation)


def turned(weight: Tensor, groups: int) -> Tensor:
    """Swap input and output channels of a kernel group by group: torch's layout to ours and back.

    ``[a, b / groups, *k]`` becomes ``[b, a / groups, *k]``; the same storage where it can be.
    """
    a, b = weight.shape[0] // groups, weight.shape[1]
    blocks = weight.reshape(groups, a, b, *weight.shape[2:])
    return blocks.transpose(1, 2).reshape(groups * b, a, *weight.shape[2:])


def conv_transpose(weight: Tensor, bias: Vector | None, groups: int, **geometry: tuple[int, ...]) -> ConvTranspose:
    """A `ConvTranspose` from a kernel in torch's layout ``[in_channels, out_channels / groups, *k]``."""
    return ConvTranspose(given(turned(weight, groups)), bias, groups=groups, **geometry)
