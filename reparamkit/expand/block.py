"""The expanded form of a layer: branches that are added. Plain modules, so that they train like anything else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reparamkit.expand.layer import Layer, Pads
from reparamkit.expand.online import Impulses
from reparamkit.standin import StandIn

_PADS: dict[str, tuple[Any, ...]] = {
    "zeros": (None, nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d),
    "reflect": (None, nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d),
    "replicate": (None, nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d),
    "circular": (None, nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d),
}


def padding(pads: Pads, mode: str = "zeros") -> nn.Module:
    """The module that pads by `pads`, (before, after) of each axis; negative amounts crop."""
    flat = tuple(p for pair in reversed(pads) for p in pair)
    made: nn.Module = _PADS[mode][len(pads)](flat)
    return made


class Branches(nn.Module):
    """The sum of its children, each of the same input.

    Args:
        branches: by name.
        online: geometry of their merged kernel, when they are to be trained through it.
    """

    def __init__(self, branches: Mapping[str, nn.Module], online: Layer | None = None) -> None:
        super().__init__()
        self._impulses = None if online is None else Impulses(online)
        for name, branch in branches.items():
            self.add_module(name, branch)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, in_channels, *spatial]`` (``[.., in_features]``) to what the layer it is for makes of it."""
        if self._impulses is not None and self.training:
            return self._impulses.run(self._added, x)
        return self._added(x)

    def _added(self, x: Tensor) -> Tensor:
        first, *others = self.children()
        total: Tensor = first(x)
        for branch in others:
            total = total + branch(x)
        return total


class Expanded(Branches, StandIn):
    """Branches in the place of a plain layer, with its geometry as attributes; `apply` puts the layer back.

    Args:
        layer: what it stands for.
        branches: by name.
        online: train them through their merged kernel.
    """

    def __init__(self, layer: Layer, branches: Mapping[str, nn.Module], online: bool = False) -> None:
        super().__init__(branches, layer if online else None)
        self.biased = layer.bias
        self.groups, self.padding_mode = layer.groups, layer.padding_mode
        if not layer.nd:
            self.in_features, self.out_features = layer.in_channels, layer.out_channels
            return
        self.in_channels, self.out_channels = layer.in_channels, layer.out_channels
        self.kernel_size, self.stride, self.dilation = layer.kernel_size, layer.stride, layer.dilation
        even = all(low == high for low, high in layer.padding)
        self.padding = tuple(low for low, _ in layer.padding) if even else "same"


class Framed(nn.Module):
    """`front` with a border of what it makes of zero, so that a kernel behind it may read beyond the edge.

    In eval mode the input is padded and `front`, which works on each position alone, runs on all of it. In training
    mode its norms look at the input alone, and the border is what they would make of zero with their running
    statistics (the padded batch norm of Diverse Branch Block, CVPR 2021, §3.3); no gradient flows through it.

    Args:
        front: norms, pointwise convolutions and the like.
        pads: (before, after) of each axis.
    """

    def __init__(self, front: nn.Sequential, pads: Pads) -> None:
        super().__init__()
        self.pad = padding(pads)
        self.front = front

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, C, *spatial]`` to ``[N, C', *(spatial + pads)]``."""
        if not self.training:
            result: Tensor = self.front(self.pad(x))
            return result
        inside: Tensor = self.front(x)
        border = self._border(inside, x)
        framed: Tensor = self.pad(inside - border) + border
        return framed

    @torch.no_grad()
    def _border(self, inside: Tensor, x: Tensor) -> Tensor:
        value = x.new_zeros(1, x.shape[1], *[1] * (x.ndim - 2))
        for module in self.front:
            value = _settled(module, value)
        return value.to(inside.dtype)


def _settled(module: nn.Module, x: Tensor) -> Tensor:
    """What `module` makes of `x` in eval mode, whatever its mode is."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        statistics = module.running_mean, module.running_var
        return F.batch_norm(x, *statistics, module.weight, module.bias, training=False, eps=module.eps)
    if isinstance(module, nn.Dropout):
        return x
    result: Tensor = module(x)
    return result
