"""core/conv_bn: batch norm in eval mode is a scale and a shift per channel.

Formula (Ding et al., RepVGG, CVPR 2021, eq. 2 and 3): ``s = gamma / sqrt(var + eps)``, ``t = beta - mean s``;
folded into the convolution before it, ``W' = s W, b' = s b + t`` (`core/scale` has both sides).

Conditions: eval mode with running statistics (buffers present, whatever the flag says); finite statistics,
``var + eps > 0``; the axis it acts on is known (a `BatchNorm1d` behind a linear layer needs a proven 2-D input:
on ``[N, L, C]`` it would act on L). Covers BatchNorm1d/2d/3d, SyncBatchNorm, `F.batch_norm` with constant arguments,
InstanceNorm with running statistics (in eval mode the same formula); frozen batch norms are traced.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reparamkit.answers import Call, Context, Through
from reparamkit.errors import Refusal
from reparamkit.operators import Scale
from reparamkit.rule import Lift, Rule
from reparamkit.rules.usable import unusable

RULE = "core/conv_bn"


def folded(
    mean: Tensor | None, var: Tensor | None, gamma: Tensor | None, beta: Tensor | None, eps: float, nd: int | None
) -> Scale | Refusal:
    """The scale of a batch norm, its statistics ``[channels]``."""
    if mean is None or var is None:
        return Refusal("RK201", "it normalises with the statistics of the batch even in eval mode")
    refusal = unusable(mean, var, gamma, beta)
    if refusal is not None:
        return refusal
    odd = next((t for t in (mean, var, gamma, beta) if t is not None and t.ndim != 1), None)
    if odd is not None:
        return Refusal("RK310", f"a batch norm with a tensor of shape {tuple(odd.shape)}")
    wide = [t if t is None else t.detach().to(torch.float64) for t in (mean, var, gamma, beta)]
    mean64, var64, gamma64, beta64 = wide
    assert mean64 is not None
    assert var64 is not None
    scale = torch.rsqrt(var64 + eps)
    scale = scale if gamma64 is None else scale * gamma64
    shift = -mean64 * scale
    shift = shift if beta64 is None else shift + beta64
    if not bool(torch.isfinite(scale + shift).all()):
        return _unusable(wide, eps)
    return Scale(scale, shift, nd)


def _unusable(wide: list[Tensor | None], eps: float) -> Refusal:
    """Which statistic makes the scale infinite or not a number."""
    for name, tensor in zip(("running_mean", "running_var", "weight", "bias"), wide, strict=True):
        if tensor is not None and not bool(torch.isfinite(tensor).all()):
            channel = int((~torch.isfinite(tensor)).nonzero()[0])
            return Refusal("RK210", f"{name} is {float(tensor[channel])} in channel {channel}")
    var = wide[1]
    assert var is not None
    channel = int((~(var + eps > 0)).nonzero()[0])
    return Refusal("RK210", f"running_var + eps is {float(var[channel]) + eps:g} in channel {channel}")


def _axes(module: Any, context: Context) -> int | Refusal:
    fixed = {"BatchNorm2d": 2, "BatchNorm3d": 3, "InstanceNorm1d": 1, "InstanceNorm2d": 2, "InstanceNorm3d": 3}
    for cls in type(module).__mro__:
        if cls.__name__ in fixed and cls.__module__.startswith("torch.nn"):
            return fixed[cls.__name__]
    return _by_rank(context)


def _by_rank(context: Context) -> int | Refusal:
    if context.rank is None:
        return Refusal("RK203", "the channel axis depends on it; pass example_inputs")
    return context.rank - 2


def lift_batch_norm(module: Any, context: Context) -> Scale | Refusal:
    """`nn.BatchNorm1d`, `2d`, `3d`, `nn.SyncBatchNorm`, `nn.InstanceNorm1d`, `2d`, `3d`."""
    if module.training:
        return Refusal("RK202", "the module is in training mode")
    nd = _axes(module, context)
    if isinstance(nd, Refusal):
        return nd
    return folded(module.running_mean, module.running_var, module.weight, module.bias, module.eps, nd)


def lift_instance_norm(module: Any, context: Context) -> Scale | Refusal:
    """Instance norm that uses running statistics in eval mode is batch norm."""
    if not module.track_running_stats or module.running_mean is None:
        return Refusal("RK205", f"{type(module).__name__} normalises with the statistics of its input")
    return lift_batch_norm(module, context)


def lift_functional(call: Call, context: Context) -> Through | Refusal:
    """`F.batch_norm` with constant statistics."""
    bound = call.bind(
        "input", "running_mean", "running_var", weight=None, bias=None, training=False, momentum=0.1, eps=1e-5
    )
    rest = [v for k, v in bound.items() if k != "input"]
    if not call.is_input(bound["input"]) or not call.constant(rest):
        return Refusal("RK331", "a batch norm whose statistics depend on the input")
    if bound["training"]:
        return Refusal("RK202", "called with training=True")
    nd = _by_rank(context)
    if isinstance(nd, Refusal):
        return nd
    scale = folded(bound["running_mean"], bound["running_var"], bound["weight"], bound["bias"], bound["eps"], nd)
    return scale if isinstance(scale, Refusal) else Through(bound["input"], scale)


_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_INSTANCE = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)

rules: tuple[Rule, ...] = (
    *(Lift(RULE, target, lift_batch_norm, subclasses=True, keeps_dtype=True) for target in _NORMS),
    *(Lift(RULE, target, lift_instance_norm, subclasses=True, keeps_dtype=True) for target in _INSTANCE),
    Lift(RULE, F.batch_norm, lift_functional, keeps_dtype=True),
    Lift(RULE, torch.batch_norm, lift_functional, keeps_dtype=True),
)
