"""core/layout, third part: positions that become one axis, ``flatten(2)``, and several again, ``view(n, c, h, w)``.

Formula: a layer of one tap sees each position by itself, so ``unflatten(W flatten(x) + b) = W x + b`` with `W` a
convolution of one tap on the image (P19; Graham et al., LeViT, 2021, §4: linear layers on the positions of a map).

Conditions: all positions are one axis, and batch and channels are kept. The view gives them back the sizes they had: it
reads each off a value that is as large, one at most being what is left of the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from reparamkit.operators import Conv, Layout, Scale
from reparamkit.operators.conv import pointwise
from reparamkit.rules.sizes import axis_of, channel_axis, is_batch, whose


def folds(value: Any, axes: Sequence[int]) -> tuple[Any, ...]:
    """Whose sizes those of these axes of `value` are."""
    return tuple(whose(value, axis) for axis in axes)


def folded(layout: Layout, value: Any, rank: int | None) -> Layout:
    """`layout`, a reshape of `value`, with the axes it makes one: all but batch and channels, which it keeps."""
    if value is None or rank is None or rank < 4 or len(layout.moves) != 2 or layout.after(rank - 1) != 2:
        return layout
    channels = next(before for before, _ in layout.moves if before != rank - 1)
    positions = [axis for axis in range(1, rank) if axis != rank - 1 - channels]
    return replace(layout, folds=folds(value, positions))


def unfolded(value: Any, sizes: Sequence[Any]) -> Layout | None:
    """A reshape of `value` ``[N, C, L]`` or ``[N, L, C]`` to `sizes`, as far as it gives positions their axes back."""
    channels, rank = channel_axis(value), len(sizes)
    if value.rank != 3 or channels not in (0, 1) or rank < 4 or not is_batch(sizes[0], value):
        return None
    at = rank - 1 if channels == 0 else 1
    positions = [axis for axis in range(1, rank) if axis != at]
    found = [axis_of(sizes[axis]) for axis in positions]
    if None in found:
        return None
    sources = tuple(whose(holder, of % holder.rank) for holder, of in found if holder.rank is not None)  # type: ignore[misc]
    return Layout(((2, rank - 1), (channels, rank - 1 - at)), unfolds=sources) if sources == folds_of(value) else None


def folds_of(value: Any) -> tuple[Any, ...]:
    """Whose sizes those of the axes are that are one axis of `value`."""
    for step in value.chain():
        op = None if step.term is None else step.term.op
        if isinstance(op, Layout) and op.folds and not op.unfolds:
            return op.folds
        turned = isinstance(op, Layout) and op.rank is not None
        if not (turned or isinstance(op, Scale) or (isinstance(op, Conv) and pointwise(op))):
            break
    return ()
