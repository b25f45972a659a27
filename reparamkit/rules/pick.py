"""core/pick: some channels of a value.

Formula: a slice of what a convolution gives is the convolution with those rows, ``(W x + b)[I] = W[I] x + b[I]``.
Depthwise layers that each read their slice of one value, stacked again, are one depthwise layer: its kernel is theirs
on top of each other (InceptionNeXt, Yu et al., 2023, §3.2; RepNeXt, Zhao et al., 2024). A slice that only passes by is
a dirac of one tap.

Conditions: the channels are numbers while tracing, and how many there are is known. For a stack, the slices follow one
another and are all of the value, and every layer is depthwise: others are left to take the norm behind them, if any.
What is picked from a grouped convolution is picked from the same one without groups, unless it is depthwise.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from reparamkit.answers import Call, Context, Through
from reparamkit.errors import Refusal
from reparamkit.operators import Conv, Operator, Picked, Scale, Stencil
from reparamkit.operators.conv import stack, with_groups
from reparamkit.operators.joined import selected
from reparamkit.operators.vector import Vector
from reparamkit.rule import Compose, Concat, Lift, Rule
from reparamkit.rules import dilation, kernel_padding, pad, scale, sequential, shuffle
from reparamkit.rules.sizes import channel_axis, channels_of

RULE = "core/pick"
_PLAIN: dict[tuple[type, type], Callable[[Any, Any], Operator | Refusal]] = {
    (r.outer, r.inner): r.run for r in (*scale.rules, *sequential.rules) if isinstance(r, Compose)
}


def _composed(outer: Any, inner: Any) -> Any:
    if isinstance(inner, Scale) and inner.is_identity:
        return outer
    if isinstance(outer, Scale) and outer.is_identity:
        return inner
    return _PLAIN[type(outer), type(inner)](outer, inner)


def after_picked(outer: Conv | Scale | Stencil, inner: Picked) -> Picked | Refusal:
    """``outer(inner(x))``."""
    if outer.nd not in (None, inner.nd):
        return Refusal("RK310", f"a slice of channels with {inner.nd} axes behind them, a layer of {outer.nd}")
    made = _composed(outer, inner.op)
    return made if isinstance(made, Refusal) else replace(inner, op=made)


def picked_of_picked(outer: Picked, inner: Picked) -> Picked | Refusal:
    """A slice of an operator of a slice."""
    if not isinstance(inner.op, (Scale, Stencil)):
        made = picked_of_conv(outer, inner.op)
        return made if isinstance(made, Refusal) else replace(inner, op=made)
    rest = picked_of_scale(outer, inner.op) if isinstance(inner.op, Scale) else picked_of_stencil(outer, inner.op)
    if isinstance(rest, Refusal):
        return rest
    return replace(rest, index=tuple(inner.index[i] for i in outer.index), channels=inner.channels)


def picked_of_scale(outer: Picked, inner: Scale) -> Picked | Refusal:
    """A slice of what is scaled."""
    if inner.nd not in (None, outer.nd):
        return Refusal("RK310", f"a scale with {inner.nd} axes behind its channels, a slice with {outer.nd}")
    mine, device = list(outer.index), inner.scale.device
    parts = [p if p is None or not p.ndim else p[torch.tensor(mine, device=device)] for p in (inner.scale, inner.shift)]
    assert parts[0] is not None
    made = _composed(outer.op, Scale(parts[0], parts[1], inner.nd))
    return made if isinstance(made, Refusal) else replace(outer, op=made)


def picked_of_stencil(outer: Picked, inner: Stencil) -> Picked | Refusal:
    """A slice of what is filtered channel by channel."""
    made = _composed(outer.op, inner)
    return made if isinstance(made, Refusal) else replace(outer, op=made)


def picked_of_conv(outer: Picked, inner: Conv) -> Any:
    """A slice of what a convolution gives: its rows."""
    if inner.nd != outer.nd:
        return Refusal("RK310", f"a slice of channels with {outer.nd} axes behind them, a layer of {inner.nd}")
    if inner.out_channels != outer.channels:
        return Refusal("RK311", f"{inner.out_channels} channels, a slice of {outer.channels}")
    depthwise = inner.groups == inner.out_channels == inner.in_channels
    index = torch.tensor(outer.index, device=inner.weight.device)
    whole = inner if depthwise else with_groups(inner, 1)
    rows = replace(whole, weight=selected(whole.weight, index), bias=_rows(whole.bias, index))
    if not depthwise:
        return _composed(outer.op, rows)
    rows = replace(rows, groups=len(outer.index), pad_value=_rows(inner.pad_value, index))
    made = _composed(outer.op, rows)
    return made if isinstance(made, Refusal) else replace(outer, op=made)


def _rows(values: Vector | None, index: torch.Tensor) -> Vector | None:
    return None if values is None else Vector(lambda: values.value[index], values.rounding)


def stack_picked(parts: Sequence[Picked]) -> Conv | Refusal:
    """Layers of the slices of one value, stacked."""
    first = parts[0]
    index = tuple(i for part in parts for i in part.index)
    if index != tuple(range(first.channels)) or any(part.nd != first.nd for part in parts):
        return Refusal("RK319", "the slices are not all of the value, one after the other")
    convs = [_as_conv(part) for part in parts]
    wanted = {(op.weight.shape[1], op.out_channels // op.groups) for op in convs}
    if wanted != {(1, 1)}:
        return Refusal("RK315", f"channels in and out of a group: {', '.join(map(str, sorted(wanted)))}")
    aligned = _one_geometry(convs)
    if isinstance(aligned, Refusal):
        return aligned
    return replace(stack(aligned), groups=sum(op.groups for op in convs))


def _as_conv(part: Picked) -> Conv:
    return part.op if isinstance(part.op, Conv) else part.op.bind(*_size(part))


def _size(part: Picked) -> tuple[int, ...]:
    return (len(part.index),) if isinstance(part.op, Stencil) else (part.nd, len(part.index))


def _one_geometry(convs: list[Conv]) -> list[Conv] | Refusal:
    """All kernels in the union of their supports; padding that is read must be zeros."""
    if any(op.reads_padding and (op.padding_mode != "zeros" or op.pad_value is not None) for op in convs):
        return Refusal("RK312", "slices that are padded in different ways")
    # Alignment compares channels, which are those of different slices here.
    made = [replace(op, groups=1) for op in convs]
    for _ in range(2):  # the first time around the last one gets the union of all supports
        for at in range(1, len(made)):
            pair = _pair(made[at - 1], made[at])
            if isinstance(pair, Refusal):
                return pair
            made[at - 1], made[at] = pair
        made.reverse()
    return made


def _pair(a: Conv, b: Conv) -> tuple[Conv, Conv] | Refusal:
    for align in (dilation.align, kernel_padding.align):
        pair: Any = align(a, b)
        if isinstance(pair, Refusal):
            return pair
        a, b = pair
    return a, b


def picked(value: Any, channels: range | list[int], total: int, nd: int) -> Through | Refusal:
    """The `channels` of `value`, which has `total` with `nd` axes behind them."""
    if not channels:
        return Refusal("RK331", "a slice of no channels")
    return Through(value, Picked(Scale(), tuple(channels), total, nd))


def lift_item(call: Call, context: Context) -> Through | Refusal:
    """``x[:, a:b]``, one part of `chunk` or `split`; positions that are cropped are `core/pad`."""
    value, index = call.args
    if type(index) is int and call.is_input(value):
        return _part(value, index)
    if _is_channel_list(index):
        return shuffle.selected(value, index[1], context)
    if not _is_channel_slice(index):
        return pad.lift_slice(call, context)
    total, rank, part = channels_of(value), context.rank, index[1]
    known = total is not None and rank is not None and channel_axis(value) == rank - 2
    if not known or any(type(b) is not int and b is not None for b in (part.start, part.stop, part.step)):
        return Refusal("RK331", "a slice of an unknown number of channels")
    assert total is not None
    assert rank is not None
    return picked(value, range(total)[part], total, rank - 2)


def lift_narrow(call: Call, context: Context) -> Through | Refusal:
    """`narrow` of the channels."""
    bound = call.bind("input", "dim", "start", "length")
    value, (dim, start, length) = bound["input"], (bound[name] for name in ("dim", "start", "length"))
    total, rank = channels_of(value), context.rank
    known = total is not None and rank is not None and channel_axis(value) == rank - 2
    if not known or any(type(n) is not int for n in (dim, start, length)) or dim % (rank or 1) != 1:
        return Refusal("RK331", "a slice of an unknown number of channels")
    assert total is not None
    assert rank is not None
    first = start % total if start else 0
    return picked(value, range(total)[first : first + length], total, rank - 2)


def _is_channel_list(index: Any) -> bool:
    """Whether an index is that of ``x[:, [2, 0, 1]]``, or of a tensor in place of the list."""
    whole = slice(None)
    if not isinstance(index, tuple) or len(index) < 2 or index[0] != whole:
        return False
    return isinstance(index[1], (list, torch.Tensor)) and all(rest is Ellipsis or rest == whole for rest in index[2:])


def _is_channel_slice(index: Any) -> bool:
    whole = slice(None)
    if not isinstance(index, tuple) or len(index) < 2 or index[0] != whole or not isinstance(index[1], slice):
        return False
    return index[1] != whole and all(rest is Ellipsis or rest == whole for rest in index[2:])


def _part(value: Any, index: int) -> Through | Refusal:
    sizes = value.cuts
    if sizes is None or not -len(sizes) <= index < len(sizes):
        return Refusal("RK331", "an item of a value")
    index %= len(sizes)
    start = sum(sizes[:index])
    source = value.inputs[0]
    return picked(source, range(start, start + sizes[index]), sum(sizes), source.rank - 2)


_OTHERS = (Conv, Scale, Stencil)

rules: tuple[Rule, ...] = (
    *(Compose(RULE, kind, Picked, after_picked) for kind in _OTHERS),
    Compose(RULE, Picked, Picked, picked_of_picked),
    Compose(RULE, Picked, Scale, picked_of_scale),
    Compose(RULE, Picked, Stencil, picked_of_stencil),
    Compose(RULE, Picked, Conv, picked_of_conv),
    Concat(RULE, Picked, stack_picked),
    *(Lift(RULE, target, lift_narrow) for target in (torch.narrow, ".narrow")),
    Lift(pad.RULE, operator.getitem, lift_item),  # a crop, as long as no slice of channels is combined with anything
)
