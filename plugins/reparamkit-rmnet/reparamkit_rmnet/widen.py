"""The convolutions of a chain, widened by channels that carry the input of the block."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from reparamkit import Refusal

Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d


def refusal_of(convs: Sequence[Conv], side: Conv | None) -> Refusal | None:
    """Why these convolutions cannot carry the input beside what they compute.

    Args:
        convs: the chain.
        side: the convolution on the shortcut, if there is one.
    """
    for conv in convs:
        if not _centred(conv):
            text = f"kernel {conv.kernel_size}, padding {conv.padding}, dilation {conv.dilation}: no tap on the input"
            return Refusal("RK316", text)
        if conv.groups != 1 and not _is_depthwise(conv):
            return Refusal("RK315", f"groups {conv.groups} of {conv.in_channels} channels")
    if _is_depthwise(convs[0]) or _is_depthwise(convs[-1]):
        return Refusal("RK315", "the first and the last convolution must be dense")
    total = tuple(prod(int(conv.stride[axis]) for conv in convs) for axis in range(len(convs[0].stride)))
    if side is None:
        wrong = convs[0].in_channels != convs[-1].out_channels or any(s != 1 for s in total)
        return Refusal("RK317", f"stride {total} beside the identity") if wrong else None
    if side.groups != 1 or any(k != 1 for k in side.kernel_size) or any(p != 0 for p in side.padding):
        return Refusal("RK319", f"a shortcut of kernel {side.kernel_size}, groups {side.groups}")
    return None if side.stride == total else Refusal("RK313", f"stride {side.stride} beside {total}")


def widened(convs: Sequence[Conv], side: Conv | None) -> list[Conv]:
    """The chain that computes ``chain(x) + side(x)`` for ``x >= 0``.

    Args:
        convs: the chain, at least two, as `refusal_of` allows.
        side: the convolution on the shortcut; the identity without one.

    Returns:
        As many convolutions; all but the last have ``convs[0].in_channels`` channels more.
    """
    carried = convs[0].in_channels
    made = [_first(convs[0], carried)]
    made += [_middle(conv, carried) for conv in convs[1:-1]]
    return [*made, _last(convs[-1], side, carried)]


def _first(conv: Conv, carried: int) -> Conv:
    weight = torch.cat([conv.weight.detach(), _dirac(conv, carried)])
    return _made(conv, weight, _bias(conv, carried), 1)


def _middle(conv: Conv, carried: int) -> Conv:
    weight = conv.weight.detach()
    if _is_depthwise(conv):
        taps = _tap(conv, weight.new_ones(carried, 1))
        return _made(conv, torch.cat([weight, taps]), _bias(conv, carried), conv.groups + carried)
    right = torch.cat([weight.new_zeros(len(weight), carried, *conv.kernel_size), _dirac(conv, carried)])
    left = torch.cat([weight, weight.new_zeros(carried, *weight.shape[1:])])
    return _made(conv, torch.cat([left, right], 1), _bias(conv, carried), 1)


def _last(conv: Conv, side: Conv | None, carried: int) -> Conv:
    weight = conv.weight.detach()
    matrix = torch.eye(carried).to(weight) if side is None else side.weight.detach().flatten(1)
    bias = _bias(conv, 0)
    if side is not None and side.bias is not None:
        bias = side.bias.detach().clone() if bias is None else bias + side.bias.detach()
    return _made(conv, torch.cat([weight, _tap(conv, matrix)], 1), bias, 1)


def _dirac(conv: Conv, channels: int) -> Tensor:
    return _tap(conv, torch.eye(channels).to(conv.weight))


def _tap(conv: Conv, matrix: Tensor) -> Tensor:
    """A kernel that is `matrix` at the tap that reads the input unshifted, and zero elsewhere."""
    kernel = matrix.new_zeros(*matrix.shape, *conv.kernel_size)
    centre: Any = (..., *(int(k) // 2 for k in conv.kernel_size))
    kernel[centre] = matrix
    return kernel


def _bias(conv: Conv, carried: int) -> Tensor | None:
    if conv.bias is None:
        return None
    return torch.cat([conv.bias.detach(), conv.bias.detach().new_zeros(carried)])


def _made(like: Conv, weight: Tensor, bias: Tensor | None, groups: int) -> Conv:
    kind: Any = next(c for c in (nn.Conv1d, nn.Conv2d, nn.Conv3d) if isinstance(like, c))
    made = kind(
        weight.shape[1] * groups,
        len(weight),
        like.kernel_size,
        like.stride,
        like.padding,
        like.dilation,
        groups,
        bias=bias is not None,
        padding_mode=like.padding_mode,
        device="meta",
    )
    made.weight = nn.Parameter(weight, like.weight.requires_grad)
    if bias is not None:
        made.bias = nn.Parameter(bias, like.weight.requires_grad if like.bias is None else like.bias.requires_grad)
    return made.eval()  # type: ignore[no-any-return]


def _is_depthwise(conv: Conv) -> bool:
    return conv.groups > 1 and conv.groups == conv.in_channels == conv.out_channels


def _centred(conv: Conv) -> bool:
    """Odd kernels, padded so that the middle tap reads position ``i * stride``."""
    if conv.padding == "same":
        return all(k % 2 for k in conv.kernel_size) and all(s == 1 for s in conv.stride)
    pads: Any = (0,) * len(conv.kernel_size) if conv.padding == "valid" else conv.padding
    sides = zip(conv.kernel_size, pads, conv.dilation, strict=True)
    return all(k % 2 == 1 and 2 * int(p) == d * (k - 1) for k, p, d in sides)
