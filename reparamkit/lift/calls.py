"""calls: values of calls of functions and methods, `torch.cat`, ``x + y``, `F.conv2d`: the rules say what they are."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from reparamkit.answers import Call, Cat, Stack, Sum, Through
from reparamkit.errors import Refusal
from reparamkit.flow import Flow, Frame, Value
from reparamkit.lift.answer import answer_about_call
from reparamkit.lift.constant import constant_of, may_be_constant, stored
from reparamkit.lift.cuts import cut_sizes, is_cut, is_part, read_through
from reparamkit.lift.link import like_of, link, link_cat, link_sum
from reparamkit.lift.made import context_of, inputs_of, new_value
from reparamkit.lift.ranks import channels_as_read
from reparamkit.merge import Algebra
from reparamkit.nodes.inplace import mutates
from reparamkit.nodes.ranks import entries_of, rank_of_call
from reparamkit.nodes.tree import mapped
from reparamkit.operators import Conv
from reparamkit.registry import Registry
from reparamkit.rule import Lift
from reparamkit.survey import Survey
from reparamkit.term import Term

_META_METHODS = {"size", "dim", "numel", "ndimension", "stride", "element_size", "nelement"}
_META_ATTRIBUTES = {"shape", "ndim", "dtype", "device", "is_cuda", "requires_grad", "names", "layout"}


@dataclass(frozen=True)
class _About:
    """What the node of a call tells by itself, whatever module it is read for.

    Attributes:
        target: what it calls; a method as ``".name"``.
        lift: the rule that knows it.
        mutates: whether it changes its first argument.
        may_be_constant: whether it may be computed from parameters alone.
        may_cut: whether it may cut a value into parts.
    """

    target: Any
    lift: Lift | None
    mutates: bool
    may_be_constant: bool
    may_cut: bool


class CallLifter:
    """Makes the values of calls."""

    def __init__(self, survey: Survey, registry: Registry, algebra: Algebra) -> None:
        self.survey = survey
        self.registry = registry
        self.algebra = algebra
        # Blocks that are alike share one graph: what its nodes call is looked up once.
        self._known: dict[fx.Node, _About] = {}

    def _about(self, node: fx.Node) -> _About:
        if node not in self._known:
            target = f".{node.target}" if node.op == "call_method" else node.target
            lift = self.registry.call_lift(target)
            self._known[node] = _About(target, lift, mutates(node), may_be_constant(node), is_cut(node))
        return self._known[node]

    def value_of(self, flow: Flow, frame: Frame, node: fx.Node) -> Value:
        """The value of a call in the forward of `frame`; a constant or a size is one without an operator."""
        picked = frame.values.get(node.args[0]) if node.target is operator.getitem else None  # type: ignore[arg-type]
        if picked is not None and picked.packed is not None:
            return picked.packed[node.args[1]]
        inputs = inputs_of(frame, node)
        value = new_value(flow, frame.path, node, inputs)
        about = self._about(node)
        lift, value.mutates = about.lift, about.mutates
        if about.may_be_constant:
            value.constant = constant_of(node, frame)
        if about.may_cut:
            value.cuts = cut_sizes(node, inputs, partial(channels_as_read, self.survey, frame.path))
        part = value.constant is None and is_part(value)
        value.meta = value.constant is not None or value.cuts is not None or (not part and _is_meta(node, inputs))
        if value.meta:
            value.rank = entries_of(node, partial(_entries, frame)) if value.cuts is None else None
            return value
        ranks = [v.rank for v in inputs if not v.meta]
        entries = _entries(frame, node.args[1]) if len(node.args) == 2 else None
        value.rank = rank_of_call(node.target, node.args, node.kwargs, ranks, entries)
        if part:
            read_through(value)
        if lift is None:
            return value
        if not self.algebra.enabled(lift.rule):
            value.refusal = Refusal("RK801", lift.rule, value.where)
            return value
        self._read(value, lift, frame, node)
        return value

    def _read(self, value: Value, lift: Lift, frame: Frame, node: fx.Node) -> None:
        """What the rule makes of the call, where its constants have numbers."""
        args, kwargs = _arguments(frame, node)
        constants = [a for a in _flat([args, kwargs]) if isinstance(a, Tensor)]
        if any(constant.is_meta for constant in constants):
            value.refusal = Refusal("RK505", "a constant of the forward", value.where)
            return
        context = context_of(value.inputs)
        made = answer_about_call(lift, frame.module, Call(args, kwargs, _is_value), context, _is_value)
        self._use(value, made, lift, constants, frame)

    def _use(self, value: Value, made: Any, lift: Lift, constants: list[Tensor], frame: Frame) -> None:
        rules = frozenset([lift.rule])
        if isinstance(made, Stack):
            value.stacked, value.rank = made, made.rank
            made = made.whole
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


def _is_value(item: Any) -> bool:
    return isinstance(item, Value)


def _flat(tree: Any) -> list[Any]:
    if isinstance(tree, dict):
        return [x for v in tree.values() for x in _flat(v)]
    if isinstance(tree, (list, tuple)):
        return [x for v in tree for x in _flat(v)]
    return [tree]


def _entries(frame: Frame, node: Any) -> int | None:
    """Axes of a value, or entries of a shape."""
    value = frame.values.get(node) if isinstance(node, fx.Node) else None
    return None if value is None else value.rank


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


def _arguments(frame: Frame, node: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The node's arguments: values for what flows, tensors for parameters and constants."""

    def read(n: fx.Node) -> Any:
        constant = stored(n, frame)
        return frame.values[n] if constant is None else constant

    return mapped(node.args, read), {k: mapped(v, read) for k, v in node.kwargs.items()}
