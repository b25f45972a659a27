"""Values and where they flow: what lift makes of traced forwards, and decide reads.

A `Flow` is one region of the model: a module whose forward could be traced, with every child that could be
traced too written into it. Its `Value`s are operators relative to a source; everything else is opaque.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from torch import fx

from reparamkit.operators import Layout

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from reparamkit.answers import Split, Stack, Tail
    from reparamkit.decide.cost import Cost
    from reparamkit.errors import Refusal
    from reparamkit.operators import Picked, Scale
    from reparamkit.term import Term
    from reparamkit.trace.traced import Traced


_ARITHMETIC = frozenset({"core/branch_sum", "core/scale"})


@dataclass(frozen=True, eq=False)
class Share:
    """Which part of a norm a value is, where each of its neighbours gets a part.

    Attributes:
        norm: the norm that is shared out.
        of: the value it is a share of: that norm, a share of it, or rearranged axes behind it.
        axis: of the channels, where the share is some of them.
        start: the first of those.
        size: how many; `None` when it has them all.
        total: how many `of` has.
        among: how many have the same share.
        linear: without what the norm adds, which goes to another one.
        within: it stands behind a concatenation, of which the norm has these channels; the others stay as they are.
        over: products of it, by which what it adds is divided.
        factor: a number by which it is divided as well.
        steps: the operations it stands for, where they are no norm; if linear, without what they add.
    """

    norm: Value
    of: Value
    axis: int = 1
    start: int = 0
    size: int | None = None
    total: int = 0
    among: int = 1
    linear: bool = False
    within: bool = False
    steps: tuple[Value, ...] = ()
    over: tuple[Value, ...] = ()
    factor: float = 1.0


@dataclass(eq=False, repr=False, slots=True)
class Value:
    """What one node computes.

    Attributes:
        path: the module in whose forward the node stands.
        node: the node.
        inputs: values it reads.
        module_path: path of the module it calls, when it is a call of a module that stays whole.
        module: that module.
        shared: its module is called at other places too, so that it cannot be exchanged.
        meta: it is no tensor of its own (a shape, an assertion).
        constant: what it is, when it depends on parameters alone.
        mutates: it changes its first input in place.
        rank: number of axes, where known; of a shape, how many entries it has.
        source: the value it is an operator of; `None` when it is opaque.
        term: that operator.
        terms: factors and values, when it is a sum.
        stacks: values, when it is a concatenation.
        stack_dim: the axis of it.
        stacked: what stands in it side by side, when it is a stack.
        split: its module is an operator first and something else then; this value is the operator.
        tail: its module is something else first and an operator then; this value is the operator.
        packed: values by index or key, when it is a list, tuple or dictionary that they are picked from.
        cuts: channels of each part, when it is what `chunk` or `split` gives.
        share: it is a share of a norm that goes into several layers.
        gone: all of it was shared out; where something still reads it, it hands its input on.
        generated: it has a kernel that its forward computes from parameters.
        cost: what it costs a position, where its operator does not tell.
        stored: numbers stored for it, where they are fewer than its operator has.
        refusal: why it is opaque, or why its sum does not merge.
        users: values that read it.
        escapes: it is read by something outside the flow.
        unstable: why its numbers may change while it exists, if they may.
        density: positions per position of the input of the flow.
        under: the context it is computed under, `torch.no_grad` or the like, where that is not the caller's.
    """

    path: str
    node: fx.Node
    index: int
    inputs: list[Value] = field(default_factory=list)
    module_path: str | None = None
    module: nn.Module | None = None
    shared: bool = False
    meta: bool = False
    constant: Tensor | None = None
    mutates: bool = False
    rank: int | None = None
    source: Value | None = None
    term: Term | None = None
    terms: tuple[tuple[float | Scale | Picked, Value], ...] = ()
    stacks: tuple[Value, ...] = ()
    stack_dim: int | None = None
    stacked: Stack | None = None
    split: Split | None = None
    tail: Tail | None = None
    packed: dict[Any, Value] | None = None
    cuts: tuple[int, ...] | None = None
    share: Share | None = None
    gone: bool = False
    generated: bool = False
    cost: Cost | None = None
    stored: int | None = None
    refusal: Refusal | None = None
    users: list[Value] = field(default_factory=list)
    escapes: bool = False
    unstable: Refusal | None = None
    density: float = 1.0
    under: str = ""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.where}>"

    @property
    def where(self) -> str:
        """Its place, for reports."""
        if self.module_path is not None:
            return self.module_path
        return f"{self.path}.{self.node.name}" if self.path else self.node.name

    @property
    def stays(self) -> bool:
        """Whether it rearranges axes, and so stays where it is whatever is merged around it."""
        return self.term is not None and isinstance(self.term.op, Layout)

    @property
    def parted(self) -> bool:
        """Whether it is a share of products and sums, which nothing in the model computes by itself."""
        return self.share is not None and bool(self.share.steps)

    @property
    def idle(self) -> bool:
        """Whether it is arithmetic that changes nothing, ``x + 0`` or ``1 * x``: a kernel runs all the same."""
        if self.term is None or not self.term.is_identity or self.parts:
            return False
        computed = self.node.op in ("call_function", "call_method")
        return computed and not _ARITHMETIC.isdisjoint(self.term.rules)

    @property
    def parts(self) -> tuple[Value, ...]:
        """What it puts together, when it is a sum or a concatenation."""
        return tuple(v for _, v in self.terms) or self.stacks

    @property
    def readers(self) -> list[Value]:
        """Users that read its numbers, not only its shape."""
        return [u for u in self.users if not u.meta]

    def chain(self) -> Iterator[Value]:
        """The value, its source, the source of that, ..."""
        value: Value | None = self
        while value is not None:
            yield value
            value = value.source


@dataclass(eq=False)
class Frame:
    """One module's forward inside a flow.

    Attributes:
        path: the module's path in the model.
        module: the module.
        traced: its forward.
        values: the value of each node; constants are not in it.
        output: the value it returns, when it returns one.
        inputs: the values of its parameters.
        span: (first, last + 1) index of the values made inside it and inside its children.
        call: the call of it, when it is written into its caller's flow.
        picked: it is one of several ways through the forward, the one that its caller's arguments choose.
        calls: (first, last + 1) index of the values made in each child that is written in, by the call of it.
    """

    path: str
    module: nn.Module
    traced: Traced
    values: dict[fx.Node, Value] = field(default_factory=dict)
    output: Value | None = None
    inputs: list[Value] = field(default_factory=list)
    span: tuple[int, int] = (0, 0)
    call: fx.Node | None = None
    picked: bool = False
    calls: dict[fx.Node, tuple[int, int]] = field(default_factory=dict)
    _nodes: dict[int, list[fx.Node]] = field(default_factory=dict)

    @property
    def takes_one(self) -> bool:
        """Whether it is called with its input and nothing else, as what may take its place is."""
        if self.call is None or len(self.call.args) != 1 or self.call.kwargs:
            return False
        return isinstance(self.call.args[0], fx.Node)

    def node_of(self, value: Value) -> fx.Node | None:
        """The first node of this forward that holds `value`."""
        found = self.nodes_of(value)
        return found[0] if found else None

    def nodes_of(self, value: Value) -> list[fx.Node]:
        """All nodes that hold `value`, in order: a module that does nothing hands its input on."""
        if not self._nodes:
            for node, held in self.values.items():
                self._nodes.setdefault(id(held), []).append(node)
        return self._nodes.get(id(value), [])


@dataclass(eq=False)
class Flow:
    """One region: its frames by path (the outermost first), its values in order of execution.

    Attributes:
        path: the module it begins in.
        frames: forwards by path.
        values: in order.
        shares: values beside them: shares of norms that go into several layers.
        refusals: why there is nothing in it.
        ways: the same forward, where it goes another way.
        unknown: why there may be ways that were not seen.
        main: whether it is the way of a plain call, which a rewritten forward insists on.
    """

    path: str
    frames: dict[str, Frame] = field(default_factory=dict)
    values: list[Value] = field(default_factory=list)
    shares: list[Value] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    ways: tuple[Flow, ...] = ()
    unknown: Refusal | None = None
    main: bool = True

    @property
    def several(self) -> bool:
        """Whether there are other ways, or may be."""
        return bool(self.ways or self.unknown)

    def release(self) -> None:
        """Forget who reads what: values that point at each other would keep the model until Python looks for cycles."""
        for value in (*self.values, *self.shares):
            value.users.clear()
        for way in self.ways:
            way.release()


def tensor_of(module: nn.Module, name: str) -> Any:
    """The parameter, buffer or other tensor of `module` with this dotted name."""
    return attrgetter(name)(module)
