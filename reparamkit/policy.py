"""Policies: what may be replaced, and by how good a replacement. A recipe names one; a plugin may bring more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from reparamkit.cost import Cost
from reparamkit.stopwatch import faster


@dataclass(frozen=True)
class Policy:
    """What may be replaced, and by how good a replacement.

    Attributes:
        name: how recipes call it.
        allows: whether a region of the first cost may become one operator of the second.
        score: what is minimised.
        about: one line for people.
        better: whether the first of two ways is to be preferred, where that is not what the score says; both have
            their `jobs`. Such a policy needs `example_inputs`.
    """

    name: str
    allows: Callable[[Cost, Cost], bool]
    score: Callable[[Cost], float]
    about: str = ""
    better: Callable[[Cost, Cost], bool] | None = None

    def prefers(self, new: Cost, old: Cost) -> bool:
        """Whether the first of two ways is the better one."""
        if self.better is not None:
            return self.better(new, old)
        return self.score(new) < self.score(old) - 1e-9


def _cheaper(before: Cost, after: Cost) -> bool:
    return after.macs <= before.macs * (1 + 1e-9) and after.params <= before.params + before.buffers


CHEAPER = Policy(
    "cheaper", _cheaper, lambda cost: cost.score, "never more multiply-accumulates or stored numbers than before"
)
ALWAYS = Policy("always", lambda before, after: True, lambda cost: cost.ops * 1e12 + cost.score, "every exact merge")


def _measured(new: Cost, old: Cost) -> bool:
    """Timed only where neither is plainly less work; where the clock cannot tell, less counted work is better."""
    if new.at_most(old) or old.at_most(new):
        return not old.at_most(new)
    verdict = faster(new.jobs, old.jobs) if new.jobs and old.jobs else None
    return new.score < old.score if verdict is None else verdict


MEASURED = Policy(
    "measured",
    lambda before, after: True,
    lambda cost: cost.score,
    "what is faster on this machine, for inputs of the size of example_inputs",
    _measured,
)
POLICIES = (CHEAPER, ALWAYS, MEASURED)
