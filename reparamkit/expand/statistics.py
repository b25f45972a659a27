"""statistics: batch norms of new branches take the statistics of real data, without changing what they compute.

A batch norm in eval mode is ``s x + t``. With the mean ``m`` and variance ``v`` of its input as statistics,
``gamma = s sqrt(v + eps)`` and ``beta = t + s m`` make it the same ``s x + t``; in training mode it is now close to
that as well, so that the first step of training starts from the function that the model has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from reparamkit.arguments import arguments
from reparamkit.expand.block import Framed


@torch.no_grad()
def settle(model: nn.Module, blocks: Sequence[nn.Module], example_inputs: Any) -> None:
    """Run `model` once and give the norms inside `blocks` the statistics of what they see.

    Args:
        model: in any mode; its modes, its other norms and the global random state stay as they are.
        blocks: modules of it.
        example_inputs: as for `reparamkit.apply`; a batch of real data.
    """
    modes = {module: module.training for module in model.modules()}
    handles = list(_watched(blocks))
    args, kwargs = arguments(example_inputs)
    try:
        with torch.random.fork_rng(devices=[]):
            model.eval()(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode


def _watched(blocks: Sequence[nn.Module]) -> Iterator[RemovableHandle]:
    done: set[nn.Module] = set()

    def norm(module: Any, args: tuple[Tensor, ...]) -> None:
        if module not in done:  # the first call of a block that is called several times
            done.add(module)
            _settled(module, args[0])

    def framed(module: Any, args: tuple[Tensor, ...]) -> None:
        module.front(args[0])  # in training mode its norms do not see the border

    for module in (m for block in blocks for m in block.modules()):
        if isinstance(module, Framed):
            yield module.register_forward_pre_hook(framed)
        elif isinstance(module, _BatchNorm) and module.weight is not None:
            yield module.register_forward_pre_hook(norm)


def _settled(norm: Any, x: Tensor) -> None:
    axes = [axis for axis in range(x.ndim) if axis != 1]
    var, mean = torch.var_mean(x.to(torch.float64), axes, correction=0)
    scale = norm.weight.to(torch.float64) * torch.rsqrt(norm.running_var.to(torch.float64) + norm.eps)
    shift = norm.bias.to(torch.float64) - norm.running_mean.to(torch.float64) * scale
    norm.weight.copy_(scale * torch.sqrt(var + norm.eps))
    norm.bias.copy_(shift + scale * mean)
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(var)
