"""core/sequential: two convolutions in a row are one.

Formula (Ding et al., Diverse Branch Block, CVPR 2021, transform III; for any kernels, strides and dilations):

    W'[o, i, s1*d2*k2 + d1*k1] = sum_m W2[o, m, k2] W1[m, i, k1]        b' = b2 + W2 * b1
    stride' = s1*s2        padding' = p1 + s1*p2

Exact when the outer convolution reads no padding. Where it does pad an axis, it sees its pad value where
the inner one would have put `W1 u + b1` (u: what the inner one pads with), so there also:

* the inner kernel has one tap on that axis (otherwise the outer one would see a halo that was cropped), and
  does not crop on that side (the padding would stand where there is input);
* zeros: `W1 u + b1` equals the outer pad value in every channel (bias-free inner convolution, or the
  pad-with-bias idiom of DBB and ECBSR);
* reflect, replicate, circular: padding commutes with a pointwise inner convolution of stride 1.
"""

from __future__ import annotations

from math import gcd

import torch

from reparamkit.errors import Refusal
from reparamkit.operators.composed import composed
from reparamkit.operators.conv import Conv, pointwise, with_groups
from reparamkit.operators.conv_transpose import ConvTranspose
from reparamkit.operators.placed import regrouped
from reparamkit.operators.scale import Stencil
from reparamkit.operators.vector import Vector, is_zero, plus, through, values
from reparamkit.rule import Compose, Rule

RULE = "core/sequential"


def compose_convs(outer: Conv, inner: Conv) -> Conv | Refusal:
    """``outer(inner(x))`` as one convolution."""
    if outer.nd != inner.nd:
        return Refusal("RK310", f"spatial axes: {inner.nd} first, then {outer.nd}")
    if outer.in_channels != inner.out_channels:
        return Refusal("RK311", f"{inner.out_channels} channels into a conv of {outer.in_channels}")
    if outer.reads_padding:
        refusal = _border(outer, inner)
        if refusal is not None:
            return refusal
    axes = range(outer.nd)
    padding = tuple(
        (
            inner.padding[a][0] + inner.stride[a] * outer.padding[a][0],
            inner.padding[a][1] + inner.stride[a] * outer.padding[a][1],
        )
        for a in axes
    )
    steps = [
        _steps(inner.stride[a] * outer.dilation[a], outer.kernel_size[a], inner.dilation[a], inner.kernel_size[a])
        for a in axes
    ]
    bias = plus(outer.bias, through(outer.weight, outer.groups, inner.bias))
    outer, inner, groups = _same_groups(outer, inner)
    return Conv(
        composed(outer.weight, inner.weight, groups, [s[1] for s in steps], [s[2] for s in steps]),
        bias,
        tuple(inner.stride[a] * outer.stride[a] for a in axes),
        padding,
        tuple(s[0] for s in steps),
        groups,
        inner.padding_mode if inner.reads_padding else outer.padding_mode,
        inner.pad_value,
    )


def _steps(outer: int, outer_taps: int, inner: int, inner_taps: int) -> tuple[int, int, int]:
    """(dilation of the result, outer step and inner step in units of it) on one axis."""
    if inner_taps == 1:
        return outer, 1, 1
    if outer_taps == 1:
        return inner, 1, 1
    common = gcd(outer, inner)
    return common, outer // common, inner // common


def _same_groups(outer: Conv, inner: Conv) -> tuple[Conv, Conv, int]:
    if outer.weight.shape[1] == 1 and outer.out_channels == inner.out_channels:
        return outer, inner, inner.groups
    groups = gcd(outer.groups, inner.groups)
    return with_groups(outer, groups), with_groups(inner, groups), groups


def _border(outer: Conv, inner: Conv) -> Refusal | None:
    """Why `outer` would see something else at the border, if it would."""
    for axis, pads in enumerate(outer.padding):
        if max(pads) <= 0:
            continue
        if inner.kernel_size[axis] > 1:
            return Refusal(
                "RK316",
                f"a kernel of {inner.kernel_size[axis]} taps, then padding {pads} on axis {axis}: "
                "the outer kernel would need positions the inner one never computed",
            )
        if any(p > 0 and q < 0 for p, q in zip(pads, inner.padding[axis], strict=True)):
            return Refusal("RK316", f"padding {pads} on axis {axis} where the inner one crops {inner.padding[axis]}")
        if outer.padding_mode == "zeros":
            continue
        if inner.stride[axis] > 1 or any(inner.padding[axis]):
            return Refusal(
                "RK316",
                f"{outer.padding_mode} padding {pads} after stride {inner.stride[axis]} "
                f"and padding {inner.padding[axis]} on axis {axis}",
            )
    if outer.padding_mode != "zeros" or (inner.reads_padding and inner.padding_mode != "zeros"):
        if inner.reads_padding and inner.padding_mode != outer.padding_mode:
            return Refusal("RK312", f"inner={inner.padding_mode}, outer={outer.padding_mode}")
        return None
    return _pad_value(outer, inner)


