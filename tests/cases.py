"""Random operators for the tests of the algebra: geometry from hypothesis, numbers from a seed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from reparamkit.loading import build
from reparamkit.merge import Algebra
from reparamkit.operators import Conv, ConvTranspose, Operator, Scale, Stencil, conv, stencil, vector
from reparamkit.operators.conv import Pad
from reparamkit.operators.conv_transpose import conv_transpose
from reparamkit.term import Like, Term

RULES = build(autoload=False).merge
ALGEBRA = Algebra(RULES)
LIKE = Like(torch.float64, torch.device("cpu"))
MODES = ("reflect", "replicate", "circular")

seeds = st.integers(0, 2**31 - 1)
axes = st.integers(1, 3)
Draw = Any


class _Quiet:
    """A drawn value; hypothesis notes each one, and writing out tensors takes longer than testing them."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return geometry(self.value)


def draw(data: st.DataObject, strategy: st.SearchStrategy[Any]) -> Any:
    """`data.draw`, noted without its numbers."""
    return data.draw(strategy.map(_Quiet)).value


def numbers(seed: int, *shape: int) -> Tensor:
    """Random float64 values."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def term(op: Operator) -> Term:
    """An operator with parameters behind it."""
    return Term(op, frozenset(), LIKE)


def divisors(*values: int) -> list[int]:
    """What divides all of `values`."""
    return [g for g in range(1, min(values) + 1) if all(v % g == 0 for v in values)]


def per_axis(draw: Draw, nd: int, *choices: int) -> tuple[int, ...]:
    """One of `choices` an axis."""
    return tuple(draw(st.sampled_from(choices)) for _ in range(nd))


@st.composite
def convs(
    draw: Draw,
    nd: int,
    channels: tuple[int, int] | None = None,
    *,
    kernels: tuple[int, ...] = (1, 1, 2, 3),
    strides: tuple[int, ...] = (1, 1, 1, 2),
    dilations: tuple[int, ...] = (1, 1, 2),
    pads: tuple[int, ...] = (-1, 0, 0, 1, 2),
    modes: tuple[str, ...] = ("zeros", "zeros", "zeros", *MODES),
    bias: bool | None = None,
    pad_values: bool = True,
) -> Conv:
    """Any convolution of `nd` axes (0 is a linear layer)."""
    cin, cout = channels or (draw(st.sampled_from((2, 4))), draw(st.sampled_from((1, 2, 4))))
    groups = draw(st.sampled_from(divisors(cin, cout))) if nd else 1
    kernel = per_axis(draw, nd, *kernels)
    seed = draw(seeds)
    biased = draw(st.booleans()) if bias is None else bias
    padding: tuple[Pad, ...] = tuple((draw(st.sampled_from(pads)), draw(st.sampled_from(pads))) for _ in range(nd))
    op = conv(
        numbers(seed, cout, cin // groups, *kernel),
        numbers(seed + 1, cout) if biased else None,
        stride=per_axis(draw, nd, *strides),
        padding=padding,
        dilation=per_axis(draw, nd, *dilations),
        groups=groups,
        padding_mode=draw(st.sampled_from(modes)) if nd else "zeros",
    )
    if pad_values and nd and op.padding_mode == "zeros" and draw(st.integers(0, 5)) == 0:
        op = replace(op, pad_value=vector(numbers(seed + 2, cin)))
    return op


@st.composite
def scales(draw: Draw, nd: int | None, channels: int, *, shift: bool | None = None) -> Scale:
    """A scale of one number or one a channel, with or without a shift."""
    seed, wide = draw(seeds), draw(st.booleans())
    shape = (channels,) if wide else ()
    shifted = draw(st.booleans()) if shift is None else shift
    return Scale(numbers(seed, *shape), numbers(seed + 1, *shape) if shifted else None, nd if wide else None)


@st.composite
def stencils(draw: Draw, nd: int) -> Stencil:
    """A filter the same for every channel."""
    one = draw(convs(nd, (1, 1), kernels=(1, 2, 3), bias=False, pad_values=False))
    taps = one.weight.dense()[0, 0]
    value = vector(numbers(draw(seeds), 1)) if one.padding_mode == "zeros" and draw(st.booleans()) else None
    return stencil(
        taps,
        stride=one.stride,
        padding=one.padding,
        dilation=one.dilation,
        padding_mode=one.padding_mode,
        pad_value=value,
    )


@st.composite
def transposed(draw: Draw, nd: int, channels: tuple[int, int]) -> ConvTranspose:
    """A transposed convolution."""
    cin, cout = channels
    groups = draw(st.sampled_from(divisors(cin, cout)))
    seed = draw(seeds)
    stride, dilation = per_axis(draw, nd, 1, 2), per_axis(draw, nd, 1, 2)
    return conv_transpose(
        numbers(seed, cin, cout // groups, *per_axis(draw, nd, 1, 2, 3)),
        vector(numbers(seed + 1, cout)) if draw(st.booleans()) else None,
        groups,
        stride=stride,
        padding=per_axis(draw, nd, 0, 0, 1),
        output_padding=tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)),
        dilation=dilation,
    )


@st.composite
def operators(draw: Draw, nd: int, cin: int, cout: int) -> Operator:
    """Any operator of `nd` axes that takes `cin` channels; `cout` where it can choose."""
    kind = draw(
        st.sampled_from(("conv", "conv", "conv", "scale", "stencil", "transposed") if nd else ("conv", "scale"))
    )
    if kind == "scale":
        return draw(scales(nd, cin))
    if kind == "stencil":
        return draw(stencils(nd))
    if kind == "transposed":
        return draw(transposed(nd, (cin, cout)))
    return draw(convs(nd, (cin, cout)))


def out_channels(op: Operator, cin: int) -> int:
    """Channels of what `op` makes of `cin` channels."""
    return getattr(op, "out_channels", cin)


def run(op: Operator, x: Tensor) -> Tensor:
    """`op` of `x` ``[N, C, *spatial]``, scales by plain arithmetic."""
    if isinstance(op, Scale):
        shape = (-1, *[1] * (x.ndim - 2)) if op.channels else ()
        y = x * op.scale.reshape(shape)
        return y if op.shift is None else y + op.shift.reshape(shape)
    if isinstance(op, Stencil):
        return op.bind(x.shape[1]).apply(x)
    return op.apply(x)


def attempt(op: Operator, x: Tensor) -> Tensor | None:
    """`run`, or `None` where torch cannot (the input is smaller than the kernel or than what is reflected)."""
    try:
        return run(op, x)
    except RuntimeError:
        return None


def samples(nd: int, channels: int, *, batch: int = 2) -> list[Tensor]:
    """Inputs of several sizes, tiny, odd and even."""
    return [
        numbers(size, batch, channels, *[size + axis % 2 for axis in range(nd)])
        for size in ((1, 2, 3, 6, 9) if nd else (1,))
    ]


def assert_equal(wanted: Tensor, got: Tensor, what: object = "") -> None:
    """Equal to 1e-10 of the largest number."""
    assert wanted.shape == got.shape, f"{tuple(wanted.shape)} and {tuple(got.shape)}: {what}"
    if wanted.numel():
        size = float(wanted.abs().max()) or 1.0
        error = float((wanted - got).abs().max()) / size
        assert error <= 1e-10, f"relative error {error:.3g}: {what}"


def geometry(op: object) -> str:
    """The operator without its numbers, for messages."""
    if isinstance(op, Stencil):
        return f"Stencil({geometry(op.one)})"
    if isinstance(op, Scale):
        return f"Scale({op.channels}, shift={op.shift is not None}, nd={op.nd})"
    if isinstance(op, ConvTranspose):
        return f"ConvTranspose{op.geometry}"
    if not isinstance(op, Conv):
        return repr(op)
    return (
        f"Conv(weight={op.weight.shape}, bias={op.bias is not None}, stride={op.stride}, padding={op.padding}, "
        f"dilation={op.dilation}, groups={op.groups}, {op.padding_mode}, pad_value={op.pad_value is not None})"
    )
