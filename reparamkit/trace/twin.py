"""The recording twin: a shallow copy of a module on which its forward can run without touching the module.

Its children are of a subclass that records a call instead of running it; its parameters are the module's own tensors;
whatever the forward stores lands on the twin. Everything its code looks at goes into a `Log`.
"""

from __future__ import annotations

import collections
import math
import operator
import sys
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.fx.proxy import Attribute, Proxy, assert_fn

from reparamkit.trace.bytecode import asked_kind, asserts, unpacks
from reparamkit.trace.reuse import logging_attributes
from reparamkit.trace.sized import sized
from reparamkit.trace.symbols import SymbolicNames
from reparamkit.trace.watch import Untraceable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_INPLACE = ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor")
REGISTRIES = ("_parameters", "_buffers")
SKIPPED = (*REGISTRIES, "_modules")
_NESTED = frozenset({dict, collections.OrderedDict, list, set, collections.deque, tuple})
FILLABLE = (dict, collections.OrderedDict, list, set, collections.deque)


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


PAST_HOOKS = "reparamkit.past_hooks"  # a mark of nodes: the forward was called itself, which runs no hooks

_recording: dict[type, type] = {}
_rooted: dict[type, type] = {}
_lock = threading.Lock()


def _recorded(self: Any, run: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    if not _has_proxy((args, kwargs)):
        self._twin_tracer.ran.add(self._twin_path)
        return run(self, *args, **kwargs)
    made = self._twin_tracer.create_proxy("call_module", self._twin_path, args, kwargs)
    made.node.meta[PAST_HOOKS] = run is not type(self)._twin_of.__call__
    return made


def _slicing(cls: Any) -> dict[str, Any]:
    """A slice of the twin of a sequence or list is a plain one of the twins in it."""
    if cls not in (nn.Sequential, nn.ModuleList):
        return {}

    def item(self: Any, index: Any) -> Any:
        if not isinstance(index, slice):
            return cls.__getitem__(self, index)
        chosen = list(self._modules.values())[index]
        return cls(*chosen) if cls is nn.Sequential else cls(chosen)

    return {"__getitem__": item}


def recording_class(cls: type) -> type:
    """A subclass of `cls` whose call is recorded; called on real tensors alone, it runs."""
    with _lock:
        if cls not in _recording:
            names = {
                "__call__": lambda self, *args, **kwargs: _recorded(self, cls.__call__, args, kwargs),
                "forward": lambda self, *args, **kwargs: _recorded(self, cls.forward, args, kwargs),  # type: ignore[attr-defined]
                "__module__": cls.__module__,
                "__qualname__": cls.__qualname__,
                "_twin_of": cls,
                **logging_attributes(cls),
                **_slicing(cls),
            }
            _recording[cls] = type(cls.__name__, (cls,), names)
        return _recording[cls]


def root_class(cls: type) -> type:
    """A subclass of `cls` that notes when its forward looks at ``self.training``."""

    def training(self: Any) -> bool:
        state_of(self)["_twin_reads_training"] = True
        return False

    with _lock:
        if cls not in _rooted:
            names = {
                "training": property(training, lambda self, value: None),
                "__module__": cls.__module__,
                "__qualname__": cls.__qualname__,
                **logging_attributes(cls),
            }
            _rooted[cls] = type(cls.__name__, (cls,), names)
        return _rooted[cls]


def state_of(module: Any) -> dict[str, Any]:
    """The attributes of a twin, read past its log."""
    return object.__getattribute__(module, "__dict__")  # type: ignore[no-any-return]


def _has_proxy(tree: Any) -> bool:
    if isinstance(tree, Proxy):
        return True
    if isinstance(tree, dict):
        return any(_has_proxy(v) for v in tree.values())
    return isinstance(tree, (list, tuple)) and any(_has_proxy(v) for v in tree)


def proxies_in(tree: Any) -> list[Proxy]:
    """All proxies in nested containers."""
    if isinstance(tree, Proxy):
        return [tree]
    if type(tree) not in _NESTED or not tree:
        return []
    parts = tree.values() if type(tree) in (dict, collections.OrderedDict) else tree
    return [p for part in parts for p in proxies_in(part)]


def own(value: Any) -> Any:
    """A container of its own for the twin, so that a forward cannot fill the user's caches with proxies."""
    kind = type(value)
    if kind in (dict, collections.OrderedDict):
        return kind((k, own(v)) for k, v in value.items())
    if kind in (list, set, collections.deque):
        return kind(own(v) for v in value)
    return value
