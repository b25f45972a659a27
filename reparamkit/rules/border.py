"""core/border: padding with a number of its own for every channel.

Formula (Ding et al., Diverse Branch Block, CVPR 2021, transform III): a branch of a 1x1 convolution, a batch norm and a
kxk convolution is one kxk convolution when the kxk pads with what the batch norm gives for zero. `core/sequential` asks
for exactly that: the outer pad value is what the inner operator makes of its own padding.

Conditions: the value is constant, one a channel. A forward computes it in the model's own dtype, so it is off by a few
units of that dtype; this much is allowed, in the condition and in the proof.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from reparamkit.answers import Call, Context, Through
from reparamkit.errors import Refusal
from reparamkit.operators import Conv, conv
from reparamkit.operators.vector import Vector
from reparamkit.rule import Lift, Rule
from reparamkit.rules.usable import unusable
from reparamkit.trace.borders import bordered

RULE = "core/border"
_UNITS = 64  # of rounding that computing the value may have cost


def lift_bordered(call: Call, context: Context) -> Through | Refusal:
    """`bordered`."""
    bound = call.bind("x", "pads", "value")
    value = bound["value"]
    if not call.is_input(bound["x"]) or not call.constant([value, bound["pads"]]):
        return Refusal("RK331", "a border that depends on the input")
    refusal = unusable(value)
    if refusal is not None:
        return refusal
    rounding = _UNITS * torch.finfo(value.dtype).eps
    return Through(bound["x"], _padding(value.detach().flatten(), bound["pads"], rounding), rounding)


def _padding(value: torch.Tensor, pads: list[int], rounding: float) -> Conv:
    pairs = tuple((pads[i], pads[i + 1]) for i in range(0, len(pads), 2))[::-1]
    ones = torch.ones(len(value), 1, *[1] * len(pairs), dtype=torch.float64, device=value.device)
    made = conv(ones, padding=pairs, groups=len(value))
    return replace(made, pad_value=Vector(lambda: value, rounding))


rules: tuple[Rule, ...] = (Lift(RULE, bordered, lift_bordered),)
