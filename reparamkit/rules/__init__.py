"""The built-in rules, one idea a file; each file's docstring is its formula, its conditions, its source.

`reparamkit.core` hands them over as the plugin "core".
"""

from __future__ import annotations

from reparamkit.rule import Rule
from reparamkit.rules import (
    averaging,
    blend,
    border,
    branch_sum,
    concat,
    conv,
    conv_bn,
    dilation,
    gate,
    groups,
    homogeneous,
    identity_to_conv,
    kernel_padding,
    layout,
    linear,
    no_op,
    norm_affine,
    ones_channel,
    pad,
    pick,
    pooling,
    probe,
    regroup,
    scale,
    sequential,
    shuffle,
    spread,
    unshare,
)

CORE: tuple[Rule, ...] = (
    *conv.rules,
    *linear.rules,
    *conv_bn.rules,
    *scale.rules,
    *sequential.rules,
    *identity_to_conv.rules,
    *dilation.rules,
    *kernel_padding.rules,
    *groups.rules,
    *branch_sum.rules,
    *blend.rules,
    *concat.rules,
    *pooling.rules,
    *pad.rules,
    *pick.rules,
    *shuffle.rules,
    *layout.rules,
    *averaging.rules,
    *regroup.rules,
    *border.rules,
    *no_op.rules,
    *gate.rules,
    *norm_affine.rules,
    *homogeneous.rules,
    *spread.rules,
    *ones_channel.rules,
    *unshare.rules,
    *probe.rules,
)
