"""core/homogeneous: a positive scale behind an activation goes into the layer in front of it.

Formula (Nagel et al., Data-Free Quantization, ICCV 2019, eq. 5): ``s f(x) = f(s x)`` for ``s > 0`` where `f` is ReLU,
leaky ReLU or PReLU. What is added behind the scale stays where it is: of ``s relu(W x) + t``, the learnable affine of
HGNetV2, ``relu((s W) x) + t`` is left.

Conditions: every entry of the scale is positive; nobody else reads what is between; the scale then merges with the
layer in front, else it stays where it is. ReLU6, GELU, SiLU, hardswish and the like bend at a place that a scale would
move. `crossing.py` tries the activation itself, with the scale that crosses it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from reparamkit.operators import Scale
from reparamkit.rule import Rule, Switch

RULE = "core/homogeneous"
_MODULES = (nn.ReLU, nn.LeakyReLU, nn.PReLU)
_CALLS = (torch.relu, torch.relu_, F.relu, F.relu_, F.leaky_relu, F.leaky_relu_, F.prelu, torch.prelu)
_METHODS = ("relu", "relu_", "prelu")
_PRODUCTS = ("mul", "imul", "mul_", "multiply", "truediv", "itruediv", "div", "div_", "divide", "true_divide")


def is_homogeneous(value: Any) -> bool:
    """Whether the value is an activation `f` with ``f(s x) = s f(x)`` for every positive `s`."""
    node: fx.Node = value.node
    if value.module is not None:
        return type(value.module) in _MODULES and len(node.args) == 1
    if node.op == "call_method":
        return node.target in _METHODS
    return node.op == "call_function" and node.target in _CALLS


def may_move(value: Any) -> bool:
    """Whether the value is a positive scale, without a shift, behind such an activation."""
    node, term = value.node, value.term
    if term is None or value.module is not None or value.parts or not isinstance(term.op, Scale) or term.is_identity:
        return False
    name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
    positive = term.op.shift is None and bool((term.op.scale > 0).all())
    return positive and name in _PRODUCTS and value.source.term is None and is_homogeneous(value.source)


rules: tuple[Rule, ...] = (Switch(RULE, may_move),)
