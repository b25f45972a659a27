"""Chains of values: the operator from one to another, the nearest common source, the sum of branches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reparamkit.errors import Refusal
from reparamkit.merge import Algebra
from reparamkit.operators import Picked, Scale
from reparamkit.term import Term

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reparamkit.flow import Value


def path_term(value: Value, source: Value, algebra: Algebra) -> Term | Refusal:
    """The operator from `source` to `value`, along its chain.

    Outer operators are combined first, and where that is refused the inner ones: either order may be the one in
    which every step is exact.
    """
    term: Term | None = None
    for step in value.chain():
        if step is source:
            return Term(Scale()) if term is None else term
        if step.term is None:
            return Refusal("RK318", "the value does not start there", value.where)
        made = step.term if term is None else algebra.compose(term, step.term)
        if isinstance(made, Refusal):
            return _inner_first(value, source, algebra, made)
        term = made
    return Refusal("RK318", "the value does not start there", value.where)


def _inner_first(value: Value, source: Value, algebra: Algebra, refused: Refusal) -> Term | Refusal:
    if value.source is None or value.term is None or value.source is source:
        return refused.at(value.where)
    inner = path_term(value.source, source, algebra)
    if isinstance(inner, Refusal):
        return refused.at(value.where)
    return algebra.compose(value.term, inner)


def nearest_common(values: list[Value]) -> Value | None:
    """The nearest value that all of `values` are operators of."""
    return next(_common(values), None)


def _common(values: list[Value]) -> Iterator[Value]:
    """The values that all of `values` are operators of, the nearest first."""
    others = [set(value.chain()) for value in values[1:]]
    return (v for v in values[0].chain() if all(v in other for other in others))


def sum_term(terms: tuple[tuple[float | Scale | Picked, Value], ...], algebra: Algebra) -> tuple[Value, Term] | Refusal:
    """The sum of `terms` as one operator of their nearest common source.

    Of slices of one value there is no rule for the sum; there is one for rows of the convolution that makes it.
    """
    refused = Refusal("RK318", "the summed values have no common source")
    for source in _common([v for _, v in terms]):
        made = _total(terms, source, algebra)
        if isinstance(made, Term):
            return source, made
        refused = made
        if refused.code != "RK319":
            break
    return refused


def _total(terms: tuple[tuple[float | Scale | Picked, Value], ...], source: Value, algebra: Algebra) -> Term | Refusal:
    total: Term | None = None
    for factor, value in terms:
        term = path_term(value, source, algebra)
        if isinstance(term, Term):
            term = algebra.scaled(factor, term)
        if isinstance(term, Term) and total is not None:
            term = algebra.add(total, term)
        if isinstance(term, Refusal):
            return term
        total = term
    assert total is not None
    return total
