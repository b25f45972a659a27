"""core/layout: a scale per channel does not care how the other axes are arranged.

Formula: for a rearrangement L that keeps the channel axis whole, ``L(s x + t) = s L(x) + t``. So a batch norm behind
``flatten(0, 1)`` folds into the linear layer in front of it (LeViT, TinyViT), one in front of
``flatten(2).transpose(1, 2)`` into the linear layer behind it.

Conditions: the number of axes is known; the channel axis is not merged, split or recounted: for `reshape` and `view`
the sizes up to the channels, or from the channels on, are those of the input. Scales and shifts cross, and layers of
one tap where positions stay apart (`straight.py`); L itself stays where it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from reparamkit.answers import Call, Context, Stack, Through
from reparamkit.errors import Refusal
from reparamkit.operators import Arranged, Conv, ConvTranspose, Layout, Operator, Scale, Stencil
from reparamkit.rule import Compose, Lift, Rule
from reparamkit.rules import scale, sequential
from reparamkit.rules.folded import folded, unfolded
from reparamkit.rules.sizes import channels_of, is_batch, is_channels, kept_from, listed
from reparamkit.rules.stacked import viewed
from reparamkit.rules.straight import moved_pointwise, straight

RULE = "core/layout"
_PLAIN: dict[tuple[type, type], Callable[[Any, Any], Operator | Refusal]] = {
    (r.outer, r.inner): r.run for r in (*scale.rules, *sequential.rules) if isinstance(r, Compose)
}


def _composed(outer: Any, inner: Any) -> Any:
    run = _PLAIN.get((type(outer), type(inner)))
    if run is None:
        return Refusal("RK319", f"no rule composes {type(outer).__name__} with {type(inner).__name__}")
    return run(outer, inner)


def _moved(op: Scale, behind: int | None, move: Callable[[Tensor], Tensor | None]) -> Scale | Refusal:
    if op.nd is None:
        return op
    if behind is None:
        return Refusal("RK310", f"the axis with {op.nd} behind it is not kept by the rearrangement")
    scale = _each(op.scale, move)
    shift = None if op.shift is None else _each(op.shift, move)
    if scale is None or (op.shift is not None and shift is None):
        return Refusal("RK310", "channels that the rearrangement puts together are scaled by different numbers")
    return Scale(scale, shift, behind)


def _each(values: Tensor, move: Callable[[Tensor], Tensor | None]) -> Tensor | None:
    """One number for each channel on the other side; one for all of them is that on both sides."""
    return move(values) if values.ndim else values


def back_through(op: Scale, layout: Layout) -> Scale | Refusal:
    """The scale in front of `layout` that is `op` behind it."""
    return _moved(op, None if op.nd is None else layout.before(op.nd), layout.values_before)


def forth_through(op: Scale, layout: Layout) -> Scale | Refusal:
    """The scale behind `layout` that is `op` in front of it."""
    return _moved(op, None if op.nd is None else layout.after(op.nd), layout.values_after)


def arranged(op: Any, front: Layout | None, back: Layout | None) -> Any:
    """`Arranged`, or what it is made of when there is nothing to arrange, or nothing in the end."""
    if isinstance(op, Refusal) or (front is None and back is None):
        return op
    plain = None if front is None or back is None else straight(op, front, back)
    return Arranged(op, front, back) if plain is None else plain


def _joined(first: Layout | None, second: Layout | None) -> Layout | None:
    if first is None or second is None:
        return first or second
    both = first.then(second)
    return None if both.changes_nothing else both


def compose_arranged(outer: Any, inner: Any) -> Any:
    """``outer(inner(x))`` where one of them rearranges; only scales cross."""
    if isinstance(outer, Layout) and isinstance(inner, Layout):
        return inner.then(outer)
    a, b = _parts(outer), _parts(inner)
    if isinstance(outer, Layout):
        return arranged(b.op, b.front, _joined(b.back, outer))
    between = _joined(b.back, a.front)
    if between is None:
        return arranged(_composed(a.op, b.op), b.front, a.back)
    if isinstance(a.op, Scale):
        crossed = back_through(a.op, between)
        made = crossed if isinstance(crossed, Refusal) else _composed(crossed, b.op)
        return arranged(made, b.front, _joined(between, a.back))
    moved = _moved_behind(b.op, between)
    if moved is not None:
        made = moved if isinstance(moved, Refusal) else _composed(a.op, moved)
        return arranged(made, _joined(b.front, between), a.back)
    turned = moved_pointwise(a.op, between.before, between, "more")
    if turned is not None:
        return arranged(_composed(turned, b.op), b.front, _joined(between, a.back))
    return Refusal("RK331", "two layers with rearranged axes between them")


def _moved_behind(op: Any, layout: Layout) -> Scale | Conv | Refusal | None:
    return forth_through(op, layout) if isinstance(op, Scale) else moved_pointwise(op, layout.after, layout, "fewer")


def _parts(op: Any) -> Arranged:
    if isinstance(op, Arranged):
        return op
    return Arranged(Scale(), front=op) if isinstance(op, Layout) else Arranged(op)


def lift_flatten(call: Call, context: Context) -> Through | Refusal:
    """`torch.flatten`, `Tensor.flatten`."""
    bound = call.bind("input", start_dim=0, end_dim=-1)
    if not call.is_input(bound["input"]):
        return Refusal("RK331", "a flatten of something else")
    made = flattened(context.rank, bound["start_dim"], bound["end_dim"], context.ones)
    return made if isinstance(made, Refusal) else Through(bound["input"], folded(made, bound["input"], context.rank))


def flattened(rank: int | None, start: Any, end: Any, ones: tuple[int, ...] = ()) -> Layout | Refusal:
    """The rearrangement of a flatten of these axes, `ones` of which (counted from behind) have one position."""
    if rank is None or type(start) is not int or type(end) is not int:
        return Refusal("RK331", "a flatten of an unknown number of axes")
    first, last = start % rank, end % rank
    after = rank - (last - first)
    kept = [(rank - 1 - axis, after - 1 - axis) for axis in range(first)]
    kept += [(rank - 1 - axis, rank - 1 - axis) for axis in range(last + 1, rank)]
    long = [axis for axis in range(first, last + 1) if rank - 1 - axis not in ones]
    if len(long) != 1:
        return Layout(tuple(kept))
    return Layout((*kept, (rank - 1 - long[0], rank - 1 - last)), resizes="same")


def lift_flatten_module(module: Any, context: Any) -> Layout | Refusal:
    """`nn.Flatten`."""
    made = flattened(context.rank, module.start_dim, module.end_dim, context.ones)
    return made if isinstance(made, Refusal) else folded(made, context.value, context.rank)


def lift_squeeze(call: Call, context: Context) -> Through | Refusal:
    """`squeeze` of axes that are known to have one position: what is left of a global pooling."""
    bound = call.bind("input", dim=None)
    dims = (bound["dim"],) if type(bound["dim"]) is int else bound["dim"]
    rank = context.rank
    if rank is None or not isinstance(dims, (list, tuple)) or any(type(d) is not int for d in dims):
        return Refusal("RK331", "a squeeze of unknown axes")
    gone = {d % rank for d in dims}
    if any(rank - 1 - axis not in context.ones for axis in gone):
        return Refusal("RK331", "a squeeze of an axis that may have more than one position")
    kept = [axis for axis in range(rank) if axis not in gone]
    moves = [(rank - 1 - axis, len(kept) - 1 - at) for at, axis in enumerate(kept)]
    ones = tuple(after for before, after in moves if before in context.ones)
    return Through(bound["input"], Layout(tuple(moves), ones=ones, left=len(kept), resizes="same"))


def lift_unsqueeze(call: Call, context: Context) -> Through | Refusal:
    """`unsqueeze`: one more axis, of one position."""
    bound = call.bind("input", "dim")
    if context.rank is None or type(bound["dim"]) is not int:
        return Refusal("RK331", "an unsqueeze among an unknown number of axes")
    new = context.rank - bound["dim"] % (context.rank + 1)
    moves = [(behind, behind + (behind >= new)) for behind in range(context.rank)]
    ones = tuple(after for before, after in moves if before in context.ones)
    return Through(bound["input"], Layout(tuple(moves), ones=(*ones, new), resizes="same"))


def lift_permute(call: Call, context: Context) -> Through | Refusal:
    """`permute`, with its axes one by one or as a tuple."""
    axes = call.args[1] if len(call.args) == 2 else call.args[1:]
    axes = call.kwargs.get("dims", axes)
    if not isinstance(axes, (list, tuple)) or not axes or any(type(a) is not int for a in axes):
        return Refusal("RK331", "a permutation of an unknown number of axes")
    rank = len(axes)
    return Through(call.args[0], _permuted([a % rank for a in axes]))


def _permuted(order: list[int]) -> Layout:
    """The rearrangement that puts axis ``order[i]`` at place i."""
    last = len(order) - 1
    return Layout(tuple((last - axis, last - at) for at, axis in enumerate(order)), rank=len(order))


def lift_movedim(call: Call, context: Context) -> Through | Refusal:
    """`movedim`, `moveaxis`."""
    bound = call.bind("input", "source", "destination")
    rank = context.rank
    pair = [[axes] if type(axes) is int else axes for axes in (bound["source"], bound["destination"])]
    if rank is None or any(not isinstance(p, (list, tuple)) or any(type(a) is not int for a in p) for p in pair):
        return Refusal("RK331", "a move of unknown axes")
    source, destination = ([axis % rank for axis in axes] for axes in pair)
    rest = [axis for axis in range(rank) if axis not in source]
    order = [source[destination.index(at)] if at in destination else rest.pop(0) for at in range(rank)]
    return Through(bound["input"], _permuted(order))


def lift_transpose(call: Call, context: Context) -> Through | Refusal:
    """`transpose`, `swapaxes`, `swapdims`."""
    bound = call.bind("input", "dim0", "dim1")
    rank, one, two = context.rank, bound["dim0"], bound["dim1"]
    if rank is None or type(one) is not int or type(two) is not int:
        return Refusal("RK331", "a transposition of an unknown number of axes")
    order = list(range(rank))
    order[one % rank], order[two % rank] = order[two % rank], order[one % rank]
    return Through(bound["input"], _permuted(order))


def lift_reshape(call: Call, context: Context) -> Through | Stack | Refusal:
    """`reshape`, `view`: the sizes up to the channels, or from them on, are those of the input."""
    value, sizes = call.args[0], listed(call.args[1:])
    if not sizes or call.kwargs or context.rank is None:
        return Refusal("RK331", "a reshape of an unknown number of axes")
    apart = unfolded(value, sizes)
    if apart is not None:
        return Through(value, apart)
    moves = []
    if is_channels(sizes[-1], value, 0):
        moves.append((0, 0))
    behind = context.rank - 2
    if behind > 0 and len(sizes) > 1 and is_batch(sizes[0], value) and is_channels(sizes[1], value, behind):
        moves.append((behind, len(sizes) - 2))
    if len(moves) == 1 and len(sizes) == 3 and is_batch(sizes[0], value):
        moves.append((context.rank - 1, 2))
    made = folded(Layout(tuple(moves)), value, context.rank) if len(sizes) == 3 else Layout(tuple(moves))
    kept = Through(value, made) if moves else Refusal("RK331", "a reshape of the channels")
    return viewed(value, sizes, kept, context)  # type: ignore[no-any-return]


def lift_reshape_as(call: Call, context: Context) -> Through | Refusal:
    """`reshape_as`, `view_as` of something with the same channels: back to what it was."""
    value, other = call.args[:2]
    apart = None if other.rank is None else unfolded(value, [(other, axis) for axis in range(other.rank)])
    if apart is not None:
        return Through(value, apart)
    behind = kept_from(other, value)
    if behind is None or context.rank is None or channels_of(value) is None:
        return Refusal("RK331", "a reshape to something else")
    here, there = behind
    return Through(value, Layout(((here, there),)))


rules: tuple[Rule, ...] = (
    *(
        Compose(RULE, outer, inner, compose_arranged)
        for outer in (Conv, ConvTranspose, Scale, Stencil, Layout, Arranged)
        for inner in (Conv, ConvTranspose, Scale, Stencil, Layout, Arranged)
        if {outer, inner} & {Layout, Arranged}
    ),
    Lift(RULE, nn.Flatten, lift_flatten_module),
    *(Lift(RULE, target, lift_flatten) for target in (torch.flatten, ".flatten")),
    *(Lift(RULE, target, lift_squeeze) for target in (torch.squeeze, ".squeeze")),
    *(Lift(RULE, target, lift_unsqueeze) for target in (torch.unsqueeze, ".unsqueeze")),
    *(Lift(RULE, target, lift_permute) for target in (torch.permute, ".permute")),
    *(Lift(RULE, target, lift_transpose) for target in (torch.transpose, ".transpose", ".swapaxes", ".swapdims")),
    *(Lift(RULE, target, lift_movedim) for target in (torch.movedim, torch.moveaxis, ".movedim", ".moveaxis")),
    *(Lift(RULE, target, lift_reshape) for target in (torch.reshape, ".reshape", ".view")),
    *(Lift(RULE, target, lift_reshape_as) for target in (".reshape_as", ".view_as")),
)
