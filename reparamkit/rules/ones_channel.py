"""core/ones_channel: a shift in front of a padded convolution, exact at the border by a channel of ones. Opt-in.

Formula: what a convolution pads is zero, not what the layer in front gives for zero, so ``W2 (W1 x + b1)`` is no
convolution of `x` where `W2` reads its padding. It is one of ``[x; 1]``: the channel of ones is padded with zeros too,

    W2 (W1 x + b1) + b2 = [W2 W1, W2 b1] [x; 1] + b2

where ``(W2 b1)[o, k] = sum_m W2[o, m, k] b1[m]``. Exact for every size of the input.

Conditions: a batch norm, or a convolution of one tap with a bias, is read by nothing but a dense convolution that pads
with zeros; both are modules that nothing else looks at, of one dtype. Two convolutions become one only where that takes
no more multiply-accumulates, the ones apart. The layer that is left is a `reparamkit.ones.OnesConv2d` (or 1d, 3d):
appending the channel costs a copy of the input, so a recipe has to ask for it by name.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn

from reparamkit.block import Block
from reparamkit.errors import Refusal
from reparamkit.ones import OnesConv1d, OnesConv2d, OnesConv3d
from reparamkit.operators import Conv
from reparamkit.operators.conv import channelwise, pointwise
from reparamkit.operators.vector import is_zero
from reparamkit.rule import Rewritten, Rule, Transform
from reparamkit.rules.conv import lift_conv
from reparamkit.rules.conv_bn import lift_batch_norm
from reparamkit.rules.sequential import compose_convs

RULE = "core/ones_channel"
_KINDS: dict[type, Any] = {nn.Conv1d: OnesConv1d, nn.Conv2d: OnesConv2d, nn.Conv3d: OnesConv3d}
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class _Place:
    """What a lift may ask about the place of a module: how many axes its input has."""

    ones: tuple[int, ...] = ()
    channels: int | None = None
    grouped: bool = False

    def __init__(self, rank: int) -> None:
        self.rank = rank


def add_ones(block: Block) -> Rewritten | Refusal | None:
    """Merge every layer with a shift into the padded convolution behind it, in the forward of one block."""
    modules: dict[str, nn.Module] = {}
    refused: Refusal | None = None
    for node in block.graph.nodes:
        pair = _pair(block, node)
        if pair is None or not modules.keys().isdisjoint(pair):
            continue
        made = _merged(block, *pair)
        if isinstance(made, Refusal):
            refused = made
        elif made is not None:
            modules |= {pair[0]: nn.Identity().eval(), pair[1]: made}
    if not modules:
        return refused
    convs: dict[str, Any] = {name: block.get(name) for name, made in modules.items() if type(made) is not nn.Identity}
    dtypes = {name: conv.weight.dtype for name, conv in convs.items()}
    return Rewritten(modules, None, "shift + padded convolution", "convolution with ones", dtypes)


def _pair(block: Block, node: fx.Node) -> tuple[str, str] | None:
    """The names of two layers, the second of which alone reads the first."""
    first = node.args[0] if node.op == "call_module" and len(node.args) == 1 and not node.kwargs else None
    if not isinstance(first, fx.Node) or first.op != "call_module" or len(first.users) != 1 or len(first.args) != 1:
        return None
    names = str(first.target), str(node.target)
    shifts, conv = map(block.get, names)
    known = type(shifts) in _NORMS or type(shifts) in _KINDS
    return names if known and type(conv) in _KINDS and not first.kwargs else None


def _merged(block: Block, name: str, behind: str) -> nn.Module | Refusal | None:
    """The convolution with ones that stands for both; `None` where a plain one would, or nothing is to be gained."""
    conv: Any = block.get(behind)
    outer, inner = lift_conv(conv, _Place(0)), _shifting(block.get(name), len(conv.kernel_size))
    if isinstance(outer, Refusal) or isinstance(inner, Refusal):
        return None
    if not outer.reads_padding or outer.padding_mode != "zeros" or not pointwise(inner) or is_zero(inner.bias):
        return None
    refusal = block.free(name) or block.free(behind) or _too_much(outer, inner, block.get(name))
    if refusal is not None:
        return refusal.at(f"{block.path}.{behind}" if block.path else behind)
    linear = compose_convs(outer, replace(inner, bias=None))
    if isinstance(linear, Refusal):
        return None
    assert inner.bias is not None
    edge = torch.einsum("om...,m->o...", outer.weight.dense(), inner.bias.value.expand(inner.out_channels))
    return _module(conv, torch.cat([linear.weight.dense(), edge.unsqueeze(1)], 1))


def _shifting(module: Any, nd: int) -> Conv | Refusal:
    """The layer in front as a convolution."""
    place = _Place(nd + 2)
    if type(module) in _KINDS:
        return lift_conv(module, place)
    scale = lift_batch_norm(module, place)
    if isinstance(scale, Refusal):
        return scale
    return channelwise(scale.scale, scale.shift, nd, module.num_features)


def _too_much(outer: Conv, inner: Conv, shifts: nn.Module) -> Refusal | None:
    if outer.groups > 1:
        return Refusal("RK315", f"a channel of ones for each of {outer.groups} groups")
    before = outer.macs + (inner.macs if type(shifts) in _KINDS else 0)
    after = inner.in_channels * outer.out_channels * prod(outer.kernel_size)
    if after > before:
        return Refusal("RK340", f"MACs per position {before} -> {after}, the ones apart")
    return None


def _module(conv: Any, weight: Tensor) -> nn.Module:
    """A convolution with ones of the geometry of `conv`, with this kernel and its bias, in float64."""
    made: nn.Module = _KINDS[type(conv)](
        weight.shape[1],
        conv.out_channels,
        conv.kernel_size,
        stride=conv.stride,
        padding=conv.padding,
        dilation=conv.dilation,
        bias=conv.bias is not None,
        device="meta",
    )
    made.register_parameter("weight", nn.Parameter(weight, requires_grad=conv.weight.requires_grad))
    if conv.bias is not None:
        bias = conv.bias.detach().double().clone()
        made.register_parameter("bias", nn.Parameter(bias, requires_grad=conv.bias.requires_grad))
    return made.eval()


rules: tuple[Rule, ...] = (Transform(RULE, add_ones),)
