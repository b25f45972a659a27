"""trace: one module's own forward, as a graph in which its children stay whole.

The forward runs on a *recording twin*: a shallow copy of the module whose children are shallow copies
of a subclass that records its call instead of running it. Nothing is patched, so other threads go on
undisturbed, and whatever the forward stores lands on the twin. Parameters are real tensors: what is
computed from parameters alone is computed, and enters the graph as a constant.

Whole models are rarely traceable; their modules nearly always are. A forward that cannot be traced is
a `Refusal` with the reason and the source line; its children are still traced one by one.
"""

from __future__ import annotations

import collections
import inspect
import linecache
import operator
import threading
import traceback
import types
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch.fx.proxy import Proxy, Scope, TracerBase
from torch.utils._python_dispatch import TorchDispatchMode

from reparamkit.errors import Refusal
from reparamkit.reuse import Log, Memory, logging_attributes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

_HERE = Path(__file__).name
_INPLACE = ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor")


@dataclass(frozen=True)
class Traced:
    """One module's forward as a graph.

    Attributes:
        graph: children are ``call_module`` nodes, parameters ``get_attr`` nodes.
        constants: tensors the forward computed from parameters, by the name of their ``get_attr`` node.
        fixed: parameters of the forward that were traced at their default value.
        reads_training: whether the forward looked at ``self.training``.
        reads: names of the parameters and buffers the forward itself looked at.
        ran: paths of children that were run on constants.
        stored: nodes whose values the forward leaves in an attribute.
        switches_grad: whether part of it runs under `torch.no_grad` or the like.
    """

    graph: fx.Graph
    constants: dict[str, Tensor]
    fixed: dict[str, Any]
    reads_training: bool
    reads: frozenset[str]
    ran: frozenset[str]
    stored: frozenset[fx.Node]
    switches_grad: bool


class _Untraceable(Exception):
    pass


class _TwinProxy(Proxy):
    """A proxy that records augmented assignment as what it is: a change of the operand."""

    def __setitem__(self, key: object, value: object) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, key, value), {})


def _record_inplace(name: str) -> Callable[[_TwinProxy, object], Proxy]:
    target = getattr(operator, name)

    def record(self: _TwinProxy, other: object) -> Proxy:
        return self.tracer.create_proxy("call_function", target, (self, other), {})

    return record


for _name in _INPLACE:
    setattr(_TwinProxy, f"__{_name}__", _record_inplace(_name))


class _Children(dict[str, Any]):
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


class _Tensors(dict[str, Any]):
    """The `_parameters` or `_buffers` of a twin: notes which of them are looked at."""

    def __init__(
        self, tensors: dict[str, Any], prefix: str, reads: dict[str, Any], note: Callable[[str, Any], None]
    ) -> None:
        super().__init__(tensors)
        self._prefix = prefix
        self._reads = reads
        self._note = note

    def __getitem__(self, name: str) -> Any:
        tensor = super().__getitem__(name)
        self._reads[self._prefix + name] = tensor
        self._note(name, tensor)
        return tensor

    def items(self) -> Any:
        return [(name, self[name]) for name in self]

    def values(self) -> Any:
        return [self[name] for name in self]


class _Watch(TorchDispatchMode):
    """Stops a forward that would change the user's tensors or draw random numbers while it is traced."""

    def __init__(self, storages: frozenset[int], log: Log) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.storages = storages
        self.log = log

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.log.comparable = False
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise _Untraceable(f"draws random numbers ({func})")
        if func._schema.is_mutable:
            for position, argument in enumerate(func._schema.arguments):
                value = args[position] if position < len(args) else (kwargs or {}).get(argument.name)
                changed = argument.alias_info is not None and argument.alias_info.is_write
                if changed and isinstance(value, Tensor) and _storage(value) in self.storages:
                    raise _Untraceable(f"changes a parameter or buffer in place ({func})")
        return func(*args, **(kwargs or {}))


def _storage(tensor: Tensor) -> int:
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # sparse, fake and wrapper tensors have none
        return id(tensor)


def storages_of(model: nn.Module) -> frozenset[int]:
    """Identities of all storages the parameters and buffers of `model` live in."""
    tensors = [*model.parameters(), *model.buffers()]
    return frozenset(_storage(t) for t in tensors)


_recording: dict[type, type] = {}
_rooted: dict[type, type] = {}
_lock = threading.Lock()


def _recorded(self: Any, run: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    if not _has_proxy((args, kwargs)):
        self._twin_tracer.ran.add(self._twin_path)
        return run(self, *args, **kwargs)
    return self._twin_tracer.create_proxy("call_module", self._twin_path, args, kwargs)


def _recording_class(cls: type) -> type:
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
            }
            _recording[cls] = type(cls.__name__, (cls,), names)
        return _recording[cls]


