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
import dis
import inspect
import itertools
import linecache
import traceback
import types
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch.fx.proxy import Proxy, Scope, TracerBase

from reparamkit.borders import write_borders
from reparamkit.errors import Refusal
from reparamkit.facts import makes_tensor, parts_of
from reparamkit.forks import Forks, TooManyWays, runs
from reparamkit.reuse import Log, Memory
from reparamkit.twin import (
    FILLABLE,
    REGISTRIES,
    SKIPPED,
    Children,
    Missing,
    Tensors,
    TwinProxy,
    own,
    proxies_in,
    recording_class,
    root_class,
    state_of,
)
from reparamkit.watch import Untraceable, Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

_HERE = Path(__file__).parent


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
        guarded: whether the forward raises for some inputs, which the graph does not show.
    """

    graph: fx.Graph
    constants: dict[str, Tensor]
    fixed: dict[str, Any]
    reads_training: bool
    reads: frozenset[str]
    ran: frozenset[str]
    stored: frozenset[fx.Node]
    switches_grad: bool
    guarded: bool = False


@dataclass(frozen=True)
class Forked:
    """A forward that goes more than one way, depending on what it is given.

    Attributes:
        main: its graph for a call that leaves the defaults alone, where that is one way.
        ways: the other ways (all of them, without a `main`).
        unknown: why there may be ways that were not seen.
    """

    main: Traced | None
    ways: tuple[Traced, ...]
    unknown: Refusal | None = None

    @property
    def graphs(self) -> tuple[Traced, ...]:
        """All ways that were seen."""
        return self.ways if self.main is None else (self.main, *self.ways)


class _TwinTracer(TracerBase):
    trace_asserts = True

    def __init__(self, module: nn.Module, log: Log, forks: Forks) -> None:
        super().__init__()
        self.module = module
        self.graph = fx.Graph(tracer_cls=fx.Tracer)
        self.scope, self.node_name_to_scope = Scope("", None), {}
        self.module_stack = collections.OrderedDict()
        self.constants: dict[str, Tensor] = {}
        self.reads: dict[str, Tensor | None] = {}
        self.log, self.forks = log, forks
        self.broken = ""
        self.ran: set[str] = set()
        self.mode = _ambient()
        self.switches_grad = False
        self.twins: list[Any] = []

    def proxy(self, node: fx.Node) -> Proxy:
        return TwinProxy(node, self)

    def stopped(self, reason: str) -> Untraceable:
        """The exception to raise; remembered, since the forward may catch it and go on another way."""
        self.broken = self.broken or reason
        return Untraceable(reason)

    def ask(self, question: str, options: int = 2) -> int:
        try:
            return self.forks.choose(question, options)
        except TooManyWays as error:
            raise self.stopped(str(error)) from error

    def to_bool(self, obj: Proxy) -> bool:
        return self.ask(f"{_question(obj.node)} is true") == 0

    def count(self, obj: Proxy) -> int | None:
        """How many parts an iteration over the value has."""
        count, exact = parts_of(obj.node)
        if count is None or exact:
            return count
        return count - self.ask(f"parts of {_question(obj.node)}", count)

    def iter(self, obj: Any) -> Iterator[Proxy]:
        count = self.count(obj)
        if count is None:
            raise self.stopped("iterates over a traced value of unknown length")
        return iter([obj[index] for index in range(count)])

    def kind_of(self, proxy: Proxy, otherwise: type | None = None) -> type:
        """The class of what a proxy stands for, as far as it is a tensor."""
        if not self._is_tensor(proxy):
            if otherwise is not None:
                return otherwise
            raise self.stopped("asks for the type of its input")
        return Tensor

    def is_a(self, proxy: Proxy, kind: Any) -> bool:
        """What ``isinstance(proxy, kind)`` is."""
        if self._is_tensor(proxy):
            return issubclass(Tensor, kind)
        return kind is not Tensor and self.ask(f"{_question(proxy.node)} is a {kind}") == 0

    def _is_tensor(self, proxy: Proxy) -> bool:
        node = proxy.node
        called = self.module.get_submodule(str(node.target)) if node.op == "call_module" else None
        return makes_tensor(node, called) or self.ask(f"{_question(node)} is a tensor") == 0

    def has(self, proxy: Proxy, name: str) -> bool:
        """What ``hasattr(proxy, name)`` is."""
        if name in _TENSOR_ATTRIBUTES:
            return True
        if name.startswith("__") or makes_tensor(proxy.node, None):
            return False
        return self.ask(f"{_question(proxy.node)} has {name}") == 0

    def create_node(self, kind: str, *args: Any, **kwargs: Any) -> fx.Node:
        grad, autocast = _ambient()
        if autocast != self.mode[1]:
            raise Untraceable("enters an autocast context")
        self.switches_grad |= grad != self.mode[0]
        return super().create_node(kind, *args, **kwargs)

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, Tensor):
            return self.create_node("get_attr", self._name(a), (), {})
        if isinstance(a, nn.Module):
            raise Untraceable(f"passes a module ({type(a).__name__}) as an argument")
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
        cls = root_class(type(module)) if root else recording_class(type(module))
        copy: nn.Module = object.__new__(cls)
        state = dict(module.__dict__)
        for name, value in module.__dict__.items():
            if type(value) in FILLABLE and name not in SKIPPED and not name.endswith("_hooks"):
                state[name] = own(value)
        prefix = "" if root else f"{path}."
        note = partial(self.log.note, path)
        state.update({k: Tensors(module.__dict__[k], prefix, self.reads, note) for k in REGISTRIES})
        state["_modules"] = Children(
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
        state_of(copy).update(state)
        self.twins.append(copy)
        return copy


def _ambient() -> tuple[tuple[bool, ...], tuple[bool, ...]]:
    """Gradient modes, which change no number, and autocast modes, which do."""
    return (
        (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        (torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")),
    )


_TENSOR_ATTRIBUTES = frozenset(dir(Tensor))


def _question(node: fx.Node) -> str:
    """A name for what a node computes from shapes: the same for the same computation."""
    plain = node.op == "call_method" and node.target in ("size", "dim")
    if node.op == "call_function":
        home = getattr(node.target, "__module__", "")
        plain = node.target is getattr or home in ("_operator", "math", "builtins")
    if not plain:
        return node.name
    parts = [_question(a) if isinstance(a, fx.Node) else str(a) for a in node.args]
    name = getattr(node.target, "__name__", node.target)
    return f"{name}({', '.join(parts)})"


def _inputs(tracer: _TwinTracer, module: nn.Module, free: bool) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
    """Arguments for the forward: proxies for what must be given, the defaults for what need not.

    With `free` every argument that has a default, or that the code compares with None, is tried both ways.
    """
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    fixed: dict[str, Any] = {}
    forward = module.__dict__.get("forward", None) or types.MethodType(type(module).forward, module)
    optional = _compared_with_none(forward) if free else frozenset()
    for index, (name, p) in enumerate(parameters_of(forward).items()):
        stars = "*" if p.kind is p.VAR_POSITIONAL else "**" if p.kind is p.VAR_KEYWORD else ""
        if stars:
            tracer.create_proxy("placeholder", stars + name, (), {})
            continue
        options: list[Any] = [_GIVEN] if p.default is p.empty else [p.default, _GIVEN]
        if type(p.default) is bool:
            options = [p.default, not p.default]
        elif index == 0:
            options.reverse()
        if name in optional and not any(o is None for o in options):
            options.append(None)
        taken = options[tracer.ask(f"argument {name}", len(options)) if free and len(options) > 1 else 0]
        if taken is _GIVEN:
            value: Any = tracer.create_proxy("placeholder", name, (), {})
        else:
            value = fixed[name] = taken
            tracer.create_node("placeholder", name, (_plain(taken),), {})
        if p.kind is p.KEYWORD_ONLY:
            kwargs[name] = value
        else:
            args.append(value)
    return args, kwargs, fixed


_GIVEN = object()


@lru_cache(maxsize=4096)
def _none_names(code: types.CodeType) -> frozenset[str]:
    """Local names that the code compares with None."""
    steps = [i for i in dis.get_instructions(code) if i.opname not in ("CACHE", "PRECALL")]
    found = set()
    for before, step in itertools.pairwise(steps):
        if before.opname == "LOAD_FAST" and (
            "NONE" in step.opname or (step.opname == "LOAD_CONST" and step.argval is None)
        ):
            found.add(str(before.argval))
    return frozenset(found)


def _compared_with_none(forward: Callable[..., Any]) -> frozenset[str]:
    function = inspect.unwrap(getattr(forward, "__func__", forward))
    code = getattr(function, "__code__", None)
    return frozenset() if code is None else _none_names(code)


def _plain(default: Any) -> Any:
    if default is None or isinstance(default, (bool, int, float, str)):
        return default
    if isinstance(default, tuple) and all(d is None or isinstance(d, (bool, int, float, str)) for d in default):
        return default
    raise Untraceable(f"has a default argument of type {type(default).__name__}")


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


def trace(
    module: nn.Module, storages: frozenset[int], memory: Memory | None = None, *, free: bool = False
) -> Traced | Forked | Refusal:
    """Trace the forward of `module`, its children as leaves; every way through it, where it depends on its input.

    Args:
        module: a module in eval mode; nothing in it is changed.
        storages: `storages_of` the whole model; a forward that writes to one of them is refused.
        memory: of traces of modules that are alike.
        free: also try the ways it goes when optional arguments are given.

    Returns:
        The graph, or graphs, or a `Refusal` (RK604) with the reason and the source line.
    """
    known = None if memory is None else memory.recall(module)
    if known is not None:
        return known  # type: ignore[no-any-return]
    log = Log()
    made = _every_way(module, storages, log, free)
    if memory is not None and not isinstance(made, Refusal):
        ways = (made,) if isinstance(made, Traced) else made.graphs
        if not any(way.ran for way in ways):
            memory.keep(module, log, made)
    return made


def _every_way(module: nn.Module, storages: frozenset[int], log: Log, free: bool) -> Traced | Forked | Refusal:
    ways: dict[str, Traced] = {}
    raising: Refusal | None = None
    try:
        for forks in runs():
            made, raises = _one_way(module, storages, _TwinTracer(module, log, forks), free)
            if isinstance(made, Traced):
                ways.setdefault(str(made.graph), made)
            elif raises and forks.answers:
                raising = made
            else:
                return made
    except TooManyWays as error:
        return Refusal("RK604", str(error))
    if not ways:
        assert raising is not None
        return raising
    found = [replace(way, guarded=raising is not None) for way in ways.values()]
    return found[0] if len(found) == 1 else Forked(None, tuple(found))


def _one_way(
    module: nn.Module, storages: frozenset[int], tracer: _TwinTracer, free: bool
) -> tuple[Traced | Refusal, bool]:
    """One way through; or why not, and whether a real call that goes this way would raise as well."""
    try:
        with torch.enable_grad(), Watch(storages, tracer.log):
            tracer.mode = _ambient()
            twin = tracer.twin(module, "")
            args, kwargs, fixed = _inputs(tracer, module, free)
            result = twin.forward(*args, **kwargs)
            tracer.create_node("output", "output", (tracer.create_arg(result),), {})
    except RecursionError:
        return Refusal("RK604", "nested too deeply for Python's recursion limit"), False
    except Exception as error:  # whatever a user's forward raises on a proxy is the reason it cannot be traced
        return Refusal("RK604", _reason(error)), not tracer.broken and _raises(error)
    if tracer.broken:
        return Refusal("RK604", f"{tracer.broken}, and catches the exception"), False
    if tracer.log.symbols.identities:
        return Refusal("RK604", f"compares by identity ({tracer.log.symbols.identities[0]})"), False
    reads_training = bool(state_of(twin).get("_twin_reads_training"))
    reads, ran = frozenset(tracer.reads), frozenset(tracer.ran)
    stored = frozenset(p.node for t in tracer.twins for v in state_of(t).values() for p in proxies_in(v))
    constants = {name: tensor.detach() for name, tensor in tracer.constants.items()}
    write_borders(tracer.graph, constants)
    made = Traced(tracer.graph, constants, fixed, reads_training, reads, ran, stored, tracer.switches_grad)
    return made, False


def _raises(error: Exception) -> bool:
    """Whether the user's own code raised it, so that a real call would end there too."""
    if isinstance(error, Missing):
        return True
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None or isinstance(error, Untraceable):
        return False
    code = last.tb_frame.f_code
    home = str(last.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
    return home not in ("torch", "reparamkit") and dis.opname[code.co_code[last.tb_lasti]] == "RAISE_VARARGS"


def _reason(error: Exception) -> str:
    text = str(error).split("\n", 1)[0].strip() or type(error).__name__
    place = _place(error)
    return f"{text} (at {place})" if place else text


def _place(error: Exception) -> str:
    """File, line and text of the innermost frame that is the user's."""
    frames: Iterable[traceback.FrameSummary] = traceback.extract_tb(error.__traceback__)
    for frame in reversed(list(frames)):
        parts = Path(frame.filename).parts
        if "torch" in parts or Path(frame.filename).parent == _HERE:
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
