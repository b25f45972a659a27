"""decide: which of the exact merges are made.

A region is a source, a value that is an operator of it, and everything between them; it can be replaced when
nobody else reads what is between. Of all ways to cut the chain of sources into regions the cheapest is taken; a sum
is one region, or its branches are cut one by one. What "cheaper" means, and what may be replaced at all, is the
policy's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from reparamkit.cost import Cost, cost_of
from reparamkit.edits.region import region
from reparamkit.errors import Refusal
from reparamkit.lift.chain import path_term
from reparamkit.lower import realizable
from reparamkit.merge import Term
from reparamkit.operators import Arranged, Layout, Scale, Stencil
from reparamkit.rules import conv_bn
from reparamkit.rules.sizes import channels_of

if TYPE_CHECKING:
    from reparamkit.benches import Benches
    from reparamkit.flow import Flow, Value
    from reparamkit.merge import Algebra
    from reparamkit.operators import Operator
    from reparamkit.policy import Policy
    from reparamkit.stopwatch import Stopwatch

_Key = tuple["Value", "Value"]
_REACH = 24  # how many operators of a chain one candidate may span; each value looks this far back


@dataclass(frozen=True, eq=False)
class Candidate:
    """A region and the operator it is.

    Attributes:
        source: where it starts; not part of it.
        target: where it ends.
        values: what it replaces, in order, the target last.
        term: the operator.
        before: the cost of what it replaces.
        after: the cost of the operator.
        front: how the source is rearranged in front of the operator, if it is.
        back: how what the operator gives is rearranged, if it is.
        cancels: axes are rearranged in it, and put back: that can go as well.
    """

    source: Value
    target: Value
    values: tuple[Value, ...]
    term: Term
    before: Cost
    after: Cost
    front: Layout | None = None
    back: Layout | None = None
    cancels: bool = False

    @property
    def arranged(self) -> bool:
        """Whether axes are rearranged in it for good: that stays, and only what is around it can merge."""
        return not self.cancels and any(value.stays for value in self.values)


@dataclass(frozen=True)
class _Best:
    """The cheapest way to have a value, as far as is known."""

    cost: Cost
    regions: tuple[Candidate, ...] = ()


@dataclass
class Chooser:
    """Chooses the regions of one flow.

    Attributes:
        algebra: composes operators.
        policy: the policy.
        feasible: a last word on each candidate: a `Refusal` when no edit of the model can express it. It is the
            dearest question, so it is asked about the cheapest way only; when it says no, the next one is found.
        clock: tells which of two ways is faster, when the policy wants them timed.
        benches: what jobs are run on then.
        refusals: what was refused on the way, one for each value.
    """

    algebra: Algebra
    policy: Policy
    feasible: Callable[[Candidate], Refusal | None]
    clock: Stopwatch | None = None
    benches: Benches | None = None
    refusals: dict[Value, Refusal] = field(default_factory=dict)
    _memo: dict[_Key, _Best] = field(default_factory=dict)
    _found: dict[_Key, list[Candidate]] = field(default_factory=dict)
    _asked: dict[Candidate, bool] = field(default_factory=dict)
    _used_by: dict[Candidate, list[_Key]] = field(default_factory=dict)
    _costs: dict[Value, Cost] = field(default_factory=dict)

    def choose(self, flow: Flow) -> list[Candidate]:
        """The chosen regions, in order of execution; no two overlap."""
        chosen: dict[Value, Candidate] = {}
        taken: set[Value] = set()
        live: set[Value] = set()
        for value in sorted([*flow.values, *flow.shares], key=lambda v: v.index, reverse=True):
            if value.gone and not value.users and not value.escapes:
                continue
            # What nobody reads is computed all the same.
            if value.escapes or value.mutates or not value.users or not live.isdisjoint(value.users):
                live.add(value)
            if value not in live or value in taken or (value.term is None and not value.parts):
                continue
            for best in self._feasible_regions(value, self._origin(value)):
                if not taken.intersection(best.values):
                    chosen[best.target] = best
                    taken.update(best.values)
        return sorted(chosen.values(), key=lambda c: c.target.index)

    def _origin(self, value: Value) -> Value:
        """The far end of the chain: the first value upstream that is opaque."""
        return list(value.chain())[-1]

    def _feasible_regions(self, value: Value, origin: Value) -> tuple[Candidate, ...]:
        """The regions of the cheapest way in which every region can be made."""
        while True:
            regions = self._best(value, origin).regions
            impossible = [candidate for candidate in regions if not self._can_be_made(candidate)]
            if not impossible:
                return regions
            for candidate in impossible:
                for key in self._used_by.pop(candidate):
                    self._memo.pop(key, None)

    def _can_be_made(self, candidate: Candidate) -> bool:
        if candidate not in self._asked:
            refusal = self.feasible(candidate)
            self._asked[candidate] = refusal is None
            if refusal is not None:
                self.refusals.setdefault(candidate.target, refusal)
        return self._asked[candidate]

    def _best(self, value: Value, origin: Value) -> _Best:
        """The cheapest way to have `value` when `origin`, a value of its chain, is there."""
        if value is origin or (value.term is None and not value.parts):
            return _Best(Cost())
        key = (value, origin)
        known = self._memo.get(key)
        if known is not None:
            return known
        best = self._kept(value, origin)
        for candidate in self._candidates(value, origin):
            rest = self._best(candidate.source, origin)
            cost = candidate.after + rest.cost
            better = self.policy.prefers(cost, best.cost, self.clock)
            if not better and value.cost is None:
                continue  # of a value whose own cost was measured, it is told that it is cheaper as it is
            refusal = self._too_dear(candidate)
            if refusal is not None:
                self.refusals.setdefault(value, refusal)
            elif better:
                best = _Best(cost, (*rest.regions, candidate))
        self._memo[key] = best
        for candidate in best.regions:
            self._used_by.setdefault(candidate, []).append(key)
        return best

    def _kept(self, value: Value, origin: Value) -> _Best:
        """The node as it is, its inputs cut the best way."""
        meet = value.source
        cost = self._own_cost(value)
        regions: list[Candidate] = []
        for part in value.parts:
            best = self._best(part, meet if meet is not None else self._origin(part))
            cost += best.cost
            regions.extend(best.regions)
        if meet is not None:
            rest = self._best(meet, origin)
            cost += rest.cost
            regions.extend(rest.regions)
        return _Best(cost, tuple(dict.fromkeys(regions)))

    def _candidates(self, value: Value, origin: Value) -> list[Candidate]:
        """The regions that end with `value` and start behind `origin`, without those that turned out impossible."""
        if (value, origin) not in self._found:
            self._found[value, origin] = self._all_candidates(value, origin)
        return [candidate for candidate in self._found[value, origin] if self._asked.get(candidate, True)]

    def _all_candidates(self, value: Value, origin: Value) -> list[Candidate]:
        found: list[Candidate] = []
        if value is origin or value.source is None or value.term is None:
            return found
        source, term = value.source, value.term
        for _ in range(_REACH):
            candidate = self._candidate(source, value, term)
            if isinstance(candidate, Candidate):
                found.append(candidate)
            elif candidate is not None:
                self.refusals.setdefault(value, candidate)
                if candidate.code == "RK305":
                    break  # further back the same value would still be between
            if source is origin or source.source is None or source.term is None:
                break
            longer = self._from_further(value, source, term)
            if isinstance(longer, Refusal):
                self.refusals.setdefault(value, longer.at(value.where))
                break
            source, term = longer
        return found

    def _from_further(self, value: Value, source: Value, term: Term) -> tuple[Value, Term] | Refusal:
        """The operator from the source of `source`; or from that of that, where two meet that no rule combines."""
        before = source.source
        assert before is not None
        assert source.term is not None
        longer = self.algebra.compose(term, source.term)
        if isinstance(longer, Refusal):
            longer = path_term(value, before, self.algebra)
        if isinstance(longer, Term):
            return before, longer
        if longer.code != "RK319" or before.source is None:
            return longer
        further = path_term(value, before.source, self.algebra)
        return longer if isinstance(further, Refusal) else (before.source, further)

    def _candidate(self, source: Value, value: Value, term: Term) -> Candidate | Refusal | None:
        inner = term.op.op if isinstance(term.op, Arranged) else term.op
        if isinstance(inner, Layout) or (isinstance(term.op, Arranged) and isinstance(inner, Scale)):
            return None
        if isinstance(inner, Scale) and self.policy.name != "always":
            return None  # a convolution of one tap a channel is no faster than the arithmetic it replaces
        values = region(source, value)
        if isinstance(values, Refusal):
            return values
        if self.policy.name != "always" and all(map(_is_arithmetic, values)):
            return None  # likewise: what is cropped would be computed as taps of zero
        work = [v for v in values if not (_is_free(v) or v.stays or v.idle)]
        if len(work) < 2 and not any(v.generated or v.cost for v in work):
            return None
        made = realizable(replace(term, op=term.op.op) if isinstance(term.op, Arranged) else term)
        if isinstance(made, Refusal):
            return None if made.code == "RK319" else made
        before = Cost()
        for v in values:
            before += self._own_cost(v)
        front, back = (term.op.front, term.op.back) if isinstance(term.op, Arranged) else (None, None)
        after = self._with_job(cost_of(made.op, value.density), made.op, value, source)
        cancels = not isinstance(term.op, Arranged) and any(v.stays for v in values)
        return Candidate(source, value, values, made, before, after, front, back, cancels)

    def _too_dear(self, candidate: Candidate) -> Refusal | None:
        return too_dear(self.policy, candidate.before, candidate.after, candidate.target.where)

    def _own_cost(self, value: Value) -> Cost:
        if value not in self._costs:
            cost = _own_cost(value)
            op = None if value.term is None else value.term.op
            if value.parts or value.idle or value.cost is not None:
                op = None
            self._costs[value] = self._with_job(cost, op, value, value.source)
        return self._costs[value]

    def _with_job(self, cost: Cost, op: Operator | None, value: Value, source: Value | None) -> Cost:
        """The cost with what there is to run: `op` on `source`, or without one what `value` itself does."""
        if self.benches is None or not cost.ops:
            return cost
        bench = self.benches.at(value if op is None or source is None else source, None if op is None else op.nd)
        if bench is None:
            return replace(cost, jobs=(None,) * cost.ops)
        channels = channels_of(value) or 1
        if op is not None:
            return replace(cost, jobs=(bench.job_of(op, channels),))
        add = bench.job("add", channels) if value.terms or value.idle else None
        return replace(cost, jobs=(add,) * cost.ops)


def too_dear(policy: Policy, before: Cost, after: Cost, where: str) -> Refusal | None:
    """Why the policy does not have this exchange, if it does not."""
    if policy.allows(before, after):
        return None
    return Refusal(
        "RK340",
        f"MACs per position {before.macs:g} -> {after.macs:g}, parameters {before.params:g} -> {after.params:g} "
        f"(policy {policy.name})",
        where,
    )


def together(candidates: Sequence[Candidate]) -> tuple[Cost, Cost]:
    """The cost before and after of regions that are made together or not at all; what they share counts once."""
    before, after = Cost(), Cost()
    for candidate in candidates:
        before, after = before + candidate.before, after + candidate.after
        for value in candidate.values:
            if value.share is not None:
                before += _own_cost(value).times(1 / value.share.among - 1)
    return before, after


def _is_free(value: Value) -> bool:
    """Whether the value costs nothing: an identity that no kernel computes."""
    return value.term is not None and not value.parts and value.term.is_identity and not value.idle


def _is_arithmetic(value: Value) -> bool:
    """Whether it only scales, shifts or crops."""
    op = None if value.term is None or value.parts else value.term.op
    return isinstance(op, Scale) or (isinstance(op, Stencil) and op.is_view)


def _own_cost(value: Value) -> Cost:
    """The cost of the node itself as the model has it today."""
    channels = channels_of(value) or 1
    if value.parts:
        adds = max(1, len(value.parts) - 1)
        return Cost(traffic=channels * value.density * adds, ops=adds)
    if value.term is None or value.stays or _is_free(value):
        return Cost()
    if value.cost is not None:
        return value.cost.at(value.density)
    cost = cost_of(value.term.op, value.density, channels)
    if value.stored is not None:
        cost = replace(cost, params=value.stored)
    if value.module is None or value.share is not None:
        statistics = 2 * channels if conv_bn.RULE in value.term.rules else 0
        return cost + Cost(ops=int(value.generated), buffers=statistics)
    return replace(cost, buffers=sum(t.numel() for t in value.module.buffers() if t.is_floating_point()))
