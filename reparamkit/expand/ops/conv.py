"""`conv` and `linear`: the layer's own kind, of any kernel, width and number of groups.

`identity: true` is the convolution of ``I + W`` (Ding et al., Diverse Branch Block, CVPR 2021, §3.2: the 1x1 in
front of a kxk), whose kernel is zero at first.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from reparamkit.branch import BranchOp, Channels, Options, PerAxis, Place

CONVS: tuple[Any, ...] = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
FUNCTIONS: tuple[Any, ...] = (F.linear, F.conv1d, F.conv2d, F.conv3d)
MODES = ("zeros", "reflect", "replicate", "circular")
Init = Literal["default", "zeros"]


class LinearOptions(Options):
    """Options of `linear`."""

    channels: Channels | None = None
    bias: bool | None = None
    init: Init = Field(default="default", description="'default' is torch's own.")


class ConvOptions(LinearOptions):
    """Options of `conv`."""

    kernel_size: PerAxis = "k"
    groups: Annotated[int, Field(ge=1)] | Literal["layer", "in"] = Field(
        default="layer", description="'layer' is as many as the layer has, 'in' one for each channel."
    )
    dilation: Annotated[int, Field(ge=1)] | Annotated[tuple[int, ...], Field(strict=False)] = Field(
        default=1, description="In units of the layer's own."
    )
    identity: bool = Field(default=False, description="Compute with I + W; W is zero at first.")


class IdentityConv(nn.Module):
    """A pointwise convolution of ``I + W``; `weight` is ``W``, ``[channels, channels / groups, 1, ..]``, zero at first.

    Args:
        place: where it stands; as many channels come out as go in, and the kernel has one tap.
    """

    identity: Tensor

    def __init__(self, place: Place) -> None:
        super().__init__()
        inside = place.in_channels // place.groups
        eye = torch.eye(inside).repeat(place.groups, 1).reshape(place.in_channels, inside, *[1] * place.nd)
        self.register_buffer("identity", eye, persistent=False)
        self.weight = nn.Parameter(torch.zeros_like(eye))
        self.groups, self.stride, self.nd = place.groups, place.stride, place.nd

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, channels, *spatial]`` to the same channels."""
        result: Tensor = FUNCTIONS[self.nd](x, self.weight + self.identity, None, self.stride, 0, 1, self.groups)
        return result

    def extra_repr(self) -> str:
        """Channels and groups."""
        return f"{self.weight.shape[0]}, groups={self.groups}"


def build_conv(options: ConvOptions, place: Place) -> nn.Module:
    """An `nn.ConvNd`, or an `IdentityConv`."""
    if options.identity:
        return IdentityConv(place)
    conv: nn.Module = CONVS[place.nd](
        place.in_channels,
        place.out_channels,
        place.kernel_size,
        stride=place.stride,
        padding=place.padding,
        dilation=place.dilation,
        groups=place.groups,
        bias=place.bias,
        padding_mode=place.padding_mode,
    )
    return _initialised(conv, options.init)


def build_linear(options: LinearOptions, place: Place) -> nn.Module:
    """An `nn.Linear`."""
    return _initialised(nn.Linear(place.in_channels, place.out_channels, bias=place.bias), options.init)


def _initialised(module: nn.Module, init: Init) -> nn.Module:
    if init == "zeros":
        for parameter in module.parameters():
            nn.init.zeros_(parameter)
    return module


OPS = (
    BranchOp(
        "conv",
        build_conv,
        "a convolution; 'kernel_size: k' is the layer's own",
        ConvOptions,
        taps="k",
        mixes=True,
        strides=True,
        pads=MODES,
        axes=(1, 2, 3),
    ),
    BranchOp("linear", build_linear, "a linear layer", LinearOptions, mixes=True, axes=(0,)),
)
