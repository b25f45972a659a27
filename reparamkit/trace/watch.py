"""Looks at what a traced forward does with real tensors, and stops it before it changes one of the user's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from reparamkit.mode import Mode
from reparamkit.paths import modules_under
from reparamkit.trace.reuse import Log


class Untraceable(Exception):
    """A forward does something that a trace cannot hold; the message says what."""


class Watch(Mode):
    """Stops a forward that would change the user's tensors or draw random numbers while it is traced.

    Attributes:
        storages: of all tensors of the model.
        read: those of them that were looked at.
    """

    def __init__(self, storages: frozenset[int], log: Log) -> None:
        super().__init__()
        self.storages = storages
        self.read: set[int] = set()
        self.log = log

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.log.comparable = False
        self.look_at((*args, *(kwargs or {}).values()))
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise Untraceable(f"draws random numbers ({func})")
        if func._schema.is_mutable:
            for position, argument in enumerate(func._schema.arguments):
                value = args[position] if position < len(args) else (kwargs or {}).get(argument.name)
                changed = argument.alias_info is not None and argument.alias_info.is_write
                if changed and isinstance(value, Tensor) and storage_of(value) in self.storages:
                    raise Untraceable(f"changes a parameter or buffer in place ({func})")
        return func(*args, **(kwargs or {}))

    def look_at(self, values: Iterable[Any]) -> None:
        """Write down which of the model's tensors are among these."""
        for value in values:
            if isinstance(value, Tensor):
                self.read |= {storage_of(value)} & self.storages
            elif isinstance(value, (list, tuple)):
                self.look_at(value)

    def has_read(self, tensor: Any) -> bool:
        """Whether numbers of this tensor of the model were used."""
        return isinstance(tensor, Tensor) and storage_of(tensor) in self.read

    def past(self, seen: Iterable[Any]) -> frozenset[int]:
        """Storages that were read by another way than as the tensors `seen`."""
        return frozenset(self.read - {storage_of(value) for value in seen if isinstance(value, Tensor)})


def storage_of(tensor: Tensor) -> int:
    """The identity of the storage a tensor lives in."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # sparse, fake and wrapper tensors have none
        return id(tensor)


def storages_of(model: nn.Module) -> frozenset[int]:
    """Identities of all storages the parameters and buffers of `model` live in."""
    owners = [(m._parameters, m._buffers) for _, m in modules_under(model)]
    return frozenset(storage_of(t) for both in owners for held in both for t in held.values() if t is not None)
