"""warn: what a conversion changes outside the model, where it cannot say no: optimizers, hooks of the whole process."""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from reparamkit.errors import CODES
from reparamkit.paths import modules_under

if TYPE_CHECKING:
    from torch import Tensor

_HERE = str(Path(__file__).parent)


def parameters_under(model: nn.Module) -> list[Tensor]:
    """All parameters, without recursion."""
    return [p for _, module in modules_under(model) for p in module._parameters.values() if p is not None]


def warn_of_optimizers(before: Iterable[Tensor], model: nn.Module) -> None:
    """Warn (RK113) when an optimizer holds one of the parameters of `before` that `model` has no more."""
    left = {id(p) for p in parameters_under(model)}
    gone = {id(p) for p in before} - left
    if not gone or not _any_built(torch.optim.Optimizer):
        return
    for held in gc.get_objects():
        # Not isinstance: it would ask lazy objects of other packages for their class.
        if issubclass(type(held), torch.optim.Optimizer):
            stale = sum(id(p) in gone for group in held.param_groups for p in group["params"])
            if stale:
                _warn("RK113", f"{stale} parameters of a {type(held).__name__}; build it after the conversion")


def unwrapped(model: nn.Module) -> nn.Module:
    """What `DistributedDataParallel` was built around, with a warning (RK605); any other model as it is."""
    inner = getattr(model, "module", None)
    kinds = (kind.__name__ for kind in type(model).__mro__)
    if "DistributedDataParallel" not in kinds or not isinstance(inner, nn.Module):
        return model
    _warn("RK605", "model.module of a DistributedDataParallel is converted, and returned; to train it, wrap it anew")
    return inner


def _any_built(kind: type[torch.optim.Optimizer]) -> bool:
    """Whether an optimizer of this kind was ever made: its constructor marks the class. A search takes long."""
    return hasattr(kind.step, "hooked") or any(map(_any_built, kind.__subclasses__()))


def warn_of_global_hooks() -> None:
    """Warn (RK306) of hooks that observe every module of the process: they will see other modules than before."""
    from torch.nn.modules import module as home

    names = [n for n in vars(home) if n.startswith("_global_") and n.endswith("_hooks") and getattr(home, n)]
    if names:
        _warn("RK306", f"{', '.join(n.removeprefix('_') for n in names)} see other modules after a merge; remove them")


def _warn(code: str, text: str) -> None:
    """Warn at the line of the user's that called reparamkit."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_HERE):
        level, frame = level + 1, frame.f_back
    warnings.warn(f"{code} {CODES[code]}: {text}", stacklevel=level)
