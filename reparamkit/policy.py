"""Policies: what may be replaced, and by how good a replacement. A recipe names one; a plugin may bring more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from reparamkit.cost import Cost


@dataclass(frozen=True)
class Policy:
    """What may be replaced, and by how good a replacement.

    Attributes:
        name: how recipes call it.
        allows: whether a region of the first cost may become one operator of the second.
        score: what is minimised.
        about: one line for people.
    """

    name: str
    allows: Callable[[Cost, Cost], bool]
    score: Callable[[Cost], float]
    about: str = ""


def _cheaper(before: Cost, after: Cost) -> bool:
    return after.macs <= before.macs * (1 + 1e-9) and after.params <= before.params + before.buffers


CHEAPER = Policy(
    "cheaper", _cheaper, lambda cost: cost.score, "never more multiply-accumulates or stored numbers than before"
)
ALWAYS = Policy("always", lambda before, after: True, lambda cost: cost.ops * 1e12 + cost.score, "every exact merge")
POLICIES = (CHEAPER, ALWAYS)
