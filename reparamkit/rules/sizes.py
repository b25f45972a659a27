"""Sizes in a traced forward: which axis of which value a number is."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from reparamkit.nodes.names import name_of
from reparamkit.nodes.shapes import asked_size, is_shape
from reparamkit.nodes.tree import mapped
from reparamkit.operators import Arranged, Conv, Layout, Picked, Scale, Stencil

_ELEMENTWISE = frozenset(
    "relu relu_ relu6 silu gelu sigmoid tanh hardswish hardsigmoid leaky_relu leakyrelu elu mish softplus".split()
)


def channels_of(value: Any) -> int | None:
    """Channels of a value, where the operators on the way to it tell."""
    passed: list[Layout] = []
    for step in value.chain():
        op = None if step.term is None else step.term.op
        if isinstance(op, Layout):
            passed.append(op)
            continue
        if isinstance(op, Arranged) and op.back is not None:
            passed.append(op.back)
        known = _made_by(op)
        if known is not None:
            return _regrouped(known, passed)
        if isinstance(op, Arranged) and op.front is not None:
            passed.append(op.front)
    return None


def _made_by(op: Any) -> int | None:
    """Channels that an operator tells of."""
    if isinstance(op, Picked) and isinstance(op.op, (Scale, Stencil)):
        return len(op.index)
    op = op.op if isinstance(op, (Arranged, Picked)) else op
    return getattr(op, "out_channels", None) or getattr(op, "channels", None) or None


def _regrouped(channels: int, passed: list[Layout]) -> int:
    """Channels behind rearrangements, the last of which is given first."""
    for layout in reversed(passed):
        for step in layout.channels:
            channels = step.count(channels)
    return channels


def channels_in(value: Any) -> int | None:
    """Channels of a value, or of what stands in front of the activations that it is made by."""
    while channels_of(value) is None and len(value.inputs) == 1 and _is_elementwise(value):
        value = value.inputs[0]
    return channels_of(value)


def _is_elementwise(value: Any) -> bool:
    if value.module is not None:
        kind = type(value.module)
        return kind.__module__.startswith("torch.nn.") and kind.__name__.lower() in _ELEMENTWISE
    return name_of(value.node.target) in _ELEMENTWISE


def is_grouped(value: Any) -> bool:
    """Whether a value is scaled channels of a convolution of several groups, none of them a single channel."""
    for step in value.chain():
        op = None if step.term is None else step.term.op
        if isinstance(op, Conv):
            return 1 < op.groups < max(op.in_channels, op.out_channels)
        if not isinstance(op, Scale):
            return False
    return False


def is_channels(size: Any, value: Any, behind: int) -> bool:
    """Whether `size` is the number of channels of `value`, which have `behind` axes behind them."""
    channels = channels_of(value)
    if channels is None or channel_axis(value) not in (behind, None):
        return False
    if type(size) is int:
        return size == channels
    found = axis_of(size)
    if found is None:
        return False
    holder, axis = found
    here = kept_from(holder, value)
    return here is not None and holder.rank is not None and axis % holder.rank == holder.rank - 1 - here[1]


def channel_number(size: Any) -> int | None:
    """A number that is plain, or the channels of a value, or a part of those, ``int(x.shape[1] // 2)``."""
    node = getattr(size, "node", None)
    if node is None:
        return size if type(size) is int else None
    found = axis_of(size)
    if found is not None:
        holder, axis = found
        behind = None if holder.rank is None else holder.rank - 1 - axis % holder.rank
        return channels_of(holder) if behind is not None and channel_axis(holder) == behind else None
    whole = channel_number(size.inputs[0]) if len(size.inputs) == 1 else None
    if whole is None or node.target is int:
        return whole
    by = node.args[1] if node.target in (operator.floordiv, operator.truediv) else None
    exact = type(by) is int and by > 0 and (node.target is operator.floordiv or whole % by == 0)
    return whole // by if exact and type(by) is int else None


def is_batch(size: Any, value: Any) -> bool:
    """Whether `size` is the first axis of `value`, which no layer changes."""
    found = axis_of(size)
    return found is not None and found[1] == 0 and any(step is found[0] for step in value.chain())


def is_position(size: Any, value: Any, axis: int) -> bool:
    """Whether `size` is that of an axis of `value` behind its channels, read off it or off what is as large."""
    found = axis_of(size)
    if found is None or found[0].rank is None or found[1] % found[0].rank != axis:
        return False
    for step in value.chain():
        if step is found[0]:
            return True
        if step.term is None or not keeps_positions(step.term.op):
            return False
    return False


def keeps_positions(op: Any) -> bool:
    """Whether an operator gives as many positions as it reads, however many those are."""
    op = op.op if isinstance(op, Picked) else op.one if isinstance(op, Stencil) else op
    if not isinstance(op, Conv):
        return isinstance(op, Scale)
    taps = zip(op.kernel_size, op.dilation, op.padding, strict=True)
    return all(s == 1 for s in op.stride) and all(sum(pads) == d * (k - 1) for k, d, pads in taps)


def axis_of(size: Any) -> tuple[Any, int] | None:
    """The value and the axis whose size this is: of ``x.shape[1]``, ``x.size(1)``, an entry of `listed`."""
    if isinstance(size, tuple):
        return size
    node = getattr(size, "node", None)
    asked = asked_size(node) if node is not None and size.inputs else None
    if asked is None:
        return None
    holder = size.inputs[0]
    while holder.meta and holder.inputs:
        holder = holder.inputs[0]
    return holder, asked[1]


def listed(sizes: Sequence[Any]) -> list[Any] | None:
    """Sizes one by one, where some are in lists, shapes or parts of shapes; `None` where nobody knows how many.

    An entry of a shape is the value it is of and the axis.
    """
    parts = [listed(size) if isinstance(size, (list, tuple)) else _entries(size) for size in sizes]
    return None if None in parts else [size for part in parts for size in part or ()]


def _entries(size: Any) -> list[Any] | None:
    node = getattr(size, "node", None)
    if node is None:
        return [size]
    if is_shape(node):
        rank = size.inputs[0].rank
        return None if rank is None else [(size.inputs[0], axis) for axis in range(rank)]
    if node.target is operator.getitem and isinstance(node.args[1], slice):
        whole = _entries(size.inputs[0])
        return None if whole is None or len(size.inputs) > 1 else whole[node.args[1]]
    if node.target is operator.add and any(map(_is_several, size.inputs)):
        values = {value.node: value for value in size.inputs}
        return listed(mapped(node.args, values.get))
    return [size]


def _is_several(size: Any) -> bool:
    """Whether it is a shape or several entries of one."""
    node = size.node
    whole = node.args[0] if node.target is operator.getitem and isinstance(node.args[1], slice) else node
    return is_shape(whole) or (node.target is operator.add and any(map(_is_several, size.inputs)))


def whose(holder: Any, axis: int) -> tuple[Any, int]:
    """The first value, and its axis, that is as long as this one of `holder` because nothing between changes it."""
    rank = holder.rank
    while holder.term is not None and holder.source is not None and rank is not None:
        op, behind = holder.term.op, rank - 1 - axis
        if isinstance(op, Layout):
            before = op.before(behind) if op.rank is not None else None
            if before is None:
                break
            axis = rank - 1 - before
        elif axis == 0 or (behind and getattr(op, "nd", None) == 0):
            pass  # the batch; what a linear layer leaves alone
        elif not isinstance(op, Scale) and not (axis > 1 and keeps_positions(op)):
            break
        holder = holder.source
    return holder, axis


def kept_from(other: Any, value: Any) -> tuple[int, int] | None:
    """Axes behind the channels in `value` and in `other`, from which only scales and rearrangements lead to `value`."""
    between = []
    for step in value.chain():
        if step is other:
            break
        if step.term is None or not isinstance(step.term.op, (Scale, Layout)):
            return None
        if isinstance(step.term.op, Layout) and step.term.op.channels:
            return None
        between.append(step.term.op)
    else:
        return None
    layouts = [op for op in between if isinstance(op, Layout)]
    there = channel_axis(other)
    if there is not None:
        here = _through(there, [op.after for op in reversed(layouts)])
        return None if here is None else (here, there)
    here = channel_axis(value)
    there = _through(here, [op.before for op in layouts])
    return None if here is None or there is None else (here, there)


def _through(behind: int | None, moves: list[Any]) -> int | None:
    for move in moves:
        behind = None if behind is None else move(behind)
    return behind


def channel_axis(value: Any) -> int | None:
    """Axes behind the channels of a value; `None` where nothing tells."""
    moved: list[Layout] = []
    for step in value.chain():
        op = None if step.term is None else step.term.op
        if isinstance(op, Layout):
            moved.append(op)
            continue
        nd = getattr(op, "nd", None)
        if nd is None:
            continue
        for layout in reversed(moved):
            nd = None if nd is None else layout.after(nd)
        return nd
    return None
