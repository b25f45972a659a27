"""userstate: objects of the user's that a forward looks at while it is traced, and whether it changed one.

Attributes of modules are taken by the twin. A global dictionary, or an object with state of its own, is the user's:
it is put back as it was, and a forward that changed it keeps state that no graph holds.
"""

from __future__ import annotations

import argparse
import sys
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.fx.proxy import Proxy

_MOST = 1000  # entries; a registry of all classes of a package is no state of a forward
_DEPTH = 4  # objects in objects
_CONTAINERS = (dict, list, set, deque, OrderedDict, defaultdict, Counter)
# Without state, or watched by others: tensors by dispatch, modules and their containers by the twin.
_NOT_HELD = (type(None), int, float, complex, str, bytes, tuple, dict, list, set, type, Tensor, nn.Module, Proxy)

# Loggers, locks, modules: all of a process holds them, and none of them is a state of a forward.
_OTHERS = frozenset({"torch", "reparamkit", *sys.stdlib_module_names})
_PLAIN = (types.SimpleNamespace, argparse.Namespace)


class Held:
    """What was looked at, with a shallow copy of what it held then."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[str, Any, Any]] = {}

    def container(self, value: Any, depth: int = _DEPTH) -> None:
        """Remember a container that belongs to nobody's module, and what is in it."""
        if type(value) in _CONTAINERS:
            self._keep(type(value).__name__, value, depth)

    def object(self, value: Any, depth: int = _DEPTH) -> None:
        """Remember an object that has attributes, and what is in them."""
        kind = type(value)
        # Not isinstance: a proxy would be asked. The tracer itself is met as an attribute of the twin.
        if issubclass(kind, _NOT_HELD) or (kind not in _PLAIN and kind.__module__.partition(".")[0] in _OTHERS):
            return
        state = getattr(value, "__dict__", None)
        if type(state) is dict:
            self._keep(kind.__name__, state, depth)

    def _keep(self, name: str, value: Any, depth: int) -> None:
        if id(value) in self._kept or len(value) > _MOST:
            return
        self._kept[id(value)] = name, value, value.copy()
        parts: Iterable[Any] = value.values() if isinstance(value, dict) else value
        for part in list(parts) if depth else ():
            self.container(part, depth - 1)
            self.object(part, depth - 1)

    def restore(self) -> str | None:
        """Put back what was changed; the name of a type that was, if any."""
        changed = None
        for name, value, before in self._kept.values():
            if _same(value, before):
                continue
            changed = name
            value.clear()
            value.extend(before) if isinstance(value, (list, deque)) else value.update(before)
        return changed


def _same(value: Any, before: Any) -> bool:
    if len(value) != len(before):
        return False
    if isinstance(value, dict):
        return all(key in value and value[key] is old for key, old in before.items())
    return value == before if isinstance(value, set) else all(a is b for a, b in zip(value, before, strict=True))
