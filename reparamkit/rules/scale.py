"""core/scale: per-channel scales and shifts go into the convolution beside them.

Formula: after a convolution ``W' = s W, b' = s b + t`` (RepVGG eq. 3; LayerScale; RepOptimizer's ScaleLayer;
YOLOv7's ImplicitM); before one ``W'[o, i] = W[o, i] s[i], b' = b + W t``.

Conditions: the scale acts on the channel axis, with one entry or one a channel. Before a convolution the scale
is always exact, the shift only where the convolution reads no padding, pads by reflecting, replicating or
wrapping, or pads with the shift itself (else the border would change). A shift before a transposed convolution
is refused: positions see different numbers of taps.

A scale whose shift may not go leaves it behind: `core/parted`. `core/ones_channel` takes both, where a recipe asks for
it.
"""

from __future__ import annotations

from dataclasses import replace

from reparamkit.errors import Refusal
from reparamkit.operators import Conv, ConvTranspose, Scale, Stencil
from reparamkit.operators.conv import channelwise
from reparamkit.operators.vector import Vector, is_zero, plus, through, vector
from reparamkit.operators.vector import times as times_vector
from reparamkit.operators.weight import column_scaled, scaled
from reparamkit.rule import Compose, Rule
from reparamkit.rules.sequential import compose_convs

RULE = "core/scale"
ALWAYS = ""  # scaling a kernel is what every lifted scale and batch norm is for: nothing to switch off


def _fits(scale: Scale, nd: int, channels: int) -> Refusal | None:
    if scale.nd not in (None, nd):
        return Refusal("RK310", f"a scale with {scale.nd} axes behind its channels, a conv with {nd}")
    if scale.channels not in (None, channels):
        return Refusal("RK311", f"{scale.channels} scales for {channels} channels")
    return None


def _shift(scale: Scale, channels: int) -> Vector | None:
    return None if scale.shift is None else vector(scale.shift.expand(channels))


def after_conv(outer: Scale, inner: Conv | ConvTranspose) -> Conv | ConvTranspose | Refusal:
    """``s * conv(x) + t``."""
    refusal = _fits(outer, inner.nd, inner.out_channels)
    if refusal is not None:
        return refusal
    bias = plus(times_vector(inner.bias, outer.scale), _shift(outer, inner.out_channels))
    return replace(inner, weight=scaled(inner.weight, outer.scale), bias=bias)


def before_conv(outer: Conv, inner: Scale) -> Conv | Refusal:
    """``conv(s * x + t)``."""
    refusal = _fits(inner, outer.nd, outer.in_channels)
    if refusal is not None:
        return refusal
    if outer.reads_padding and outer.padding_mode == "zeros":
        # The border rule for a shift is that of any pointwise map before a padded convolution.
        pointwise = channelwise(inner.scale, inner.shift, outer.nd, outer.in_channels)
        probed = compose_convs(outer, pointwise)
        if isinstance(probed, Refusal):
            return probed
    bias = plus(outer.bias, through(outer.weight, outer.groups, _shift(inner, outer.in_channels)))
    weight = column_scaled(outer.weight, inner.scale.expand(outer.in_channels), outer.groups)
    return replace(outer, weight=weight, bias=bias, pad_value=None)


def before_transposed(outer: ConvTranspose, inner: Scale) -> ConvTranspose | Refusal:
    """``conv_transpose(s * x)``."""
    refusal = _fits(inner, outer.nd, outer.in_channels)
    if refusal is not None:
        return refusal
    if not is_zero(_shift(inner, outer.in_channels)):
        return Refusal("RK316", "a shift spread by a transposed convolution is not the same everywhere")
    scale = inner.scale.expand(outer.in_channels)
    return replace(outer, weight=column_scaled(outer.weight, scale, outer.groups))


def scale_of_scale(outer: Scale, inner: Scale) -> Scale | Refusal:
    """``s2 * (s1 * x + t1) + t2``."""
    if outer.nd is not None and inner.nd is not None and outer.nd != inner.nd:
        return Refusal("RK310", f"scales of the axis before {inner.nd} and before {outer.nd} others")
    if outer.channels and inner.channels and outer.channels != inner.channels:
        return Refusal("RK311", f"channels: {inner.channels} and {outer.channels}")
    shift = None if inner.shift is None else outer.scale * inner.shift
    if outer.shift is not None:
        shift = outer.shift if shift is None else shift + outer.shift
    return Scale(outer.scale * inner.scale, shift, outer.nd if inner.nd is None else inner.nd)


def _after_stencil(outer: Scale, inner: Stencil) -> Conv | Stencil | Refusal:
    if outer.nd not in (None, inner.nd):
        return Refusal("RK310", f"a scale with {outer.nd} axes behind its channels, a filter with {inner.nd}")
    bound = inner.one if outer.channels is None else inner.bind(outer.channels)
    made = after_conv(outer, bound)
    return Stencil(made) if outer.channels is None and isinstance(made, Conv) else made  # type: ignore[return-value]


def _before_stencil(outer: Stencil, inner: Scale) -> Conv | Stencil | Refusal:
    if inner.nd not in (None, outer.nd):
        return Refusal("RK310", f"a scale with {inner.nd} axes behind its channels, a filter with {outer.nd}")
    if inner.channels is None:
        made = before_conv(outer.one, inner)
        return Stencil(made) if isinstance(made, Conv) else made
    return before_conv(outer.bind(inner.channels), inner)


rules: tuple[Rule, ...] = (
    Compose(ALWAYS, Scale, Conv, after_conv),
    Compose(ALWAYS, Scale, ConvTranspose, after_conv),
    Compose(ALWAYS, Conv, Scale, before_conv),
    Compose(ALWAYS, ConvTranspose, Scale, before_transposed),
    Compose(ALWAYS, Scale, Scale, scale_of_scale),
    Compose(ALWAYS, Scale, Stencil, _after_stencil),
    Compose(ALWAYS, Stencil, Scale, _before_stencil),
)
