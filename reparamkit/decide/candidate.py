"""candidate: a region that may be replaced, and what it costs before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reparamkit.decide.cost import Cost
from reparamkit.decide.prices import price
from reparamkit.errors import Refusal

if TYPE_CHECKING:
    from reparamkit.decide.policy import Policy
    from reparamkit.flow import Value
    from reparamkit.operators import Layout
    from reparamkit.term import Term


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
                before += price(value).times(1 / value.share.among - 1)
    return before, after
