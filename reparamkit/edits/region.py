"""What lies between two values of a flow, and whether it can be replaced as one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reparamkit.errors import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reparamkit.flow import Value


def leading_to(target: Value, source: Value) -> Iterator[Value]:
    """What `target` is computed from, itself first, each once and sizes aside; `source` is where it ends."""
    seen: set[Value] = set()
    stack = [target]
    while stack:
        value = stack.pop()
        if value in seen or value is source:
            continue
        seen.add(value)
        yield value
        stack.extend(v for v in value.inputs if not v.meta)


def region(source: Value, target: Value) -> tuple[Value, ...] | Refusal:
    """The values between `source` and `target`, `target` included, if they can be replaced together."""
    found: set[Value] = set()
    for value in leading_to(target, source):
        if value.term is None and value is not target and value.stacked is None:
            return Refusal("RK318", f"{value.where} is not an operator of {source.where}", target.where)
        found.add(value)
    between = tuple(sorted(found, key=lambda v: (v.index, v.share is None)))
    for value in between:
        if value is target:
            continue
        if value.unstable is not None:
            return value.unstable
        outside = [u for u in value.readers if u not in found]
        if outside or value.escapes:
            reader = outside[0].where if outside else "the caller"
            return Refusal("RK305", f"{value.where} is also read by {reader}", target.where)
    return between
