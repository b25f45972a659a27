"""Stops a traced forward before it changes something of the user's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from reparamkit.reuse import Log


class Untraceable(Exception):
    """A forward does something that a trace cannot hold; the message says what."""


class Watch(TorchDispatchMode):
    """Stops a forward that would change the user's tensors or draw random numbers while it is traced."""

    def __init__(self, storages: frozenset[int], log: Log) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.storages = storages
        self.log = log

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.log.comparable = False
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise Untraceable(f"draws random numbers ({func})")
        if func._schema.is_mutable:
            for position, argument in enumerate(func._schema.arguments):
                value = args[position] if position < len(args) else (kwargs or {}).get(argument.name)
                changed = argument.alias_info is not None and argument.alias_info.is_write
                if changed and isinstance(value, Tensor) and _storage(value) in self.storages:
                    raise Untraceable(f"changes a parameter or buffer in place ({func})")
        return func(*args, **(kwargs or {}))


def _storage(tensor: Tensor) -> int:
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # sparse, fake and wrapper tensors have none
        return id(tensor)


def storages_of(model: nn.Module) -> frozenset[int]:
    """Identities of all storages the parameters and buffers of `model` live in."""
    tensors = [*model.parameters(), *model.buffers()]
    return frozenset(_storage(t) for t in tensors)
