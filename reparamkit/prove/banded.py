"""banded: convolutions and linear layers in float64, one band of output channels after the other.

They are unfolded and multiplied, so that no float64 copy of a large kernel is made (and because torch has no fast
float64 convolution on CPUs).
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.weak import WeakTensorKeyDictionary

_BAND = 1 << 19  # numbers of a kernel that are in float64 at one time


# What convolutions read of an input, as long as the input is there: branches of one shape read the same.
_READ = WeakTensorKeyDictionary()
_SMALL = 1 << 18  # numbers; the patches of a large kernel are worth their memory only while they are read


def _read_once(x: Tensor, key: tuple[Any, ...], read: Callable[[], Any]) -> Any:
    """`read()`, or what it gave for this `x` and `key` before; once `x` has been written to, anew."""
    if x.is_inference():  # it does not tell when it is written to
        return read()
    known: dict[tuple[Any, ...], Any] = _READ.setdefault(x, {})
    key = (*key, x._version)
    if key in known:
        return known[key]
    made = read()
    view = made[0].untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
    if made[0].numel() <= _SMALL and not view:  # a view would keep `x` and itself in memory for ever
        known[key] = made
    return made


class Geometry(NamedTuple):
    """What the forward of a convolution takes besides its numbers; attributes may have changed since it was built.

    Attributes:
        kernel: size of the kernel that there is.
        stride: of each axis.
        dilation: of each axis.
        groups: of channels.
        pads: as `F.pad` takes them.
        mode: of padding, likewise.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    pads: tuple[int, ...]
    mode: str


