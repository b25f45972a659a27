"""core/linear: a linear layer is a convolution with no spatial axis.

Formula: ``y = x W^T + b`` on the last axis; all formulas of convolutions hold with an empty kernel (ExpandNets,
LoRA's ``W + B A``, distillation heads that are averaged).

A product with a constant matrix is one too: ``x @ M`` has the weight ``M^T``; ``M @ x`` maps the channels of
``[N, C, L]``, a convolution of one tap.

Conditions: as `core/conv`; what it is combined with acts on the last axis too. For ``M @ x`` the number of axes of
``x`` has to be known.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reparamkit.answers import Call, Context, Through
from reparamkit.errors import Refusal
from reparamkit.operators import Conv, conv
from reparamkit.rule import Lift, Rule
from reparamkit.rules.usable import of_other_rank, unusable

RULE = "core/linear"


def lift_linear(module: Any, context: Context) -> Conv | Refusal:
    """`nn.Linear`."""
    refusal = unusable(module.weight, module.bias) or of_other_rank(module.weight, 2)
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


def lift_matmul(call: Call, context: Context) -> Through | Refusal:
    """``x @ M`` and ``M @ x`` with a constant matrix."""
    bound = call.bind("input", "other")
    left, right = bound["input"], bound["other"]
    if call.is_input(left) == call.is_input(right):
        return Refusal("RK331", "a product of two values that both depend on the input")
    matrix, value = (right, left) if call.is_input(left) else (left, right)
    if not isinstance(matrix, Tensor) or matrix.ndim != 2:
        return Refusal("RK331", "a product with a constant that is no matrix")
    refusal = unusable(matrix, None)
    if refusal is not None:
        return refusal
    if value is left:
        return Through(value, conv(matrix.T))
    if value.rank is None:
        return Refusal("RK203", "a matrix times a value of an unknown number of axes; pass example_inputs")
    if value.rank != 3:
        return Refusal("RK331", f"a matrix times a value of {value.rank} axes")
    return Through(value, conv(matrix.unsqueeze(-1)))


_PRODUCTS = (operator.matmul, torch.matmul, torch.mm, ".matmul", ".mm", ".__matmul__")

rules: tuple[Rule, ...] = (
    Lift(RULE, nn.Linear, lift_linear, subclasses=True),
    Lift(RULE, F.linear, lift_functional),
    *(Lift(RULE, target, lift_matmul) for target in _PRODUCTS),
)
