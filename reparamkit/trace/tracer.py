"""tracer: what happens while a forward runs on its twin: calls become nodes, questions are put to `Forks`."""

from __future__ import annotations

import collections
import operator
import types
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import Tensor, fx, nn
from torch.fx.proxy import Proxy, Scope, TracerBase

from reparamkit.nodes.inplace import may_mutate
from reparamkit.nodes.parts import parts_of
from reparamkit.nodes.ranks import entries_of
from reparamkit.nodes.shapes import is_shape
from reparamkit.nodes.tensors import Returned, makes_tensor, surely_tensor
from reparamkit.trace.ambient import ambient
from reparamkit.trace.classes import Absent, state_of
from reparamkit.trace.forks import Forks, TooManyWays
from reparamkit.trace.held import exchanged, held_modules, own_places
from reparamkit.trace.makers import Makers
from reparamkit.trace.proxies import TwinProxy
from reparamkit.trace.reuse import Log
from reparamkit.trace.twin import FILLABLE, REGISTRIES, SKIPPED, Children, Seen, Tensors, own
from reparamkit.trace.watch import Untraceable

_AXES = (4, 3, 5, 2, 6, 1)  # of what a forward is given, the likely ones first; layers of torch take up to five
UNDER = "reparamkit_under"  # in the meta of a node: the context it was made under, where that is not the caller's


