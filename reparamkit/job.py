"""job: what one operator has a machine do: a geometry and a size, no numbers. Equal jobs take equal time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

from reparamkit.operators import Conv, ConvTranspose, Operator, Scale, Stencil

if TYPE_CHECKING:
    import torch

    from reparamkit.merge import Like


@dataclass(frozen=True)
class Job:
    """One kernel to run.

    Attributes:
        kind: "conv", "transposed", "scale" or "add".
        batch: images.
        channels: of its input.
        size: spatial size of its input.
        dtype: of input and weights.
        device: likewise.
        channels_last: whether the input is stored so.
        weight: shape of the kernel, as torch has it.
        stride: one a spatial axis.
        padding: likewise, (before, after).
        dilation: likewise.
        groups: channel groups.
    """

    kind: str
    batch: int
    channels: int
    size: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    channels_last: bool = False
    weight: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1


@dataclass(frozen=True)
class Bench:
    """What jobs have in common: the input of the flow they belong to.

    Attributes:
        shape: of that input, ``[N, C, *spatial]``.
        like: dtype, device and memory format.
    """

    shape: tuple[int, ...]
    like: Like

    def job(self, kind: str, channels: int, density: float) -> Job:
        """A job with a result of `density` positions per position of the input of the flow."""
        spatial = self.shape[2:]
        side = density ** (1 / len(spatial)) if spatial else 1.0
        size = tuple(max(1, round(n * side)) for n in spatial)
        like = self.like
        return Job(kind, self.shape[0], channels, size, like.dtype, like.device, like.channels_last)

    def job_of(self, op: Operator, density: float, channels: int) -> Job | None:
        """The job of a module that computes `op`; `None` when there is no telling."""
        if isinstance(op, Stencil):
            op = op.bind(channels)
        if isinstance(op, Scale):
            return self.job("scale", op.channels or channels, density)
        if not isinstance(op, (Conv, ConvTranspose)) or op.nd != len(self.shape) - 2:
            return None
        transposed = isinstance(op, ConvTranspose)
        positions = density / prod(op.stride) if transposed else density * prod(op.stride)
        plain = self.job("transposed" if transposed else "conv", op.in_channels, positions)
        plain = replace(plain, stride=op.stride, dilation=op.dilation, groups=op.groups)
        if isinstance(op, Conv):
            return replace(plain, weight=tuple(op.weight.shape), padding=op.padding)
        rows, columns, *kernel = op.weight.shape
        return replace(plain, weight=(columns * op.groups, rows // op.groups, *kernel))
