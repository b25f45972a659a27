"""core/no_op: what changes nothing in eval mode is the identity.

Formula: ``y = x`` for Identity, the dropout family in eval mode, `contiguous`, `clone`; adding 0 and multiplying by 1
come out the same way through their own rules.

Conditions: eval mode; for the functional dropouts a literal ``training=False``.
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

RULE = "core/no_op"


def lift_identity(module: Any, context: Context) -> Scale | Refusal:
    """`nn.Identity`, `nn.Dropout` and its family."""
    if module.training and not isinstance(module, nn.Identity):
        return Refusal("RK202", "the module is in training mode")
    return Scale()


def lift_dropout(call: Call, context: Context) -> Through | Refusal:
    """`F.dropout` and its family with ``training=False``."""
    bound = call.bind("input", p=0.5, training=True, inplace=False)
    if bound["training"] is not False and bound["p"] != 0:
        return Refusal("RK202", "dropout is active")
    return Through(bound["input"], Scale())


def lift_same(call: Call, context: Context) -> Through | Refusal:
    """`Tensor.contiguous`, `Tensor.clone`."""
    return Through(call.args[0], Scale())


_DROPOUTS: tuple[Any, ...] = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)

rules: tuple[Rule, ...] = (
    *(Lift(RULE, target, lift_identity, keeps_dtype=True) for target in (nn.Identity, *_DROPOUTS)),
    *(Lift(RULE, target, lift_dropout) for target in (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d)),
    *(Lift(RULE, target, lift_same) for target in (".contiguous", ".clone", torch.clone)),
)
