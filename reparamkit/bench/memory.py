"""Peak of the layer outputs that live at the same time: deterministic, where resident memory is noise."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode


def peak_activations(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> int:
    """Bytes of the results that somebody holds at the same time, at most, while `model` runs once.

    Weights and inputs are not in it, nor what a kernel needs beside its result.

    Args:
        model: in eval mode.
        args: positional arguments.
        kwargs: keyword arguments.
    """
    held = [*pytree.tree_leaves((args, dict(kwargs or {}))), *model.parameters(), *model.buffers()]
    with torch.no_grad(), _Activations(t for t in held if isinstance(t, Tensor)) as activations:
        model(*args, **(kwargs or {}))
    return int(activations.peak)


class _Activations(TorchDispatchMode):
    """Adds up the memory that results occupy, as long as somebody holds them."""

    def __init__(self, known: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        # Storages are known by the identity of their C++ side: the Python side comes and goes.
        self._known = {t.untyped_storage()._cdata for t in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in pytree.tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._hold(leaf.untyped_storage())
        return result

    def _hold(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self._known:
            return
        self._known.add(storage._cdata)
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._let_go, storage._cdata, storage.nbytes())

    def _let_go(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size
