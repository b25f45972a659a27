"""Numbers that make a difference: statistics from what really flows, scales of both signs, nothing left at zero or one.

A fresh model hides errors: its batch norms are nearly the identity, its layer scales nearly zero. Statistics drawn
without looking make a deep model overflow or die out. So each norm gets the mean and variance of what reaches it, both
moved at random.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zoo.counting import run


class _Draw:
    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, like: Tensor, low: float, high: float) -> Tensor:
        return torch.rand(like.shape, generator=self.generator, dtype=torch.float64).to(like) * (high - low) + low


def has_statistics(module: nn.Module) -> bool:
    """Whether it is a batch norm with running statistics, whoever wrote it."""
    found = (getattr(module, name, None) for name in ("running_mean", "running_var"))
    return all(isinstance(t, Tensor) and t.ndim == 1 and t.numel() > 0 for t in found)


def randomize(model: nn.Module, inputs: Any, seed: int = 0) -> nn.Module:
    """Give `model` (in eval mode) such numbers, by running it once on `inputs`."""
    draw = _Draw(seed)
    with torch.no_grad():
        for module in model.modules():
            if not has_statistics(module):
                for parameter in module.parameters(recurse=False):
                    _move(parameter, draw)
        handles = [m.register_forward_pre_hook(_measuring(draw)) for m in model.modules() if has_statistics(m)]
        run(model, inputs)
    for handle in handles:
        handle.remove()
    return model


def _move(parameter: Tensor, draw: _Draw) -> None:
    """Parameters that all start at one value: biases, layer scales, gates."""
    if not parameter.is_floating_point() or parameter.numel() == 0 or bool((parameter != parameter.flatten()[0]).any()):
        return
    start = parameter.flatten()[0].abs()
    parameter.add_(draw(parameter, -0.2, 0.2) * (1 if start < 1 else start))


def _measuring(draw: _Draw) -> Any:
    def measure(module: Any, args: tuple[Any, ...]) -> None:
        x = args[0].detach()
        axes = [a for a in range(x.ndim) if a != 1]
        if x.ndim < 2 or x.shape[1] != module.running_mean.numel():
            return
        mean, var = x.mean(axes), x.var(axes, unbiased=False)
        module.running_mean.copy_(mean + var.sqrt() * draw(mean, -0.3, 0.3))
        module.running_var.copy_(var * draw(var, 0.7, 1.4) + 0.05)
        for name, low, high in (("weight", 0.6, 1.4), ("bias", -0.3, 0.3)):
            tensor = getattr(module, name, None)
            if isinstance(tensor, Tensor):
                tensor.copy_(draw(tensor, low, high))
        if isinstance(module.weight, Tensor):
            module.weight[::5] *= -1

    return measure
