"""core/unshare: a shared module is copied for each of its callers before something is folded into it. Opt-in.

Formula: a convolution that several levels share, each with a batch norm of its own (RTMDet, Lyu et al., 2022, §3.3),
becomes one convolution a level, ``W_l = s_l W``, ``b_l = s_l b + t_l``.

Conditions: everything that calls it under one name is one forward; nothing observes it. The weights are no longer tied
afterwards and take as much memory as there are copies, which is why a recipe has to ask for it by name.
"""

from __future__ import annotations

from reparamkit.lift.sharing import may_have_copies
from reparamkit.rule import Rule, Switch

RULE = "core/unshare"

rules: tuple[Rule, ...] = (Switch(RULE, may_have_copies, opt_in=True),)
