"""core/layout, in words: `einops.rearrange` and its layer (Rogozhnikov, ICLR 2022).

Formula: ``'b c h w -> b h w c'`` is a permutation, ``'b c h w -> b (h w) c'`` one that makes one axis of the positions,
``'b (h w) c -> b c h w'`` takes them apart again; ``'b (c p q) h w -> b c (h p) (w q)'`` is a pixel shuffle.

Conditions: as `core/layout`. An axis that is split gets back the sizes that it was made of: those given are read off a
value that is as large. Numbers in their place are sizes of one image size only, and are left alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from reparamkit.answers import Call, Context, Through
from reparamkit.errors import Refusal
from reparamkit.operators import Layout, Scale
from reparamkit.rule import Lift, Rule
from reparamkit.rules.folded import folds_of
from reparamkit.rules.regroup import pixels
from reparamkit.rules.sizes import axis_of, whose

RULE = "core/layout"
_Side = list[tuple[str, ...]]
_UNKNOWN = Refusal("RK331", "a rearrangement that moves more than whole axes and positions")


def sides(pattern: Any) -> tuple[_Side, _Side] | None:
    """The axes on each side of a pattern, each as the names it is made of; `None` where it has dots or ones."""
    found = pattern.split("->") if isinstance(pattern, str) else []
    if len(found) != 2 or re.search(r"\.|\b[\d_]+\b", pattern):
        return None
    left, right = ([tuple(re.findall(r"\w+", axis)) for axis in re.findall(r"\(.*?\)|\w+", side)] for side in found)
    return left, right


def rearranged(pattern: Any, sizes: Mapping[str, Any], value: Any) -> Layout | Scale | Refusal:
    """What a rearrangement of `value` is; `sizes` are those of some axes, by name."""
    parsed = sides(pattern)
    if parsed is None:
        return _UNKNOWN
    left, right = parsed
    last = len(left) - 1
    moves = tuple((last - left.index(axis), len(right) - 1 - at) for at, axis in enumerate(right) if axis in left)
    if sorted(left) == sorted(right):
        return Layout(moves, rank=len(left), left=len(right))
    shuffle = _pixels(left, right, sizes)
    if shuffle is not None:
        return shuffle
    made = Layout(moves, left=len(right))
    gone, new = ([axis for axis in a if axis not in b] for a, b in ((left, right), (right, left)))
    if len(moves) != 2 or (last, len(right) - 1) not in moves or value is None:
        return _UNKNOWN
    if len(new) == 1 and list(new[0]) == [name for axis in gone for name in axis]:
        return replace(made, folds=tuple(whose(value, left.index(axis)) for axis in gone))
    if len(gone) == 1 and list(gone[0]) == [name for axis in new for name in axis]:
        return _unfolded(made, gone[0], sizes, value)
    return _UNKNOWN


def _unfolded(made: Layout, names: tuple[str, ...], sizes: Mapping[str, Any], value: Any) -> Layout | Refusal:
    """The axes that one was made of, those whose size is given being as they were."""
    known = folds_of(value)
    given = [axis_of(sizes[name]) if name in sizes else None for name in names]
    if len(known) != len(names) or sum(name in sizes for name in names) < len(names) - 1:
        return _UNKNOWN
    for name, found, size in zip(names, given, known, strict=True):
        fits = found is not None and found[0].rank is not None and whose(found[0], found[1] % found[0].rank) == size
        if name in sizes and not fits:
            return Refusal("RK331", f"the size given for {name} may be another one than there was")
    return replace(made, unfolds=known)


def _pixels(left: _Side, right: _Side, sizes: Mapping[str, Any]) -> Layout | Scale | None:
    """A pixel shuffle or its inverse, by one factor."""
    for joined, many, one in ((True, left, right), (False, right, left)):
        if [len(axis) for axis in many] != [1, 3, 1, 1] or [len(axis) for axis in one] != [1, 1, 2, 2]:
            continue
        channel, row, column = many[1]
        same = [*many[0], channel, many[2][0], row, many[3][0], column] == [name for axis in one for name in axis]
        factor = sizes.get(row)
        if same and type(factor) is int and factor == sizes.get(column):
            return pixels(factor, joined=joined)
    return None


def lift_rearrange(call: Call, context: Context) -> Through | Refusal:
    """`einops.rearrange`."""
    bound = call.bind("tensor", "pattern")
    value, pattern = bound.pop("tensor"), bound.pop("pattern")
    if not call.is_input(value):
        return _UNKNOWN
    made = rearranged(pattern, bound, value)
    return made if isinstance(made, Refusal) else Through(value, made)


def lift_layer(module: Any, context: Any) -> Layout | Scale | Refusal:
    """`einops.layers.torch.Rearrange`."""
    return rearranged(module.pattern, module.axes_lengths, context.value)


rules: tuple[Rule, ...] = (
    Lift(RULE, "einops.einops.rearrange", lift_rearrange),
    Lift(RULE, "einops.layers.torch.Rearrange", lift_layer),
)
