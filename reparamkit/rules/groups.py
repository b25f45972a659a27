"""core/groups: a grouped kernel is a block-diagonal one with fewer groups.

Formula: `g` groups written as `h` groups, `h` a divisor of `g`: ``W'[o, (group(o) mod g/h) * I/g + i] = W[o, i]``,
zeros elsewhere. Two branches meet on the greatest common divisor of their groups.

Always exact; it adds zeros, so the policy decides whether it pays (a depthwise 3x3 beside a 1x1 of 8 channels
grows from 136 to 576 weights).
"""

from __future__ import annotations

from math import gcd

from reparamkit.operators import Conv, Operator
from reparamkit.operators.conv import with_groups
from reparamkit.rule import Align, Rule

RULE = "core/groups"


def align(a: Operator, b: Operator) -> tuple[Operator, Operator]:
    """Give both the same number of groups."""
    if not (isinstance(a, Conv) and isinstance(b, Conv)) or a.groups == b.groups:
        return a, b
    groups = gcd(a.groups, b.groups)
    return with_groups(a, groups), with_groups(b, groups)


rules: tuple[Rule, ...] = (Align(RULE, 30, align),)