def _pad_value(outer: Conv, inner: Conv) -> Refusal | None:
    """Zeros mode: what `inner` gives on its own padding must be what `outer` pads with."""
    response = plus(inner.bias, through(inner.weight, inner.groups, inner.pad_value))
    if is_zero(response) and is_zero(outer.pad_value):
        return None
    device = inner.weight.device
    wanted = values(outer.pad_value, inner.out_channels, device)
    got = values(response, inner.out_channels, device)
    gap = float((wanted - got).abs().max())
    allowed = max(1e-12, 0.0 if outer.pad_value is None else outer.pad_value.rounding)
    if gap <= allowed * float(torch.maximum(wanted.abs().max(), got.abs().max())):
        return None
    return Refusal(
        "RK316",
        f"the outer conv pads {outer.padding} where the inner one would give its bias: they differ by up to {gap:.3g}",
    )


def _stencils(outer: Stencil, inner: Stencil) -> Stencil | Refusal:
    one = compose_convs(outer.one, inner.one)
    return one if isinstance(one, Refusal) else Stencil(one)


def _conv_after_stencil(outer: Conv, inner: Stencil) -> Conv | Refusal:
    if outer.nd != inner.nd:
        return Refusal("RK310", f"spatial axes: {inner.nd} first, then {outer.nd}")
    return compose_convs(outer, inner.bind(outer.in_channels))


def _stencil_after_conv(outer: Stencil, inner: Conv) -> Conv | Refusal:
    if outer.nd != inner.nd:
        return Refusal("RK310", f"spatial axes: {inner.nd} first, then {outer.nd}")
    return compose_convs(outer.bind(inner.out_channels), inner)


def _after_transposed(outer: Conv, inner: ConvTranspose) -> ConvTranspose | Refusal:
    """A pointwise convolution only mixes channels, so it moves into a transposed one."""
    if not pointwise(outer) or outer.nd != inner.nd:
        return Refusal("RK319", f"a kernel of {outer.kernel_size} taps after a transposed convolution")
    if outer.in_channels != inner.out_channels:
        return Refusal("RK311", f"{inner.out_channels} channels into a conv of {outer.in_channels}")
    bias = plus(outer.bias, through(outer.weight, outer.groups, inner.bias))
    return _transposed(outer, inner, inner, bias)


def _before_transposed(outer: ConvTranspose, inner: Conv) -> ConvTranspose | Refusal:
    if not pointwise(inner) or outer.nd != inner.nd:
        return Refusal("RK319", f"a kernel of {inner.kernel_size} taps before a transposed convolution")
    if outer.in_channels != inner.out_channels:
        return Refusal("RK311", f"{inner.out_channels} channels into a conv of {outer.in_channels}")
    if not is_zero(inner.bias):
        return Refusal("RK316", "a bias spread by a transposed convolution is not the same everywhere")
    return _transposed(outer, inner, outer, outer.bias)


def _transposed(
    outer: Conv | ConvTranspose, inner: Conv | ConvTranspose, like: ConvTranspose, bias: Vector | None
) -> ConvTranspose:
    groups = gcd(outer.groups, inner.groups)
    ones = (1,) * like.nd
    weight = composed(
        regrouped(outer.weight, outer.groups, groups),
        regrouped(inner.weight, inner.groups, groups),
        groups,
        ones,
        ones,
    )
    return ConvTranspose(weight, bias, like.stride, like.padding, like.output_padding, like.dilation, groups)


rules: tuple[Rule, ...] = (
    Compose(RULE, Conv, Conv, compose_convs),
    Compose(RULE, Stencil, Stencil, _stencils),
    Compose(RULE, Conv, Stencil, _conv_after_stencil),
    Compose(RULE, Stencil, Conv, _stencil_after_conv),
    Compose(RULE, Conv, ConvTranspose, _after_transposed),
    Compose(RULE, ConvTranspose, Conv, _before_transposed),
)
