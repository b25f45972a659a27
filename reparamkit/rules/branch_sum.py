"""core/branch_sum: branches of one input that are added are one branch.

Formula (Ding et al., RepVGG, CVPR 2021, §3.3; DBB transform II): ``W' = W1 + W2, b' = b1 + b2``. Differences,
weighted sums (`torch.add(alpha=)`), sums of lists and of stacks (`stacked.py`) are sums with factors.

Conditions: both read the same value; after the other rules have brought them to one form, equal output channels
(a result of one channel would broadcast).
"""

from __future__ import annotations

import operator
from dataclasses import replace
from typing import Any

import torch

from reparamkit.answers import Call, Context, Sum, Through
from reparamkit.errors import Refusal
from reparamkit.operators import Conv, ConvTranspose, Scale, Stencil
from reparamkit.operators.joined import summed
from reparamkit.operators.vector import plus
from reparamkit.rule import Add, Lift, Rule
from reparamkit.rules.averaging import spatial_mean
from reparamkit.rules.constants import shifting
from reparamkit.rules.stacked import is_along, lift_stack, lift_unflatten, stack_of, sum_of

RULE = "core/branch_sum"


def add_convs(a: Conv, b: Conv) -> Conv | Refusal:
    """The sum of two convolutions of one geometry."""
    if a.out_channels != b.out_channels:
        return Refusal("RK311", f"out_channels: {a.out_channels} and {b.out_channels}")
    return replace(a, weight=summed(a.weight, b.weight), bias=plus(a.bias, b.bias))


def add_transposed(a: ConvTranspose, b: ConvTranspose) -> ConvTranspose | Refusal:
    """The sum of two transposed convolutions, whose geometry must be the same."""
    if a.geometry != b.geometry:
        return Refusal("RK317", f"transposed convolutions of geometry {a.geometry} and {b.geometry}")
    return replace(a, weight=summed(a.weight, b.weight), bias=plus(a.bias, b.bias))


def add_scales(a: Scale, b: Scale) -> Scale | Refusal:
    """The sum of two per-channel scales."""
    if a.nd is not None and b.nd is not None and a.nd != b.nd:
        return Refusal("RK310", f"scales of the axis before {a.nd} and before {b.nd} others")
    if a.channels and b.channels and a.channels != b.channels:
        return Refusal("RK311", f"channels: {a.channels} and {b.channels}")
    shifts = [s.shift for s in (a, b) if s.shift is not None]
    shift = None if not shifts else shifts[0] if len(shifts) == 1 else shifts[0] + shifts[1]
    return Scale(a.scale + b.scale, shift, a.nd if b.nd is None else b.nd)


def add_stencils(a: Stencil, b: Stencil) -> Stencil | Refusal:
    """The sum of two filters."""
    one = add_convs(a.one, b.one)
    return one if isinstance(one, Refusal) else Stencil(one)


def _lift_sum(call: Call, sign: float) -> Through | Sum | Refusal:
    bound = call.bind("input", "other", alpha=1)
    if bound.get("out") is not None:
        return Refusal("RK309", "writes to out=")
    first, second, factor = bound["input"], bound["other"], bound["alpha"]
    if not isinstance(factor, (int, float)):
        return Refusal("RK331", "alpha is not a number")
    factor = sign * factor
    if call.is_input(first) and call.is_input(second):
        return Sum(((1.0, first), (factor, second)))
    if call.is_input(first):
        return shifting(first, 1.0, second, factor)
    if call.is_input(second):
        return shifting(second, factor, first, 1.0)
    return Refusal("RK331", "adds constants")


def lift_add(call: Call, context: Context) -> Through | Sum | Refusal:
    """``a + b``, `torch.add`."""
    return _lift_sum(call, 1.0)


def lift_sub(call: Call, context: Context) -> Through | Sum | Refusal:
    """``a - b``, `torch.sub`."""
    return _lift_sum(call, -1.0)


def lift_rsub(call: Call, context: Context) -> Through | Sum | Refusal:
    """`torch.rsub`: ``other - input``."""
    bound = call.bind("input", "other", alpha=1)
    return _lift_sum(Call((bound["other"], bound["input"]), {"alpha": bound["alpha"]}, call.is_input), -1.0)


def lift_stack_sum(call: Call, context: Context) -> Sum | Refusal:
    """``torch.stack(branches, d).sum(d)``; the mean of it divides by their number."""
    return _reduced(call, mean=False)


def lift_stack_mean(call: Call, context: Context) -> Through | Sum | Refusal:
    """``torch.stack(branches, d).mean(d)``; of anything else a mean over positions."""
    bound = call.bind("input", dim=None, keepdim=False, dtype=None)
    if stack_of(bound["input"]) is None and bound["dtype"] is None:
        return spatial_mean(bound["input"], bound["dim"], bound["keepdim"], context.rank)
    return _reduced(call, mean=True)


def _reduced(call: Call, mean: bool) -> Sum | Refusal:
    bound = call.bind("input", dim=None, keepdim=False, dtype=None)
    stack = stack_of(bound["input"])
    if stack is None or not is_along(stack, bound["dim"]) or bound["keepdim"] or bound["dtype"] is not None:
        return Refusal("RK331", "a reduction of a value that is not a stack of branches")
    return sum_of(stack, 1.0 / len(stack.terms) if mean else 1.0)


def _declared(function: Any, targets: tuple[Any, ...]) -> list[Lift]:
    return [Lift(RULE, target, function) for target in targets]


rules: tuple[Rule, ...] = (
    Add(RULE, Conv, add_convs),
    Add(RULE, ConvTranspose, add_transposed),
    Add(RULE, Scale, add_scales),
    Add(RULE, Stencil, add_stencils),
    *_declared(lift_add, (operator.add, operator.iadd, torch.add, ".add", ".add_")),
    *_declared(lift_sub, (operator.sub, operator.isub, torch.sub, torch.subtract, ".sub", ".sub_", ".subtract")),
    *_declared(lift_rsub, (torch.rsub, ".rsub")),
    Lift(RULE, torch.stack, lift_stack),
    *_declared(lift_unflatten, (torch.unflatten, ".unflatten")),
    *_declared(lift_stack_sum, (torch.sum, ".sum")),
    *_declared(lift_stack_mean, (torch.mean, ".mean")),
)
