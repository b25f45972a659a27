"""sums: branches of one source that stand apart in a sum, and are worth adding to each other first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from reparamkit.decide.candidate import too_dear
from reparamkit.decide.cost import Cost, cost_of
from reparamkit.errors import Refusal
from reparamkit.lift.chain import nearest_common, path_term
from reparamkit.lower import realizable
from reparamkit.rules.sizes import channels_of
from reparamkit.term import Term
from reparamkit.trace.sums import Addend, Regrouping, addends, sign_of

if TYPE_CHECKING:
    from torch import fx

    from reparamkit.decide.choice import Choice
    from reparamkit.decide.policy import Policy
    from reparamkit.flow import Flow, Frame, Value
    from reparamkit.merge import Algebra


@dataclass(frozen=True)
class SumFinder:
    """Finds sums that merge in another order.

    Attributes:
        algebra: adds branches.
        policy: whether a sum of two branches is worth having.
    """

    algebra: Algebra
    policy: Policy

    def __call__(self, frame: Frame, flow: Flow, chosen: Choice) -> list[Regrouping]:
        """The sums of one forward, in order."""
        inside = {node for node in frame.traced.graph.nodes if _is_loose(node, frame, chosen)}
        ends = [n for n in inside if len(n.users) != 1 or inside.isdisjoint(n.users)]
        found = (self._grouped(node, addends(node, inside.__contains__), frame) for node in ends)
        return sorted((one for one in found if one is not None), key=lambda one: frame.values[one.node].index)

    def _grouped(self, node: fx.Node, parts: list[Addend], frame: Frame) -> Regrouping | None:
        groups: list[tuple[Addend, ...]] = []
        left = parts
        while left:
            group = self._group(left[0], left[1:], frame)
            left = [part for part in left if part not in group]
            groups.append(group)
        several = tuple(group for group in groups if len(group) > 1)
        rest = tuple(group[0] for group in groups if len(group) == 1)
        apart = len(parts) > 2 and several and len(groups) > 1
        return Regrouping(node, several, rest) if apart else None

    def _group(self, first: Addend, others: list[Addend], frame: Frame) -> tuple[Addend, ...]:
        """`first` and the addends it merges with; twice a value is no layer, but beside one it may go into it."""
        group = [first]
        for other in (*others, *others):
            if other not in group and self._merge([frame.values[part.node] for part in (*group, other)]):
                group.append(other)
        return tuple(group)

    def _merge(self, values: list[Value]) -> bool:
        """Whether the sum of `values`, which nobody else reads, is one operator and worth having."""
        source = nearest_common(values)
        layers = [v for v in values if v is not source]
        if source is None or len(set(layers)) < len(layers):
            return False
        if any(v.unstable is not None or v.escapes or (v is not source and len(v.readers) > 1) for v in values):
            return False
        terms = [path_term(value, source, self.algebra) for value in values]
        total = terms[0]
        for term in terms[1:]:
            if isinstance(total, Refusal) or isinstance(term, Refusal):
                return False
            total = self.algebra.add(total, term)
        whole = total if isinstance(total, Refusal) else realizable(total)
        if isinstance(whole, Refusal):
            return False
        before = sum((_cost(term, values[0]) for term in terms if isinstance(term, Term)), Cost(ops=len(terms) - 1))
        return too_dear(self.policy, before, cost_of(whole.op, 1.0), "") is None


def _cost(term: Term, like: Value) -> Cost:
    return Cost() if term.is_identity else cost_of(term.op, 1.0, channels_of(like) or 1)


def _is_loose(node: fx.Node, frame: Frame, chosen: Choice) -> bool:
    """Whether it is an addition that is in no region, of values that nobody else reads or changes."""
    value = frame.values.get(node) if sign_of(node) else None
    if value is None or value in chosen.done or len(value.terms) != 2 or value.unstable is not None:
        return False
    return all(operand in frame.values for operand in node.all_input_nodes)
