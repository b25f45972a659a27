"""core/gate: an activation that a number has made the identity.

Formula: ``y = x`` for `leaky_relu` and `prelu` of slope 1, `rrelu` whose slopes have the mean 1 (its slope in eval
mode), `softshrink` and `hardshrink` of width 0, max pooling of one position. VanillaNet (Chen et al., NeurIPS 2023,
eq. 1) trains ``(1 - lambda) A(x) + lambda x`` to the identity, and then the 1x1 convolutions around it are one.

Conditions: the value is exactly that number now; 0.999 is another function. For `prelu` of every channel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from reparamkit.answers import Call, Context, Through
from reparamkit.errors import Refusal
from reparamkit.operators import Scale
from reparamkit.rule import Lift, Rule
from reparamkit.rules.conv import each

RULE = "core/gate"


def _open(value: float, wanted: float, what: str) -> Scale | Refusal:
    if value == wanted:
        return Scale()
    return Refusal("RK331", f"{what} is {value:g}; only at {wanted:g} it is the identity")


def lift_leaky_relu(module: nn.LeakyReLU, context: Context) -> Scale | Refusal:
    """`nn.LeakyReLU`."""
    return _open(module.negative_slope, 1, "its slope")


def lift_prelu(module: nn.PReLU, context: Context) -> Scale | Refusal:
    """`nn.PReLU`."""
    return _slopes(module.weight)


def _slopes(weight: torch.Tensor) -> Scale | Refusal:
    if bool((weight == 1).all()):
        return Scale()
    return _open(float(weight[(weight != 1).nonzero()[0]]), 1, "a slope")


def lift_rrelu(module: nn.RReLU, context: Context) -> Scale | Refusal:
    """`nn.RReLU` in eval mode."""
    if module.training:
        return Refusal("RK202", "the module is in training mode")
    return _open((module.lower + module.upper) / 2, 1, "its mean slope")


def lift_shrink(module: nn.Softshrink | nn.Hardshrink, context: Context) -> Scale | Refusal:
    """`nn.Softshrink`, `nn.Hardshrink`."""
    return _open(module.lambd, 0, "its width")


def lift_max_pool(module: Any, context: Context) -> Scale | Refusal:
    """`nn.MaxPool1d`, `2d`, `3d` of one tap."""
    taps, strides = _numbers(module.kernel_size), _numbers(module.stride)
    if set(taps) == set(strides) == {1} and set(_numbers(module.padding)) == {0} and not module.return_indices:
        return Scale()
    return Refusal("RK331", f"max pooling of {taps} taps")


def _numbers(value: Any) -> tuple[int, ...]:
    return each(value, 1)


def lift_functional_leaky_relu(call: Call, context: Context) -> Through | Refusal:
    """`F.leaky_relu`."""
    bound = call.bind("input", negative_slope=0.01, inplace=False)
    return _through(call, bound, lambda: _open(float(bound["negative_slope"]), 1, "its slope"))


def lift_functional_prelu(call: Call, context: Context) -> Through | Refusal:
    """`F.prelu`, `Tensor.prelu` with constant slopes."""
    bound = call.bind("input", "weight")
    return _through(call, bound, lambda: _slopes(bound["weight"].detach()))


def _through(call: Call, bound: dict[str, Any], judge: Any) -> Through | Refusal:
    value = bound["input"]
    if not call.is_input(value) or not call.constant([v for k, v in bound.items() if k != "input"]):
        return Refusal("RK331", "an activation whose slope depends on the input")
    op = judge()
    return op if isinstance(op, Refusal) else Through(value, op)


_MODULES: tuple[tuple[Any, Any], ...] = (
    (nn.LeakyReLU, lift_leaky_relu),
    (nn.PReLU, lift_prelu),
    (nn.RReLU, lift_rrelu),
    (nn.Softshrink, lift_shrink),
    (nn.Hardshrink, lift_shrink),
    *((pool, lift_max_pool) for pool in (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)),
)

rules: tuple[Rule, ...] = (
    *(Lift(RULE, target, run) for target, run in _MODULES),
    *(Lift(RULE, target, lift_functional_leaky_relu) for target in (F.leaky_relu, F.leaky_relu_)),
    *(Lift(RULE, target, lift_functional_prelu) for target in (torch.prelu, ".prelu")),
)
