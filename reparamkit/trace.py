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
import traceback
import types
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch.fx.proxy import Proxy, Scope, TracerBase

from reparamkit.errors import Refusal
from reparamkit.reuse import Log, Memory
from reparamkit.twin import (
    FILLABLE,
    REGISTRIES,
    SKIPPED,
    Children,
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
    """

    graph: fx.Graph
    constants: dict[str, Tensor]
    fixed: dict[str, Any]
    reads_training: bool
    reads: frozenset[str]
    ran: frozenset[str]
    stored: frozenset[fx.Node]
    switches_grad: bool


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
        return TwinProxy(node, self)

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
        with torch.enable_grad(), Watch(storages, tracer.log):
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
    reads_training = bool(state_of(twin).get("_twin_reads_training"))
    reads, ran = frozenset(tracer.reads), frozenset(tracer.ran)
    stored = frozenset(p.node for t in tracer.twins for v in state_of(t).values() for p in proxies_in(v))
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
