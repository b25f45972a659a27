"""groups: the parameters of an expanded model for an optimizer, by branch, without weight decay where it does harm."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from reparamkit.paths import joined, modules_under
from reparamkit.standin import StandIn


def parameter_groups(
    model: nn.Module,
    *,
    weight_decay: float = 0.0,
    branches: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """Parameter groups for any `torch.optim` optimizer.

    Weights of one axis (batch norms, biases, factors) and factors a channel get no weight decay; everything else gets
    `weight_decay`.

    Args:
        model: expanded or not; frozen parameters are left out.
        weight_decay: for kernels and matrices.
        branches: options by glob on the branch's name, as in ``{"conv1x1*": {"lr": 1e-3}}``; the first that fits is
            taken.

    Returns:
        Groups with ``name`` (``branch/decay`` or ``branch/no_decay``; the branch is empty outside expanded layers),
        ``params``, ``weight_decay`` and the options of the branch; every trained parameter is in exactly one.
    """
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    seen: set[int] = set()
    for path, module in modules_under(model):
        for name, parameter in module._parameters.items():
            if parameter is None or not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            branch = _branch_of(model, joined(path, name))
            decays = sum(size > 1 for size in parameter.shape) > 1 or (parameter.ndim > 1 and _is_kernel(module))
            group = groups.setdefault((branch, decays), _new(branch, decays, weight_decay, branches or {}))
            group["params"].append(parameter)
    return list(groups.values())


def _is_kernel(module: nn.Module) -> bool:
    return isinstance(module, (nn.Linear, nn.modules.conv._ConvNd))


def _new(branch: str, decays: bool, weight_decay: float, branches: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    options = next((dict(o) for glob, o in branches.items() if branch and fnmatchcase(branch, glob)), {})
    options["weight_decay"] = options.get("weight_decay", weight_decay) if decays else 0.0
    return {"name": f"{branch}/{'decay' if decays else 'no_decay'}", "params": [], **options}


def _branch_of(model: nn.Module, path: str) -> str:
    """The branch of the outermost expanded layer that a parameter is in."""
    module: Any = model
    for part in path.split("."):
        if isinstance(module, StandIn):
            return part
        module = module._modules.get(part)
    return ""
