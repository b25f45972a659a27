"""core/branch_sum, calls that scale and add at once: `torch.lerp`, `torch.addcmul`, `torch.where`, `masked_fill`.

Formula: ``lerp(a, b, w) = (1 - w) a + w b``, ``addcmul(a, b, c) = a + value b c``,
``addcdiv(a, b, c) = a + value b / c``, ``where(mask, a, b) = mask a + (1 - mask) b``: sums of branches, each with a
factor for every channel.

Conditions: everything but the branches is a constant that acts on the channel axis or on all of them. What a mask
hides is not computed any more, so that it does not matter whether it was finite.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from reparamkit.answers import Call, Context, Sum, Through
from reparamkit.errors import Refusal
from reparamkit.operators import Scale
from reparamkit.rule import Lift, Rule
from reparamkit.rules.branch_sum import RULE
from reparamkit.rules.constants import per_channel


def lift_lerp(call: Call, context: Context) -> Sum | Refusal:
    """`torch.lerp`."""
    bound = call.bind("input", "end", "weight")
    weight = _factor(bound["weight"], context)
    if isinstance(weight, Refusal):
        return weight
    return _sum(call, (Scale(1.0 - weight.scale, None, weight.nd), bound["input"]), (weight, bound["end"]))


def lift_addcmul(call: Call, context: Context) -> Sum | Refusal:
    """`torch.addcmul`."""
    bound = call.bind("input", "tensor1", "tensor2", value=1)
    branch, constant = bound["tensor1"], bound["tensor2"]
    if call.is_input(constant):
        branch, constant = constant, branch
    return _added(call, bound["input"], branch, _factor(constant, context), bound["value"])


def lift_addcdiv(call: Call, context: Context) -> Sum | Refusal:
    """`torch.addcdiv`."""
    bound = call.bind("input", "tensor1", "tensor2", value=1)
    divisor = _factor(bound["tensor2"], context)
    if not isinstance(divisor, Refusal):
        divisor = Scale(divisor.scale.reciprocal(), None, divisor.nd)
    return _added(call, bound["input"], bound["tensor1"], divisor, bound["value"])


def lift_where(call: Call, context: Context) -> Sum | Through | Refusal:
    """`torch.where` with a constant mask."""
    bound = call.bind("condition", "input", "other")
    mask = bound["condition"]
    if not isinstance(mask, Tensor) or mask.dtype is not torch.bool:
        return Refusal("RK331", "a choice that depends on the input")
    return _choice(call, mask, bound["input"], bound["other"], context)


def lift_method_where(call: Call, context: Context) -> Sum | Through | Refusal:
    """``a.where(mask, b)``."""
    bound = call.bind("input", "condition", "other")
    return lift_where(Call((bound["condition"], bound["input"], bound["other"]), {}, call.is_input), context)


def lift_masked_fill(call: Call, context: Context) -> Sum | Through | Refusal:
    """``x.masked_fill(mask, value)``."""
    bound = call.bind("input", "mask", "value")
    return lift_where(Call((bound["mask"], bound["value"], bound["input"]), {}, call.is_input), context)


def _choice(call: Call, mask: Tensor, chosen: Any, other: Any, context: Context) -> Sum | Through | Refusal:
    here, elsewhere = (_factor(m.to(torch.float64), context) for m in (mask, ~mask))
    if isinstance(here, Refusal) or isinstance(elsewhere, Refusal):
        return here if isinstance(here, Refusal) else elsewhere  # type: ignore[return-value]
    if call.is_input(chosen) and call.is_input(other):
        return _sum(call, (here, chosen), (elsewhere, other))
    if call.is_input(other):
        chosen, other, here, elsewhere = other, chosen, elsewhere, here
    if not call.is_input(chosen):
        return Refusal("RK331", "a choice between constants")
    filling = _factor(other, context)
    if isinstance(filling, Refusal):
        return filling
    if not bool(torch.isfinite(filling.scale).all()):
        return Refusal("RK331", "fills with numbers that are not finite")
    if None not in (here.nd, filling.nd) and here.nd != filling.nd:
        return Refusal("RK310", f"a mask of the axis before {here.nd}, numbers of the axis before {filling.nd} others")
    shift = filling.scale * elsewhere.scale
    return Through(chosen, Scale(here.scale, shift, filling.nd if here.nd is None else here.nd))


def _added(call: Call, first: Any, branch: Any, factor: Scale | Refusal, value: Any) -> Sum | Refusal:
    if isinstance(factor, Refusal):
        return factor
    if not isinstance(value, (int, float)):
        return Refusal("RK331", "value is not a number")
    return _sum(call, (1.0, first), (Scale(factor.scale * value, None, factor.nd), branch))


def _sum(call: Call, *terms: tuple[float | Scale, Any]) -> Sum | Refusal:
    if not all(call.is_input(value) for _, value in terms):
        return Refusal("RK331", "adds a constant and a product")
    return Sum(terms)


def _factor(constant: Any, context: Context) -> Scale | Refusal:
    found = per_channel(constant, context.rank)
    return found if isinstance(found, Refusal) else Scale(found[0], None, found[1])


def _declared(function: Any, *targets: Any) -> list[Lift]:
    return [Lift(RULE, target, function) for target in targets]


rules: tuple[Rule, ...] = (
    *_declared(lift_lerp, torch.lerp, ".lerp", ".lerp_"),
    *_declared(lift_addcmul, torch.addcmul, ".addcmul", ".addcmul_"),
    *_declared(lift_addcdiv, torch.addcdiv, ".addcdiv", ".addcdiv_"),
    *_declared(lift_where, torch.where),
    *_declared(lift_method_where, ".where"),
    *_declared(lift_masked_fill, torch.masked_fill, ".masked_fill", ".masked_fill_"),
)
