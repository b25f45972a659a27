"""core/averaging: a scale and shift per channel does not care whether positions are averaged before or after.

Formula: for a map A that gives every position an average of others, the same in all channels, its weights adding up to
1, ``A(s x + t) = s A(x) + t``. So the last batch norm of a network crosses the global average pool and folds into
the classifier behind it (StarNet, Visformer, SwiftFormer), and one behind an upsampling into the convolution in front.

A layer of one tap crosses in the same way, to the side that has fewer positions: ``W A(x) + b = A(W x + b)``.

Conditions: as `core/layout`, of which this is another kind: A stays where it is. Adaptive average pooling, the mean
over axes other than the channels, interpolation in any mode. Average pooling that pads adds up to less than 1 at the
border and is not among them; without padding it is a filter that merges with convolutions, and `core/spread` takes a
norm across it where that does not pay.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn import functional as F

from reparamkit.answers import Call, Context, Through
from reparamkit.errors import Refusal
from reparamkit.operators import Layout, Stencil
from reparamkit.rule import Lift, Rule
from reparamkit.rules.conv import each

RULE = "core/averaging"
_EXACT = 1e-12


def averaged(nd: int, ones: bool = False, resizes: str = "") -> Layout:
    """Positions are averaged, batch and channels stay; afterwards there is one position, or not."""
    resizes = "fewer" if ones else resizes
    return Layout(((nd + 1, nd + 1), (nd, nd)), ones=tuple(range(nd)) if ones else (), resizes=resizes)


def is_average(op: Any) -> bool:
    """Whether a filter gives every position an average of others."""
    if not isinstance(op, Stencil) or op.one.reads_padding or op.one.bias is not None:
        return False
    return abs(float(op.one.weight.dense().sum()) - 1) < _EXACT


def lift_adaptive(module: Any, context: Context) -> Layout:
    """`nn.AdaptiveAvgPool1d`, `2d`, `3d`."""
    nd = int(type(module).__name__[-2])
    return averaged(nd, _is_one(module.output_size, nd))


def _is_one(size: Any, nd: int) -> bool:
    return size is not None and set(each(size, nd)) == {1}


def _adaptive(nd: int) -> Any:
    def lift(call: Call, context: Context) -> Through | Refusal:
        bound = call.bind("input", "output_size")
        if not call.is_input(bound["input"]) or not call.constant(bound["output_size"]):
            return Refusal("RK331", "a pooling whose size depends on the input")
        return Through(bound["input"], averaged(nd, _is_one(bound["output_size"], nd)))

    return lift


def lift_upsample(module: nn.Upsample, context: Context) -> Layout | Refusal:
    """`nn.Upsample` and its two descendants."""
    return _resampled(context.rank, module.scale_factor)


def lift_interpolate(call: Call, context: Context) -> Through | Refusal:
    """`F.interpolate`."""
    bound = call.bind("input", size=None, scale_factor=None)
    value = bound["input"]
    if not call.is_input(value):
        return Refusal("RK331", "an interpolation of something else")
    op = _resampled(context.rank, bound["scale_factor"])
    return op if isinstance(op, Refusal) else Through(value, op)


def _resampled(rank: int | None, factors: Any) -> Layout | Refusal:
    """An interpolation; by which factor, where that is a number or one for each axis."""
    if rank is None:
        return Refusal("RK331", "an interpolation over an unknown number of axes")
    known = factors if isinstance(factors, (list, tuple)) else (factors,)
    more = all(isinstance(factor, (int, float)) and factor >= 1 for factor in known)
    return averaged(rank - 2, resizes="more" if more else "")


def spatial_mean(value: Any, dims: Any, keep: Any, rank: int | None) -> Through | Refusal:
    """The mean of `value` over some of its axes; the others are kept."""
    dims = (dims,) if type(dims) is int else dims
    if rank is None or not isinstance(dims, (list, tuple)) or any(type(d) is not int for d in dims):
        return Refusal("RK331", "a mean over unknown axes")
    gone = {d % rank for d in dims}
    left = [axis for axis in range(rank) if keep or axis not in gone]
    behind = {axis: len(left) - 1 - at for at, axis in enumerate(left)}
    moves = tuple((rank - 1 - axis, behind[axis]) for axis in left if axis not in gone)
    ones = tuple(behind[axis] for axis in left if axis in gone)
    positions = gone.isdisjoint({0, 1}) and len(gone) == rank - 2
    return Through(value, Layout(moves, ones=ones, resizes="fewer" if positions else ""))


_POOLS = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
_FUNCTIONS: tuple[Any, ...] = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)

rules: tuple[Rule, ...] = (
    *(Lift(RULE, target, lift_adaptive, subclasses=True) for target in _POOLS),
    *(Lift(RULE, target, _adaptive(nd)) for nd, target in enumerate(_FUNCTIONS, 1)),
    *(Lift(RULE, target, lift_upsample) for target in (nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d)),
    Lift(RULE, F.interpolate, lift_interpolate),
)
