"""lift: traced forwards become values, each an operator of a source or opaque with a reason.

Children that are traced themselves are written into their parent, so that a convolution in one module and the
batch norm in another are seen side by side. Modules that are observed (hooks), shared or not traceable stay
boundaries, and their inside is a flow of its own.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from reparamkit.errors import Refusal
from reparamkit.flow import Flow, Frame, Stacked, Value, mapped
from reparamkit.lift.agree import agreed, may_agree
from reparamkit.lift.answer import answer_about_call, answer_about_module
from reparamkit.lift.constant import constant_of, stored
from reparamkit.lift.cuts import cut_sizes, is_part, read_through
from reparamkit.lift.facts import rank_of_call, rank_of_module
from reparamkit.lift.inplace import mark_shared_mutation, may_mutate, mutates
from reparamkit.lift.link import like_of, link, link_cat, link_sum
from reparamkit.lift.own_layer import own_layer
from reparamkit.lift.ranks import channels_as_read, rank_as_read
from reparamkit.lift.sharing import call_sites, may_have_copies
from reparamkit.merge import Algebra, Term
from reparamkit.operators import Conv, Layout
from reparamkit.paths import joined, within
from reparamkit.registry import Registry
from reparamkit.rule import Call, Cat, Lift, Split, Sum, Tail, Through
from reparamkit.rules import no_op, unshare
from reparamkit.survey import Survey, hooked
from reparamkit.trace.calls import bound, way_of
from reparamkit.trace.forward import Forked, Traced
from reparamkit.trace.tracer import UNDER

ANCHORS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_MAX_DEPTH = 40
_META_METHODS = {"size", "dim", "numel", "ndimension", "stride", "element_size", "nelement"}
_META_ATTRIBUTES = {"shape", "ndim", "dtype", "device", "is_cuda", "requires_grad", "names", "layout"}


@dataclass(frozen=True)
class _Context:
    rank: int | None = None
    ones: tuple[int, ...] = ()


def _context(inputs: list[Value]) -> _Context:
    """What is known about the first input."""
    if not inputs:
        return _Context()
    op = None if inputs[0].term is None else inputs[0].term.op
    return _Context(inputs[0].rank, op.ones if isinstance(op, Layout) else ())


class Lifter:
    """Builds the flows of one surveyed model."""

    def __init__(self, survey: Survey, registry: Registry, algebra: Algebra) -> None:
        self.survey = survey
        self.registry = registry
        self.algebra = algebra
        self.inlined: set[str] = set()
        # Blocks that are alike share one graph: what its nodes call is looked up once.
        self._calls: dict[fx.Node, tuple[Any, Lift | None, bool]] = {}
        self._sites: Counter[str] | None = None
        self._instead: dict[str, Traced] = {}

    def flows(self) -> Iterable[Flow]:
        """A flow for every module that is not part of another flow, parents first."""
        for path, module in self.survey.modules.items():
            traced = self.survey.traced.get(id(module))
            if path in self.inlined or traced is None:
                continue
            if isinstance(traced, Refusal):
                yield Flow(path, refusals=[traced])
                continue
            if self.survey.names[id(module)] > 1 and path != self._first_name(module):
                continue
            yield self._lifted(path, traced)

    def again(self, flow: Flow, instead: dict[str, Traced]) -> Flow:
        """`flow` once more, with other traces for the forwards of some modules in it, by path."""
        traced = self.survey.traced[id(self.survey.modules[flow.path])]
        assert not isinstance(traced, Refusal)
        self._instead = instead
        made = self._lifted(flow.path, traced)
        self._instead = {}
        return made

    def _lifted(self, path: str, traced: Traced | Forked) -> Flow:
        return self._flow(path, traced) if isinstance(traced, Traced) else self._forked(path, traced)

    def _forked(self, path: str, traced: Forked) -> Flow:
        """The flow of a forward with several ways: of the main one, or of the first."""
        first, *others = traced.graphs
        flow = self._flow(path, first)
        inlined = set(self.inlined)
        flow.ways = tuple(self._flow(path, way) for way in others)
        self.inlined = inlined  # a child that only the others call has a flow of its own
        flow.unknown, flow.main = traced.unknown, traced.main is not None
        return flow

    def _first_name(self, module: nn.Module) -> str:
        return next(p for p, m in self.survey.modules.items() if m is module)

    def _flow(self, path: str, traced: Traced) -> Flow:
        flow = Flow(path)
        frame = self._frame(flow, path, traced, None, 0)
        _escape_outputs(frame)
        for inner in flow.frames.values():
            _escape_dropped(inner)
        mark_shared_mutation(flow)
        return flow

    def _frame(self, flow: Flow, path: str, traced: Traced, given: dict[str, Any] | None, depth: int) -> Frame:
        module, traced = self.survey.modules[path], self._instead.get(path, traced)
        frame = Frame(path, module, traced)
        flow.frames[path] = frame
        self.inlined.add(path)
        start = len(flow.values)
        ranks = self.survey.ranks_in.get(path, ())
        position = 0
        for node in traced.graph.nodes:
            if node.op == "placeholder":
                value = (given or {}).get(node.target)
                if not isinstance(value, Value):
                    value = _new(flow, path, node)
                    value.rank = ranks[position] if position < len(ranks) else rank_as_read(self.survey, path, node)
                position += 1
                frame.values[node] = value
                frame.inputs.append(value)
            elif node.op == "output":
                returned = node.args[0]
                frame.output = frame.values.get(returned) if isinstance(returned, fx.Node) else None
            elif node.op == "call_module":
                frame.values[node] = self._call_module(flow, frame, node, depth)
            elif node.op != "get_attr":
                frame.values[node] = self._call(flow, frame, node)
        for node in traced.stored:
            _escape(frame.values.get(node))
        frame.span = start, len(flow.values)
        return frame

    def _call_module(self, flow: Flow, frame: Frame, node: fx.Node, depth: int) -> Value:
        path = joined(frame.path, str(node.target))
        module = self.survey.modules[path]
        inputs = _inputs(frame, node)
        refusal = self.survey.boundary(path)
        if refusal is None and self.survey.is_leaf(module, self.registry):
            return self._leaf(flow, frame, node, path)
        if refusal is not None and refusal.code == "RK301" and self._is_shared_no_op(module, node, inputs):
            return inputs[0]
        if refusal is not None and refusal.code == "RK301" and self._may_have_copies(frame, module, path):
            return self._copied_leaf(flow, frame, node, path)
        traced = self.survey.traced.get(id(module))
        if refusal is None and depth < _MAX_DEPTH:
            inner = self._written_in(flow, frame, node, path, depth)
            if inner is not None:
                return self._tuple(flow, frame, node, inner) if inner.output is None else inner.output
        value = _new(flow, frame.path, node, inputs)
        value.module_path, value.module = path, module
        value.refusal = refusal or _opaque(traced, path)
        value.mutates = may_mutate(module)
        value.rank = self._rank(path, module, inputs)
        if refusal is not None or not isinstance(traced, Forked):
            return value
        whole = self._whichever_way(path, module, traced, node, inputs)
        if whole is not None:
            value.refusal, value.mutates = None, False
            link(value, inputs[0], whole)
            return value
        ended = own_layer(module, traced, self._call_lift)
        return value if ended is None else self._tailed(flow, frame, node, value, *ended)

    def _written_in(self, flow: Flow, frame: Frame, node: fx.Node, path: str, depth: int) -> Frame | None:
        """The forward of a child that goes one way in this call, written into its caller's flow."""
        module = self.survey.modules[path]
        traced = self.survey.traced.get(id(module))
        way = way_of(module, traced, node) if isinstance(traced, Forked) else traced
        given = bound(module, way, node) if isinstance(way, Traced) else None
        if given is None or not all(n in frame.values for n in given.values()):
            return None
        assert isinstance(way, Traced)
        inner = self._frame(flow, path, way, {name: frame.values[n] for name, n in given.items()}, depth + 1)
        inner.call, inner.picked = node, way is not traced
        frame.calls[node] = inner.span
        for value in flow.values[slice(*inner.span)] if UNDER in node.meta else ():
            value.under = _nested(node.meta[UNDER], value.under)
        return inner

    def _whichever_way(
        self, path: str, module: nn.Module, traced: Forked, node: fx.Node, inputs: list[Value]
    ) -> Term | None:
        """The operator that a module is, whichever way its forward goes, if it is one."""
        if len(inputs) != 1 or len(node.args) != 1 or node.kwargs or not may_agree(module, traced):
            return None
        inlined = set(self.inlined)
        frames = []
        for way in traced.graphs:
            entry = next(n for n in way.graph.nodes if n.op == "placeholder")
            apart = Flow(path)
            given = _new(apart, path, entry)
            given.rank = inputs[0].rank
            frames.append(self._frame(apart, path, way, {str(entry.target): given}, _MAX_DEPTH))
        whole = agreed(frames, self.algebra)
        self.inlined = inlined if whole is None else inlined | {path}
        return whole

    def _call_lift(self, target: Any) -> Lift | None:
        lift = self.registry.call_lift(target)
        return lift if lift is not None and self.algebra.enabled(lift.rule) else None

    def _rank(self, path: str, module: nn.Module, inputs: list[Value]) -> int | None:
        known = rank_of_module(module, inputs[0].rank if inputs else None)
        return self.survey.ranks_out.get(path) if known is None else known

    def _tuple(self, flow: Flow, frame: Frame, node: fx.Node, inner: Frame) -> Value:
        """A child that returns several values, or none: picked out one by one, or read by what we do not follow."""
        packed = _packed(frame, node, inner)
        if packed is not None:
            value = _new(flow, frame.path, node)
            value.packed = packed
            return value
        _escape_outputs(inner)
        inputs = [v for n in inner.traced.graph.nodes if n.op == "output" for v in _inputs(inner, n)]
        return _new(flow, frame.path, node, inputs)

    def _leaf(self, flow: Flow, frame: Frame, node: fx.Node, path: str) -> Value:
        module = self.survey.modules[path]
        inputs = _inputs(frame, node)
        lift = self.registry.module_lift(type(module))
        if lift is not None and self._is_no_op(lift, module, node, inputs):
            return inputs[0]
        value = _new(flow, frame.path, node, inputs)
        value.module_path, value.module = path, module
        value.mutates = bool(getattr(module, "inplace", False))
        value.rank = self._rank(path, module, inputs)
        if lift is None:
            return value
        if len(inputs) != 1 or len(node.args) + len(node.kwargs) != 1:
            value.refusal = Refusal("RK331", f"{type(module).__name__} is called with more than its input", path)
            return value
        if not self.algebra.enabled(lift.rule):
            value.refusal = None if lift.opt_in else Refusal("RK801", lift.rule, path)
            return value
        op = answer_about_module(lift, module, _context(inputs))
        if isinstance(op, Split):
            value.split, op = op, op.op
        if isinstance(op, Refusal):
            value.refusal = op.at(path)
            return value
        if isinstance(op, Tail):
            return self._tailed(flow, frame, node, value, op, lift)
        like = like_of([*module.parameters(), *module.buffers()], op, lift)
        link(value, inputs[0], Term(op, frozenset([lift.rule]), like))
        if value.split is None:
            return value
        rest = _new(flow, frame.path, node, [value])
        rest.module_path, rest.module = path, module
        rest.mutates = True
        return rest

    def _tailed(self, flow: Flow, frame: Frame, node: fx.Node, head: Value, tail: Tail, lift: Lift) -> Value:
        """A module that ends with an operator: a value for what it does first, and one for the operator."""
        value = _new(flow, frame.path, node, [head])
        value.module_path, value.module, value.tail = head.module_path, head.module, tail
        assert head.module is not None
        link(value, head, Term(tail.op, frozenset([lift.rule]), like_of(head.module.parameters(), tail.op, lift)))
        return value

    def _is_no_op(self, lift: Lift, module: nn.Module, node: fx.Node, inputs: list[Value]) -> bool:
        """Whether the module hands its input on: then its output is the very same value."""
        if lift.rule != no_op.RULE or len(inputs) != 1 or len(node.args) + len(node.kwargs) != 1:
            return False
        return self.algebra.enabled(lift.rule) and not module.training

    def _may_have_copies(self, frame: Frame, module: nn.Module, path: str) -> bool:
        """Whether a recipe lets the callers of a shared convolution or linear layer have a copy each."""
        if not self.algebra.enabled(unshare.RULE) or not self.survey.is_leaf(module, self.registry):
            return False
        if self._sites is None:
            self._sites = call_sites(self.survey)
        graph = frame.traced.graph
        return isinstance(module, ANCHORS) and may_have_copies(module, path, graph, self._sites)

    def _copied_leaf(self, flow: Flow, frame: Frame, node: fx.Node, path: str) -> Value:
        value = self._leaf(flow, frame, node, path)
        assert self._sites is not None
        value.shared = self._sites[path] > 1
        if value.term is not None:
            value.term = replace(value.term, rules=value.term.rules | {unshare.RULE})
        return value

    def _is_shared_no_op(self, module: nn.Module, node: fx.Node, inputs: list[Value]) -> bool:
        """Whether it is one dropout for many places: who does nothing does nothing everywhere."""
        lift = self.registry.module_lift(type(module)) if self.survey.is_leaf(module, self.registry) else None
        return lift is not None and self._is_no_op(lift, module, node, inputs) and hooked(module, "") is None

    def _call(self, flow: Flow, frame: Frame, node: fx.Node) -> Value:
        picked = frame.values.get(node.args[0]) if node.target is operator.getitem else None  # type: ignore[arg-type]
        if picked is not None and picked.packed is not None:
            return picked.packed[node.args[1]]
        inputs = _inputs(frame, node)
        value = _new(flow, frame.path, node, inputs)
        about = self._calls.get(node)
        if about is None:
            target = f".{node.target}" if node.op == "call_method" else node.target
            about = self._calls[node] = (target, self.registry.call_lift(target), mutates(node))
        target, lift, value.mutates = about
        value.constant = constant_of(node, frame)
        value.cuts = cut_sizes(node, inputs, partial(channels_as_read, self.survey, frame.path))
        part = value.constant is None and is_part(value)
        value.meta = value.constant is not None or value.cuts is not None or (not part and _is_meta(node, inputs))
        if value.meta:
            return value
        value.rank = rank_of_call(node.target, node.args, node.kwargs, [v.rank for v in inputs if not v.meta])
        if part:
            read_through(value)
        if lift is None and target is not torch.stack:
            return value
        args, kwargs = self._arguments(frame, node)
        if target is torch.stack:
            bound = Call(args, kwargs, _is_value).bind("tensors", dim=0)
            if isinstance(bound["tensors"], (list, tuple)) and all(map(_is_value, bound["tensors"])):
                value.stacked = Stacked(tuple(bound["tensors"]), bound["dim"])
        if lift is None:
            return value
        if not self.algebra.enabled(lift.rule):
            value.refusal = Refusal("RK801", lift.rule, value.where)
            return value
        context = _context(inputs)
        made = answer_about_call(lift, frame.module, Call(args, kwargs, _is_value), context, _is_value)
        self._use(value, made, lift, [a for a in _flat([args, kwargs]) if isinstance(a, Tensor)], frame)
        return value

    def _use(self, value: Value, made: Any, lift: Lift, constants: list[Tensor], frame: Frame) -> None:
        rules = frozenset([lift.rule])
        if isinstance(made, Through) and made.value.meta:
            made = Refusal("RK331", "arithmetic with shapes")
        if isinstance(made, Refusal):
            value.refusal = made.at(value.where)
        elif isinstance(made, Through):
            like = like_of(constants, made.op, lift, frame.module)
            link(value, made.value, Term(made.op, rules, like, made.rounding))
            value.generated = isinstance(made.op, Conv) and _generated(constants, frame)
            value.stored = _stored(constants)
            value.cost = made.cost
            if made.cost is not None and isinstance(frame.module, torch.jit.ScriptModule):
                value.module_path, value.module = frame.path, frame.module  # it has no class that could be derived
        elif isinstance(made, Sum):
            value.terms = made.terms
            link_sum(value, self.algebra, rules)
        elif isinstance(made, Cat):
            link_cat(value, made, self.algebra, rules)

    def _arguments(self, frame: Frame, node: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The node's arguments: values for what flows, tensors for parameters and constants."""

        def read(n: fx.Node) -> Any:
            constant = stored(n, frame)
            return frame.values[n] if constant is None else constant

        return mapped(node.args, read), {k: mapped(v, read) for k, v in node.kwargs.items()}


def _opaque(traced: Traced | Forked | Refusal | None, path: str) -> Refusal | None:
    if isinstance(traced, Forked):
        return Refusal("RK604", "what its forward does depends on what it is given", path)
    return traced if isinstance(traced, Refusal) else None


def _generated(constants: list[Tensor], frame: Frame) -> bool:
    """Whether one of them is a kernel that was computed, not stored or a view of what is stored."""
    computed = [c for c in frame.traced.constants.values() if c.ndim > 1 and any(c is t for t in constants)]
    stored = {t.untyped_storage().data_ptr() for t in (*frame.module.parameters(), *frame.module.buffers())}
    return any(c.untyped_storage().data_ptr() not in stored for c in computed)


def _stored(constants: list[Tensor]) -> int | None:
    """Numbers that are stored for these tensors, where some repeat them (`Tensor.expand`)."""
    sizes = [c.untyped_storage().nbytes() // c.element_size() for c in constants]
    repeats = any(size < c.numel() for c, size in zip(constants, sizes, strict=True))
    return sum(min(c.numel(), size) for c, size in zip(constants, sizes, strict=True)) if repeats else None


def _new(flow: Flow, path: str, node: fx.Node, inputs: list[Value] | None = None) -> Value:
    value = Value(path, node, len(flow.values), inputs or [], under=node.meta.get(UNDER, ""))
    for read in value.inputs:
        read.users.append(value)
    flow.values.append(value)
    return value


def _nested(outer: str, inner: str) -> str:
    return outer if inner in ("", outer) else f"{outer}, {inner}"


def _packed(frame: Frame, node: fx.Node, inner: Frame) -> dict[Any, Value] | None:
    """What a child returns by index or key, where the caller does nothing but pick values out of it."""
    made = next(n for n in inner.traced.graph.nodes if n.op == "output").args[0]
    pairs = made.items() if isinstance(made, dict) else enumerate(made) if isinstance(made, (list, tuple)) else ()
    parts = {key: inner.values[n] for key, n in pairs if isinstance(n, fx.Node) and n in inner.values}
    if isinstance(made, (list, tuple)):
        parts |= {key - len(made): value for key, value in parts.items()}
    picks = all(u.target is operator.getitem and u.args[0] is node and u.args[1] in parts for u in node.users)
    return parts if parts and picks and node not in frame.traced.stored else None


def _escape(value: Value | None) -> None:
    if value is not None:
        value.escapes = True


def _escape_outputs(frame: Frame) -> None:
    for node in frame.traced.graph.nodes:
        if node.op == "output":
            fx.node.map_arg(node.args, lambda n: _escape(frame.values.get(n)))


def _inputs(frame: Frame, node: fx.Node) -> list[Value]:
    values = [frame.values[n] for n in node.all_input_nodes if n in frame.values]
    return list(dict.fromkeys(values))


def _is_value(item: Any) -> bool:
    return isinstance(item, Value)


def _flat(tree: Any) -> list[Any]:
    if isinstance(tree, dict):
        return [x for v in tree.values() for x in _flat(v)]
    if isinstance(tree, (list, tuple)):
        return [x for v in tree for x in _flat(v)]
    return [tree]


def _is_meta(node: fx.Node, inputs: list[Value]) -> bool:
    if node.op == "call_method" and node.target in _META_METHODS:
        return True
    if node.op == "call_function":
        name = getattr(node.target, "__name__", "")
        if node.target is getattr:
            return node.args[1] in _META_ATTRIBUTES
        if name in ("_assert", "__assert__"):
            return True
    return bool(inputs) and all(v.meta for v in inputs) and node.op == "call_function"


def _escape_dropped(inner: Frame) -> None:
    """What a forward returns and its caller drops is still what the module returns to whoever calls it."""
    for node in inner.traced.graph.output_node().all_input_nodes:
        value = inner.values.get(node)
        if value is not None and all(within(user.path, [inner.path]) for user in value.users):
            value.escapes = True
