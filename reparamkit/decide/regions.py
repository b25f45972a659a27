"""regions: the stretches of a flow that are one operator, and that nobody reads in between."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from reparamkit.decide.candidate import Candidate
from reparamkit.decide.cost import Cost
from reparamkit.decide.prices import Prices, is_free
from reparamkit.edits.region import region
from reparamkit.errors import Refusal
from reparamkit.lift.chain import path_term
from reparamkit.lower import realizable
from reparamkit.operators import Arranged, Layout, Scale, Stencil
from reparamkit.term import Term

if TYPE_CHECKING:
    from reparamkit.decide.policy import Policy
    from reparamkit.flow import Value
    from reparamkit.merge import Algebra

_REACH = 24  # how many operators of a chain one candidate may span; each value looks this far back


@dataclass
class Regions:
    """The candidates of one flow.

    Attributes:
        algebra: composes operators.
        policy: the policy.
        prices: what they cost.
        refusals: what was refused on the way, one for each value.
    """

    algebra: Algebra
    policy: Policy
    prices: Prices
    refusals: dict[Value, Refusal]
    _found: dict[tuple[Value, Value], list[Candidate]] = field(default_factory=dict)

    def ending(self, value: Value, origin: Value) -> list[Candidate]:
        """Those that end with `value` and start with `origin` or behind it."""
        if (value, origin) not in self._found:
            self._found[value, origin] = self._all_candidates(value, origin)
        return self._found[value, origin]

    def between(self, start: Value, end: Value) -> Candidate | None:
        """The region from `start` to `end`, a value that is an operator of it; `None` where there is none."""
        source, term = end.source, end.term
        while source is not None and term is not None:
            if source is start:
                made = self._candidate(source, end, term)
                return made if isinstance(made, Candidate) else None
            further = self._from_further(end, source, term) if source.source and source.term else None
            if further is None or isinstance(further, Refusal):
                return None
            source, term = further
        return None

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
        work = [v for v in values if not (is_free(v) or v.stays or v.idle)]
        if len(work) < 2 and not any(v.generated or v.cost for v in work):
            return None
        if isinstance(term.op, Arranged) and any(layout is not None and layout.unfolds for layout in _ends(term.op)):
            return Refusal("RK304", "positions get their axes back in it, by sizes that it does not know", value.where)
        made = realizable(replace(term, op=term.op.op) if isinstance(term.op, Arranged) else term)
        if isinstance(made, Refusal):
            return None if made.code == "RK319" else made
        before = Cost()
        for v in values:
            before += self.prices.of(v)
        front, back = _ends(term.op) if isinstance(term.op, Arranged) else (None, None)
        after = self.prices.instead(made.op, value, source)
        cancels = not isinstance(term.op, Arranged) and any(v.stays for v in values)
        return Candidate(source, value, values, made, before, after, front, back, cancels)


def _ends(op: Arranged) -> tuple[Layout | None, Layout | None]:
    return op.front, op.back


def _is_arithmetic(value: Value) -> bool:
    """Whether it only scales, shifts, crops or pads."""
    op = None if value.term is None or value.parts else value.term.op
    return isinstance(op, Scale) or (isinstance(op, Stencil) and set(op.one.kernel_size) <= {1})
