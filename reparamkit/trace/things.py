"""Things: what a name in somebody's code may stand for, as far as modules are concerned."""

from __future__ import annotations

import functools
import types
from dataclasses import dataclass
from typing import Any

from torch import nn

Things = frozenset[Any]
NOTHING: Things = frozenset()


@dataclass(frozen=True)
class Bag:
    """Several things: a list, a dictionary, what an iterator gives."""

    items: Things


@dataclass(frozen=True)
class Method:
    """A method of a module, or of a bag; `run` is `None` where it is no Python function."""

    owner: Any
    name: str
    run: Any = None


@dataclass(frozen=True)
class Super:
    """What ``super()`` gives in a method of `cls`."""

    owner: nn.Module
    cls: type


@dataclass(frozen=True, eq=False)
class Inner:
    """A lambda, or a function in a function: it shares the names of what is around it."""

    node: Any


def bag(things: Things) -> Things:
    """One bag of these, if there are any."""
    return frozenset([Bag(things)]) if things else things


def is_tensor(thing: Any, name: str) -> bool:
    """Whether ``thing.name`` is a parameter or a buffer of a module."""
    registries = (thing._parameters, thing._buffers) if isinstance(thing, nn.Module) else ()
    return any(name in dict(registry.items()) for registry in registries)


def is_torchs(function: Any) -> bool:
    """Whether torch defines it."""
    return str(getattr(function, "__module__", "")).partition(".")[0] == "torch"


def things_in(value: Any, depth: int = 8) -> Things:
    """What an object of the user's holds that matters here."""
    if isinstance(value, (nn.Module, functools.partial, types.FunctionType)):
        return frozenset([value])
    if isinstance(value, types.MethodType):
        owner = value.__self__
        return frozenset([Method(owner, value.__name__, value.__func__)]) if isinstance(owner, nn.Module) else NOTHING
    if isinstance(value, (list, tuple, set, frozenset, dict)) and depth:
        parts = value.values() if isinstance(value, dict) else value
        held = frozenset[Any]().union(*(things_in(part, depth - 1) for part in parts))
        return bag(held)
    return NOTHING


def content(cell: types.CellType) -> Any:
    """What a cell of a closure holds; `None` while it is empty."""
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None
