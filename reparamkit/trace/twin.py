"""The recording twin: a shallow copy of a module on which its forward can run without touching the module.

Its children are of a subclass that records a call instead of running it (`classes.py`); its parameters are the module's
own tensors; whatever the forward stores lands on the twin. Everything its code looks at goes into a `Log`.
"""

from __future__ import annotations

import collections
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from reparamkit.trace.sized import sized

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

REGISTRIES = ("_parameters", "_buffers")
SKIPPED = (*REGISTRIES, "_modules")
FILLABLE = (dict, collections.OrderedDict, list, set, collections.deque)


class Children(dict[str, Any]):
    """The `_modules` of a twin: children become twins when they are looked at."""

    def __init__(
        self,
        modules: dict[str, nn.Module | None],
        make: Callable[[str, nn.Module], nn.Module],
        note: Callable[[str, Any], None],
    ) -> None:
        super().__init__(modules)
        self._make = make
        self._note = note
        self._twins: dict[str, nn.Module] = {}

    def __iter__(self) -> Iterator[str]:
        self._note("()", tuple(self.keys()))
        return super().__iter__()

    def __len__(self) -> int:
        self._note("()", tuple(self.keys()))
        return super().__len__()

    def __getitem__(self, name: str) -> nn.Module | None:
        child = super().__getitem__(name)
        if child is None or name in self._twins:
            return self._twins.get(name)
        self._note(name, child)
        self._twins[name] = self._make(name, child)
        return self._twins[name]

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self else default  # noqa: SIM401 - that would be this method

    def values(self) -> Any:
        return [self[name] for name in self]

    def items(self) -> Any:
        return [(name, self[name]) for name in self]


class Tensors(dict[str, Any]):
    """The `_parameters` or `_buffers` of a twin: notes which of them are asked for by name, and which in a loop."""

    def __init__(self, tensors: dict[str, Any], prefix: str, seen: Seen, note: Callable[[str, Any], None]) -> None:
        super().__init__(tensors)
        self._prefix = prefix
        self._seen = seen
        self._note = note

    def __getitem__(self, name: str) -> Any:
        tensor = super().__getitem__(name)
        self._seen.named[self._prefix + name] = tensor
        self._note(name, tensor)
        return self._seen.handed(tensor)

    def items(self) -> Any:
        """As `next(self.parameters())` asks: for any of them."""
        pairs = list(super().items())
        for name, tensor in pairs:
            self._seen.passed[self._prefix + name] = tensor
            self._note(name, tensor)
        return [(name, self._seen.handed(tensor)) for name, tensor in pairs]

    def values(self) -> Any:
        return [tensor for _, tensor in self.items()]


@dataclass
class Seen:
    """Parameters and buffers that a forward came across, by name.

    Attributes:
        named: those it asked for by name.
        passed: those it met on its way through all of them.
        sized: whether the forward gets them as tensors that take traced sizes.
    """

    named: dict[str, Any] = field(default_factory=dict)
    passed: dict[str, Any] = field(default_factory=dict)
    sized: bool = False
    _handed: dict[int, Any] = field(default_factory=dict)

    def handed(self, tensor: Any) -> Any:
        """What the forward gets for one of them."""
        if not self.sized or tensor is None:
            return tensor
        if id(tensor) not in self._handed:
            self._handed[id(tensor)] = sized(tensor)
        return self._handed[id(tensor)]

    def name_of(self, tensor: Any) -> str | None:
        """The name of one of them; from now on it counts as asked for by name."""
        for name, read in (*self.named.items(), *self.passed.items()):
            if read is tensor or self._handed.get(id(read)) is tensor:
                self.named[name] = read
                return name
        return None


def own(value: Any) -> Any:
    """A container of its own for the twin, so that a forward cannot fill the user's caches with proxies."""
    kind = type(value)
    if kind in (dict, collections.OrderedDict):
        return kind((k, own(v)) for k, v in value.items())
    if kind in (list, set, collections.deque):
        return kind(own(v) for v in value)
    return value