class TwinTracer(TracerBase):
    """Records one run of a forward on a twin of its module.

    Attributes:
        constants: tensors computed from parameters, by the name of their node.
        seen: parameters and buffers that were looked at.
        returned: says what a child returns.
        ran: paths of children that were run on constants.
        twins: every twin that was made, with its module.
        fixed: parameters of the forward that keep their default value.
        broken: why the trace cannot be trusted, though the forward went on.
    """

    def __init__(
        self,
        module: nn.Module,
        log: Log,
        forks: Forks,
        returned: Callable[[nn.Module], Returned],
        carried: dict[tuple[str, str], Any] | None = None,
    ) -> None:
        super().__init__()
        self.module = module
        self.returned = returned
        self.graph = fx.Graph(tracer_cls=fx.Tracer)
        self.scope, self.node_name_to_scope = Scope("", None), {}
        self.module_stack = collections.OrderedDict()
        self.constants: dict[str, Tensor] = {}
        self.seen = Seen(sized=log.sized)
        self.log, self.forks, self.carried = log, forks, carried or {}
        self.makers = Makers(module, log)
        log.symbols.tracer = self
        self.broken = ""
        self.ran: set[str] = set()
        self.fixed: dict[str, Any] = {}
        self.mode = ambient()
        self.switches = ""
        self.recording = 0
        self.twins: list[tuple[Any, nn.Module]] = []

    def release(self) -> None:
        """Let go of the twins: they and their tracer point at each other, and at the tensors of the module."""
        self.log.symbols.tracer = None
        self.__dict__.pop("makers")
        self.twins.clear()
        self.__dict__.pop("module")

    def proxy(self, node: fx.Node) -> Proxy:
        """What the forward sees of a node."""
        return TwinProxy(node, self)

    def stopped(self, reason: str) -> Untraceable:
        """The exception to raise; remembered, since the forward may catch it and go on another way."""
        self.broken = self.broken or reason
        return Untraceable(reason)

    def ask(self, question: str, options: int = 2) -> int:
        """The answer of this run to a question about the input."""
        try:
            return self.forks.choose(question, options)
        except TooManyWays as error:
            raise self.stopped(str(error)) from error

    def to_bool(self, obj: Proxy) -> bool:
        """What ``bool(obj)`` is."""
        return self.ask(f"{_question(obj.node)} is true") == 0

    def count(self, obj: Proxy) -> int | None:
        """How many parts an iteration over the value has."""
        count, exact = parts_of(obj.node)
        called = self._called(obj.node)
        if called is not None:
            return self._returned(called).parts
        if exact and count is not None:
            return count
        known = self.makers.parts(obj.node)
        if known is not None:
            return known
        if count is None:
            return self._entries(obj.node)
        return count - self.ask(f"parts of {_question(obj.node)}", count)

    def _entries(self, node: fx.Node) -> int | None:
        """How many sizes a shape gives, or a part of one, where that depends on how many axes the value has."""

        def entries(one: fx.Node) -> int | None:
            if is_shape(one) or one.target is operator.getitem:
                return entries_of(one, entries)
            return _AXES[self.ask(f"axes of {_question(one)}", len(_AXES))]

        known = is_shape(node) or (node.target is operator.getitem and is_shape(node.args[0]))
        return entries_of(node, entries) if known else None

    def iter(self, obj: Any) -> Iterator[Proxy]:
        """The parts of a value, where their number is known."""
        count = self.count(obj)
        if count is None:
            raise self.stopped("iterates over a traced value of unknown length")
        return iter([obj[index] for index in range(count)])

    def kind_of(self, proxy: Proxy, otherwise: type | None = None, compared: type | None = None) -> type:
        """The class of what a proxy stands for, as far as it is a tensor, or of the class it is compared with."""
        if not self._is_tensor(proxy):
            if compared is not None:
                same = self.ask(f"the type of {_question(proxy.node)} is {compared}") == 0
                return compared if same else _Neither
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
        if surely_tensor(node, self._returns_tensor):
            return True
        return self.ask(f"{_question(node)} is a tensor") == 0

    def _called(self, node: fx.Node) -> nn.Module | None:
        return self.module.get_submodule(str(node.target)) if node.op == "call_module" else None

    def changes(self, call: fx.Node) -> bool:
        """Whether a call of a child may change its input in place; as `_returned`, no other module is alike."""
        self.log.comparable = False
        called = self._called(call)
        return called is not None and may_mutate(called)

    def _returns_tensor(self, call: fx.Node) -> bool:
        called = self._called(call)
        return called is not None and (makes_tensor(call, called) or self._returned(called).tensor)

    def _returned(self, called: nn.Module) -> Returned:
        """What a child returns; that depends on more than its class, so another module is not known to be alike."""
        self.log.comparable = False
        return self.returned(called)

    def has(self, proxy: Proxy, name: str) -> bool:
        """What ``hasattr(proxy, name)`` is."""
        if name in _TENSOR_ATTRIBUTES:
            return True
        if name.startswith("__") or makes_tensor(proxy.node, None):
            return False
        return self.ask(f"{_question(proxy.node)} has {name}") == 0

    def record(self, more: int) -> None:
        """The forward itself asks for gradients, or does no longer."""
        self.recording += more

    def create_node(self, kind: str, *args: Any, **kwargs: Any) -> fx.Node:
        """A new node, with the context it is made under."""
        grad, autocast, depth = ambient()
        if autocast != self.mode[1]:
            raise Untraceable("enters an autocast context")
        under = "no_grad" if grad != self.mode[0] else "enable_grad" if self.recording else ""
        under = "autocast(enabled=False)" if depth != self.mode[2] else under
        node = super().create_node(kind, *args, **kwargs)
        if under:
            self.switches = node.meta[UNDER] = under
        return node

    def create_arg(self, a: Any) -> Any:
        """An argument of a node: real tensors by name, no modules."""
        if isinstance(a, Tensor):
            return self.create_node("get_attr", self._name(a), (), {})
        if isinstance(a, nn.Module):
            raise Untraceable(f"passes a module ({type(a).__name__}) as an argument")
        return super().create_arg(a)

    def _name(self, tensor: Tensor) -> str:
        """The parameter's own name, or that of a new constant."""
        known = self.seen.name_of(tensor) or next((n for n, t in self.constants.items() if t is tensor), None)
        if known is not None:
            return known
        name = f"_constant_{len(self.constants)}"
        self.constants[name] = tensor
        return name

    def twin(self, module: nn.Module, path: str) -> nn.Module:
        """The twin of `module`, itself to be run when it is the root, else recorded."""
        root = path == ""
        classes = self.log.shared.classes
        cls = classes.rooted(type(module)) if root else classes.recording(type(module))
        copy: nn.Module = object.__new__(cls)
        state = dict(module.__dict__)
        for name, value in module.__dict__.items():
            if type(value) in FILLABLE and name not in SKIPPED and not name.endswith("_hooks"):
                state[name] = own(value)
        prefix = "" if root else f"{path}."
        note = partial(self.log.note, path)
        state.update({k: Tensors(module.__dict__[k], prefix, self.seen, note) for k in REGISTRIES})
        state["_modules"] = Children(
            module.__dict__["_modules"], lambda name, child: self.twin(child, prefix + name), note
        )
        if "__getattribute__" not in vars(cls):
            self.log.comparable = self.log.complete = False
        for (holder, name), value in self.carried.items():
            if holder == path:
                _put(state, name, value)
        state["_twin_log"], state["_twin_path"] = self.log, path
        forward = state.pop("forward", None)
        if root:
            state.pop("training", None)
        else:
            state["_twin_tracer"] = self
        if forward is not None and root:
            state["forward"] = types.MethodType(getattr(forward, "__func__", forward), copy)
        state_of(copy).update(state)
        self.twins.append((copy, module))
        if root:
            self._exchange_held(copy)
        return copy

    def _exchange_held(self, copy: nn.Module) -> None:
        """Let lists and the like hold the twins of the modules that are registered as well."""
        places = [(name, value) for name, value in own_places(self.module) if any(held_modules(value))]
        if not places:
            return
        self.log.comparable = False
        paths = {id(module): path for path, module in self.module.named_modules()}

        def twin(module: nn.Module) -> nn.Module | None:
            return copy.get_submodule(paths[id(module)]) if id(module) in paths else None

        held = {name: exchanged(value, twin) for name, value in places}
        # What is compared afterwards with what the forward left there, even if it has filled a list of ours.
        kept = {name: type(value)(value) if type(value) in FILLABLE else value for name, value in held.items()}
        state_of(copy).update(held, _twin_held=kept)


class _Neither:
    """The class of what is no tensor, and not of the class that was asked for."""


def _put(state: dict[str, Any], name: str, value: Any) -> None:
    """Give a twin what an earlier call left on it."""
    registry = next((state[k] for k in REGISTRIES if name in state[k]), state)
    if value is Absent:
        registry.pop(name, None)
    else:
        registry[name] = own(value)


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
