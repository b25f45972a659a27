"""Modules that stand where a plain layer was. `apply` puts a plain layer back in their place, under their own name."""

from __future__ import annotations

import torch
from torch import nn

_ULPS = 16


class StandIn(nn.Module):
    """A wholly affine module of one input that took the place of a plain layer.

    Attributes:
        biased: whether the layer had a bias. One that had none gets none back unless something was learned for it.
    """

    biased: bool = True


def settled(holder: nn.Module, merged: nn.Module) -> nn.Module:
    """The layer that is put back for `holder`; a bias of mere rounding is left out where there was none."""
    weight, bias = merged._parameters.get("weight"), merged._parameters.get("bias")
    if not isinstance(holder, StandIn) or holder.biased or weight is None or bias is None:
        return merged
    rounding = _ULPS * torch.finfo(weight.dtype).eps * weight.detach().abs().max()
    if bool((bias.detach().abs() <= rounding).all()):
        merged.register_parameter("bias", None)
    return merged
