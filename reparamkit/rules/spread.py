"""core/spread: a norm goes into every layer beside it, where there are several.

Formula: stacked channels are scaled part by part, ``s [a; b] + t = [s1 a + t1; s2 b + t2]``, so a batch norm behind a
concatenation folds into all the layers in front of it (MixConv, Tan and Le, 2019; CSPNet, Wang et al., 2020). A sum of
values that have nothing in common is scaled addend by addend and shifted once, ``s (a + b) + t = (s a + t) + s b``: a
norm behind the two resolutions of an octave convolution (Chen et al., OctConv, ICCV 2019) folds into both; of addends
with factors, ``s (f a + g b) + t = f (s a + t / f) + g (s b)``. Branches of one value that would cost more as one
kernel, such as two bars across each other, are such addends. A value that
several layers read is scaled for each of them, ``f_j(s x + t)``, so a batch norm or the affine of a layer norm folds
into the queries, keys and values behind it (NextViT, Li et al., 2022).

A norm that a concatenation alone reads scales some of the channels behind it, ``f([s a + t; b]) = f([s; 1] [a; b] + [t;
0])``: the branches of an old block, convolution, ReLU, norm, joined by a layer of one tap.

Conditions: nobody else reads what is between; each of the layers takes its share as `core/scale` says, and one addend
at least has a factor that is nowhere 0. All of them take it or none. Where the norm stands behind them a forward may be
written anew, and in front of them only modules are exchanged.
"""

from __future__ import annotations

from typing import Any

from reparamkit.operators import Scale
from reparamkit.rule import Rule, Switch
from reparamkit.rules import conv_bn

RULE = "core/spread"


def may_spread(value: Any) -> bool:
    """Whether the value is a norm in eval mode, or the affine part of one, and no identity."""
    if value.term is None or value.parts or not isinstance(value.term.op, Scale) or value.term.is_identity:
        return False
    return value.split is None and (conv_bn.RULE in value.term.rules or value.tail is not None)


rules: tuple[Rule, ...] = (Switch(RULE, may_spread),)
