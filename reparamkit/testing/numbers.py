"""Numbers that leave nothing to chance: no fold passes a comparison because it had nothing to do."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)


def randomize_batch_norm(model: Model, seed: int = 0) -> Model:
    """Random means, variances, shifts and scales of both signs in every normalisation of `model`; eval mode.

    A fresh batch norm is nearly the identity: a fold that forgets it would pass every comparison.

    Args:
        model: changed in place.
        seed: of a generator of its own.

    Returns:
        `model`.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(getattr(module, "running_var", None), Tensor):
                _fill(module.running_mean, -1, 1, generator)
                _fill(module.running_var, 0.5, 1.5, generator)
                _fill(module.weight, 0.5, 1.5, generator)
                _fill(module.bias, -1, 1, generator)
                if isinstance(module.weight, Tensor):
                    module.weight[::2] *= -1
    return model.eval()


def randomize(model: Model, seed: int = 0) -> Model:
    """`randomize_batch_norm`, and random numbers in every other parameter too.

    For blocks on their own: layer scales and biases often start at zero or one, which hides mistakes.

    Args:
        model: changed in place.
        seed: of a generator of its own.

    Returns:
        `model`.
    """
    randomize_batch_norm(model, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for module in model.modules():
            if not isinstance(getattr(module, "running_var", None), Tensor):
                for parameter in module.parameters(recurse=False):
                    _fill(parameter, -0.5, 0.5, generator)
    return model


def _fill(tensor: object, low: float, high: float, generator: torch.Generator) -> None:
    if isinstance(tensor, Tensor) and tensor.is_floating_point():
        drawn = torch.rand(tensor.shape, generator=generator, dtype=torch.float64) * (high - low) + low
        tensor.copy_(drawn)
