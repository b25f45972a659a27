"""held: modules that a module keeps in places of its own, beside those it registers.

A list, tuple or dictionary of modules, a reference to a module registered elsewhere, a bound method of one: forwards
call them like any other, but `named_modules` does not tell of such places.
"""

from __future__ import annotations

import collections
import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

_CONTAINERS = (list, tuple, set, frozenset, dict, collections.OrderedDict, collections.deque)
_DEPTH = 8


def held_modules(value: Any, depth: int = _DEPTH) -> Iterator[nn.Module]:
    """The modules that can be reached through an attribute: itself, in containers, as what a callable works on."""
    if depth == 0:
        return
    if isinstance(value, nn.Module):
        yield value
    for part in _parts(value):
        yield from held_modules(part, depth - 1)


def _parts(value: Any) -> Iterator[Any]:
    kind = type(value)
    if kind in _CONTAINERS:
        yield from value.values() if isinstance(value, dict) else value
    elif kind is types.MethodType:
        yield value.__self__
    elif kind is functools.partial:
        yield from (value.func, *value.args, *value.keywords.values())
    elif kind is types.FunctionType:
        yield from (cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell))


def _is_filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - asking is how one finds out
    except ValueError:
        return False
    return True


def own_places(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """The attributes of a module, without its registries, that may hold modules; the quick look comes first."""
    for name, value in module.__dict__.items():
        if name not in _REGISTRIES and (type(value) in _PLACES or isinstance(value, nn.Module)) and value:
            yield name, value


_PLACES = (*_CONTAINERS, types.MethodType, functools.partial)
_REGISTRIES = frozenset(n for n in nn.Module().__dict__ if n.startswith("_"))


def exchanged(value: Any, other: Callable[[nn.Module], nn.Module | None], depth: int = _DEPTH) -> Any:
    """`value` with the modules in it exchanged for what `other` says; the very same object where it says nothing."""
    kind = type(value)
    if isinstance(value, nn.Module):
        found = other(value)
        return value if found is None else found
    if kind is types.MethodType and isinstance(value.__self__, nn.Module):
        owner = other(value.__self__)
        return value if owner is None else types.MethodType(value.__func__, owner)
    if kind is functools.partial:
        func, *args = [exchanged(part, other, depth - 1) for part in (value.func, *value.args)]
        return functools.partial(func, *args, **exchanged(value.keywords, other, depth - 1))
    if kind not in _CONTAINERS or depth == 0:
        return value
    parts = list(value.values() if isinstance(value, dict) else value)
    made = [exchanged(part, other, depth - 1) for part in parts]
    if all(new is old for new, old in zip(made, parts, strict=True)):
        return value
    return kind(zip(value, made, strict=True)) if isinstance(value, dict) else kind(made)
