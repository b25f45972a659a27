"""userstate: objects of the user's that a forward looks at while it is traced, and whether it changed one.

Attributes of modules are taken by the twin. A global dictionary, or an object with state of its own, is the user's:
it is put back as it was, and a forward that changed it keeps state that no graph holds.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.fx.proxy import Proxy

_MOST = 1000  # entries; a registry of all classes of a package is no state of a forward
_CONTAINERS = (dict, list, set)
# Without state, or watched by others: tensors by dispatch, modules and their containers by the twin.
_NOT_HELD = (type(None), int, float, complex, str, bytes, tuple, dict, list, set, type, Tensor, nn.Module, Proxy)


class Held:
    """What was looked at, with a shallow copy of what it held then."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[str, Any, Any]] = {}

    def container(self, value: Any) -> None:
        """Remember a container that belongs to nobody's module."""
        if type(value) in _CONTAINERS and id(value) not in self._kept and len(value) <= _MOST:
            self._kept[id(value)] = type(value).__name__, value, value.copy()

    def object(self, value: Any) -> None:
        """Remember an object that has attributes."""
        kind = type(value)
        # Not isinstance: a proxy would be asked. The tracer itself is met as an attribute of the twin.
        if issubclass(kind, _NOT_HELD) or kind.__module__.startswith("reparamkit."):
            return
        state = getattr(value, "__dict__", None)
        if type(state) is dict and id(state) not in self._kept and len(state) <= _MOST:
            self._kept[id(state)] = kind.__name__, state, state.copy()

    def restore(self) -> str | None:
        """Put back what was changed; the name of a type that was, if any."""
        changed = None
        for name, value, before in self._kept.values():
            if _same(value, before):
                continue
            changed = name
            value.clear()
            value.extend(before) if isinstance(value, list) else value.update(before)
        return changed


def _same(value: Any, before: Any) -> bool:
    if len(value) != len(before):
        return False
    if isinstance(value, dict):
        return all(key in value and value[key] is old for key, old in before.items())
    return value == before if isinstance(value, set) else all(a is b for a, b in zip(value, before, strict=True))
