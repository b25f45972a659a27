"""core/pad: explicit padding and cropping are convolutions with one tap.

Formula: padding by `p` (reflecting, replicating, wrapping, or with a constant) is the identity kernel with that
padding; a slice that drops positions at the ends is the identity with negative padding, a strided slice the
identity with a stride (ACNet's cropped branches, DBB's and ECBSR's border padding, ZeroPad2d before a convolution).

Conditions: only spatial axes are padded or sliced; slice bounds count from their own end.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from reparamkit.answers import Call, Context, Through
from reparamkit.errors import Refusal
from reparamkit.operators import Stencil, stencil, vector
from reparamkit.rule import Lift, Rule
from reparamkit.rules.arithmetic import number
from reparamkit.rules.constants import scalar

RULE = "core/pad"


def padding(pads: tuple[int, ...], mode: str, value: float | None, nd: int) -> Stencil | Refusal:
    """Padding with torch's `pads`: last axis first, (before, after) each."""
    if len(pads) % 2 or len(pads) // 2 > nd:
        return Refusal("RK310", f"pads {pads} reach beyond the {nd} spatial axes")
    pairs = [(pads[i], pads[i + 1]) for i in range(0, len(pads), 2)]
    pairs += [(0, 0)] * (nd - len(pairs))
    value = value or 0.0
    return stencil(
        torch.ones([1] * nd, device="cpu"),
        padding=tuple(reversed(pairs)),
        padding_mode="zeros" if mode == "constant" else mode,
        pad_value=vector(scalar(value).reshape(1)) if value else None,
    )


def lift_pad_module(module: Any, context: Context) -> Stencil | Refusal:
    """`nn.ZeroPad2d`, `nn.ReflectionPad2d` and their family."""
    pads = tuple(module.padding)
    family = next(mode for name, mode in _MODES.items() if any(name in c.__name__ for c in type(module).__mro__))
    return padding(pads, family, getattr(module, "value", 0.0), len(pads) // 2)


_MODES = {
    "ConstantPad": "constant",
    "ZeroPad": "constant",
    "ReflectionPad": "reflect",
    "ReplicationPad": "replicate",
    "CircularPad": "circular",
}


def lift_pad(call: Call, context: Context) -> Through | Refusal:
    """`F.pad`."""
    bound = call.bind("input", "pad", mode="constant", value=None)
    value = bound.pop("input")
    if isinstance(bound["pad"], (list, tuple)):
        bound["pad"] = [number(amount) for amount in bound["pad"]]
    if not call.is_input(value) or not call.constant(list(bound.values())) or None in bound["pad"]:
        return Refusal("RK331", "padding that depends on the input")
    if context.rank is None:
        return Refusal("RK203", "which axes are spatial depends on it; pass example_inputs")
    op = padding(tuple(bound["pad"]), bound["mode"], bound["value"], context.rank - 2)
    return op if isinstance(op, Refusal) else Through(value, op)


def lift_slice(call: Call, context: Context) -> Through | Refusal:
    """``x[:, :, a:-b, a:-b]``, also with a stride."""
    value, index = call.args[0], call.args[1]
    parts = index if isinstance(index, tuple) else (index,)
    if not call.is_input(value) or not all(p is Ellipsis or isinstance(p, slice) for p in parts):
        return Refusal("RK331", "an index that is not a slice of positions")
    if Ellipsis in parts:
        if context.rank is None:
            return Refusal("RK203", "which axes are sliced depends on it; pass example_inputs")
        at = parts.index(Ellipsis)
        parts = (*parts[:at], *[slice(None)] * (context.rank - len(parts) + 1), *parts[at + 1 :])
    rank = context.rank if context.rank is not None else len(parts)
    parts = (*parts, *[slice(None)] * (rank - len(parts)))
    if any(p != slice(None) for p in parts[:2]) or len(parts) < 3:
        return Refusal("RK331", "a slice of channels or of the batch")
    return _cropped(value, parts[2:])


def _cropped(value: Any, parts: tuple[Any, ...]) -> Through | Refusal:
    crops, steps = [], []
    for part in parts:
        start, stop, step = part.start or 0, part.stop, 1 if part.step is None else part.step
        numbers = [n for n in (start, stop, step) if n is not None]
        if not all(isinstance(n, int) for n in numbers):
            return Refusal("RK331", "slice bounds that depend on the input")
        if start < 0 or (stop is not None and stop >= 0) or step < 1:
            return Refusal("RK331", f"the slice {part} depends on the size of the input")
        crops.append((-start, stop or 0))
        steps.append(step)
    op = stencil(torch.ones([1] * len(parts), device="cpu"), padding=tuple(crops), stride=tuple(steps))
    return Through(value, op)


_MODULES: tuple[Any, ...] = tuple(
    getattr(nn, f"{family}{nd}d") for family in _MODES for nd in (1, 2, 3) if hasattr(nn, f"{family}{nd}d")
)

rules: tuple[Rule, ...] = (
    *(Lift(RULE, target, lift_pad_module, subclasses=True) for target in _MODULES),
    Lift(RULE, F.pad, lift_pad),
)