def _root_class(cls: type) -> type:
    """A subclass of `cls` that notes when its forward looks at ``self.training``."""

    def training(self: Any) -> bool:
        _state(self)["_twin_reads_training"] = True
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


def _state(module: Any) -> dict[str, Any]:
    """The attributes of a twin, read past its log."""
    return object.__getattribute__(module, "__dict__")  # type: ignore[no-any-return]


def _has_proxy(tree: Any) -> bool:
    if isinstance(tree, Proxy):
        return True
    if isinstance(tree, dict):
        return any(_has_proxy(v) for v in tree.values())
    return isinstance(tree, (list, tuple)) and any(_has_proxy(v) for v in tree)


def _proxies(tree: Any) -> list[Proxy]:
    """All proxies in nested containers."""
    if isinstance(tree, Proxy):
        return [tree]
    if type(tree) not in _NESTED or not tree:
        return []
    parts = tree.values() if type(tree) in (dict, collections.OrderedDict) else tree
    return [p for part in parts for p in _proxies(part)]


def _own(value: Any) -> Any:
    """A container of its own for the twin, so that a forward cannot fill the user's caches with proxies."""
    kind = type(value)
    if kind in (dict, collections.OrderedDict):
        return kind((k, _own(v)) for k, v in value.items())
    if kind in (list, set, collections.deque):
        return kind(_own(v) for v in value)
    return value


class _TwinTracer(TracerBase):
    trace_asserts = True

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.graph = fx.Graph(tracer_cls=fx.Tracer)
        self.scope, self.node_name_to_scope = Scope("", None), {}
        self.module_stack = collections.OrderedDict()
        self.constants: dict[str, Tensor] = {}
        self.reads: dict[str, Tensor | None] = {}
        self.log = Log()
        self.ran: set[str] = set()
        self.mode = _ambient()
        self.switches_grad = False
        self.twins: list[Any] = []

    def proxy(self, node: fx.Node) -> Proxy:
        return _TwinProxy(node, self)

    def create_node(self, kind: str, *args: Any, **kwargs: Any) -> fx.Node:
        grad, autocast = _ambient()
        if autocast != self.mode[1]:
            raise _Untraceable("enters an autocast context")
        self.switches_grad |= grad != self.mode[0]
        return super().create_node(kind, *args, **kwargs)

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, Tensor):
            return self.create_node("get_attr", self._name(a), (), {})
        if isinstance(a, nn.Module):
            raise _Untraceable(f"passes a module ({type(a).__name__}) as an argument")
        return super().create_arg(a)

    def _name(self, tensor: Tensor) -> str:
        """The parameter's own name, or that of a new constant."""
        for name, read in (*self.reads.items(), *self.constants.items()):
            if read is tensor:
                return name
        name = f"_constant_{len(self.constants)}"
        self.constants[name] = tensor
        return name

    def twin(self, module: nn.Module, path: str) -> nn.Module:
        root = path == ""
        cls = _root_class(type(module)) if root else _recording_class(type(module))
        copy: nn.Module = object.__new__(cls)
        state = dict(module.__dict__)
        for name, value in module.__dict__.items():
            if type(value) in _FILLABLE and name not in _SKIPPED and not name.endswith("_hooks"):
                state[name] = _own(value)
        prefix = "" if root else f"{path}."
        note = partial(self.log.note, path)
        state.update({k: _Tensors(module.__dict__[k], prefix, self.reads, note) for k in _REGISTRIES})
        state["_modules"] = _Children(
            module.__dict__["_modules"], lambda name, child: self.twin(child, prefix + name), note
        )
        if "__getattribute__" not in vars(cls):
            self.log.comparable = False
        state["_twin_log"], state["_twin_path"] = self.log, path
        forward = state.pop("forward", None)
        if root:
            state.pop("training", None)
        else:
            state["_twin_tracer"] = self
        if forward is not None and root:
            state["forward"] = types.MethodType(getattr(forward, "__func__", forward), copy)
        _state(copy).update(state)
        self.twins.append(copy)
        return copy


_REGISTRIES = ("_parameters", "_buffers")
_SKIPPED = (*_REGISTRIES, "_modules")
_NESTED = frozenset({dict, collections.OrderedDict, list, set, collections.deque, tuple})
_FILLABLE = (dict, collections.OrderedDict, list, set, collections.deque)


