"""Built-ins that keep a traced value symbolic: what a forward's code sees instead of `int`, `isinstance`, `len`, ...

Python's own `int(x)` must return a number, and `isinstance(x, Tensor)` looks at the proxy that stands for `x`. Either
would end a trace, or worse, send it another way than the real call goes. So the forward, and every function of the
user's that it calls, runs as a copy whose global names are looked up here first. The originals are not touched.
"""

from __future__ import annotations

import builtins
import sys
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx.proxy import Proxy

from reparamkit.trace.ambient import LOOKED_THROUGH, QUESTIONS, SWITCHES, Chance, is_generator, seeds, told
from reparamkit.trace.bytecode import compared_type, doubts
from reparamkit.trace.sized import CREATORS, created
from reparamkit.trace.userstate import Held

# Functions of these packages handle proxies themselves or never see one.
_OTHERS = frozenset({"torch", "reparamkit", *sys.stdlib_module_names, "numpy"})
# Functions that are steps of a graph themselves; what they do inside depends on what they are given.
_WHOLE = frozenset({("einops.einops", "rearrange")})
_ORIGIN = ("__name__", "__package__", "__spec__", "__loader__", "__file__")  # what an import statement reads


def _held(*arguments: Any) -> Proxy | None:
    return next((a for a in arguments if isinstance(a, Proxy)), None)


class _Kind(type):
    """The class of a stand-in for a built-in class: checks, comparisons and unions mean the original."""

    _real: type

    def __instancecheck__(cls, instance: Any) -> bool:
        return builtins.isinstance(instance, cls._real)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, cls._real)

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is cls._real

    def __hash__(cls) -> int:
        return hash(cls._real)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        proxy = _held(*args)
        if proxy is None:
            return cls._real(*args, **kwargs)
        if cls._real is builtins.type:
            compared = compared_type(sys._getframe(1))
            return proxy.tracer.kind_of(proxy, compared=compared)  # type: ignore[attr-defined]
        return proxy.tracer.create_proxy("call_function", cls._real, args, kwargs)


def _stand_in(real: type) -> type:
    made: type = _Kind(real.__name__, (), {"_real": real, "__module__": "builtins"})
    return made


def _original(kind: Any) -> Any:
    if builtins.isinstance(kind, tuple):
        return tuple(map(_original, kind))
    return kind._real if builtins.type(kind) is _Kind else kind


def _isinstance(instance: Any, kind: Any) -> bool:
    if not builtins.isinstance(instance, Proxy):
        return builtins.isinstance(instance, _original(kind))
    return bool(instance.tracer.is_a(instance, _original(kind)))  # type: ignore[attr-defined]


