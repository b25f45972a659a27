"""`cosine`: fixed waves, one a channel, of growing frequency; the frequency prior of OREPA.

Source: Hu et al., Online Convolutional Re-parameterization, CVPR 2022, §3.3, for 3x3 kernels: channels of the first
half are ``cos(pi (h + 1/2) (i + 1) / 3)``, those of the second the same along the other axis. Here the channels are
split evenly among the axes, and the kernel may have any size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reparamkit.branch import BranchOp, Options, PerAxis, Place
from reparamkit.expand.ops.conv import FUNCTIONS


class CosineOptions(Options):
    """Options of `cosine`."""

    kernel_size: PerAxis = "k"


class Cosine(nn.Module):
    """A fixed wave on each channel. Nothing in it is trained.

    Args:
        place: where it stands.
    """

    prior: Tensor

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.register_buffer("prior", waves(place.out_channels, place.kernel_size), persistent=False)
        self.nd, self.stride, self.padding, self.dilation = place.nd, place.stride, place.padding, place.dilation

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, channels, *spatial]`` to the same channels."""
        arguments = None, self.stride, self.padding, self.dilation, self.prior.shape[0]
        result: Tensor = FUNCTIONS[self.nd](x, self.prior, *arguments)
        return result

    def extra_repr(self) -> str:
        """Channels and kernel."""
        return f"{self.prior.shape[0]}, kernel_size={tuple(self.prior.shape[2:])}"


def waves(channels: int, kernel_size: tuple[int, ...]) -> Tensor:
    """The prior, ``[channels, 1, *kernel_size]``."""
    share = channels / len(kernel_size)
    made = torch.empty(channels, 1, *kernel_size)
    for channel in range(channels):
        axis = int(channel // share)
        taps = torch.arange(kernel_size[axis], dtype=torch.float64) + 0.5
        wave = torch.cos(torch.pi * taps * (channel + 1 - axis * share) / kernel_size[axis])
        made[channel, 0] = wave.reshape(-1, *[1] * (len(kernel_size) - 1 - axis))
    return made


OPS = (
    BranchOp(
        "cosine",
        lambda options, place: Cosine(place),
        "a fixed wave of its own frequency on each channel",
        CosineOptions,
        taps="k",
        strides=True,
        pads=("zeros",),
        axes=(1, 2, 3),
    ),
)
