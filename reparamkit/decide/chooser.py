"""chooser: which regions of a flow are replaced.

A region is a source, a value that is an operator of it, and everything between them; it can be replaced when
nobody else reads what is between. Of all ways to cut the chain of sources into regions the cheapest is taken; a sum
is one region, or its branches are cut one by one. What "cheaper" means, and what may be replaced at all, is the
policy's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from reparamkit.decide.candidate import Candidate, too_dear
from reparamkit.decide.cost import Cost
from reparamkit.decide.outline import outline
from reparamkit.decide.prices import Prices
from reparamkit.decide.regions import Regions
from reparamkit.errors import Refusal

if TYPE_CHECKING:
    from reparamkit.decide.outline import Outline
    from reparamkit.decide.policy import Policy
    from reparamkit.flow import Flow, Value
    from reparamkit.merge import Algebra
    from reparamkit.timing.benches import Benches
    from reparamkit.timing.stopwatch import Stopwatch

_Key = tuple["Value", "Value"]


@dataclass(frozen=True)
class _Best:
    """The cheapest way to have a value, as far as is known."""

    cost: Cost
    regions: tuple[Candidate, ...] = ()


@dataclass(frozen=True)
class _Cuts:
    """How a stretch of a flow was cut.

    Attributes:
        places: where each region starts and ends, by place in the stretch.
        refused: what was refused on the way and is not worth telling: the values are in a region all the same.
    """

    places: tuple[tuple[int, int], ...]
    refused: dict[int, Refusal]


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
    _asked: dict[Candidate, bool] = field(default_factory=dict)
    _used_by: dict[Candidate, list[_Key]] = field(default_factory=dict)
    _cuts: dict[Any, _Cuts] = field(default_factory=dict)
    _impossible: int = 0

    def __post_init__(self) -> None:
        self._prices = Prices(self.benches)
        self._found = Regions(self.algebra, self.policy, self._prices, self.refusals)

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
            for best in self._regions(value, self._origin(value)):
                if not taken.intersection(best.values):
                    chosen[best.target] = best
                    taken.update(best.values)
        return sorted(chosen.values(), key=lambda c: c.target.index)

    def _origin(self, value: Value) -> Value:
        """The far end of the chain: the first value upstream that is opaque."""
        return list(value.chain())[-1]

    def _regions(self, value: Value, origin: Value) -> tuple[Candidate, ...]:
        """The regions of the cheapest way; where the same was asked before, it is known which they are."""
        here = None if self.clock is not None else outline(value, origin, self._prices.of)
        if here is None:
            return self._feasible_regions(value, origin)
        known = self._cuts.get(here.shape)
        made = None if known is None else self._cut_again(known, here, origin)
        if made is not None:
            return made
        before = self._impossible
        regions = self._feasible_regions(value, origin)
        if known is None and self._impossible == before:
            self._remember(here, regions, origin)
        return regions

    def _remember(self, here: Outline, regions: tuple[Candidate, ...], origin: Value) -> None:
        """Keep how a stretch was cut, unless there is something to tell about a value of it."""
        places = {origin: -1, **{value: place for place, value in enumerate(here.values)}}
        refused = {place: r for value, place in places.items() if (r := self.refusals.get(value)) is not None}
        ends = {places[region.target] for region in regions}
        merged = {places[value] for region in regions for value in region.values}
        if all(place in merged and place not in ends for place in refused):
            cuts = tuple((places[region.source], places[region.target]) for region in regions)
            self._cuts[here.shape] = _Cuts(cuts, refused)

    def _cut_again(self, known: _Cuts, here: Outline, origin: Value) -> tuple[Candidate, ...] | None:
        """The regions of a stretch that is like one before; `None` where its numbers do not allow it."""
        values = (*here.values, origin)  # so that place -1 is the origin
        regions = []
        for start, end in known.places:
            candidate = self._found.between(values[start], values[end])
            if candidate is None or not self._can_be_made(candidate):
                return None
            regions.append(candidate)
        for place, refusal in known.refused.items():
            self.refusals.setdefault(values[place], refusal)
        return tuple(regions)

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
                self._impossible += 1
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
            refusal = too_dear(self.policy, candidate.before, candidate.after, candidate.target.where)
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
        meet = _meeting(value)
        cost = self._prices.of(value)
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
        return [candidate for candidate in self._found.ending(value, origin) if self._asked.get(candidate, True)]


def _meeting(value: Value) -> Value | None:
    """The nearest value that the parts of `value`, if it has any, all come from: what is in front of it is cut once."""
    if value.source is None or not value.parts:
        return value.source
    ways = [list(takewhile(lambda each: each is not value.source, part.chain())) for part in value.parts]
    shared = set(ways[0]).intersection(*ways[1:])
    return next((each for each in ways[0] if each in shared), value.source)