def _recorded(real: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        several = real is not len and len(args) == 1 and builtins.isinstance(args[0], (list, tuple))
        proxy = _held(*(args[0] if several else args))
        if proxy is None:
            return real(*args, **kwargs)
        return proxy.tracer.create_proxy("call_function", real, args, kwargs)

    return run


def _converting(real: Callable[..., Any]) -> Callable[..., Any]:
    """`torch.as_tensor`, which does not ask a proxy: a tensor that nothing else is wanted of is handed on."""

    def run(data: Any, **wanted: Any) -> Any:
        if not builtins.isinstance(data, Proxy):
            return real(data, **wanted)
        if not wanted and data.tracer.is_a(data, Tensor):  # type: ignore[attr-defined]
            return data
        return data.tracer.create_proxy("call_function", real, (data,), wanted)

    return run


def _super(*args: Any) -> Any:
    """`super`, with or without arguments; what it finds runs as a copy too."""
    if not args:
        names = sys._getframe(1)
        args = names.f_locals["__class__"], names.f_locals[names.f_code.co_varnames[0]]
    log = builtins.getattr(args[1], "__dict__", {}).get("_twin_log")
    found = super(*args)
    return found if log is None else _Parent(found, log.symbols)


class _Parent:
    """The methods of a base class, as copies."""

    def __init__(self, found: Any, symbols: Symbols) -> None:
        self._found, self._symbols = found, symbols

    def __getattr__(self, name: str) -> Any:
        return self._symbols.of(getattr(self._found, name))


class _Module(types.ModuleType):
    """A module of the user's, its functions as copies."""

    def __init__(self, real: types.ModuleType, symbols: Symbols) -> None:
        super().__init__(real.__name__)
        self.__dict__["_real"], self.__dict__["_symbols"] = real, symbols

    def __getattr__(self, name: str) -> Any:
        return self._symbols.of(getattr(self._real, name))


_BUILTINS: dict[str, Any] = {
    **vars(builtins),
    **{kind.__name__: _stand_in(kind) for kind in (int, float, type)},  # `bool(x)` asks the proxy, which knows
    "isinstance": _isinstance,
    "super": _super,
    **{f.__name__: _recorded(f) for f in (len, max, min)},
}


_CONVERSIONS = frozenset({torch.as_tensor, torch.asarray})
_STATELESS = frozenset({type(None), bool, int, float, str, tuple, type})


class SymbolicNames(dict[str, Any]):
    """The global names of a function, its module's functions among them as copies."""

    def __init__(self, real: dict[str, Any], symbols: Symbols) -> None:
        super().__init__({name: real[name] for name in _ORIGIN if name in real})
        self["__builtins__"] = _BUILTINS
        self._real, self._symbols = real, symbols

    @property
    def real(self) -> dict[str, Any]:
        """The names without the built-in ones."""
        return self._real

    def __getitem__(self, name: str) -> Any:
        if name not in self._real:
            return self._symbols.of(super().__getitem__(name))
        value = self._real[name]
        self._symbols.held.container(value)
        return self._symbols.of(value)


class Symbols:
    """Copies of the functions that one trace runs.

    Attributes:
        doubts: what one of them does that a trace cannot hold, such as to ask whether two objects are the same.
        held: objects of the user's that they look at.
        tracer: of the run that is going on.
    """

    tracer: Any

    def __init__(self) -> None:
        self.doubts: list[str] = []
        self.held = Held()
        self._copies: dict[int, tuple[Any, Any]] = {}
        self._globals: dict[int, SymbolicNames] = {}

    def of(self, value: Any) -> Any:
        """A function, method or module of the user's as one that keeps proxies symbolic; anything else as it is."""
        kind = builtins.type(value)
        if kind in _STATELESS:
            return told(value, self.tracer.record) if kind is type and value in SWITCHES else value
        if kind is types.FunctionType:
            return self._function(value)
        if kind is types.MethodType:
            owner = value.__self__
            return self._drawn(value) if is_generator(owner) else types.MethodType(self.of(value.__func__), owner)
        if kind is types.BuiltinFunctionType:
            return self._builtin(value)
        if kind is types.ModuleType:
            name = value.__name__
            theirs = name.partition(".")[0] in _OTHERS and name not in LOOKED_THROUGH
            return value if theirs else _Module(value, self)
        if is_generator(value):
            return Chance(self.tracer.stopped)
        if hasattr(kind, "__next__"):
            raise self.tracer.stopped(f"reads from an iterator ({kind.__name__}) that it does not start")
        self.held.object(value)
        return value

    def _builtin(self, value: Any) -> Any:
        if value in CREATORS:
            return created(value)
        if value.__module__ == "math" or value is torch.tensor:
            return _recorded(value)
        question = QUESTIONS.get(value)
        if question is not None:
            return lambda *args: self.tracer.ask(question) == 0
        if value in _CONVERSIONS:
            return _converting(value)
        return self._drawn(value) if is_generator(value.__self__) else value

    def _drawn(self, value: Any) -> Any:
        return getattr(Chance(self.tracer.stopped), value.__name__)

    def _function(self, value: Any) -> Any:
        if (value.__module__, value.__qualname__) in _WHOLE:
            return _recorded(value)
        if str(value.__module__).partition(".")[0] in _OTHERS:
            return self._drawn(value) if seeds(value) else value
        known = self._copies.get(id(value))
        return self._copied(value) if known is None else known[1]

    def _copied(self, function: Any) -> Any:
        names = self._globals.setdefault(id(function.__globals__), SymbolicNames(function.__globals__, self))
        self._copies[id(function)] = function, function  # one that holds itself in a closure is met again in there
        cells = tuple(map(self._cell, function.__closure__)) if function.__closure__ else None
        # A copy of the code too: the interpreter keeps what it learnt about the lookups of a code object in it.
        code = function.__code__.replace()
        made = types.FunctionType(code, names, function.__name__, function.__defaults__, cells)
        self._copies[id(function)] = function, made
        self.doubts += doubts(function.__code__)
        made.__kwdefaults__ = function.__kwdefaults__
        made.__module__ = function.__module__
        made.__dict__.update(function.__dict__)
        return made

    def _cell(self, cell: types.CellType) -> types.CellType:
        try:
            inside = cell.cell_contents
        except ValueError:  # not filled yet
            return cell
        return types.CellType(self.of(inside)) if builtins.type(inside) is types.FunctionType else cell
