"""crossing: the proof that a scale may stand in front of an activation instead of behind it.

The proof of a region covers the layer and its scale, whichever side of the activation they are on. What is left to show
is ``f(s x) = s f(x)``, for the activation itself and the numbers of that scale, in float64: on values of both signs and
of magnitudes far apart, since an activation may bend anywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reparamkit.prove.reference import run_value
from reparamkit.rules import homogeneous

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from reparamkit.flow import Flow, Value

_FACTORS = tuple(sign * 2.0**power for power in (-12, -4, 0, 4, 12) for sign in (1, -1))


def crossing_error(scale: Value, flow: Flow, known: Mapping[Value, Tensor]) -> float:
    """How far apart the two sides are, relative to the largest number; 0 where no scale went anywhere.

    Args:
        scale: the last value of a region, which an activation reads where it went in front of that.
        flow: where both are.
        known: what the region computes.
    """
    if scale.term is None or homogeneous.RULE not in scale.term.rules:
        return 0.0
    (act,), read = scale.readers, scale.inputs[0]
    errors = []
    for factor in _FACTORS:
        x = known[read] * factor
        behind = run_value(scale, flow, {read: run_value(act, flow, {scale: x.clone()})})
        front = run_value(act, flow, {scale: run_value(scale, flow, {read: x})})
        largest = max(float(behind.abs().max()), float(front.abs().max())) if x.numel() else 0.0
        errors.append(float((front - behind).abs().max()) / largest if largest else 0.0)
    return max(errors)
