"""core/concat: branches of one input stacked along the channels are one branch.

Formula (Ding et al., Diverse Branch Block, CVPR 2021, transform IV): the kernels, brought to one form, on top of
each other: ``W' = [W1; W2; ..]``, ``b' = [b1; b2; ..]``. A convolution of a stack follows by composition.

Conditions: all branches read the same value; the axis is the channel axis; the geometry agrees as for sums.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from reparamkit.answers import Call, Cat, Context
from reparamkit.errors import Refusal
from reparamkit.operators import Conv
from reparamkit.operators.conv import stack, with_groups
from reparamkit.rule import Concat, Lift, Rule

if TYPE_CHECKING:
    from collections.abc import Sequence

RULE = "core/concat"


def stack_convs(parts: Sequence[Conv]) -> Conv | Refusal:
    """The outputs of convolutions of one geometry, stacked."""
    dense = [with_groups(part, 1) for part in parts]
    return stack(dense)


def lift_cat(call: Call, context: Context) -> Cat | Refusal:
    """`torch.cat` of values."""
    bound = call.bind("tensors", dim=0)
    values, dim = bound["tensors"], bound["dim"]
    if not isinstance(values, (list, tuple)) or not all(call.is_input(v) for v in values):
        return Refusal("RK331", "a concatenation with constants")
    if not isinstance(dim, int):
        return Refusal("RK331", "a concatenation along an axis that is not known")
    return Cat(tuple(values), dim)


def lift_hstack(call: Call, context: Context) -> Cat | Refusal:
    """`torch.hstack` of values that have more axes than one."""
    made = lift_cat(Call((call.args[0], 1), {}, call.is_input), context)
    return Refusal("RK331", "a stack of an unknown number of axes") if (context.rank or 0) < 2 else made


rules: tuple[Rule, ...] = (
    Concat(RULE, Conv, stack_convs),
    Lift(RULE, torch.hstack, lift_hstack),
    *(Lift(RULE, target, lift_cat) for target in (torch.cat, torch.concat, torch.concatenate)),
)
