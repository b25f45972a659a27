"""core/conv: convolutions, transposed convolutions and their functional forms, read as operators.

Formula: `torch.nn.ConvNd` computes ``y = W * pad(x) + b``; its parameters are the operator.

Conditions: the forward is torch's own (a subclass with another forward is traced, not guessed); the weight is a
plain floating-point tensor on a real device; a functional form has constant weights and geometry.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from reparamkit.answers import Call, Context, Through
from reparamkit.errors import Refusal
from reparamkit.operators import Conv, ConvTranspose, conv, conv_transpose, vector
from reparamkit.rule import Lift, Lower, Rule
from reparamkit.rules.usable import of_other_length, of_other_rank, unusable

RULE = "core/conv"
Pads = tuple[tuple[int, int], ...]


def pads_of(padding: Any, kernel: tuple[int, ...], dilation: tuple[int, ...]) -> Pads:
    """Numbers or "same"/"valid" as (before, after) a spatial axis, torch's way of splitting an odd total."""
    if padding == "valid":
        return ((0, 0),) * len(kernel)
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return tuple((t // 2, t - t // 2) for t in totals)
    return tuple((p, p) for p in each(padding, len(kernel)))


def each(value: Any, nd: int) -> tuple[int, ...]:
    """One entry a spatial axis."""
    if isinstance(value, int):
        return (value,) * nd
    return tuple(value) * (nd if len(value) == 1 else 1)


def geometry_of(module: Any) -> tuple[tuple[int, ...], Pads, tuple[int, ...]]:
    """Stride, padding and dilation of an `nn.ConvNd` as its forward takes them.

    Attributes may have been assigned since it was built, so the kernel's size is the weight's; and what a padding
    mode other than zeros pads with is what it was built with.
    """
    kernel = tuple(module.weight.shape[2:])
    stride, dilation = (each(value, len(kernel)) for value in (module.stride, module.dilation))
    if module.padding_mode == "zeros":
        return stride, pads_of(module.padding, kernel, dilation), dilation
    ends = module._reversed_padding_repeated_twice
    return stride, tuple(zip(ends[-2::-2], ends[::-2], strict=True)), dilation


def lift_conv(module: Any, context: Context) -> Conv | Refusal:
    """`nn.Conv1d`, `nn.Conv2d`, `nn.Conv3d`."""
    weight, bias = module.weight, module.bias
    refusal = unusable(weight, bias) or of_other_rank(weight, 2 + len(module.kernel_size))
    refusal = refusal or of_other_length(bias, len(weight))
    if refusal is not None:
        return refusal
    stride, padding, dilation = geometry_of(module)
    return conv(
        weight,
        bias,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=module.groups,
        padding_mode=module.padding_mode,
    )


def lift_conv_transpose(module: Any, context: Context) -> ConvTranspose | Refusal:
    """`nn.ConvTranspose1d`, `nn.ConvTranspose2d`, `nn.ConvTranspose3d`."""
    weight, bias = module.weight, module.bias
    refusal = unusable(weight, bias) or of_other_rank(weight, 2 + len(module.kernel_size))
    refusal = refusal or of_other_length(bias, weight.shape[1] * module.groups)
    if refusal is not None:
        return refusal
    nd = weight.ndim - 2
    return conv_transpose(
        weight.detach(),
        None if bias is None else vector(bias),
        module.groups,
        stride=each(module.stride, nd),
        padding=each(module.padding, nd),
        output_padding=each(module.output_padding, nd),
        dilation=each(module.dilation, nd),
    )


def lift_functional(call: Call, context: Context) -> Through | Refusal:
    """`F.conv1d`, `F.conv2d`, `F.conv3d` with constant weights."""
    bound = call.bind("input", "weight", bias=None, stride=1, padding=0, dilation=1, groups=1)
    weight, bias = bound["weight"], bound["bias"]
    rest = [v for k, v in bound.items() if k != "input"]
    if not call.is_input(bound["input"]) or not call.constant(rest):
        return Refusal("RK331", "a convolution whose kernel or geometry depends on the input")
    refusal = unusable(weight, bias) or of_other_length(bias, len(weight))
    if refusal is not None:
        return refusal
    nd = weight.ndim - 2
    dilation = each(bound["dilation"], nd)
    return Through(
        bound["input"],
        conv(
            weight,
            bias,
            stride=each(bound["stride"], nd),
            padding=pads_of(bound["padding"], tuple(weight.shape[2:]), dilation),
            dilation=dilation,
            groups=bound["groups"],
        ),
    )


@cache
def _bare(cls: Any) -> Any:
    """A constructor of `cls` that does not initialise: the numbers come later, and random ones would cost time."""
    empty = type(cls.__name__, (cls,), {"reset_parameters": lambda self: None})

    def make(*args: Any, **options: Any) -> nn.Module:
        module: nn.Module = empty(*args, device="meta", **options)
        module.__class__ = cls
        return module

    return make


_CONVS: tuple[Any, ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED: tuple[Any, ...] = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_FUNCTIONS: tuple[Any, ...] = (torch.conv1d, torch.conv2d, torch.conv3d, F.conv1d, F.conv2d, F.conv3d)


def lower_conv(op: Conv, like: Any) -> nn.Module | Refusal:
    """An `nn.ConvNd` (or `nn.Linear`) of this geometry."""
    options: dict[str, Any] = {"bias": op.bias is not None, "dtype": like.dtype}
    if op.nd == 0:
        if op.groups != 1:
            return Refusal("RK315", f"a linear layer of {op.groups} groups")
        linear: nn.Module = _bare(nn.Linear)(op.in_channels, op.out_channels, **options)
        return linear
    padding = tuple(p for p, _ in op.padding)
    made: nn.Module = _bare(_CONVS[op.nd - 1])(
        op.in_channels,
        op.out_channels,
        op.kernel_size,
        stride=op.stride,
        padding="same" if any(p != q for p, q in op.padding) else padding,
        dilation=op.dilation,
        groups=op.groups,
        padding_mode=op.padding_mode if op.reads_padding else "zeros",
        **options,
    )
    return made


def lower_conv_transpose(op: ConvTranspose, like: Any) -> nn.Module:
    """An `nn.ConvTransposeNd` of this geometry."""
    made: nn.Module = _bare(_TRANSPOSED[op.nd - 1])(
        op.in_channels,
        op.out_channels,
        op.weight.shape[2:],
        stride=op.stride,
        padding=op.padding,
        output_padding=op.output_padding,
        groups=op.groups,
        bias=op.bias is not None,
        dilation=op.dilation,
        dtype=like.dtype,
    )
    return made


rules: tuple[Rule, ...] = (
    *(Lift(RULE, target, lift_conv, subclasses=True) for target in _CONVS),
    *(Lift(RULE, target, lift_conv_transpose, subclasses=True) for target in _TRANSPOSED),
    *(Lift(RULE, target, lift_functional) for target in dict.fromkeys(_FUNCTIONS)),
    Lower(RULE, Conv, lower_conv),
    Lower(RULE, ConvTranspose, lower_conv_transpose),
)
