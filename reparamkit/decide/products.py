"""products: the flow is changed so that each layer behind a product and a sum has them in front of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import fx

from reparamkit.flow import Share, Value
from reparamkit.lift.link import link

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from reparamkit.decide.spreading import Spread
    from reparamkit.term import Term


def put_products(
    spread: Spread, steps: tuple[Value, ...], groups: Sequence[set[Value]], term: Term, linear: bool
) -> None:
    """A value between the last of `steps` and each group of what reads it.

    Args:
        spread: gets the new values, and can change the flow back.
        steps: products and sums with constants.
        groups: what reads the last of them: a region, or one layer.
        term: what the new values are.
        linear: whether that is the product alone.
    """
    last = steps[-1]
    made = [_product(spread, steps, group, term, linear) for group in groups]
    for product, group in zip(made, groups, strict=True):
        for value in group:
            spread.read_instead(value, last, product)
    inside = set().union(*groups)
    for value in _behind(last):
        if value.source is last and value not in inside:
            spread.change(value, source=None, term=None)  # a sum of several groups: an operator of none
    asking = [user for user in last.users if user.meta]
    spread.change(last, users=[*made, *asking], source=None, term=None)


def _product(spread: Spread, steps: tuple[Value, ...], group: set[Value], term: Term, linear: bool) -> Value:
    last = steps[-1]
    readers = [user for user in last.users if user in group]
    first = min(readers, key=lambda reader: reader.index)
    node = fx.Graph().call_function(torch.mul)
    made = Value(first.path, node, first.index, [last], rank=last.rank, under=last.under)
    made.share, made.users = Share(last, last, linear=linear, steps=steps), readers
    link(made, last, term)
    spread.shares.append(made)
    return made


def _behind(last: Value) -> Iterator[Value]:
    """Whatever is computed from `last`, each once."""
    seen, stack = {last}, [last]
    while stack:
        for user in stack.pop().users:
            if user not in seen:
                seen.add(user)
                stack.append(user)
                yield user
