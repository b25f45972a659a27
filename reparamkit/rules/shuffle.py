"""core/shuffle: channels in another order.

Formula: behind a convolution a permutation of the channels is one of the rows of its kernel, ``(W x + b)[p] = W[p] x +
b[p]``; in front of one it is one of the columns, ``W (x[p]) = W[:, p^-1] x`` (the shuffle of ShuffleNet, Zhang et al.,
CVPR 2018; also ``x[:, p]``, `index_select`, `flip`, `roll`).

Conditions: the order is known while tracing, and how many channels there are. A convolution of several groups takes no
permutation, unless it is depthwise and the permutation is behind it and in front of another dense one. A shuffle behind
such a convolution, or of a number of channels that is not known, stays where it is, and only scales cross it
(`core/regroup`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from reparamkit.answers import Call, Context, Through
from reparamkit.errors import Refusal
from reparamkit.operators import Layout, Picked, Scale
from reparamkit.rule import Lift, Rule
from reparamkit.rules.regroup import dealt
from reparamkit.rules.sizes import channel_axis, channels_in

RULE = "core/shuffle"


def shuffled(channels: int, groups: int) -> list[int]:
    """The channel that stands at each place after `torch.channel_shuffle`."""
    return torch.arange(channels, device="cpu").reshape(groups, -1).t().flatten().tolist()


def lift_shuffle(call: Call, context: Context) -> Through | Refusal:
    """`torch.channel_shuffle`."""
    bound = call.bind("input", "groups")
    if not call.is_input(bound["input"]) or type(bound["groups"]) is not int:
        return Refusal("RK331", "a shuffle whose groups depend on the input")
    made = _shuffle(bound["groups"], context)
    return made if isinstance(made, Refusal) else Through(bound["input"], made)


def lift_shuffle_module(module: nn.ChannelShuffle, context: Context) -> Picked | Layout | Refusal:
    """`nn.ChannelShuffle`."""
    return _shuffle(module.groups, context)


def _shuffle(groups: int, context: Context) -> Picked | Layout | Refusal:
    """An order of channels that a kernel can take, or what scales cross where it cannot."""
    if context.rank is None or context.rank < 3:
        return Refusal("RK331", "a shuffle of an unknown number of axes")
    total = context.channels
    if total is None or total % groups or context.grouped:
        return dealt(groups, context.rank - 2)
    return Picked(Scale(), tuple(shuffled(total, groups)), total, context.rank - 2)


def lift_index_select(call: Call, context: Context) -> Through | Refusal:
    """`torch.index_select` of channels."""
    bound = call.bind("input", "dim", "index")
    value, dim = bound["input"], bound["dim"]
    if not call.is_input(value) or context.rank is None or type(dim) is not int or dim % context.rank != 1:
        return Refusal("RK331", "a selection along another axis than the channels")
    return selected(value, bound["index"], context)


def lift_flip(call: Call, context: Context) -> Through | Refusal:
    """`flip` of the channels."""
    value, axes = call.args[0], call.kwargs.get("dims", call.args[1:])
    axes = axes[0] if len(axes) == 1 and isinstance(axes[0], (list, tuple)) else axes
    return _turned(value, list(axes), lambda total: range(total - 1, -1, -1), context)


def lift_roll(call: Call, context: Context) -> Through | Refusal:
    """`roll` of the channels."""
    bound = call.bind("input", "shifts", dims=None)
    shift, axis = (
        part[0] if isinstance(part, (list, tuple)) and len(part) == 1 else part
        for part in (bound["shifts"], bound["dims"])
    )
    if type(shift) is not int:
        return Refusal("RK331", "channels that are not known while tracing")
    return _turned(bound["input"], [axis], lambda total: [(i - shift) % total for i in range(total)], context)


def _turned(value: Any, axes: list[Any], order: Callable[[int], Sequence[int]], context: Context) -> Through | Refusal:
    total, rank = channels_in(value), context.rank
    if total is None or rank is None or len(axes) != 1 or type(axes[0]) is not int or axes[0] % rank != 1:
        return Refusal("RK331", "an order of other axes than the channels")
    return ordered(value, list(order(total)), total, context)


def selected(value: Any, index: Any, context: Context) -> Through | Refusal:
    """The channels that a list or a constant tensor names."""
    if isinstance(index, torch.Tensor):
        index = index.tolist() if index.ndim == 1 and index.dtype in (torch.int32, torch.int64) else None
    total = channels_in(value)
    if total is None or not isinstance(index, list) or not index or not all(type(i) is int for i in index):
        return Refusal("RK331", "channels that are not known while tracing")
    if not all(-total <= i < total for i in index):
        return Refusal("RK331", "channels that do not exist")
    return ordered(value, [i % total for i in index], total, context)


def ordered(value: Any, index: list[int], total: int, context: Context) -> Through | Refusal:
    """The channels `index` of `value`, which has `total`."""
    if context.rank is None or context.rank < 3 or channel_axis(value) not in (context.rank - 2, None):
        return Refusal("RK331", "channels on another axis")
    return Through(value, Picked(Scale(), tuple(index), total, context.rank - 2))


_SELECTS = (torch.index_select, ".index_select")
_FLIPS, _ROLLS = (torch.flip, ".flip"), (torch.roll, ".roll")

rules: tuple[Rule, ...] = (
    *(Lift(RULE, target, lift_flip) for target in _FLIPS),
    *(Lift(RULE, target, lift_roll) for target in _ROLLS),
    Lift(RULE, torch.channel_shuffle, lift_shuffle),
    Lift(RULE, nn.ChannelShuffle, lift_shuffle_module),
    *([] if F.channel_shuffle is torch.channel_shuffle else [Lift(RULE, F.channel_shuffle, lift_shuffle)]),
    *(Lift(RULE, target, lift_index_select) for target in _SELECTS),
)
