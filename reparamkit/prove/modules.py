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


def _run_transposed(module: Any, x: Tensor) -> Tensor:
    weight, bias = _wide(module.weight, module.bias)
    options = (module.stride, module.padding, module.output_padding, module.groups, module.dilation)
    result: Tensor = _TRANSPOSED[len(module.kernel_size)](x, weight, bias, *options)
    return result


def _run_norm(module: Any, x: Tensor) -> Tensor:
    mean, var = _wide(module.running_mean, module.running_var)
    return F.batch_norm(x, mean, var, *_wide(module.weight, module.bias), training=False, eps=module.eps)


def _run_instance_norm(module: Any, x: Tensor) -> Tensor:
    # torch writes the statistics back, in evaluation too.
    mean, var = (None if t is None else t.clone() for t in _wide(module.running_mean, module.running_var))
    return F.instance_norm(x, mean, var, *_wide(module.weight, module.bias), mean is None, eps=module.eps)


def _wide(one: Tensor | None, other: Tensor | None) -> tuple[Any, Any]:
    return None if one is None else one.detach().double(), None if other is None else other.detach().double()


def _run_nothing(module: Any, x: Tensor) -> Tensor:
    return x


_TRANSPOSED: dict[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
# Each reads the numbers as the module has them in its own dtype: a parametrization would give others in float64.
_RUNS: tuple[tuple[tuple[type[Any], ...], Callable[[Any, Tensor], Tensor]], ...] = (
    ((nn.Conv1d, nn.Conv2d, nn.Conv3d), run_conv),
    ((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), _run_transposed),
    ((nn.Linear,), run_linear),
    ((nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout), _run_nothing),
    ((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm), _run_norm),
    ((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d), _run_instance_norm),
)
# nn.BatchNormNd all share one forward.
