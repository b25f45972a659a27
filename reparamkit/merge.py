"""merge: the algebra. `compose`, `add` and `concat` of operators, each exact or a `Refusal`.

The formulas live in `reparamkit/rules`, one idea a file; this file looks them up, keeps the book of
which rules were used, and refuses what a recipe has switched off. Values in, values out: nothing here
knows `torch.fx` or `torch.nn`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from reparamkit.errors import Refusal
from reparamkit.operators import Operator, Picked, Scale
from reparamkit.term import Term, joint_like

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from reparamkit.rule import RuleSet


@dataclass(frozen=True)
class Algebra:
    """The operations, on the rules of one registry.

    Attributes:
        rules: the merge rules.
        enabled: whether a rule may be used.
    """

    rules: RuleSet
    enabled: Callable[[str], bool] = lambda rule: True

    def compose(self, outer: Term, inner: Term) -> Term | Refusal:
        """``outer(inner(x))``. Law: ``compose(a, compose(b, c)) = compose(compose(a, b), c)``."""
        if inner.is_identity:
            return outer.by(inner.rules)
        if outer.is_identity:
            return inner.by(outer.rules)
        rule = self.rules.composes.get((type(outer.op), type(inner.op)))
        if rule is None:
            return Refusal("RK319", f"no rule composes {_name(outer)} with {_name(inner)}")
        if rule.rule and not self.enabled(rule.rule):
            return Refusal("RK801", rule.rule)
        return self._made(rule.run(outer.op, inner.op), rule.rule, outer, inner)

    def scaled(self, factor: float | Scale | Picked, term: Term) -> Term | Refusal:
        """``factor * term(x)``, with a number or a factor for each channel, or some channels of it."""
        if isinstance(factor, (int, float)):
            factor = Scale(torch.tensor(factor, dtype=torch.float64, device="cpu"))
        if isinstance(factor, Scale) and factor.is_identity:
            return term
        return self.compose(Term(factor, frozenset(["core/branch_sum"])), term)

    def add(self, a: Term, b: Term) -> Term | Refusal:
        """``a(x) + b(x)``. Laws: commutative, associative, ``add(c . a, c . b) = c . add(a, b)`` for linear c."""
        pair = self._aligned(a, b)
        if isinstance(pair, Refusal):
            return pair
        a, b = pair
        rule = self.rules.adds.get(type(a.op))
        if rule is None or type(a.op) is not type(b.op):
            return Refusal("RK319", f"no rule adds {_name(a)} and {_name(b)}")
        if rule.rule and not self.enabled(rule.rule):
            return Refusal("RK801", rule.rule)
        return self._made(rule.run(a.op, b.op), rule.rule, a, b)

    def concat(self, parts: Sequence[Term]) -> Term | Refusal:
        """The outputs of `parts` stacked along the channels."""
        aligned = list(parts)
        for index in range(1, len(aligned)):
            for other in range(index):
                pair = self._aligned(aligned[other], aligned[index])
                if isinstance(pair, Refusal):
                    return pair
                aligned[other], aligned[index] = pair
        rule = self.rules.concats.get(type(aligned[0].op))
        if rule is None or len({type(p.op) for p in aligned}) > 1:
            return Refusal("RK319", f"no rule stacks {', '.join(map(_name, aligned))}")
        if rule.rule and not self.enabled(rule.rule):
            return Refusal("RK801", rule.rule)
        return self._made(rule.run([p.op for p in aligned]), rule.rule, *aligned)

    def _aligned(self, a: Term, b: Term) -> tuple[Term, Term] | Refusal:
        for rule in self.rules.aligns:
            pair = rule.run(a.op, b.op)
            if isinstance(pair, Refusal):
                return pair
            if pair[0] is a.op and pair[1] is b.op:
                continue
            if rule.rule and not self.enabled(rule.rule):
                return Refusal("RK801", rule.rule)
            a = Term(pair[0], a.rules | {rule.rule}, a.like, a.rounding)
            b = Term(pair[1], b.rules | {rule.rule}, b.like, b.rounding)
        return a, b

    def _made(self, op: Operator | Refusal, rule: str, *terms: Term) -> Term | Refusal:
        if isinstance(op, Refusal):
            return op
        like = joint_like(*terms)
        if isinstance(like, Refusal):
            return like
        rules = frozenset([rule] if rule else []).union(*(t.rules for t in terms))
        return Term(op, rules, like, max(t.rounding for t in terms))


def _name(term: Term) -> str:
    return type(term.op).__name__
