"""A plain layer run with given numbers, without the layer."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from reparamkit.expand.layer import Layer
from reparamkit.expand.ops.conv import FUNCTIONS


def run_layer(layer: Layer, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """What a plain layer of this geometry with these numbers makes of `x`."""
    if not layer.nd:
        return F.linear(x, weight, bias)
    pads = [p for pair in reversed(layer.padding) for p in pair]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = F.pad(x, pads, mode) if any(pads) else x
    result: Tensor = FUNCTIONS[layer.nd](padded, weight, bias, layer.stride, 0, layer.dilation, layer.groups)
    return result
