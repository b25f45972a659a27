"""core/kernel_padding for transposed convolutions: a kernel sits somewhere in a larger one.

Formula: tap `t` of a kernel with padding `p` and dilation `d` adds input position `i` to output position
``stride i + d t - p``. So in a merged kernel with padding `P` its taps stand at offset ``(P - p) / d``; the number of
outputs, ``stride (n - 1) + d (k - 1) - 2 p + output_padding + 1``, stays what it was by the output padding.

Conditions, each refused with its numbers: equal strides, equal dilations where both have more than one tap, equal
numbers of outputs, offsets that are multiples of the dilation, an output padding that torch has.
"""

from __future__ import annotations

from dataclasses import replace

from reparamkit.errors import Refusal
from reparamkit.operators import ConvTranspose, Operator
from reparamkit.operators.placed import embedded
from reparamkit.rule import Align, Rule
from reparamkit.rules.kernel_padding import RULE

_Axis = tuple[int, int, int, int]  # taps, dilation, padding, output padding


def align(a: Operator, b: Operator) -> tuple[Operator, Operator] | Refusal:
    """Set both kernels into the union of their supports."""
    if not (isinstance(a, ConvTranspose) and isinstance(b, ConvTranspose)) or a.geometry == b.geometry:
        return a, b
    if a.nd != b.nd:
        return Refusal("RK310", f"spatial axes: {a.nd} and {b.nd}")
    if (a.in_channels, a.out_channels) != (b.in_channels, b.out_channels):
        return Refusal("RK311", f"channels: {a.in_channels, a.out_channels} and {b.in_channels, b.out_channels}")
    if a.groups != b.groups:
        return Refusal("RK315", f"of transposed convolutions: {a.groups} and {b.groups}")
    if a.stride != b.stride:
        return Refusal("RK313", f"{a.stride} and {b.stride}")
    axes: list[_Axis] = []
    for axis in range(a.nd):
        made = _union(a, b, axis)
        if isinstance(made, Refusal):
            return made
        axes.append(made)
    return _set(a, axes), _set(b, axes)


def _union(a: ConvTranspose, b: ConvTranspose, axis: int) -> _Axis | Refusal:
    (k, d, p), (m, e, q) = (_of(op, axis) for op in (a, b))
    if d != e and k > 1 and m > 1:
        return Refusal("RK314", f"{a.dilation} and {b.dilation}")
    beyond = [a.output_padding[axis] + d * (k - 1) - 2 * p, b.output_padding[axis] + e * (m - 1) - 2 * q]
    if beyond[0] != beyond[1]:
        return Refusal("RK317", f"outputs beyond stride times inputs: {beyond[0]} and {beyond[1]}")
    step, padding = (d if k > 1 else e), max(p, q)
    if (padding - p) % step or (padding - q) % step:
        return Refusal("RK314", f"taps {step} apart, paddings {p} and {q}")
    taps = max((padding - p) // step + k, (padding - q) // step + m)
    left = beyond[0] + 2 * padding - step * (taps - 1)
    room = max(a.stride[axis], step)
    while left >= room:
        taps, left = taps + 1, left - step
    if left < 0:
        return Refusal("RK317", f"a kernel of {taps} taps would give {-left} outputs more")
    return taps, step, padding, left


def _of(op: ConvTranspose, axis: int) -> tuple[int, int, int]:
    return op.weight.shape[2 + axis], op.dilation[axis], op.padding[axis]


def _set(op: ConvTranspose, axes: list[_Axis]) -> ConvTranspose:
    offset = [(padding - p) // step for (_, step, padding, _), p in zip(axes, op.padding, strict=True)]
    weight = embedded(op.weight, [taps for taps, _, _, _ in axes], offset, [1] * op.nd)
    return replace(
        op,
        weight=weight,
        dilation=tuple(step for _, step, _, _ in axes),
        padding=tuple(padding for _, _, padding, _ in axes),
        output_padding=tuple(left for _, _, _, left in axes),
    )


rules: tuple[Rule, ...] = (Align(RULE, 21, align),)
