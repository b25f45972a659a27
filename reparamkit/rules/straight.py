"""core/layout, second half: axes that are rearranged and put back.

Formula: a map of each position by itself, ``P(x)[.., p] = W x[.., p] + b``, commutes with any order of the axes, so
``L^-1 P L = P`` for a permutation L. A linear layer between ``permute(0, 2, 3, 1)`` and ``permute(0, 3, 1, 2)`` is a
1x1 convolution of the image (Liu et al., ConvNeXt, 2022, §2.6), a `Conv1d` of one tap between two ``transpose(1, 2)``
is a linear layer of the tokens (Luo et al., RepAdapter, 2023), a batch norm between them scales the last axis (SLAB).

Positions that `flatten` makes one axis and a view takes apart again are put back as well (`folded.py`).

Conditions: the operator has one tap, stride 1 and no padding; every axis comes back to its place. All of it becomes one
layer, so either its place is outside of the two permutations or the forward is written anew without them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from reparamkit.operators import Conv, Layout, Scale
from reparamkit.operators.conv import pointwise
from reparamkit.operators.placed import one_tap


def straight(op: Any, front: Layout, back: Layout) -> Conv | Scale | None:
    """``back(op(front(x)))`` without the rearrangements, where they cancel; `None` where they do not."""
    if not front.then(back).changes_nothing:
        return None
    if isinstance(op, Scale):
        return op if op.nd is None else Scale(op.scale, op.shift, front.before(op.nd))
    return moved_pointwise(op, front.before, front)


def moved_pointwise(op: Any, move: Callable[[int], int | None], layout: Layout, resizes: str = "") -> Conv | None:
    """A layer of one tap on the other side of `layout`; `None` where it is no such layer, or may not go there.

    Args:
        op: the layer.
        move: axes behind the channels there, of those here.
        layout: what it crosses.
        resizes: in which way positions may become others by it.
    """
    crosses = layout.rearranges or (resizes and layout.resizes == resizes)
    if not isinstance(op, Conv) or not pointwise(op) or not crosses:
        return None
    nd = move(op.nd)
    return None if nd is None else _of(op, nd)


def _of(op: Conv, nd: int) -> Conv:
    ones = (1,) * nd
    return replace(
        op, weight=one_tap(op.weight, nd), stride=ones, padding=((0, 0),) * nd, dilation=ones, padding_mode="zeros"
    )
