"""core/linear: a linear layer is a convolution with no spatial axis.

Formula: ``y = x W^T + b`` on the last axis; all formulas of convolutions hold with an empty kernel (ExpandNets,
LoRA's ``W + B A``, distillation heads that are averaged).

Conditions: as `core/conv`; what it is combined with acts on the last axis too.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn import functional as F

from reparamkit.errors import Refusal
from reparamkit.operators import Conv, conv
from reparamkit.rule import Call, Context, Lift, Rule, Through
from reparamkit.rules.usable import unusable

RULE = "core/linear"


def lift_linear(module: Any, context: Context) -> Conv | Refusal:
    """`nn.Linear`."""
    refusal = unusable(module.weight, module.bias)
    return conv(module.weight, module.bias) if refusal is None else refusal


def lift_functional(call: Call, context: Context) -> Through | Refusal:
    """`F.linear` with constant weights."""
    bound = call.bind("input", "weight", bias=None)
    if not call.is_input(bound["input"]) or not call.constant([bound["weight"], bound["bias"]]):
        return Refusal("RK331", "a linear map whose weight depends on the input")
    refusal = unusable(bound["weight"], bound["bias"])
    if refusal is not None:
        return refusal
    if bound["weight"].ndim != 2:
        return Refusal("RK331", f"a linear map with a weight of {bound['weight'].ndim} axes")
    return Through(bound["input"], conv(bound["weight"], bound["bias"]))


rules: tuple[Rule, ...] = (Lift(RULE, nn.Linear, lift_linear, subclasses=True), Lift(RULE, F.linear, lift_functional))
