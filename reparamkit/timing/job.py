"""job: what one operator has a machine do: a geometry and a size, no numbers. Equal jobs take equal time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from reparamkit.operators import Conv, ConvTranspose, Operator, Scale, Stencil

if TYPE_CHECKING:
    import torch

    from reparamkit.term import Like


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

    def __str__(self) -> str:
        if not self.weight:
            return f"{self.kind} of {'x'.join(map(str, (self.batch, self.channels, *self.size)))}"
        kernel = "x".join(map(str, self.weight[2:]))
        options = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation, "groups": self.groups}
        usual = {"stride": "1", "padding": "0", "dilation": "1", "groups": "1"}
        told = "".join(f" {name} {text}" for name, value in options.items() if (text := _short(value)) != usual[name])
        where = "x".join(map(str, (self.batch, self.channels, *self.size)))
        return f"{self.kind} {self.weight[0]}, {kernel or 'linear'}{told} on {where}"


def _short(value: Any) -> str:
    """A number for each axis, once where all are equal: of a padding where both sides are."""
    if not isinstance(value, tuple):
        return str(value)
    parts = [_short(part) for part in value]
    return parts[0] if len(set(parts)) == 1 else "" if not parts else f"({','.join(parts)})"


@dataclass(frozen=True)
class Bench:
    """A value that jobs read: what they have in common.

    Attributes:
        batch: images.
        size: its spatial size.
        like: dtype, device and memory format.
    """

    batch: int
    size: tuple[int, ...]
    like: Like

    def job(self, kind: str, channels: int) -> Job:
        """A job that reads so many channels."""
        like = self.like
        return Job(kind, self.batch, channels, self.size, like.dtype, like.device, like.channels_last)

    def job_of(self, op: Operator, channels: int) -> Job | None:
        """The job of a module that computes `op`; `None` when there is no telling."""
        if isinstance(op, Stencil):
            op = op.bind(channels)
        if isinstance(op, Scale):
            return self.job("scale", op.channels or channels)
        if not isinstance(op, (Conv, ConvTranspose)) or op.nd != len(self.size):
            return None
        transposed = isinstance(op, ConvTranspose)
        plain = self.job("transposed" if transposed else "conv", op.in_channels)
        plain = replace(plain, stride=op.stride, dilation=op.dilation, groups=op.groups)
        if isinstance(op, Conv):
            return replace(plain, weight=tuple(op.weight.shape), padding=op.padding)
        rows, columns, *kernel = op.weight.shape
        return replace(plain, weight=(columns * op.groups, rows // op.groups, *kernel))
