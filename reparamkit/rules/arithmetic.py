"""Arithmetic with sizes: what a number computed from the sizes of a value is, when it is the same for every size.

``(n - ((n - 2 - 1) / 1 + 1)) / 2`` is 1 whatever `n` is; SpeechBrain computes its padding so. A number is kept as
``a n_1 + b n_2 + ... + c``; it is known when only `c` is left. Coefficients are fractions of a small power of two, with
which Python's floats compute exactly: ``n / 3 * 3`` may not be `n`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

from reparamkit.rules.sizes import axis_of

Linear = Mapping[Any, Fraction]
_ONE = ""  # stands for 1 beside the sizes
_FINEST = 1 << 20


def number(item: Any) -> Any:
    """`item` itself when it is no traced value; else the number it is, or `None` when that depends on a size."""
    if getattr(item, "node", None) is None:
        return item
    found = _linear(item)
    if found is None or any(found[key] for key in found if key != _ONE):
        return None
    known = found.get(_ONE, Fraction(0))
    return int(known) if known.denominator == 1 else None


def _linear(item: Any) -> Linear | None:
    """A traced number as coefficients of sizes and of 1."""
    if isinstance(item, (int, float)) and math.isfinite(item):
        return _exact({_ONE: Fraction(item)})
    if getattr(item, "node", None) is None:
        return None
    size = axis_of(item)
    if size is not None:
        return {(id(size[0]), size[1]): Fraction(1)}
    rule = _RULES.get(item.node.target)
    operands = {id(value.node): value for value in item.inputs}
    parts = [_linear(operands.get(id(arg), arg)) for arg in item.node.args]
    return None if rule is None or None in parts else _exact(rule(*parts))


def _exact(found: Linear | None) -> Linear | None:
    """`found`, where floats hold it exactly."""
    return None if found is None or any(_FINEST % value.denominator for value in found.values()) else found


def _plus(a: Linear, b: Linear, sign: int = 1) -> Linear:
    return {key: a.get(key, Fraction(0)) + sign * b.get(key, Fraction(0)) for key in {**a, **b}}


def _minus(a: Linear, b: Linear) -> Linear:
    return _plus(a, b, -1)


def _times(a: Linear, b: Linear) -> Linear | None:
    by, other = (a, b) if set(a) <= {_ONE} else (b, a)
    if not set(by) <= {_ONE}:
        return None
    return {key: value * by.get(_ONE, Fraction(0)) for key, value in other.items()}


def _over(a: Linear, b: Linear) -> Linear | None:
    divisor = b.get(_ONE, Fraction(0))
    return None if set(b) != {_ONE} or not divisor else {key: value / divisor for key, value in a.items()}


def _rounded(to: Callable[[Fraction], int]) -> Callable[[Linear], Linear | None]:
    """Rounding changes only the constant where every size has a whole coefficient."""

    def rounded(a: Linear) -> Linear | None:
        if any(value.denominator != 1 for key, value in a.items() if key != _ONE):
            return None
        return {**a, _ONE: Fraction(to(a.get(_ONE, Fraction(0))))}

    return rounded


def _floor_over(a: Linear, b: Linear) -> Linear | None:
    exact = _over(a, b)
    return None if exact is None else _rounded(math.floor)(exact)


_RULES: Mapping[Any, Callable[..., Linear | None]] = {
    operator.add: _plus,
    operator.sub: _minus,
    operator.mul: _times,
    operator.truediv: _over,
    operator.floordiv: _floor_over,
    math.floor: _rounded(math.floor),
    math.ceil: _rounded(math.ceil),
}
