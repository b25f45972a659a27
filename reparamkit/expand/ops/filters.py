"""`sobel_x`, `sobel_y`, `laplacian`: fixed 3x3 edge filters with a learned factor and shift a channel.

Source: Zhang et al., Edge-oriented Convolution Block for Real-time Super Resolution on Mobile Devices, ACM MM 2021,
eq. 4-8: ``s * (D conv x) + b``, ``D`` fixed, ``s`` and ``b`` small random numbers at first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from reparamkit.branch import BranchOp, Options, Place

MASKS = {
    "sobel_x": ((1.0, 0.0, -1.0), (2.0, 0.0, -2.0), (1.0, 0.0, -1.0)),
    "sobel_y": ((1.0, 2.0, 1.0), (0.0, 0.0, 0.0), (-1.0, -2.0, -1.0)),
    "laplacian": ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0)),
}


class FilterOptions(Options):
    """Options of the fixed filters."""

    bias: bool = True
    std: float = Field(default=1e-3, ge=0, description="Of the random factors and shifts at first.")


class FixedFilter(nn.Module):
    """A fixed filter on each channel, with a learned factor and shift.

    Args:
        mask: the taps.
        place: where it stands.
        std: of the random factors and shifts at first.
    """

    mask: Tensor
    bias: nn.Parameter | None

    def __init__(self, mask: tuple[tuple[float, ...], ...], place: Place, std: float) -> None:
        super().__init__()
        channels = place.out_channels
        self.register_buffer("mask", torch.tensor(mask).expand(channels, 1, -1, -1).clone(), persistent=False)
        self.scale = nn.Parameter(torch.randn(channels, 1, 1, 1) * std)
        self.bias = nn.Parameter(torch.randn(channels) * std) if place.bias else None
        self.stride, self.padding, self.dilation = place.stride, place.padding, place.dilation

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, channels, H, W]`` to the same channels."""
        kernel = self.scale * self.mask
        return F.conv2d(x, kernel, self.bias, self.stride, self.padding, self.dilation, kernel.shape[0])

    def extra_repr(self) -> str:
        """Channels and geometry."""
        return f"{self.mask.shape[0]}, stride={self.stride}, padding={self.padding}"


def _build(mask: tuple[tuple[float, ...], ...]) -> Callable[[Any, Place], nn.Module]:
    return lambda options, place: FixedFilter(mask, place, options.std)


OPS = tuple(
    BranchOp(
        name,
        _build(mask),
        f"the fixed 3x3 {name.replace('_', ' ')} filter with a learned factor and shift a channel",
        FilterOptions,
        taps=3,
        strides=True,
        pads=("zeros",),
        axes=(2,),
    )
    for name, mask in MASKS.items()
)
