"""Built-ins that keep a traced value symbolic: what a forward's code sees instead of `int`, `isinstance`, `len`, ...

Python's own `int(x)` must return a number, and `isinstance(x, Tensor)` looks at the proxy that stands for `x`. Either
would end a trace, or worse, send it another way than the real call goes. So the forward, and every function of the
user's that it calls, runs as a copy whose global names are looked up here first. The originals are not touched.
"""

from __future__ import annotations

import builtins
import dis
import sys
import types
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from torch.fx.proxy import Proxy

# Functions of these packages handle proxies themselves or never see one.
_OTHERS = frozenset({"torch", "reparamkit", *sys.stdlib_module_names, "numpy"})
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
            return proxy.tracer.kind_of(proxy)  # type: ignore[attr-defined]
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
    **{kind.__name__: _stand_in(kind) for kind in (int, float, bool, type)},
    "isinstance": _isinstance,
    "super": _super,
    **{f.__name__: _recorded(f) for f in (len, max, min)},
}
del _BUILTINS["bool"]  # `bool(x)` asks the proxy, which knows what to do


class SymbolicNames(dict[str, Any]):
    """The global names of a function, its module's functions among them as copies."""

    def __init__(self, real: dict[str, Any], symbols: Symbols) -> None:
        super().__init__({name: real[name] for name in _ORIGIN if name in real})
        self["__builtins__"] = _BUILTINS
        self._real, self._symbols = real, symbols

    def __getitem__(self, name: str) -> Any:
        return self._symbols.of(self._real[name] if name in self._real else super().__getitem__(name))


class Symbols:
    """Copies of the functions that one trace runs.

    Attributes:
        identities: places where one of them asks whether two objects are the same: of a proxy, nobody can tell.
    """

    def __init__(self) -> None:
        self.identities: list[str] = []
        self._copies: dict[int, tuple[Any, Any]] = {}
        self._globals: dict[int, SymbolicNames] = {}

    def of(self, value: Any) -> Any:
        """A function, method or module of the user's as one that keeps proxies symbolic; anything else as it is."""
        kind = builtins.type(value)
        if kind is types.MethodType:
            return types.MethodType(self.of(value.__func__), value.__self__)
        if kind is types.ModuleType and value.__name__.partition(".")[0] not in _OTHERS:
            return _Module(value, self)
        if kind is not types.FunctionType or str(value.__module__).partition(".")[0] in _OTHERS:
            return value
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
        self.identities += [f"{function.__qualname__}, line {line}" for line in _identities(function.__code__)]
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


_NAMES = ("LOAD_GLOBAL", "LOAD_DEREF", "LOAD_NAME")


@lru_cache(maxsize=4096)
def instructions(code: types.CodeType) -> tuple[dis.Instruction, ...]:
    """What the code does, without what only helps the interpreter."""
    return tuple(i for i in dis.get_instructions(code) if i.opname not in ("PRECALL", "CACHE", "PUSH_NULL"))


@lru_cache(maxsize=4096)
def _identities(code: types.CodeType) -> tuple[str, ...]:
    """Lines on which it compares by identity what might be traced: not with None, nor an attribute of self."""
    steps = instructions(code)
    found = []
    for at, step in enumerate(steps):
        if step.opname != "IS_OP":
            continue
        start, plain = _operand(steps, at)
        if plain and steps[start].opname == "LOAD_CONST" and steps[start].argval in (None, True, False):
            continue
        if not (plain and _operand(steps, start)[1]):
            found.append(str(next((s.starts_line for s in reversed(steps[: at + 1]) if s.starts_line), "?")))
    return tuple(found)


def _operand(steps: Sequence[dis.Instruction], end: int) -> tuple[int, bool]:
    """Where the operand that ends before `end` starts, and whether it is a global name or belongs to self."""
    at = end - 1
    while at > 0 and steps[at].opname in ("LOAD_ATTR", "LOAD_METHOD"):
        at -= 1
    step = steps[at]
    of_self = step.opname == "LOAD_FAST" and step.argval == "self"
    if step.opname == "CALL" and [s.argval for s in steps[max(at - 2, 0) : at]] == ["type", "self"]:
        return at - 2, True
    return at, of_self or step.opname in (*_NAMES, "LOAD_CONST")


def asked_kind(frame: types.FrameType) -> Any:
    """The class that an `isinstance` which is running in `frame` asks for; `None` when it is not such a call."""
    steps = instructions(frame.f_code)
    at = next((i for i, step in enumerate(steps) if step.offset >= frame.f_lasti), len(steps))
    try:
        kind, start = _value(steps, at - 1, frame)
    except (LookupError, AttributeError):
        return None
    names = [step.argval for step in steps[:start]]
    return kind if start >= 2 and "isinstance" in names[max(0, start - 6) :] else None


def _value(steps: Sequence[dis.Instruction], at: int, frame: types.FrameType) -> tuple[Any, int]:
    """What the instructions that end at `at` leave on the stack, where they are names and tuples of names."""
    step = steps[at]
    if step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
        base, start = _value(steps, at - 1, frame)
        return getattr(base, step.argval), start
    if step.opname == "BUILD_TUPLE":
        parts: list[Any] = []
        start = at
        for _ in range(step.argval):
            part, start = _value(steps, start - 1, frame)
            parts.insert(0, part)
        return tuple(parts), start
    if step.opname not in (*_NAMES, "LOAD_FAST"):
        raise LookupError(step.opname)
    value = {**frame.f_builtins, **frame.f_globals, **frame.f_locals}[step.argval]
    if not builtins.isinstance(value, (builtins.type, types.ModuleType)):
        raise LookupError(step.argval)
    return value, at
