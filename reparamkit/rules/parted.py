"""core/parted: a scale goes into the convolutions behind it, though the shift beside it may not.

Formula: ``conv(s x + t) = conv'(x + t / s)`` with ``W'[o, i] = W[o, i] s[i]``. What a convolution pads is zero on both
sides, so this holds at the border too, where `core/scale` has to refuse the shift. It is how a learnable affine behind
an activation (PP-LCNetV3, HGNetV2) gives up its product: one operation an activation instead of two. Where each of
several convolutions can take the shift as well, as `core/scale` says, and a module computes the two and nothing else,
all of it goes into them.

Conditions: products and sums with constants are operations of one forward; whatever reads the result are convolutions
and branches of them, and each of them takes its share. Where the shift stays: product and sum are kernels of their own
(a batch norm is one kernel already), no channel is scaled to nothing, and `t / s` has room in its dtype; the forward is
written anew and calls a `reparamkit.offset.Offset`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from reparamkit import offset as layer
from reparamkit.errors import Refusal
from reparamkit.operators import Scale
from reparamkit.operators.scale import Offset
from reparamkit.rule import Lower, Rule, Switch
from reparamkit.term import Like

RULE = "core/parted"


def is_step(value: Any) -> bool:
    """Whether the value is a product or a sum with constants: an operation of a forward, not a module."""
    plain = value.module is None and value.share is None and value.split is None and value.tail is None
    kept = not (value.parts or value.gone or value.mutates) and value.unstable is None
    return plain and kept and value.term is not None and isinstance(value.term.op, Scale) and not value.refusal


def parted(op: Scale, dtype: torch.dtype) -> tuple[Scale, Offset] | Refusal:
    """``s x + t`` as a scale that goes on, and the offset ``t / s`` that stays in front of it.

    Args:
        op: the scale and its shift.
        dtype: what the offset will be stored in.
    """
    assert op.shift is not None
    scale, shift = torch.broadcast_tensors(op.scale, op.shift)
    nothing = int((scale == 0).sum())
    if nothing:
        return Refusal("RK322", f"{nothing} of {max(scale.numel(), 1)} channels are scaled by 0 and shifted")
    offset = shift / scale
    largest, room = float(offset.abs().max()), torch.finfo(dtype).max ** 0.5
    if not largest <= room:
        return Refusal(
            "RK501", f"the shift divided by the scale reaches {largest:.3g}, {dtype} has room for {room:.3g}"
        )
    return Scale(scale, None, op.nd), Offset(torch.ones_like(scale), offset, op.nd)


def lower_offset(op: Offset, like: Like) -> nn.Module | Refusal:
    """A layer for it, its number for all channels without axes where the forward's own had none."""
    assert op.shift is not None
    axes = [1] * (op.nd or 0)
    shape = [op.channels, *axes] if op.channels else [1] if like.decides else []
    return layer.Offset(shape, like.device, like.dtype)


rules: tuple[Rule, ...] = (Switch(RULE, is_step), Lower(RULE, Offset, lower_offset))