def _ambient() -> tuple[tuple[bool, ...], tuple[bool, ...]]:
    """Gradient modes, which change no number, and autocast modes, which do."""
    return (
        (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        (torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")),
    )


def _inputs(tracer: _TwinTracer, forward: Callable[..., Any]) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
    """Arguments for the forward: proxies for what must be given, the defaults for what need not."""
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    fixed: dict[str, Any] = {}
    for name, p in parameters_of(forward).items():
        stars = "*" if p.kind is p.VAR_POSITIONAL else "**" if p.kind is p.VAR_KEYWORD else ""
        if stars:
            tracer.create_proxy("placeholder", stars + name, (), {})
            continue
        if p.default is not p.empty:
            fixed[name] = p.default
            tracer.create_node("placeholder", name, (_plain(p.default),), {})
            value: Any = p.default
        else:
            value = tracer.create_proxy("placeholder", name, (), {})
        if p.kind is p.KEYWORD_ONLY:
            kwargs[name] = value
        else:
            args.append(value)
    return args, kwargs, fixed


def _plain(default: Any) -> Any:
    if default is None or isinstance(default, (bool, int, float, str)):
        return default
    if isinstance(default, tuple) and all(d is None or isinstance(d, (bool, int, float, str)) for d in default):
        return default
    raise _Untraceable(f"has a default argument of type {type(default).__name__}")


def parameters_of(forward: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The parameters of a bound forward, by name."""
    function = getattr(forward, "__func__", None)
    if function is None:
        return inspect.signature(forward).parameters
    signature = signature_of(function)
    return dict(list(signature.parameters.items())[1:])


@lru_cache(maxsize=4096)
def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """`inspect.signature`, remembered: it is asked for at every call of every block."""
    return inspect.signature(function)


def forward_of(module: nn.Module) -> Callable[..., Any]:
    """The function that a call of `module` ends in, unbound from the instance."""
    own = module.__dict__.get("forward")
    return getattr(own, "__func__", own) if own is not None else type(module).forward


def trace(module: nn.Module, storages: frozenset[int], memory: Memory | None = None) -> Traced | Refusal:
    """Trace the forward of `module`, its children as leaves.

    Args:
        module: a module in eval mode; nothing in it is changed.
        storages: `storages_of` the whole model; a forward that writes to one of them is refused.
        memory: of traces of modules that are alike.

    Returns:
        The graph, or a `Refusal` (RK604) with the reason and the source line.
    """
    known = None if memory is None else memory.recall(module)
    if known is not None:
        return known  # type: ignore[no-any-return]
    tracer = _TwinTracer(module)
    try:
        with torch.enable_grad(), _Watch(storages, tracer.log):
            tracer.mode = _ambient()
            twin = tracer.twin(module, "")
            call = twin.forward
            args, kwargs, fixed = _inputs(tracer, call)
            result = call(*args, **kwargs)
            tracer.create_node("output", "output", (tracer.create_arg(result),), {})
    except RecursionError:
        return Refusal("RK604", "nested too deeply for Python's recursion limit")
    except Exception as error:  # whatever a user's forward raises on a proxy is the reason it cannot be traced
        return Refusal("RK604", _reason(error))
    reads_training = bool(_state(twin).get("_twin_reads_training"))
    reads, ran = frozenset(tracer.reads), frozenset(tracer.ran)
    stored = frozenset(p.node for t in tracer.twins for v in _state(t).values() for p in _proxies(v))
    constants = {name: tensor.detach() for name, tensor in tracer.constants.items()}
    made = Traced(tracer.graph, constants, fixed, reads_training, reads, ran, stored, tracer.switches_grad)
    if memory is not None and not ran:
        memory.keep(module, tracer.log, made)
    return made


def _reason(error: Exception) -> str:
    text = str(error).split("\n", 1)[0].strip() or type(error).__name__
    place = _place(error)
    return f"{text} (at {place})" if place else text


def _place(error: Exception) -> str:
    """File, line and text of the innermost frame that is the user's."""
    frames: Iterable[traceback.FrameSummary] = traceback.extract_tb(error.__traceback__)
    for frame in reversed(list(frames)):
        parts = Path(frame.filename).parts
        if "torch" in parts or parts[-1:] == (_HERE,):
            continue
        line = linecache.getline(frame.filename, frame.lineno or 0).strip()
        return f"{'/'.join(parts[-2:])}:{frame.lineno} `{line}`"
    return ""


def modules_under(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every (path, module), parents before children, one entry for each name a module has; no recursion."""
    stack: list[tuple[str, nn.Module]] = [("", model)]
    while stack:
        path, module = stack.pop()
        yield path, module
        prefix = f"{path}." if path else ""
        children = [(prefix + n, c) for n, c in module._modules.items() if c is not None]
        stack.extend(reversed(children))
