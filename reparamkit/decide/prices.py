"""prices: what the values of a flow cost as the model has them, and what an operator in their place would."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from reparamkit.decide.cost import Cost, cost_of
from reparamkit.paths import buffers_of
from reparamkit.rules import conv_bn
from reparamkit.rules.sizes import channels_of

if TYPE_CHECKING:
    from reparamkit.flow import Value
    from reparamkit.operators import Operator
    from reparamkit.timing.benches import Benches


class Prices:
    """Costs of one flow; with benches also what there is to run.

    Args:
        benches: what jobs are run on, where the policy wants them timed.
    """

    def __init__(self, benches: Benches | None = None) -> None:
        self._benches = benches
        self._known: dict[Value, Cost] = {}

    def of(self, value: Value) -> Cost:
        """The cost of the value itself, without what it reads."""
        if value not in self._known:
            op = None if value.term is None else value.term.op
            if value.parts or value.idle or value.cost is not None:
                op = None
            self._known[value] = self._with_job(price(value), op, value, value.source)
        return self._known[value]

    def instead(self, op: Operator, value: Value, source: Value) -> Cost:
        """The cost of `value` as one operator of `source`."""
        return self._with_job(cost_of(op, value.density), op, value, source)

    def _with_job(self, cost: Cost, op: Operator | None, value: Value, source: Value | None) -> Cost:
        """The cost with what there is to run: `op` on `source`, or without one what `value` itself does."""
        if self._benches is None or not cost.ops:
            return cost
        bench = self._benches.at(value if op is None or source is None else source, None if op is None else op.nd)
        if bench is None:
            return replace(cost, jobs=(None,) * cost.ops)
        channels = channels_of(value) or 1
        if op is not None:
            return replace(cost, jobs=(bench.job_of(op, channels),))
        add = bench.job("add", channels) if value.terms or value.idle else None
        return replace(cost, jobs=(add,) * cost.ops)


def price(value: Value) -> Cost:
    """The cost of the node itself as the model has it today."""
    channels = channels_of(value) or 1
    if value.parts:
        adds = max(1, len(value.parts) - 1)
        return Cost(traffic=channels * value.density * adds, ops=adds)
    if value.term is None or value.stays or is_free(value):
        return Cost()
    if value.cost is not None:
        return value.cost.at(value.density)
    cost = cost_of(value.term.op, value.density, channels)
    if value.stored is not None:
        cost = replace(cost, params=value.stored)
    if value.module is None or value.share is not None:
        statistics = 2 * channels if conv_bn.RULE in value.term.rules else 0
        return cost + Cost(ops=int(value.generated), buffers=statistics)
    return replace(cost, buffers=sum(t.numel() for t in buffers_of(value.module) if t.is_floating_point()))


def is_free(value: Value) -> bool:
    """Whether the value costs nothing: an identity that no kernel computes."""
    return value.term is not None and value.term.is_identity and not value.parts and not value.idle
