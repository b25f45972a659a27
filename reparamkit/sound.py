"""sound: whether what a plugin calls an operator is one. A plugin may say anything, and its mistakes must be named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from reparamkit.operators import Arranged, Conv, ConvTranspose, Layout, Operator, Picked, Scale, Stencil, Vector, Weight
from reparamkit.operators.weight import Given

_MODES = ("zeros", "reflect", "replicate", "circular")
Channels = tuple[int | None, int | None]


class Unsound(ValueError):
    """It is no operator to go on with; the message says what was expected and what came."""


def settled(op: Any) -> Any:
    """`op` with numbers that exist, so that nothing of a plugin is left to be run later.

    Raises:
        Unsound: it is no operator, or its fields contradict each other, or its numbers are not finite.
    """
    if isinstance(op, (Conv, ConvTranspose)):
        return _layer(op)
    if isinstance(op, Scale):
        return _scale(op)
    if isinstance(op, Stencil):
        one = settled(op.one)
        _expect(isinstance(one, Conv) and one.weight.shape[:2] == (1, 1), "a filter of one channel", op.one)
        return replace(op, one=one)
    if isinstance(op, Picked):
        _expect(bool(op.index) and all(0 <= i < op.channels for i in op.index), "channels that exist", op.index)
        return replace(op, op=settled(op.op))
    if isinstance(op, Arranged):
        return replace(op, op=settled(op.op), front=_layout(op.front), back=_layout(op.back))
    return _layout(op) if isinstance(op, Layout) else _expect(False, "an operator", op)


def channels(op: Operator) -> Channels:
    """Channels of the input and of the result, `None` where they are open."""
    if isinstance(op, (Conv, ConvTranspose)):
        return op.in_channels, op.out_channels
    if isinstance(op, Scale):
        return op.channels, op.channels
    if isinstance(op, Picked):
        return op.channels, channels(op.op)[1]
    return channels(op.op) if isinstance(op, Arranged) else (None, None)


def _expect(holds: bool, what: str, got: Any) -> Any:
    if not holds:
        shown = type(got).__name__ if not isinstance(got, (int, str, tuple)) else repr(got)[:80]
        raise Unsound(f"expected {what}, got {shown}")
    return got


def _layer(op: Conv | ConvTranspose) -> Conv | ConvTranspose:
    weight = _kernel(op.weight)
    nd = len(weight.shape) - 2
    _expect((nd > 0 or isinstance(op, Conv)) and nd <= 3, "up to 3 axes", nd)
    _expect(isinstance(op.groups, int) and op.groups > 0 and not weight.shape[0] % op.groups, "groups", op.groups)
    for name in ("stride", "dilation"):
        _numbers(getattr(op, name), nd, 1, name)
    if isinstance(op, ConvTranspose):
        _numbers(op.padding, nd, 0, "padding")
        _numbers(op.output_padding, nd, 0, "output_padding")
        return replace(op, weight=weight, bias=_vector(op.bias, op.out_channels))
    _expect(isinstance(op.padding, tuple) and len(op.padding) == nd, f"padding of {nd} axes", op.padding)
    for sides in op.padding:
        _numbers(sides, 2, None, "padding")
    _expect(op.padding_mode in _MODES, f"one of {', '.join(_MODES)}", op.padding_mode)
    bias, value = _vector(op.bias, weight.shape[0]), _vector(op.pad_value, weight.shape[1] * op.groups)
    return replace(op, weight=weight, bias=bias, pad_value=value)


def _numbers(given: Any, count: int, least: int | None, name: str) -> None:
    whole = isinstance(given, tuple) and len(given) == count and all(isinstance(n, int) for n in given)
    _expect(whole and (least is None or all(n >= least for n in given)), f"{name} of {count} numbers", given)


def _kernel(weight: Any) -> Weight:
    _expect(isinstance(weight, Weight), "a Weight", weight)
    tensor = weight.tensor if isinstance(weight, Given) else weight.dense()
    _finite(tensor)
    _expect(tensor.ndim >= 2 and tuple(tensor.shape) == tuple(weight.shape), f"{weight.shape}", tuple(tensor.shape))
    return Given(tuple(tensor.shape), tensor.detach())


def _vector(vector: Any, count: int) -> Vector | None:
    if vector is None:
        return None
    _expect(isinstance(vector, Vector), "a Vector or None", vector)
    _finite(vector.value)
    _expect(tuple(vector.value.shape) in ((), (1,), (count,)), f"{count} channels", tuple(vector.value.shape))
    return vector  # type: ignore[no-any-return]


def _scale(op: Scale) -> Scale:
    for part in (op.scale,) if op.shift is None else (op.scale, op.shift):
        _finite(part)
        _expect(part.ndim <= 1, "one number for each channel", tuple(part.shape))
    sizes = {part.shape[0] for part in (op.scale, op.shift) if part is not None and part.ndim}
    _expect(len(sizes) <= 1, "as many scales as shifts", tuple(sizes))
    _expect(op.nd is None or isinstance(op.nd, int), "a number of axes", op.nd)
    return op


def _finite(tensor: Any) -> None:
    _expect(isinstance(tensor, Tensor) and not tensor.is_meta and tensor.numel() > 0, "a tensor with numbers", tensor)
    _expect(not tensor.is_complex() and bool(torch.isfinite(tensor).all()), "finite numbers", tensor)


def _layout(layout: Any) -> Any:
    if layout is not None:
        _expect(isinstance(layout, Layout), "a Layout", layout)
        for pair in layout.moves:
            _numbers(pair, 2, 0, "moves")
    return layout
