"""Operators that work on each channel alone and may not know yet how many there are."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from reparamkit.operators.conv import Conv, channelwise
from reparamkit.operators.vector import Vector
from reparamkit.operators.weight import Given, given

if TYPE_CHECKING:
    from torch import Tensor


def _one() -> Tensor:
    return torch.ones((), dtype=torch.float64, device="cpu")


@dataclass(frozen=True, eq=False)
class Scale:
    """``y = scale * x + shift`` per channel: batch norm in eval mode, layer scale, identity.

    Attributes:
        scale: ``[channels]``, or ``[]`` when every channel has the same.
        shift: like `scale`; `None` is zero.
        nd: spatial axes behind the channel axis; `None` when any number fits.
    """

    scale: Tensor = field(default_factory=_one)
    shift: Tensor | None = None
    nd: int | None = None

    @property
    def channels(self) -> int | None:
        """Number of channels, `None` while it is not known."""
        for part in (self.scale, self.shift):
            if part is not None and part.ndim:
                return part.shape[0]
        return None

    @cached_property
    def is_identity(self) -> bool:
        """Whether the result is the input."""
        plain = self.shift is None or not bool(self.shift.any())
        return plain and bool((self.scale == 1).all())

    @property
    def params(self) -> int:
        """Numbers a module of this shape stores."""
        return 2 * (self.channels or 0)

    @property
    def macs(self) -> int:
        """Multiply-accumulates per position."""
        return self.channels or 0

    def bind(self, nd: int, channels: int) -> Conv:
        """The same map as a convolution with `nd` spatial axes and `channels` channels."""
        return channelwise(self.scale, self.shift, nd, channels)


@dataclass(frozen=True, eq=False)
class Offset(Scale):
    """``y = x + shift``, where a module of its own is to compute it; any other `Scale` is merged or left."""


@dataclass(frozen=True, eq=False)
class Stencil:
    """One spatial filter applied to every channel: average pooling, padding, cropping.

    Attributes:
        one: the filter, a `Conv` of one channel in and out.
    """

    one: Conv

    @property
    def nd(self) -> int:
        """Number of spatial axes."""
        return self.one.nd

    @property
    def is_view(self) -> bool:
        """Whether it only leaves positions out: a crop, a slice with steps."""
        one = self.one
        plain = one.bias is None and set(one.kernel_size) <= {1} and not any(max(pads) > 0 for pads in one.padding)
        return plain and float(one.weight.dense()) == 1

    @property
    def params(self) -> int:
        """Such a layer stores nothing."""
        return 0

    @property
    def macs(self) -> int:
        """Multiply-accumulates per output position and channel."""
        return self.one.macs

    def bind(self, channels: int) -> Conv:
        """The same map as a depthwise convolution of `channels` channels."""
        kernel = self.one.weight.dense().expand(channels, 1, *self.one.kernel_size)

        def spread(v: Vector | None) -> Vector | None:
            return None if v is None else Vector(lambda: v.value.expand(channels))

        return replace(
            self.one,
            weight=given(kernel),
            groups=channels,
            bias=spread(self.one.bias),
            pad_value=spread(self.one.pad_value),
        )


def stencil(kernel: Tensor, **geometry: object) -> Stencil:
    """A `Stencil` from its taps ``[*kernel_size]`` and the geometry keywords of `Conv`."""
    nd = kernel.ndim
    weight = Given((1, 1, *kernel.shape), kernel.to(torch.float64)[None, None])
    filled = {
        "stride": (1,) * nd,
        "padding": ((0, 0),) * nd,
        "dilation": (1,) * nd,
        **geometry,
    }
    return Stencil(Conv(weight, **filled))  # type: ignore[arg-type]
