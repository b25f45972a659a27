"""The plain layer that branches stand beside, as numbers: a convolution of any rank, or a linear layer.

A linear layer is a convolution with no spatial axis. A recipe is checked against layers that nobody has built.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from reparamkit.rules.conv import pads_of

Pads = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Layer:
    """Geometry of a plain layer.

    Attributes:
        in_channels: channels (features) of its input.
        out_channels: of its output.
        kernel_size: taps, one number a spatial axis; empty for a linear layer.
        stride: likewise.
        padding: (before, after) of each axis.
        dilation: one number an axis.
        groups: channel groups.
        padding_mode: as in `torch.nn.Conv2d`.
        bias: whether it has one.
    """

    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: Pads = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    padding_mode: str = "zeros"
    bias: bool = True

    @property
    def nd(self) -> int:
        """Number of spatial axes; 0 is a linear layer."""
        return len(self.kernel_size)

    @property
    def kind(self) -> str:
        """What recipes call it: "conv1d", "conv2d", "conv3d", "linear"."""
        return f"conv{self.nd}d" if self.nd else "linear"

    @property
    def span(self) -> tuple[int, ...]:
        """Distance from the first tap to the last on each axis."""
        return tuple(d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True))

    @property
    def depthwise(self) -> bool:
        """Whether every input channel is a group of its own."""
        return self.groups > 1 and self.groups == self.in_channels

    def __str__(self) -> str:
        channels = f"{self.in_channels} -> {self.out_channels}"
        if not self.nd:
            return f"linear {channels}"
        groups = f", {self.groups} groups" if self.groups > 1 else ""
        return f"{self.kind} {channels}, {'x'.join(map(str, self.kernel_size))}{groups}"


def layer_of(module: Any) -> Layer:
    """The geometry of an `nn.Conv1d`, `2d`, `3d` or `nn.Linear`."""
    bias = module.bias is not None
    if not hasattr(module, "kernel_size"):
        return Layer(module.in_features, module.out_features, bias=bias)
    return Layer(
        module.in_channels,
        module.out_channels,
        module.kernel_size,
        module.stride,
        pads_of(module.padding, module.kernel_size, module.dilation),
        module.dilation,
        module.groups,
        module.padding_mode,
        bias,
    )
