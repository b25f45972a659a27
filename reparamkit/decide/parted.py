"""parted: a product and a sum in front of convolutions: all of it goes into each of them, or the product alone.

The last of the two becomes a source of its own, and each layer behind it gets a value in front, like any other
(`products.py`). If one of those finds no layer to go into, the flow is changed back. `rules/parted.py` says when it is
right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from reparamkit.decide.candidate import Candidate, together, too_dear
from reparamkit.decide.cost import Cost, cost_of
from reparamkit.decide.prices import is_free, price
from reparamkit.decide.products import put_products
from reparamkit.decide.spreading import Spread
from reparamkit.edits.ends import unit
from reparamkit.edits.ways import seen_one_way
from reparamkit.errors import Refusal
from reparamkit.lift.chain import path_term
from reparamkit.merge import Algebra
from reparamkit.operators import Conv, ConvTranspose, Scale
from reparamkit.rules.parted import RULE, is_step, parted
from reparamkit.rules.sizes import channels_of
from reparamkit.term import Like, Term

if TYPE_CHECKING:
    from reparamkit.decide.choice import Choice
    from reparamkit.decide.policy import Policy
    from reparamkit.edits.edit import Edit
    from reparamkit.flow import Flow, Value
    from reparamkit.survey import Survey

Host = Callable[[Candidate, frozenset["Value"]], "Edit | Refusal"]


@dataclass(frozen=True, eq=False)
class _Parted:
    """Products and sums that went on.

    Attributes:
        left: what they were, and the offset that is left of them; where nothing is, what they were.
        aside: the module that is nothing else, where nothing is left of it.
        spread: what stands in front of the layers behind.
    """

    left: Candidate
    aside: str | None
    spread: Spread

    def regions(self, chosen: Choice) -> list[Candidate]:
        """Those that take them."""
        return [region for region in chosen.regions if not region_shares(region).isdisjoint(self.spread.shares)]


def region_shares(region: Candidate) -> set[Value]:
    """Values of a region that stand for what is computed in front of it."""
    return {value for value in region.values if value.parted}


@dataclass(frozen=True)
class Parting:
    """Lets products and sums of one flow go on.

    Attributes:
        algebra: composes operators.
        policy: has to allow each exchange.
        survey: of the model.
        choose: chooses the regions of the flow as it is.
        host: the edit that expresses a region, given what other edits do away with.
    """

    algebra: Algebra
    policy: Policy
    survey: Survey
    choose: Callable[[], Choice]
    host: Host

    def improved(self, flow: Flow, chosen: Choice) -> Choice:
        """The choice with every exchange that can be made; the flow is changed for those."""
        failed: dict[Value, Refusal] = {}
        while True:
            made = list(self._all_parted(flow, chosen, failed))
            if not made:
                return replace(chosen, refusals=chosen.refusals | failed)
            better = self.choose()
            refused = {one.left.target: refusal for one in made if (refusal := self._refused(one, better))}
            if not better.done >= chosen.done:
                refused |= {one.left.target: _unlike(one) for one in made}
            if not refused:
                better = self._with_edits(better, made, refused)
            if not refused:
                return replace(better, refusals=better.refusals | failed)
            failed |= refused
            for one in reversed(made):
                one.spread.undo(flow)

    def _all_parted(self, flow: Flow, chosen: Choice, failed: dict[Value, Refusal]) -> Iterator[_Parted]:
        for value in flow.values:
            steps = () if value in failed or value in chosen.done else _steps(value)
            if not steps or not chosen.done.isdisjoint(steps):
                continue
            groups = _groups(value, chosen)
            if groups is None or not seen_one_way(flow, [*steps, *(v for group in groups for v in group)]):
                continue
            made = self._parted(steps, groups, chosen, flow)
            if isinstance(made, Refusal):
                failed[value] = made.at(value.where)
            elif made is not None:
                yield made

    def _parted(
        self, steps: tuple[Value, ...], groups: Sequence[set[Value]], chosen: Choice, flow: Flow
    ) -> _Parted | Refusal | None:
        """All of the steps in front of each group, or the product alone; `None` where that saves nothing."""
        whole = self._whole(steps, groups)
        if whole is None:
            return None
        left = Candidate(_source(steps), steps[-1], steps, whole, _price(steps), Cost())
        aside, term = self._aside(left, flow), whole
        if aside is None or not all(self._takes_whole(group, steps[-1], whole, chosen) for group in groups):
            made = _without_product(left)
            if made is None or isinstance(made, Refusal):
                return made
            (left, term), aside = made, None
        spread = Spread(steps[-1])
        put_products(spread, steps, groups, term, linear=aside is None)
        flow.shares += spread.shares
        return _Parted(left, aside, spread)

    def _whole(self, steps: tuple[Value, ...], groups: Sequence[set[Value]]) -> Term | None:
        """The steps as one scale and shift, and what a layer for them would look like."""
        term = path_term(steps[-1], _source(steps), self.algebra)
        like = _like(term, groups)
        if isinstance(term, Refusal) or not isinstance(term.op, Scale) or like is None:
            return None
        return replace(term, rules=term.rules | {RULE}, like=like)

    def _aside(self, left: Candidate, flow: Flow) -> str | None:
        """The module that computes the products and sums and nothing else, where nobody else looks at it."""
        path = unit(left.target, left, flow)
        known = path is not None and not self.survey.is_read_from_outside(path) and path != flow.path
        return path if known and self.survey.names[id(self.survey.modules[path])] == 1 else None  # type: ignore[index]

    def _takes_whole(self, group: set[Value], last: Value, whole: Term, chosen: Choice) -> bool:
        """Whether a region, or a layer, can be composed with all of it."""
        region = next((r.term for r in chosen.regions if r.source is last and not group.isdisjoint(r.values)), None)
        term = region or next(iter(group)).term
        return term is not None and isinstance(self.algebra.compose(term, whole), Term)

    def _refused(self, one: _Parted, chosen: Choice) -> Refusal | None:
        """Why not all of them find a layer, or why all together do not pay."""
        missing, where = one.spread.missing(chosen.done), one.left.target.where
        if missing is None:
            return too_dear(self.policy, *together([one.left, *one.regions(chosen)]), where)
        told = (chosen.refusals.get(value) for value in (missing, *missing.users))
        refusal = next((r for r in told if r is not None), None)
        return replace(refusal, where=where) if refusal else Refusal("RK321", f"not {missing.users[0].where}", where)

    def _with_edits(self, chosen: Choice, made: Sequence[_Parted], refused: dict[Value, Refusal]) -> Choice:
        """The choice with the edits for what is left; why there are none is noted in `refused`."""
        edits = list(chosen.edits)
        for one in made:
            if one.aside is not None:
                first = edits.index(next(e for e in edits if e.candidate in one.regions(chosen)))
                edits[first] = replace(edits[first], aside=(*edits[first].aside, one.aside))
                continue
            edit = self.host(one.left, chosen.written_anew)
            if isinstance(edit, Refusal):
                refused[one.left.target] = edit.at(one.left.target.where)
            else:
                edits.append(edit)
        return replace(chosen, edits=tuple(sorted(edits, key=lambda edit: edit.candidate.target.index)))


def _source(steps: Sequence[Value]) -> Value:
    source = steps[0].source
    assert source is not None
    return source


def _price(steps: Sequence[Value]) -> Cost:
    return sum((price(step) for step in steps), Cost())


def _without_product(whole: Candidate) -> tuple[Candidate, Term] | Refusal | None:
    """What is left when the product goes on, and the product; `None` where that is no kernel less."""
    op, like, last = whole.term.op, whole.term.like, whole.target
    assert isinstance(op, Scale)
    assert like is not None
    if op.shift is None or len([step for step in whole.values if not is_free(step)]) < 2:
        return None
    both = parted(op, like.dtype)
    if isinstance(both, Refusal):
        return both
    product, offset = both
    after = cost_of(offset, last.density, channels_of(last) or 1)
    return replace(whole, term=replace(whole.term, op=offset), after=after), replace(whole.term, op=product)


def _unlike(one: _Parted) -> Refusal:
    return Refusal("RK321", "other merges would not be made", one.left.target.where)


def _steps(last: Value) -> tuple[Value, ...]:
    """The products and sums with constants that end with `last`, in one forward; nobody else reads what is between."""
    if not is_step(last) or last.escapes or not last.readers:
        return ()
    steps = [last]
    while (before := steps[0].source) is not None and is_step(before) and _belongs(before, steps[0]):
        steps.insert(0, before)
    return tuple(steps)


def _belongs(before: Value, step: Value) -> bool:
    alone = before.users == [step] and not before.escapes
    return alone and before.path == step.path and before.under == step.under


def _groups(last: Value, chosen: Choice) -> list[set[Value]] | None:
    """What reads `last`: for each region that starts there all of it, for each other layer that; or something else."""
    regions = [set(region.values) for region in chosen.regions if region.source is last]
    groups = [group for group in regions if not group.isdisjoint(last.readers)]
    inside: set[Value] = set().union(*groups)
    others = [reader for reader in last.readers if reader not in inside]
    found = [*groups, *({reader} for reader in others)]
    plain = all(value.under == last.under and not value.stays for group in found for value in group)
    return found if plain and all(_takes(reader, last) for reader in others) else None


def _takes(reader: Value, last: Value) -> bool:
    kernel = reader.term is not None and isinstance(reader.term.op, (Conv, ConvTranspose))
    return kernel and reader.source is last and not reader.parts


def _like(term: Term | Refusal, groups: Sequence[set[Value]]) -> Like | None:
    """What the shift is stored like: as the forward's own constants, or where those are numbers, as what reads them."""
    if isinstance(term, Refusal) or term.like is not None:
        return None if isinstance(term, Refusal) else term.like
    likes = (v.term.like for group in groups for v in group if v.term is not None)
    found = next((like for like in likes if like is not None), None)
    return None if found is None else Like(found.dtype, found.device, decides=False)
