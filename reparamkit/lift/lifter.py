"""lift: traced forwards become values, each an operator of a source or opaque with a reason.

Children that are traced themselves are written into their parent, so that a convolution in one module and the
batch norm in another are seen side by side. Modules that are observed (hooks), shared or not traceable stay
boundaries, and their inside is a flow of its own.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

from torch import fx, nn

from reparamkit.errors import Refusal
from reparamkit.flow import Flow, Frame, Value
from reparamkit.lift.agree import agreed, may_agree
from reparamkit.lift.calls import CallLifter
from reparamkit.lift.escapes import escape, escape_dropped, escape_outputs
from reparamkit.lift.inplace import mark_shared_mutation
from reparamkit.lift.leaves import LeafLifter, rank_after
from reparamkit.lift.link import link
from reparamkit.lift.made import inputs_of, new_value
from reparamkit.lift.own_layer import own_layer
from reparamkit.lift.ranks import rank_as_read
from reparamkit.merge import Algebra
from reparamkit.nodes.inplace import may_mutate
from reparamkit.paths import joined
from reparamkit.registry import Registry
from reparamkit.rule import Lift
from reparamkit.survey import Survey
from reparamkit.term import Term
from reparamkit.trace.calls import Given, bound, way_of
from reparamkit.trace.traced import Forked, Traced
from reparamkit.trace.tracer import UNDER

_MAX_DEPTH = 40


class Lifter:
    """Builds the flows of one surveyed model."""

    def __init__(self, survey: Survey, registry: Registry, algebra: Algebra) -> None:
        self.survey = survey
        self.registry = registry
        self.algebra = algebra
        self.inlined: set[str] = set()
        self.calls = CallLifter(survey, registry, algebra)
        self.leaves = LeafLifter(survey, registry, algebra)
        self._instead: dict[str, Traced] = {}

    def flows(self) -> Iterable[Flow]:
        """A flow for every module that is not part of another flow, parents first."""
        for path, module in self.survey.modules.items():
            traced = self.survey.traced.get(id(module))
            if path in self.inlined or traced is None or path != self.survey.places[id(module)]:
                continue
            if isinstance(traced, Refusal):
                yield Flow(path, refusals=[traced])
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

    def _flow(self, path: str, traced: Traced) -> Flow:
        flow = Flow(path)
        frame = self._frame(flow, path, traced, None, 0)
        escape_outputs(frame)
        for inner in flow.frames.values():
            escape_dropped(inner)
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
                    value = new_value(flow, path, node)
                    value.rank = ranks[position] if position < len(ranks) else None
                if value.rank is None and position >= len(ranks):
                    value.rank = rank_as_read(self.survey, path, node)
                position += 1
                frame.values[node] = value
                frame.inputs.append(value)
            elif node.op == "output":
                returned = node.args[0]
                frame.output = frame.values.get(returned) if isinstance(returned, fx.Node) else None
            elif node.op == "call_module":
                frame.values[node] = self._call_module(flow, frame, node, depth)
            elif node.op != "get_attr":
                frame.values[node] = self.calls.value_of(flow, frame, node)
        for node in traced.stored:
            escape(frame.values.get(node))
        frame.span = start, len(flow.values)
        return frame

    def _call_module(self, flow: Flow, frame: Frame, node: fx.Node, depth: int) -> Value:
        path = joined(frame.path, str(node.target))
        module = self.survey.modules[path]
        inputs = inputs_of(frame, node)
        refusal = self.survey.boundary(path)
        if refusal is None and self.survey.is_leaf(module, self.registry):
            return self.leaves.value_of(flow, frame, node, path)
        if refusal is not None and refusal.code == "RK301" and self.leaves.is_shared_no_op(module, node, inputs):
            return inputs[0]
        if refusal is not None and refusal.code == "RK301" and self.leaves.may_have_copies(frame, module, path):
            return self.leaves.copied(flow, frame, node, path)
        traced = self.survey.traced.get(id(module))
        if refusal is None and depth < _MAX_DEPTH:
            inner = self._written_in(flow, frame, node, path, depth)
            if inner is not None:
                return self._tuple(flow, frame, node, inner) if inner.output is None else inner.output
        value = new_value(flow, frame.path, node, inputs)
        value.module_path, value.module = path, module
        value.refusal = refusal or _opaque(traced, path)
        value.mutates = may_mutate(module)
        value.rank = rank_after(self.survey, path, module, inputs)
        if refusal is not None or not isinstance(traced, Forked):
            return value
        whole = self._whichever_way(path, module, traced, node, inputs)
        if whole is not None:
            value.refusal, value.mutates = None, False
            link(value, inputs[0], whole)
            return value
        ended = own_layer(module, traced, self._call_lift)
        return value if ended is None else self.leaves.tailed(flow, frame, node, value, *ended)

    def _written_in(self, flow: Flow, frame: Frame, node: fx.Node, path: str, depth: int) -> Frame | None:
        """The forward of a child that goes one way in this call, written into its caller's flow."""
        module = self.survey.modules[path]
        traced = self.survey.traced.get(id(module))
        way = way_of(module, traced, node) if isinstance(traced, Forked) else traced
        given = bound(module, way, node) if isinstance(way, Traced) else None
        if given is None or not all(n in frame.values for one in given.values() for n in _nodes(one)):
            return None
        assert isinstance(way, Traced)
        values = {name: _given(flow, frame, node, one) for name, one in given.items()}
        inner = self._frame(flow, path, way, values, depth + 1)
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
            given = new_value(apart, path, entry)
            given.rank = inputs[0].rank
            frames.append(self._frame(apart, path, way, {str(entry.target): given}, _MAX_DEPTH))
        whole = agreed(frames, self.algebra)
        self.inlined = inlined if whole is None else inlined | {path}
        return whole

    def _call_lift(self, target: Any) -> Lift | None:
        lift = self.registry.call_lift(target)
        return lift if lift is not None and self.algebra.enabled(lift.rule) else None

    def _tuple(self, flow: Flow, frame: Frame, node: fx.Node, inner: Frame) -> Value:
        """A child that returns several values, or none: picked out one by one, or read by what we do not follow."""
        packed = _packed(frame, node, inner)
        if packed is not None:
            value = new_value(flow, frame.path, node)
            value.packed = packed
            return value
        escape_outputs(inner)
        inputs = [v for n in inner.traced.graph.nodes if n.op == "output" for v in inputs_of(inner, n)]
        return new_value(flow, frame.path, node, inputs)


