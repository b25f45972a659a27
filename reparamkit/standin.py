"""Modules that stand where a plain layer was. `apply` puts a plain layer back in their place, under their own name."""

from __future__ import annotations

from torch import nn


class StandIn(nn.Module):
    """A wholly affine module of one input that took the place of a plain layer.

    Attributes:
        biased: whether the layer had a bias. One that had none gets none back unless something was learned for it.
    """

    biased: bool = True


def settled(holder: nn.Module, merged: nn.Module) -> nn.Module:
    """The layer that is put back for `holder`: a bias of zeros that the layer did not have is left out."""
    bias = getattr(merged, "bias", None)
    if isinstance(holder, StandIn) and not holder.biased and bias is not None and not bool(bias.any()):
        merged.register_parameter("bias", None)
    return merged
