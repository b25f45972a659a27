"""What one forward does, counted: the same on every machine, however busy."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from reparamkit.bench.memory import peak_activations


@dataclass(frozen=True)
class Work:
    """One forward.

    Attributes:
        ops: calls of ATen operators.
        kernels: those of them that compute, views and allocations left out.
        allocated: bytes of all results that have memory of their own.
        peak: bytes of results that are alive at once, at most.
        names: calls by operator.
    """

    ops: int
    kernels: int
    allocated: int
    peak: int
    names: Counter[str] = field(default_factory=Counter, compare=False)


def work(model: nn.Module, x: Tensor) -> Work:
    """Run `model` once to fill its caches, then count."""
    with torch.no_grad():
        model(x)
        with _Counting(model, x) as counted:
            model(x)
    return Work(
        sum(counted.names.values()), counted.kernels, counted.allocated, peak_activations(model, (x,)), counted.names
    )


class _Counting(TorchDispatchMode):
    def __init__(self, model: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()
        self.kernels = self.allocated = 0
        self._known = {t.untyped_storage()._cdata for t in (x, *model.parameters(), *model.buffers())}
        self._kept: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.names[str(func)] += 1
        inputs = {t.untyped_storage()._cdata for t in pytree.tree_leaves(args) if isinstance(t, Tensor)}
        written = any(a.alias_info is not None and a.alias_info.is_write for a in func._schema.arguments)
        made = [t for t in pytree.tree_leaves(result) if isinstance(t, Tensor)]
        fresh = [t for t in made if t.untyped_storage()._cdata not in inputs]
        self.kernels += bool(written or (fresh and not func.name().startswith("aten::empty")))
        self.allocated += sum(t.untyped_storage().nbytes() for t in fresh)
        return result
