"""core/pooling: average pooling is a convolution with a uniform kernel.

Formula (Ding et al., Diverse Branch Block, CVPR 2021, transform V): every tap of every channel is
``1 / (k_h k_w)``, or one over `divisor_override`.

Conditions: no `ceil_mode`; with padding only `count_include_pad` (else border positions divide by less).
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from reparamkit.answers import Call, Context, Through
from reparamkit.errors import Refusal
from reparamkit.operators import Stencil, stencil
from reparamkit.rule import Lift, Rule
from reparamkit.rules.conv import each

RULE = "core/pooling"


def average(nd: int, bound: dict[str, Any]) -> Stencil | Refusal:
    """Average pooling over `nd` axes with torch's arguments."""
    kernel = each(bound["kernel_size"], nd)
    stride = kernel if bound["stride"] in (None, (), []) else each(bound["stride"], nd)
    padding = each(bound["padding"], nd)
    if bound["ceil_mode"]:
        return Refusal("RK320", "ceil_mode=True adds positions beyond the border")
    divisor = bound.get("divisor_override")
    if any(padding) and not bound["count_include_pad"] and divisor is None:
        return Refusal("RK320", f"count_include_pad=False with padding {padding} divides by less at the border")
    taps = torch.full(kernel, 1.0 / (divisor or prod(kernel)), dtype=torch.float64, device="cpu")
    return stencil(taps, stride=stride, padding=tuple((p, p) for p in padding))


_FIELDS = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")


def lift_avg_pool(module: Any, context: Context) -> Stencil | Refusal:
    """`nn.AvgPool1d`, `2d`, `3d`."""
    nd = {nn.AvgPool1d: 1, nn.AvgPool2d: 2, nn.AvgPool3d: 3}[_kind(module)]
    return average(nd, {name: getattr(module, name, None) for name in _FIELDS})


def _kind(module: Any) -> Any:
    return next(c for c in type(module).__mro__ if c in (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d))


def _functional(nd: int) -> Any:
    def lift(call: Call, context: Context) -> Through | Refusal:
        bound = call.bind(
            "input",
            "kernel_size",
            stride=None,
            padding=0,
            ceil_mode=False,
            count_include_pad=True,
            divisor_override=None,
        )
        value = bound.pop("input")
        if not call.is_input(value) or not call.constant(list(bound.values())):
            return Refusal("RK331", "a pooling whose window depends on the input")
        op = average(nd, bound)
        return op if isinstance(op, Refusal) else Through(value, op)

    return lift


rules: tuple[Rule, ...] = (
    *(Lift(RULE, target, lift_avg_pool, subclasses=True) for target in (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)),
    Lift(RULE, F.avg_pool1d, _functional(1)),
    Lift(RULE, F.avg_pool2d, _functional(2)),
    Lift(RULE, F.avg_pool3d, _functional(3)),
)
