"""Which tensors can be folded at all."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reparamkit.errors import Refusal

_PLAIN = (Tensor, nn.Parameter)
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def unusable(*tensors: Tensor | None) -> Refusal | None:
    """Why these tensors cannot be read and rewritten as floating-point numbers, if they cannot."""
    present = [t for t in tensors if t is not None]
    for tensor in present:
        if type(tensor) not in _PLAIN:
            code = "RK507" if "DTensor" in type(tensor).__name__ else "RK503"
            return Refusal(code, f"a {type(tensor).__module__}.{type(tensor).__name__}")
        if tensor.dtype not in _DTYPES:
            return Refusal("RK503", f"dtype {tensor.dtype}")
        if tensor.is_meta:
            return Refusal("RK505", "load the weights first")
        if tensor.layout is not torch.strided:
            return Refusal("RK503", f"layout {tensor.layout}")
    if len({t.device for t in present}) > 1:
        return Refusal("RK506", ", ".join(sorted({str(t.device) for t in present})))
    return None


def of_other_rank(weight: Tensor, axes: int) -> Refusal | None:
    """A refusal when a layer was given a weight, since it was built, that has not as many axes."""
    if weight.ndim == axes:
        return None
    return Refusal("RK310", f"a weight of {axes} axes is expected, this one has {weight.ndim}")


def of_other_length(bias: Tensor | None, channels: int) -> Refusal | None:
    """A refusal when a convolution was given a bias that torch does not take: it has one entry a channel, or none."""
    if bias is None or bias.shape == (channels,):
        return None
    return Refusal("RK310", f"a bias of shape {tuple(bias.shape)} for {channels} channels")