def _nodes(given: Given) -> tuple[fx.Node, ...]:
    return (given,) if isinstance(given, fx.Node) else given


def _given(flow: Flow, frame: Frame, call: fx.Node, given: Given) -> Value:
    """The value that a call gives to a parameter; of a tuple one that its parts are picked from."""
    if isinstance(given, fx.Node):
        return frame.values[given]
    value, last = new_value(flow, frame.path, call), len(given)
    value.meta = True
    value.packed = {at: frame.values[part] for k, part in enumerate(given) for at in (k, k - last)}
    return value


def _opaque(traced: Traced | Forked | Refusal | None, path: str) -> Refusal | None:
    if isinstance(traced, Forked):
        return Refusal("RK604", "what its forward does depends on what it is given", path)
    return traced if isinstance(traced, Refusal) else None


def _nested(outer: str, inner: str) -> str:
    return outer if inner in ("", outer) else f"{outer}, {inner}"


def _packed(frame: Frame, node: fx.Node, inner: Frame) -> dict[Any, Value] | None:
    """What a child returns by index or key, where the caller does nothing but pick values out of it."""
    made = next(n for n in inner.traced.graph.nodes if n.op == "output").args[0]
    pairs = made.items() if isinstance(made, dict) else enumerate(made) if isinstance(made, (list, tuple)) else ()
    parts = {key: inner.values[n] for key, n in pairs if isinstance(n, fx.Node) and n in inner.values}
    if isinstance(made, (list, tuple)):
        parts |= {key - len(made): value for key, value in parts.items()}
    picks = all(u.target is operator.getitem and u.args[0] is node and _is_one_of(parts, u.args[1]) for u in node.users)
    return parts if parts and picks and node not in frame.traced.stored else None


def _is_one_of(parts: dict[Any, Value], index: Any) -> bool:
    """Whether one part is picked: not a slice, which Python before 3.12 cannot even look up."""
    return isinstance(index, (int, str)) and index in parts
