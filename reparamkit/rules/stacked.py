"""core/branch_sum, what stands side by side along an axis of its own: `torch.stack`, channels viewed as groups.

Formula: ``sum_k w_k stack(b_1(x), .., b_K(x))[k] = w_1 b_1(x) + .. + w_K b_K(x)``. Channels viewed as
``[N, K, C, H, W]`` are a stack of their slices (the splits of ResNeSt, Zhang et al., 2020, §3).

Conditions: the axis that is summed is that of the stack. Factors depend on parameters alone; each entry has one, or one
for each of its channels, so the number of axes has to be known for factors that are no plain numbers. A view keeps the
batch and the positions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from reparamkit.answers import Call, Context, Stack, Sum, Through
from reparamkit.errors import Refusal
from reparamkit.operators import Picked, Scale
from reparamkit.rules.constants import per_channel, scalar, times
from reparamkit.rules.scale import scale_of_scale
from reparamkit.rules.sizes import channel_axis, channels_of, is_batch, is_position

if TYPE_CHECKING:
    from collections.abc import Sequence


def stack_of(value: Any) -> Stack | None:
    """What stands side by side in a value, if anything does."""
    return getattr(value, "stacked", None)


def lift_stack(call: Call, context: Context) -> Stack | Refusal:
    """`torch.stack` of values."""
    bound = call.bind("tensors", dim=0)
    values, dim = bound["tensors"], bound["dim"]
    if not isinstance(values, (list, tuple)) or not all(map(call.is_input, values)) or type(dim) is not int:
        return Refusal("RK331", "a stack with constants, or along an axis that is not known")
    ranks = {value.rank for value in values}
    rank = ranks.pop() if len(ranks) == 1 else None
    return Stack(tuple((Scale(), value) for value in values), dim, None if rank is None else rank + 1)


def is_along(stack: Stack, dim: Any) -> bool:
    """Whether `dim` is the axis of the stack."""
    dim = dim[0] if isinstance(dim, (list, tuple)) and len(dim) == 1 else dim
    if type(dim) is not int:
        return False
    return dim == stack.dim or (stack.rank is not None and (dim - stack.dim) % stack.rank == 0)


def sum_of(stack: Stack, factor: float) -> Sum | Refusal:
    """The sum of what stands side by side, times a number."""
    number = Scale(scalar(factor))
    terms = [(_scaled(number, op), value) for op, value in stack.terms]
    refused = next((op for op, _ in terms if isinstance(op, Refusal)), None)
    return refused or Sum(tuple((op, value) for op, value in terms if not isinstance(op, Refusal)))


def scaled_stack(value: Any, constant: Any) -> Stack | Through | Refusal:
    """``value * constant`` of a value that is a stack; just a product where the factors are not told apart."""
    stack: Stack = value.stacked
    whole = times(value, constant)
    factors = _factors(constant, stack)
    if isinstance(factors, Refusal):
        return whole
    terms = tuple((_scaled(factor, op), v) for factor, (op, v) in zip(factors, stack.terms, strict=True))
    if any(isinstance(op, Refusal) for op, _ in terms):
        return whole
    return Stack(terms, stack.dim, stack.rank, whole if isinstance(whole, Through) else None)  # type: ignore[arg-type]


def _scaled(factor: Scale, op: Scale | Picked) -> Scale | Picked | Refusal:
    """``factor * op(x)``."""
    if isinstance(op, Scale):
        return scale_of_scale(factor, op)
    assert isinstance(op.op, Scale)
    made = scale_of_scale(factor, op.op)
    return made if isinstance(made, Refusal) else Picked(made, op.index, op.channels, op.nd)


def _factors(constant: Any, stack: Stack) -> list[Scale] | Refusal:
    """What each entry of the stack is multiplied by."""
    parts = [constant] * len(stack.terms)
    if isinstance(constant, Tensor) and constant.ndim:
        if stack.rank is None or constant.ndim > stack.rank:
            return Refusal("RK203", f"a constant of shape {tuple(constant.shape)} and a stack of unknown axes")
        along = constant.ndim - stack.rank + stack.dim % stack.rank
        if along >= 0:
            parts = [*constant.expand(*_widened(constant, along, len(parts))).unbind(along)]
    found = [per_channel(part, None if stack.rank is None else stack.rank - 1) for part in parts]
    refused = next((each for each in found if isinstance(each, Refusal)), None)
    return refused or [Scale(each[0], None, each[1]) for each in found if not isinstance(each, Refusal)]


def _widened(constant: Tensor, axis: int, count: int) -> list[int]:
    sizes = list(constant.shape)
    sizes[axis] = count if sizes[axis] == 1 else sizes[axis]
    return sizes


def viewed(value: Any, sizes: Sequence[Any], whole: Any, context: Context) -> Any:
    """What a view is: a stack of slices of the channels where it splits those in two, else `whole`.

    All other sizes being those of `value`, the channels of a slice are what is left of them, whatever is written there.
    """
    rank = context.rank
    total = channels_of(value) if rank is not None and rank > 2 and channel_axis(value) == rank - 2 else None
    if rank is None or total is None or len(sizes) != rank + 1 or not is_batch(sizes[0], value):
        return whole
    count = sizes[1]
    if count == -1 and type(sizes[2]) is int and sizes[2] > 0:
        count = total // sizes[2]
    kept = all(is_position(size, value, axis) for axis, size in enumerate(sizes[3:], start=2))
    return slices(value, count, total, rank, whole) if kept else whole


def lift_unflatten(call: Call, context: Context) -> Stack | Refusal:
    """`Tensor.unflatten` of the channels."""
    bound = call.bind("input", "dim", "sizes")
    value, dim, sizes = bound["input"], bound["dim"], bound["sizes"]
    refused = Refusal("RK331", "channels that are cut into an unknown number of parts")
    rank = context.rank
    total = channels_of(value) if rank is not None and channel_axis(value) == rank - 2 else None
    pair = isinstance(sizes, (list, tuple)) and len(sizes) == 2
    if rank is None or total is None or type(dim) is not int or dim % rank != 1 or not pair:
        return refused
    count = total // sizes[1] if sizes[0] == -1 and type(sizes[1]) is int and sizes[1] > 0 else sizes[0]
    return slices(value, count, total, rank, refused)  # type: ignore[no-any-return]


def slices(value: Any, count: Any, total: int, rank: int, whole: Any) -> Any:
    """`value` as a stack of `count` slices of its channels along a new axis in front of them."""
    if type(count) is not int or count < 1 or total % count:
        return whole
    each = total // count
    parts = [Picked(Scale(), tuple(range(start, start + each)), total, rank - 2) for start in range(0, total, each)]
    known = whole if isinstance(whole, Through) else None
    return Stack(tuple((part, value) for part in parts), 1, rank + 1, known)
