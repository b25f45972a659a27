"""Whether a call left a module as it was: parameters, buffers, and whatever else is on it and inside it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_REGISTRIES = ("_modules", "_parameters", "_buffers")


def same(before: nn.Module, after: nn.Module) -> str:
    """What differs between a module and its copy: a name, or nothing."""
    old, new = dict(before.named_modules()), dict(after.named_modules())
    if list(old) != list(new):
        return "modules"
    for path, module in old.items():
        changed = _changed(module, new[path])
        if changed:
            return f"{path}.{changed}" if path else changed
    return ""


def _changed(before: nn.Module, after: nn.Module) -> str:
    for name in ("_parameters", "_buffers"):
        kept, now = dict(getattr(before, name).items()), dict(getattr(after, name).items())
        found = _differing(kept, now, set())
        if found:
            return found
    if isinstance(before, torch.jit.ScriptModule):
        return ""  # the rest of it is not in Python
    return _differing(_plain(before), _plain(after), set())


def _plain(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in module.__dict__.items() if name not in _REGISTRIES}


def _differing(before: dict[Any, Any], after: dict[Any, Any], seen: set[int]) -> str:
    if before.keys() != after.keys():
        return str(next(iter(before.keys() ^ after.keys())))
    return next((str(key) for key, value in before.items() if not _equal(value, after[key], seen)), "")


def _equal(a: Any, b: Any, seen: set[int]) -> bool:
    """Whether two copies of an attribute are equal, as far down as they have parts."""
    if a is b or id(a) in seen:
        return True
    seen.add(id(a))
    if type(a) is not type(b):
        return False
    if isinstance(a, nn.Module):
        return not same(a, b)
    if isinstance(a, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a.nan_to_num(), b.nan_to_num())
    if isinstance(a, dict):
        return not _differing(a, b, seen)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(_equal(x, y, seen) for x, y in zip(a, b, strict=True))
    if hasattr(a, "__array__"):
        return a.shape == b.shape and bool((a == b).all())
    if hasattr(a, "__dict__") and not callable(a):
        return not _differing(vars(a), vars(b), seen)
    return callable(a) or bool(a == b)
