"""`avgpool`: average pooling over the layer's window (Diverse Branch Block, CVPR 2021, §3.2). It counts its padding."""

from __future__ import annotations

from typing import Any

from torch import nn

from reparamkit.branch import BranchOp, Options, PerAxis, Place

POOLS: tuple[Any, ...] = (None, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)


class PoolOptions(Options):
    """Options of `avgpool`."""

    kernel_size: PerAxis = "k"


def build_pool(options: PoolOptions, place: Place) -> nn.Module:
    """An `nn.AvgPoolNd`."""
    pool: nn.Module = POOLS[place.nd](place.kernel_size, place.stride, place.padding)
    return pool


OPS = (
    BranchOp(
        "avgpool", build_pool, "average pooling", PoolOptions, taps="k", strides=True, pads=("zeros",), axes=(1, 2, 3)
    ),
)
