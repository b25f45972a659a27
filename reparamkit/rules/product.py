"""core/scale, the calls: a value times a constant, divided by one, negated.

Conditions: the other factor depends on parameters alone and acts on the channel axis or on all of them. Of what stands
side by side along an axis of its own each entry may have a factor of its own (`stacked.py`).
"""

from __future__ import annotations

import operator
from typing import Any

import torch

from reparamkit.answers import Call, Context, Stack, Through
from reparamkit.errors import Refusal
from reparamkit.rule import Lift, Rule
from reparamkit.rules import branch_sum, scale
from reparamkit.rules.constants import times
from reparamkit.rules.stacked import scaled_stack, stack_of


def _times(value: Any, constant: Any) -> Through | Stack | Refusal:
    return times(value, constant) if stack_of(value) is None else scaled_stack(value, constant)


def lift_mul(call: Call, context: Context) -> Through | Stack | Refusal:
    """``x * constant``."""
    bound = call.bind("input", "other")
    if bound.get("out") is not None:
        return Refusal("RK309", "writes to out=")
    first, second = bound["input"], bound["other"]
    if call.is_input(first) and call.is_input(second):
        return Refusal("RK331", "a product of two values")
    return _times(first, second) if call.is_input(first) else _times(second, first)


def lift_div(call: Call, context: Context) -> Through | Stack | Refusal:
    """``x / constant``."""
    bound = call.bind("input", "other", rounding_mode=None)
    divisor = bound["other"]
    if not call.is_input(bound["input"]) or call.is_input(divisor) or bound["rounding_mode"]:
        return Refusal("RK331", "a division by a value")
    if isinstance(divisor, torch.Tensor) and divisor.is_floating_point():
        return _times(bound["input"], 1.0 / divisor.detach().to(torch.float64))
    if not isinstance(divisor, (int, float)) or divisor == 0:
        return Refusal("RK331", f"a division by {divisor!r}")
    return _times(bound["input"], 1.0 / divisor)


def lift_zeros(call: Call, context: Context) -> Through | Refusal:
    """``zeros_like(x)`` is ``0 x``: where a sum of branches starts."""
    bound = call.bind("input")
    value = bound.pop("input")
    if not call.is_input(value) or any(option is not None for option in bound.values()):
        return Refusal("RK331", "zeros of another dtype, device or layout")
    return times(value, 0.0)


def lift_neg(call: Call, context: Context) -> Through | Stack | Refusal:
    """``-x``."""
    return _times(call.bind("input")["input"], -1.0)


_MUL = (operator.mul, operator.imul, torch.mul, torch.multiply, ".mul", ".mul_", ".multiply")
_DIV = (operator.truediv, operator.itruediv, torch.div, torch.divide, torch.true_divide, ".div", ".div_")
_NEG = (operator.neg, torch.neg, torch.negative, ".neg", ".negative")

rules: tuple[Rule, ...] = (
    *(Lift(scale.RULE, target, lift_mul) for target in _MUL),
    *(Lift(scale.RULE, target, lift_div) for target in _DIV),
    Lift(scale.RULE, torch.zeros_like, lift_zeros),
    *(Lift(branch_sum.RULE, target, lift_neg) for target in _NEG),
)
