"""proxies: what a forward sees of a traced value: every operation becomes a node, every question goes to the tracer."""

from __future__ import annotations

import collections
import math
import operator
import sys
from typing import TYPE_CHECKING, Any

from torch.fx.proxy import Attribute, Proxy, assert_fn

from reparamkit.trace.bytecode import asked_kind, asserts, unpacks
from reparamkit.trace.symbols import SymbolicNames
from reparamkit.trace.watch import Untraceable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_INPLACE = ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor")
_NESTED = frozenset({dict, collections.OrderedDict, list, set, collections.deque, tuple})


PARTS = "reparamkit_parts"  # in the meta of a node: into how many names its value was unpacked


class _Symbolic(Proxy):
    """What all traced values have in common."""

    tracer: Any

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _OWN:
            raise self.tracer.stopped(f"assigns to the attribute {name} of a traced value")
        object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        if not self.tracer.has(self, name):
            raise Missing(f"a traced value has no attribute {name!r}")
        return TwinAttribute(self, name)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """Asked for by `isinstance`, in code that has Python's own: nobody may be told that this is no tensor."""
        caller = sys._getframe(1)
        if caller.f_code.co_name == "is_tensor":
            return self.tracer.kind_of(self, otherwise=type(self))  # type: ignore[no-any-return]
        home = str(caller.f_globals.get("__name__", "")).partition(".")[0]
        if isinstance(caller.f_globals, SymbolicNames) or home in _INSIDERS:
            return type(self)
        kind = asked_kind(caller)
        if kind is None:
            raise self.tracer.stopped("asks for the type of a traced value")
        return _one_of(kind) if self.tracer.is_a(self, kind) else type(self)

    def __len__(self) -> int:
        count = self.tracer.count(self)
        if count is None:  # `list(x)` asks as well, and goes on without an answer
            raise NoLength("asks for the length of a traced value")
        return int(count)

    def __iter__(self) -> Iterator[Any]:
        # Not torch's: it keeps its own frame, and with it all that called it, until Python looks for cycles.
        count = unpacks(sys._getframe(1))
        if count is None:
            return self.tracer.iter(self)  # type: ignore[no-any-return]
        self.node.meta[PARTS] = count
        return iter([self[index] for index in range(count)])  # type: ignore[index]

    def __bool__(self) -> bool:
        if asserts(sys._getframe(1)):
            self.tracer.create_proxy("call_function", assert_fn, (self,), {})
            return True
        return self.tracer.to_bool(self)  # type: ignore[no-any-return]

    def __contains__(self, item: object) -> bool:
        raise self.tracer.stopped("looks something up in a traced value")

    def __int__(self) -> int:
        raise self.tracer.stopped("makes a traced value a Python number")

    __float__ = __complex__ = __int__

    def __setitem__(self, key: object, value: object) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, key, value), {})

    def __round__(self, digits: int | None = None) -> Any:
        return self.tracer.create_proxy("call_function", round, (self, digits), {})


def _one_of(kind: Any) -> type:
    return _one_of(kind[0]) if isinstance(kind, tuple) else kind


_OWN = frozenset({"node", "_node", "tracer", "root", "attr", "_frozen"})
_INSIDERS = frozenset({"torch", "reparamkit", "inspect", "dataclasses", "copy"})


class TwinProxy(_Symbolic):
    """A proxy that records augmented assignment as what it is: a change of the operand."""


class TwinAttribute(_Symbolic, Attribute):
    """An attribute of a traced value."""

    def __getattr__(self, name: str) -> Any:
        made = super().__getattr__(name)
        return DeviceType(made) if name == "type" and self.attr == "device" else made


class DeviceType(str):
    """The kind of device of a traced value: a name like any other to torch, a question to the forward itself."""

    _proxy: Any

    def __new__(cls, proxy: Any) -> DeviceType:
        """Any kind will do where it is only handed on: what depends on it is asked for."""
        made = super().__new__(cls, "cpu")
        made._proxy = proxy
        return made

    def __eq__(self, other: object) -> Any:
        home = str(sys._getframe(1).f_globals.get("__name__", "")).partition(".")[0]
        return str.__eq__(self, other) if home == "torch" else self._proxy == other

    def __ne__(self, other: object) -> Any:
        home = str(sys._getframe(1).f_globals.get("__name__", "")).partition(".")[0]
        return str.__ne__(self, other) if home == "torch" else self._proxy != other

    __hash__ = str.__hash__


class NoLength(Untraceable, TypeError):
    """A traced value has no length that is known."""


class Missing(AttributeError):
    """A traced value was taken not to have an attribute; where that ends the forward, so would the real one."""


def _record_inplace(name: str) -> Callable[[Any, object], Proxy]:
    target = getattr(operator, name)

    def record(self: Any, other: object) -> Proxy:
        return self.tracer.create_proxy("call_function", target, (self, other), {})  # type: ignore[no-any-return]

    return record


def _record(target: Any) -> Callable[[Any], Proxy]:
    def record(self: Any) -> Proxy:
        return self.tracer.create_proxy("call_function", target, (self,), {})  # type: ignore[no-any-return]

    return record


for _name in _INPLACE:
    setattr(_Symbolic, f"__{_name}__", _record_inplace(_name))
for _function in (math.ceil, math.floor, math.trunc):
    setattr(_Symbolic, f"__{_function.__name__}__", _record(_function))


def proxies_in(tree: Any) -> list[Proxy]:
    """All proxies in nested containers."""
    if isinstance(tree, Proxy):
        return [tree]
    if type(tree) not in _NESTED or not tree:
        return []
    parts = tree.values() if type(tree) in (dict, collections.OrderedDict) else tree
    return [p for part in parts for p in proxies_in(part)]
