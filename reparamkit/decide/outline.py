"""outline: what the choice of regions between two values depends on, numbers aside.

Blocks that are alike are cut in the same way: where two stretches of a flow have one outline, what was chosen in the
first is chosen in the second, without a search.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reparamkit.edits.region import leading_to
from reparamkit.operators import Conv, Scale

if TYPE_CHECKING:
    from collections.abc import Callable

    from reparamkit.decide.cost import Cost
    from reparamkit.flow import Value

_MOST = 96  # values; longer stretches do not come twice


@dataclass(frozen=True)
class Outline:
    """A stretch of a flow.

    Attributes:
        values: what is in it, in order of execution, behind where it starts.
        shape: equal for stretches that are alike.
    """

    values: tuple[Value, ...]
    shape: tuple[Any, ...]


def outline(value: Value, origin: Value, cost: Callable[[Value], Cost]) -> Outline | None:
    """What leads from `origin` to `value`; `None` where something is in it that is compared in no other way.

    Args:
        value: where the stretch ends.
        origin: where it starts; not part of it.
        cost: of a value as it is.
    """
    found: list[Value] = []
    for step in leading_to(value, origin):
        if step.term is None or len(found) == _MOST:
            return None
        found.append(step)
    values = sorted(found, key=lambda v: v.index)
    places = {origin: -1, **{v: place for place, v in enumerate(values)}}
    rows = []
    for step in values:
        kind = _kind(step)
        if kind is None:
            return None
        read = tuple(places[v] for v in step.inputs if not v.meta)
        rows.append((kind, read, tuple(places.get(v) for v in step.readers), cost(step)))
    return Outline(tuple(values), (origin.density, *rows))


def _kind(value: Value) -> tuple[Any, ...] | None:
    """What the value itself is."""
    term = value.term
    geometry = None if term is None else _geometry(term.op)
    odd = value.share is not None or value.gone or value.split is not None or value.tail is not None
    if term is None or geometry is None or odd or not all(type(factor) is float for factor, _ in value.terms):
        return None
    factors = tuple(factor for factor, _ in value.terms)
    made = term.is_identity, term.rules, term.like, factors, value.generated, value.idle
    unstable = None if value.unstable is None else value.unstable.code
    return (*geometry, *made, len(value.stacks), value.stack_dim, value.escapes, unstable, value.under)


def _geometry(op: Any) -> tuple[Any, ...] | None:
    if isinstance(op, Scale):
        return Scale, op.channels, op.nd, op.shift is None
    if not isinstance(op, Conv):
        return None
    empty = op.bias is None, op.pad_value is None
    return Conv, op.weight.shape, op.stride, op.padding, op.dilation, op.groups, op.padding_mode, *empty
