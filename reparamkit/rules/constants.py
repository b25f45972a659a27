"""Constants in arithmetic: which tensors act on one channel axis, and what they do to it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from reparamkit.answers import Through
from reparamkit.errors import Refusal
from reparamkit.operators import Scale


def scalar(number: float) -> Tensor:
    """A number as a tensor ``[]``, on the CPU whatever the default device is."""
    return torch.tensor(float(number), dtype=torch.float64, device="cpu")


def per_channel(constant: Any, rank: int | None) -> tuple[Tensor, int | None] | Refusal:
    """A number or broadcasting tensor as (values ``[channels]`` or ``[]``, spatial axes behind the channels).

    A tensor of shape ``[1, C, 1, 1]`` or ``[C, 1, 1]`` acts on channels with two axes behind them. One with more
    axes than the value it meets (`rank`) would add axes to the result.
    """
    if isinstance(constant, (int, float)) and not isinstance(constant, bool):
        return scalar(constant), None
    if not isinstance(constant, Tensor) or not constant.is_floating_point():
        return Refusal("RK331", f"arithmetic with a {type(constant).__name__}")
    wide = [axis for axis, size in enumerate(constant.shape) if size != 1]
    values = constant.detach().to(torch.float64)
    if rank is not None and constant.ndim > rank:
        return Refusal("RK310", f"a constant of shape {tuple(constant.shape)} adds axes to a value of {rank}")
    if not wide and constant.ndim > 1 and rank is None:
        return Refusal("RK203", f"a constant of shape {tuple(constant.shape)} may add axes; pass example_inputs")
    if not wide:
        return values.reshape(()), None
    if wide[0] > 1:
        return Refusal("RK310", f"a constant of shape {tuple(constant.shape)} has more than a batch axis in front")
    if len(wide) > 1:
        return Refusal("RK310", f"a constant of shape {tuple(constant.shape)} acts on more than one axis")
    return values.reshape(-1), constant.ndim - 1 - wide[0]


def times(value: Any, constant: Any) -> Through | Refusal:
    """``value * constant``."""
    found = per_channel(constant, value.rank)
    if isinstance(found, Refusal):
        return found
    return Through(value, Scale(found[0], None, found[1]))


def shifting(value: Any, factor: float, constant: Any, weight: float) -> Through | Refusal:
    """``factor * value + weight * constant``."""
    found = per_channel(constant, value.rank)
    if isinstance(found, Refusal):
        return found
    shift = found[0] * weight
    plain = found[1] is None and not bool(shift.any())
    scale = scalar(factor)
    return Through(value, Scale(scale, None if plain else shift, found[1]))
