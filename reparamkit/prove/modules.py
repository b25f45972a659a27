"""modules: what one original module computes, in float64, from its own attributes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from reparamkit.prove.banded import run_conv, run_linear


def run_module(module: nn.Module, x: Tensor) -> Tensor:
    """What `module` computes for `x`, in float64; the module is not touched."""
    for kinds, run in _RUNS:
        if isinstance(module, kinds) and _plain(module, kinds):
            return run(module, x)
    return _call(copy.deepcopy(module).double().eval(), x)


def _plain(module: nn.Module, kinds: tuple[type[Any], ...]) -> bool:
    return any(type(module).forward is kind.forward for kind in kinds)


def _call(module: nn.Module, x: Tensor) -> Tensor:
    result: Tensor = module(x)
    return result


def _run_norm(module: Any, x: Tensor) -> Tensor:
    mean, var = module.running_mean.double(), module.running_var.double()
    weight, bias = (None if t is None else t.detach().double() for t in (module.weight, module.bias))
    return F.batch_norm(x, mean, var, weight, bias, training=False, eps=module.eps)


def _run_nothing(module: Any, x: Tensor) -> Tensor:
    return x


_RUNS: tuple[tuple[tuple[type[Any], ...], Callable[[Any, Tensor], Tensor]], ...] = (
    ((nn.Conv1d, nn.Conv2d, nn.Conv3d), run_conv),
    ((nn.Linear,), run_linear),
    ((nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout), _run_nothing),
    ((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm), _run_norm),
)
# nn.BatchNormNd all share one forward.
