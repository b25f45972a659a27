"""`scale`, `identity`, `dropout`: operations on each number alone."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from reparamkit.branch import BranchOp, Options, Place


class ScaleOptions(Options):
    """Options of `scale`."""

    value: float = Field(default=1.0, description="The factor at first.")
    per: Literal["channel", "layer"] = Field(default="channel", description="One factor a channel, or one in all.")
    train: bool = Field(default=True, description="Whether it is trained; a constant otherwise.")


class DropoutOptions(Options):
    """Options of `dropout`."""

    p: float = Field(default=0.5, ge=0, lt=1)


class Scale(nn.Module):
    """``y = weight * x``, one factor a channel or one in all.

    Args:
        channels: of the input; 1 for one factor in all.
        nd: spatial axes behind the channels; 0 when the channels are the last axis.
        value: of every factor at first.
        train: whether `weight` is a parameter; a buffer otherwise.
    """

    weight: Tensor

    def __init__(self, channels: int, nd: int, value: float = 1.0, train: bool = True) -> None:
        super().__init__()
        # One factor in all takes one axis: sharding has no use for a parameter without any.
        full = torch.full((channels, *[1] * nd) if channels > 1 else (1,), float(value))
        if train:
            self.weight = nn.Parameter(full)
        else:
            self.register_buffer("weight", full)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, channels, *spatial]`` (``[.., channels]`` without spatial axes) to the same."""
        return x * self.weight

    def extra_repr(self) -> str:
        """The number of factors."""
        return str(self.weight.shape[0])


def build_scale(options: ScaleOptions, place: Place) -> nn.Module:
    """A `Scale`."""
    channels = place.out_channels if options.per == "channel" else 1
    return Scale(channels, place.nd, options.value, options.train)


def build_identity(options: Options, place: Place) -> nn.Module:
    """An `nn.Identity`."""
    return nn.Identity()


def build_dropout(options: DropoutOptions, place: Place) -> nn.Module:
    """An `nn.Dropout`."""
    return nn.Dropout(options.p)


OPS = (
    BranchOp("scale", build_scale, "a factor a channel", ScaleOptions),
    BranchOp("identity", build_identity, "the input as it is"),
    BranchOp("dropout", build_dropout, "dropout; nothing in eval mode", DropoutOptions, by_batch=True),
)
