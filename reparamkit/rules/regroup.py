"""core/regroup: a batch norm beside a pixel shuffle or a channel shuffle.

Formula: a pixel shuffle by r makes one channel of r r consecutive ones, ``s PS(x) + t = PS(s' x + t')`` with every
entry of `s` and `t` repeated r r times (ESPCN, Shi et al., CVPR 2016), so a batch norm behind it folds into the
convolution in front. The other way it crosses where all channels of a group have the same. A channel shuffle of any
number of channels only changes the order of the entries.

Conditions: as `core/layout`, of which these are other kinds: they stay where they are, scales and shifts cross. By 1
they are the identity.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn import functional as F

from reparamkit.answers import Call, Context, Through
from reparamkit.errors import Refusal
from reparamkit.operators import Layout, Scale
from reparamkit.operators.regroup import Dealt, Grouped, Regroup
from reparamkit.rule import Lift, Rule

RULE = "core/regroup"


def pixels(factor: int, joined: bool) -> Layout | Scale:
    """`nn.PixelShuffle` by a factor, where channels are `joined`, or `nn.PixelUnshuffle`."""
    if factor == 1:
        return Scale()
    many = factor * factor
    return Layout(((2, 2), (3, 3)), channels=(Grouped(many, 1) if joined else Grouped(1, many),))


def dealt(groups: int, nd: int) -> Layout:
    """A channel shuffle of a value with `nd` axes behind its channels."""
    regroups: tuple[Regroup, ...] = () if groups == 1 else (Dealt(groups),)
    axes = tuple((axis, axis) for axis in range(nd + 2))
    return Layout(axes, channels=regroups)


def lift_pixel_shuffle(module: nn.PixelShuffle, context: Context) -> Layout | Scale:
    """`nn.PixelShuffle`."""
    return pixels(module.upscale_factor, joined=True)


def lift_pixel_unshuffle(module: nn.PixelUnshuffle, context: Context) -> Layout | Scale:
    """`nn.PixelUnshuffle`."""
    return pixels(module.downscale_factor, joined=False)


def _functional(name: str, joined: bool) -> Any:
    def lift(call: Call, context: Context) -> Through | Refusal:
        bound = call.bind("input", name)
        if not call.is_input(bound["input"]) or type(bound[name]) is not int:
            return Refusal("RK331", "a shuffle by a factor that depends on the input")
        return Through(bound["input"], pixels(bound[name], joined))

    return lift


rules: tuple[Rule, ...] = (
    Lift(RULE, nn.PixelShuffle, lift_pixel_shuffle),
    Lift(RULE, nn.PixelUnshuffle, lift_pixel_unshuffle),
    Lift(RULE, F.pixel_shuffle, _functional("upscale_factor", joined=True)),
    Lift(RULE, F.pixel_unshuffle, _functional("downscale_factor", joined=False)),
)
