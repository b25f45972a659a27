"""One trace for all modules that are alike.

While a forward is traced, everything it looks at is written down: attributes, the kinds of children, the shapes of
parameters. Another module of the same class where all of that is equal takes the same path through the same code,
so it has the same graph. A forward that looks at anything we cannot compare, or computes on real tensors, is traced
again for every module.
"""

from __future__ import annotations

import types
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from reparamkit.nodes.tensors import Returned
from reparamkit.paths import module_at
from reparamkit.trace.classes import Absent, TwinClasses
from reparamkit.trace.symbols import Symbols

_SIMPLE = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, type, types.FunctionType)
_MISSING = object()
# Looked up by Python and by nn.Module's own machinery, the same for every instance of a class.
_MACHINERY = frozenset({"_twin_tracer", "_twin_path", "_twin_log", "_modules", "_parameters", "_buffers"})


@dataclass(frozen=True)
class Shared:
    """What all traces of one survey have in common.

    Attributes:
        returns: what modules return, by identity, as far as a trace has asked.
        classes: of twins.
    """

    returns: dict[int, Returned] = field(default_factory=dict)
    classes: TwinClasses = field(default_factory=TwinClasses)


@dataclass
class Log:
    """What one trace looked at.

    Attributes:
        seen: (path of the module, attribute) -> what was found there.
        first: likewise, the value itself as it was when it was looked at first.
        comparable: whether all of it can be compared.
        complete: whether everything that was looked at is here.
        symbols: copies of the functions that are run.
        sized: whether parameters take traced sizes (`trace/sized.py`).
        stumbled: whether a run ended with a `TypeError`, as it does where they would have to.
        shared: what other traces need as well.
    """

    seen: dict[tuple[str, str], Any] = field(default_factory=dict)
    first: dict[tuple[str, str], Any] = field(default_factory=dict, repr=False)
    complete: bool = True
    comparable: bool = True
    symbols: Symbols = field(default_factory=Symbols)
    sized: bool = False
    stumbled: bool = False
    shared: Shared = field(default_factory=Shared, repr=False)

    def note(self, path: str, name: str, value: Any) -> None:
        """Write down that `name` of the module at `path` is `value`."""
        if name in _MACHINERY:
            return
        self.first.setdefault((path, name), value)
        found = _fingerprint(value)
        if found is _MISSING:
            self.comparable = False
        self.seen[path, name] = found

    def fits(self, module: nn.Module) -> bool:
        """Whether a trace of `module` would have seen the same."""
        holders: dict[str, Any] = {"": module}
        for (path, name), found in self.seen.items():
            holder = holders.get(path, _MISSING)
            if holder is _MISSING:
                holder = holders[path] = module_at(module, path)
            if holder is None or _fingerprint(_look(holder, name)) != found:
                return False
        return True


def _fingerprint(value: Any) -> Any:
    """Something that is equal exactly when two values are interchangeable for a forward, or `_MISSING`."""
    kind = type(value)
    if kind in _SIMPLE or value is Absent:
        return kind, value
    if isinstance(value, Tensor):
        return kind, value.shape, value.dtype, value.device, value.requires_grad
    if isinstance(value, nn.Module):
        return "module", getattr(kind, "_twin_of", kind)
    if kind in (tuple, torch.Size):
        parts = tuple(_fingerprint(v) for v in value)
        return _MISSING if _MISSING in parts else (kind, parts)
    return _MISSING


def _look(module: nn.Module, name: str) -> Any:
    state = module.__dict__
    if name == "()":
        return tuple(module._modules)
    if name in state:
        return state[name]
    for registry in (module._parameters, module._buffers, module._modules):
        if name in registry:
            return registry[name]
    return Absent


class Memory:
    """Traces so far, by class.

    Attributes:
        shared: what they have in common.
    """

    def __init__(self, shared: Shared | None = None) -> None:
        self.shared = shared or Shared()
        self._traces: dict[type, list[tuple[Log, Any]]] = {}

    def recall(self, module: nn.Module) -> Any:
        """The trace of a module that is alike, or `None`."""
        known = self._traces.get(type(module), [])
        for place, (log, traced) in enumerate(known):
            if log.fits(module):
                known.insert(0, known.pop(place))  # what follows is most often like it
                return traced
        return None

    def keep(self, module: nn.Module, log: Log, traced: Any) -> None:
        """Remember a trace, if what it looked at can be compared."""
        known = self._traces.setdefault(type(module), [])
        if log.comparable and len(known) < 32:
            known.append((log, traced))
