"""core/identity_to_conv: an identity, a lone batch norm or a scaled identity is a convolution with one tap.

Formula (Ding et al., RepVGG, CVPR 2021, §3.3): ``s * x + t`` is the convolution with `C` groups, kernel
``[C, 1, 1, ..]`` filled with `s`, and bias `t`. Written with fewer groups that is the grouped dirac
``W[o, o mod (C/g)] = s[o]``; `core/groups` does it where the other branch needs it.

Conditions: the other branch has as many output as input channels (checked where they are added), and the
scale acts on the channel axis of the other branch. Stride 1 follows from the strides being compared.
A filter for every channel (`Stencil`) takes its channels from the other branch the same way.
"""

from __future__ import annotations

from reparamkit.errors import Refusal
from reparamkit.operators import Conv, Operator, Scale, Stencil
from reparamkit.rule import Align, Rule

RULE = "core/identity_to_conv"


def _as_conv(op: Scale | Stencil, other: Conv) -> Conv | Refusal:
    if op.nd is not None and op.nd != other.nd:
        return Refusal("RK310", f"{op.nd} spatial axes beside a conv of {other.nd}")
    if isinstance(op, Stencil):
        return op.bind(other.in_channels)
    if op.channels not in (None, other.in_channels):
        return Refusal("RK311", f"{op.channels} channels beside a conv of {other.in_channels}")
    return op.bind(other.nd, other.in_channels)


def _scale_and_stencil(scale: Scale, op: Stencil) -> Conv | Stencil | Refusal:
    if scale.nd not in (None, op.nd):
        return Refusal("RK310", f"{scale.nd} spatial axes beside a filter of {op.nd}")
    if scale.channels is None:
        return Stencil(scale.bind(op.nd, 1))
    return scale.bind(op.nd, scale.channels)


def align(a: Operator, b: Operator) -> tuple[Operator, Operator] | Refusal:
    """Give both the same kind, `Conv` where one is."""
    if isinstance(b, Conv) and isinstance(a, (Scale, Stencil)):
        made: Operator | Refusal = _as_conv(a, b)
        return made if isinstance(made, Refusal) else (made, b)
    if isinstance(a, Scale) and isinstance(b, Stencil):
        made = _scale_and_stencil(a, b)
        if isinstance(made, Refusal):
            return made
        return (made, b) if isinstance(made, Stencil) else align(made, b)
    if isinstance(a, Conv) and isinstance(b, (Scale, Stencil)):
        return _swapped(align(b, a))
    if isinstance(a, Stencil) and isinstance(b, Scale):
        return _swapped(align(b, a))
    return a, b


def _swapped(pair: tuple[Operator, Operator] | Refusal) -> tuple[Operator, Operator] | Refusal:
    return pair if isinstance(pair, Refusal) else (pair[1], pair[0])


rules: tuple[Rule, ...] = (Align(RULE, 0, align),)