def _geometry(module: Any) -> Geometry:
    kernel = tuple(module.weight.shape[2:])
    stride, dilation = (_each(value, len(kernel)) for value in (module.stride, module.dilation))
    if module.padding_mode != "zeros":
        pads, mode = tuple(module._reversed_padding_repeated_twice), module.padding_mode
        return Geometry(kernel, stride, dilation, module.groups, pads, mode)
    if module.padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        ends = [(t // 2, t - t // 2) for t in totals]
    else:
        ends = [(p, p) for p in _each(0 if module.padding == "valid" else module.padding, len(kernel))]
    pads = tuple(p for pair in reversed(ends) for p in pair)
    return Geometry(kernel, stride, dilation, module.groups, pads, "constant")


def _each(value: Any, nd: int) -> tuple[int, ...]:
    return (value,) * nd if isinstance(value, int) else (*value,) * (nd // len(value))


def unfolded(x: Tensor, g: Geometry) -> tuple[Tensor, tuple[int, ...]]:
    """Patches of `x` as ``[N, groups, positions, in_channels / groups * taps]``, and the size of the result."""
    x = (F.pad(x, g.pads, mode=g.mode) if any(g.pads) else x).contiguous()
    out = tuple(
        (size - d * (k - 1) - 1) // s + 1
        for size, k, s, d in zip(x.shape[2:], g.kernel, g.stride, g.dilation, strict=True)
    )
    n, c = x.shape[:2]
    batch, channel, *axes = x.stride()
    view = x.as_strided(
        (n, g.groups, *out, c // g.groups, *g.kernel),
        (
            batch,
            channel * (c // g.groups),
            *(st * s for st, s in zip(axes, g.stride, strict=True)),
            channel,
            *(st * d for st, d in zip(axes, g.dilation, strict=True)),
        ),
    )
    return view.reshape(n, g.groups, prod(out), c // g.groups * prod(g.kernel)), out


class ConvRun:
    """A convolution module on one input, computed band by band of output channels.

    Attributes:
        shape: of the result.
    """

    def __init__(self, module: Any, x: Tensor) -> None:
        self.module = module
        self.groups = module.groups
        self.x = x
        geometry = _geometry(module)
        self.patches, self.size = _read_once(x, geometry, lambda: unfolded(x, geometry))
        self.shift = 1.0
        self.shape = (len(x), len(module.weight), *self.size)
        self.out = x.new_empty(len(x), prod(self.size), len(module.weight))

    def sum_up(self, mix: Tensor) -> None:
        """Compute only the sum over samples and positions, weighted by `mix`, for the price of one position.

        As a check of every number of the kernel it is as good as the whole result (Freivalds' check of products).
        """
        patches, key = self.patches, (*_geometry(self.module), id(mix))
        mixed = mix.reshape(len(patches), 1, 1, -1)
        self.patches, _ = _read_once(self.x, key, lambda: ((mixed @ patches).sum(0, keepdim=True), mix))
        self.shift, self.size = float(mix.sum()), (1,) * len(self.size)
        self.out = self.out[:1, :1]

    def band(self, lo: int, hi: int, rows: Tensor) -> None:
        """Compute output channels `lo` to `hi` with these `rows` of the kernel, float64."""
        per_group = len(self.module.weight) // self.groups
        flat = rows.reshape(hi - lo, -1)
        if lo % per_group == 0 and hi % per_group == 0 and self.groups > 1:
            first, last = lo // per_group, hi // per_group
            weight = flat.reshape(last - first, per_group, -1)
            made = self.patches[:, first:last] @ weight.transpose(1, 2)  # [N, groups, positions, out / groups]
            self.out[:, :, lo:hi] = made.transpose(1, 2).flatten(2)
            return
        row = lo
        while row < hi:
            group = row // per_group
            end = min(hi, (group + 1) * per_group)
            self.out[:, :, row:end] = self.patches[:, group] @ flat[row - lo : end - lo].T
            row = end

    def result(self, bias: Tensor | None) -> Tensor:
        """The output, `bias` added; once summed up it has one sample and one position."""
        if bias is not None:
            self.out += self.shift * bias.to(torch.float64)
        n, _, channels = self.out.shape
        return self.out.transpose(1, 2).reshape(n, channels, *self.size)


class LinearRun:
    """A linear module on one input, computed band by band.

    Attributes:
        shape: of the result.
    """

    def __init__(self, module: Any, x: Tensor) -> None:
        self.x = x
        self.shift = 1.0
        self.shape = (*x.shape[:-1], len(module.weight))
        self.out = x.new_empty(self.shape)

    def sum_up(self, mix: Tensor) -> None:
        """Compute only the sum over positions, weighted by `mix`; as `ConvRun.sum_up`."""
        ones = [1] * (self.x.ndim - 1)
        self.x = (mix.reshape(1, -1) @ self.x.reshape(-1, self.x.shape[-1])).reshape(*ones, -1)
        self.shift = float(mix.sum())
        self.out = self.out.new_empty(*ones, self.out.shape[-1])

    def band(self, lo: int, hi: int, rows: Tensor) -> None:
        """Compute output features `lo` to `hi`."""
        self.out[..., lo:hi] = self.x @ rows.reshape(hi - lo, -1).T

    def result(self, bias: Tensor | None) -> Tensor:
        """The output, `bias` added."""
        return self.out if bias is None else self.out + self.shift * bias.to(torch.float64)


def summed_up(value: Tensor, mix: Tensor, channel: int) -> Tensor:
    """The sum of `value` over all axes but `channel`, weighted by `mix`; those axes stay, of size 1."""
    lead = value.movedim(channel, 0)
    made = lead.reshape(len(lead), -1) @ mix.reshape(-1)
    return made.reshape(len(lead), *[1] * (value.ndim - 1)).movedim(0, channel)


def bands_of(weight: Tensor) -> list[tuple[int, int]]:
    """Bounds of row bands of a kernel."""
    step = max(1, _BAND // max(1, weight[0].numel()))
    return [(lo, min(lo + step, len(weight))) for lo in range(0, len(weight), step)]


def run_conv(module: Any, x: Tensor) -> Tensor:
    """What an `nn.ConvNd` computes for `x`."""
    return _by_bands(ConvRun(module, x), module)


def run_linear(module: Any, x: Tensor) -> Tensor:
    """What an `nn.Linear` computes for `x`."""
    return _by_bands(LinearRun(module, x), module)


def _by_bands(run: ConvRun | LinearRun, module: Any) -> Tensor:
    weight = module.weight.detach()
    for lo, hi in bands_of(weight):
        run.band(lo, hi, weight[lo:hi].double())
    return run.result(None if module.bias is None else module.bias.detach())
