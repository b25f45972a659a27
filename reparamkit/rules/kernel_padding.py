"""core/kernel_padding: a kernel sits somewhere in a larger one.

Formula: a branch with left padding `p`, kernel `k` and dilation `d` reads, for output position 0, the input
positions ``-p, d - p, .., d(k-1) - p``. So in a merged kernel with left padding `P` its taps stand at offset
``(P - p) / d``; the merged kernel is the union of the supports, which is a plain centred zero padding only
for odd kernels with "same" padding (RepVGG §3.3; ACNet's 1x3 and 3x1; cropped branches have negative `p`).

Conditions, each refused with its numbers: equal strides; equal ``pad_left + pad_right - d(k-1)`` on every
axis (then the outputs have one size for *every* input size); equal padding modes, unless a branch reads no
padding; equal dilations on axes where both have more than one tap, offsets that are multiples of it
(`core/dilation` arranges that).
"""

from __future__ import annotations

from dataclasses import replace

from reparamkit.errors import Refusal
from reparamkit.operators import Conv, Operator, Stencil
from reparamkit.operators.placed import embedded
from reparamkit.operators.vector import Vector, is_zero, values
from reparamkit.rule import Align, Rule

RULE = "core/kernel_padding"


def sampling(a: Conv, b: Conv) -> Refusal | None:
    """Why outputs of `a` and `b` do not line up, if they do not."""
    if a.nd != b.nd:
        return Refusal("RK310", f"spatial axes: {a.nd} and {b.nd}")
    if a.in_channels != b.in_channels:
        return Refusal("RK311", f"in_channels: {a.in_channels} and {b.in_channels}")
    if a.stride != b.stride:
        return Refusal("RK313", f"{a.stride} and {b.stride}")
    surplus = [_surplus(op) for op in (a, b)]
    if surplus[0] != surplus[1]:
        return Refusal(
            "RK317",
            f"padding minus kernel span is {surplus[0]} and {surplus[1]} "
            f"(kernels {a.kernel_size} and {b.kernel_size}, padding {a.padding} and {b.padding})",
        )
    if a.reads_padding and b.reads_padding:
        return _border(a, b)
    return None


def _surplus(op: Conv) -> tuple[int, ...]:
    return tuple(sum(p) - e + 1 for p, e in zip(op.padding, op.extent, strict=True))


def _border(a: Conv, b: Conv) -> Refusal | None:
    if a.padding_mode != b.padding_mode:
        return Refusal("RK312", f"{a.padding_mode} and {b.padding_mode}")
    if a.padding_mode != "zeros" or (is_zero(a.pad_value) and is_zero(b.pad_value)):
        return None
    device = a.weight.device
    gap = values(a.pad_value, a.in_channels, device) - values(b.pad_value, b.in_channels, device)
    if not bool(gap.any()):
        return None
    return Refusal("RK316", f"the branches pad with values that differ by up to {float(gap.abs().max()):.3g}")


def _border_of(a: Conv, b: Conv) -> tuple[str, Vector | None]:
    reader = a if a.reads_padding else b
    return reader.padding_mode, reader.pad_value if reader.reads_padding else None


def align(a: Operator, b: Operator) -> tuple[Operator, Operator] | Refusal:
    """Set both kernels into the union of their supports."""
    if isinstance(a, Stencil) and isinstance(b, Stencil):
        pair = align(a.one, b.one)
        if isinstance(pair, Refusal):
            return pair
        return _stencil(a, pair[0]), _stencil(b, pair[1])
    if not (isinstance(a, Conv) and isinstance(b, Conv)):
        return a, b
    refusal = sampling(a, b)
    if refusal is not None:
        return refusal
    return _embed_both(a, b)


def _stencil(before: Stencil, one: Operator) -> Stencil:
    assert isinstance(one, Conv)
    return before if one is before.one else Stencil(one)


def _embed_both(a: Conv, b: Conv) -> tuple[Conv, Conv]:
    left = [max(p[0], q[0]) for p, q in zip(a.padding, b.padding, strict=True)]
    dilation, size, padding = [], [], []
    for axis, start in enumerate(left):
        d = a.dilation[axis] if a.kernel_size[axis] > 1 else b.dilation[axis]
        taps = max((start - op.padding[axis][0]) // d + op.kernel_size[axis] for op in (a, b))
        dilation.append(d)
        size.append(taps)
        padding.append((start, _surplus(a)[axis] + d * (taps - 1) - start))
    mode, pad_value = _border_of(a, b)
    made = []
    for op in (a, b):
        offset = [(start - p[0]) // d for start, p, d in zip(left, op.padding, dilation, strict=True)]
        same = (tuple(size), tuple(padding), tuple(dilation), mode)
        if same == (op.kernel_size, op.padding, op.dilation, op.padding_mode) and op.pad_value is pad_value:
            made.append(op)
            continue
        weight = embedded(op.weight, size, offset, [1] * op.nd)
        made.append(
            replace(
                op,
                weight=weight,
                padding=tuple(padding),
                dilation=tuple(dilation),
                padding_mode=mode,
                pad_value=pad_value,
            )
        )
    return made[0], made[1]


rules: tuple[Rule, ...] = (Align(RULE, 20, align),)
