"""Sums of more than two values in a forward: what is added, and the same sum in another order."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import fx

from reparamkit.errors import VerificationError
from reparamkit.trace.traced import Traced

_SIGNS = {
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add", "add_"), 1),
    **dict.fromkeys((operator.sub, operator.isub, torch.sub, torch.subtract, "sub", "sub_", "subtract"), -1),
}


@dataclass(frozen=True, eq=False)
class Addend:
    """One of the values that are added, and its sign. A value that is added twice is two of these."""

    sign: int
    node: fx.Node


@dataclass(frozen=True)
class Regrouping:
    """A sum, and which of its addends are to be added to each other first.

    Attributes:
        node: the last addition.
        groups: addends that go together.
        rest: the others.
    """

    node: fx.Node
    groups: tuple[tuple[Addend, ...], ...]
    rest: tuple[Addend, ...]

    def write(self, graph: fx.Graph, copied: dict[fx.Node, fx.Node]) -> list[fx.Node]:
        """As `Reordering.write`: the node of each group."""
        old = copied[self.node]
        with graph.inserting_before(old):
            sums = [_total(graph, [Addend(a.sign, copied[a.node]) for a in group]) for group in self.groups]
            whole = _total(graph, [*sums, *(Addend(a.sign, copied[a.node]) for a in self.rest)])
        _check_same(addends(old, lambda node: True), addends(whole.node, lambda node: True), whole.sign)
        old.replace_all_uses_with(whole.node)
        _erase(graph, old)
        copied[self.node] = whole.node
        return [part.node for part in sums]

    @property
    def rule(self) -> str:
        """As `Reordering.rule`."""
        return "core/branch_sum"

    def widened(self, traced: Traced) -> Traced:
        """As `Reordering.widened`."""
        return traced


def addends(node: fx.Node, within: Callable[[fx.Node], bool]) -> list[Addend]:
    """What a chain of additions that ends with `node` adds.

    Args:
        node: an addition or a subtraction.
        within: whether an addition in front of it, which nobody else reads, may be taken apart.
    """
    found = []
    for sign, operand in zip((1, sign_of(node)), node.args, strict=True):
        assert isinstance(operand, fx.Node)
        apart = sign_of(operand) and len(operand.users) == 1 and within(operand)
        inner = addends(operand, within) if apart else [Addend(1, operand)]
        found += [Addend(sign * one.sign, one.node) for one in inner]
    return found


def _check_same(old: list[Addend], new: list[Addend], sign: int) -> None:
    """The order of a sum may change, what is added may not; nothing later would notice.

    Raises:
        VerificationError: RK901 when it does.
    """
    before = Counter((one.sign, one.node) for one in old)
    after = Counter((one.sign * sign, one.node) for one in new)
    if before != after:
        raise VerificationError("RK901", f"{len(old)} values are added, in another order it would be {len(new)}")


def sign_of(node: fx.Node) -> int:
    """1 for an addition of two values, -1 for a subtraction, else 0."""
    plain = len(node.args) == 2 and not node.kwargs and all(isinstance(a, fx.Node) for a in node.args)
    return _SIGNS.get(node.target, 0) if plain and node.op in ("call_function", "call_method") else 0


def _erase(graph: fx.Graph, node: fx.Node) -> None:
    """Erase an addition, and the additions in front of it that only it read."""
    operands = node.all_input_nodes
    graph.erase_node(node)
    for operand in operands:
        if not operand.users:
            _erase(graph, operand)


def _total(graph: fx.Graph, parts: Sequence[Addend]) -> Addend:
    """The sum of `parts`, negated where none of them is positive."""
    sign = max(part.sign for part in parts)
    first, *others = sorted(parts, key=lambda part: -part.sign * sign)
    node = first.node
    for part in others:
        node = graph.call_function(operator.add if part.sign == sign else operator.sub, (node, part.node))
    return Addend(sign, node)
