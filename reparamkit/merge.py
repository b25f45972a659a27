"""merge: the algebra. `compose`, `add` and `concat` of operators, each exact or a `Refusal`.

The formulas live in `reparamkit/rules`, one idea a file; this file looks them up, keeps the book of
which rules were used, and refuses what a recipe has switched off. Values in, values out: nothing here
knows `torch.fx` or `torch.nn`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from reparamkit.errors import Refusal
from reparamkit.operators import Operator, Picked, Scale

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from reparamkit.rule import RuleSet


@dataclass(frozen=True, slots=True)
class Like:
    """What the module that holds a merged operator takes over from its sources.

    Attributes:
        dtype: of the weights.
        device: of the weights.
        weight_grad: whether any source weight requires a gradient.
        bias_grad: whether any source bias, or what shifts like one, requires a gradient.
        channels_last: whether a source weight was stored channels-last.
        decides: whether the dtype of the result depends on it (false for batch norm).
    """

    dtype: torch.dtype
    device: torch.device
    weight_grad: bool = False
    bias_grad: bool = False
    channels_last: bool = False
    decides: bool = True

    def joined(self, other: Like) -> Like | Refusal:
        """Both sources in one module."""
        if self.device != other.device:
            return Refusal("RK506", f"{self.device} and {other.device}")
        if self.decides and other.decides and self.dtype != other.dtype:
            return Refusal("RK503", f"one branch is {self.dtype}, the other {other.dtype}")
        main = self if self.decides or not other.decides else other
        return replace(
            main,
            weight_grad=self.weight_grad or other.weight_grad,
            bias_grad=self.bias_grad or other.bias_grad,
            channels_last=self.channels_last or other.channels_last,
        )


@dataclass(frozen=True, slots=True)
class Term:
    """An operator, the rules that made it, and what its module will look like.

    Attributes:
        op: the operator.
        rules: ids of the rules used so far.
        like: `None` while no parameter is involved.
        rounding: how far, relatively, what it replaces may be off because a forward computed numbers in its dtype.
    """

    op: Operator
    rules: frozenset[str] = frozenset()
    like: Like | None = None
    rounding: float = 0.0

    @property
    def is_identity(self) -> bool:
        """Whether it is the identity, with no parameter of its own."""
        return isinstance(self.op, Scale) and self.like is None and self.op.is_identity

    def by(self, rules: frozenset[str]) -> Term:
        """The same operator, made with these rules as well."""
        return self if rules <= self.rules else Term(self.op, self.rules | rules, self.like, self.rounding)


def _like(*terms: Term) -> Like | Refusal | None:
    likes = [t.like for t in terms if t.like is not None]
    joined: Like | Refusal | None = likes[0] if likes else None
    for like in likes[1:]:
        assert isinstance(joined, Like)
        joined = joined.joined(like)
        if isinstance(joined, Refusal):
            return joined
    return joined


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
        like = _like(*terms)
        if isinstance(like, Refusal):
            return like
        rules = frozenset([rule] if rule else []).union(*(t.rules for t in terms))
        return Term(op, rules, like, max(t.rounding for t in terms))


def _name(term: Term) -> str:
    return type(term.op).__name__
