"""lower: an operator becomes a module with the dtype, device and memory format of its sources."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from reparamkit.errors import Refusal
from reparamkit.operators import Arranged, Conv, ConvTranspose, Layout, Operator, Picked, Scale, Stencil
from reparamkit.operators.conv import conv, with_groups
from reparamkit.operators.conv_transpose import turned
from reparamkit.operators.placed import embedded
from reparamkit.operators.vector import is_zero, values
from reparamkit.rule import RuleSet
from reparamkit.rules.dilation import on_grid
from reparamkit.rules.sequential import compose_convs
from reparamkit.term import Like, Term

Band = Callable[[int, int, Tensor], None]


def realizable(term: Term) -> Term | Refusal:
    """The same map in a form that one torch module can have.

    A scale becomes a depthwise convolution of one tap; cropping and uneven padding become zero taps at the
    edge of the kernel, unless torch's "same" padding says it.
    """
    op = term.op
    if isinstance(op, Stencil):
        return Refusal("RK319", "a filter for an unknown number of channels")
    if isinstance(op, (Layout, Arranged)):
        return Refusal("RK319", "axes are rearranged")
    if isinstance(op, Picked):
        made = _of_all(op)
        return made if isinstance(made, Refusal) else realizable(replace(term, op=made))
    if isinstance(op, Scale):
        if not op.channels or not op.nd or term.like is None:
            return Refusal("RK319", "a scale for an unknown number of channels or axes")
        return replace(term, op=op.bind(op.nd, op.channels))
    if term.like is None:
        return Refusal("RK319", "no weight tells the dtype of a layer")
    if isinstance(op, ConvTranspose):
        return term
    made = _even(with_groups(op, 1) if op.nd == 0 else op)
    return made if isinstance(made, Refusal) else replace(term, op=made)


def _of_all(op: Picked) -> Conv | Refusal:
    """A dense convolution of channels in another order as one of the channels as they are."""
    if not isinstance(op.op, Conv) or op.op.groups > 1 or not op.is_permutation:
        return Refusal("RK319", "it reads a part of the channels only")
    device = op.op.weight.device
    rows = torch.eye(op.channels, dtype=torch.float64, device=device)[torch.tensor(op.index, device=device)]
    return compose_convs(op.op, conv(rows.reshape(op.channels, op.channels, *[1] * op.nd)))


def _even(op: Conv) -> Conv | Refusal:
    if op.reads_padding and not is_zero(op.pad_value):
        return Refusal("RK316", "no torch module pads with a value of its own for each channel")
    if all(lo == hi >= 0 for lo, hi in op.padding) or _is_same(op):
        return op
    grid = tuple(
        1 if k == 1 or (lo - hi) % d or (min(lo, hi) < 0 and lo % d) else d
        for (lo, hi), d, k in zip(op.padding, op.dilation, op.kernel_size, strict=True)
    )
    op = on_grid(
        replace(op, dilation=tuple(1 if k == 1 else d for d, k in zip(op.dilation, op.kernel_size, strict=True))), grid
    )
    sides = [_common(lo, hi, d) for (lo, hi), d in zip(op.padding, op.dilation, strict=True)]
    if op.padding_mode != "zeros" and _pads_more(op, sides):
        return Refusal("RK312", f"{op.padding_mode} padding {op.padding} has no even form")
    offset = [(p - lo) // d for p, (lo, _), d in zip(sides, op.padding, op.dilation, strict=True)]
    size = [
        k + (2 * p - lo - hi) // d
        for k, p, (lo, hi), d in zip(op.kernel_size, sides, op.padding, op.dilation, strict=True)
    ]
    weight = embedded(op.weight, size, offset, [1] * op.nd)
    return replace(op, weight=weight, padding=tuple((p, p) for p in sides))


def _pads_more(op: Conv, sides: list[int]) -> bool:
    """Whether a side would be padded further than it is: reflected positions cannot be had for nothing."""
    limits = [min(pad) if op.reads_padding else 0 for pad in op.padding]
    return any(side > limit for side, limit in zip(sides, limits, strict=True))


def _common(lo: int, hi: int, d: int) -> int:
    """The least padding for both sides from which `lo` and `hi` are whole numbers of taps away."""
    side = max(lo, hi, 0)
    while (side - lo) % d or (side - hi) % d:
        side += 1
    return side


def _is_same(op: Conv) -> bool:
    totals = [d * (k - 1) for d, k in zip(op.dilation, op.kernel_size, strict=True)]
    split = tuple((t // 2, t - t // 2) for t in totals)
    return op.padding == split and all(s == 1 for s in op.stride)


def lower(term: Term, rules: RuleSet) -> nn.Module | Refusal:
    """A module of the geometry of `term`, its numbers not filled in yet.

    Args:
        term: a realizable term with a `like`.
        rules: where the module for each kind of operator is declared.
    """
    rule = rules.lowers.get(type(term.op))
    if rule is None or term.like is None:
        return Refusal("RK319", f"no rule lowers a {type(term.op).__name__}")
    module = rule.run(term.op, term.like)
    return module if isinstance(module, Refusal) else module.eval()


def numbers(op: Operator, like: Like, band: Band | None = None) -> tuple[Tensor, Tensor | None] | Refusal:
    """Weight and bias of a module for `op`, folded in float64 and rounded once.

    Args:
        op: a `Conv` or `ConvTranspose`.
        like: dtype, device and memory format.
        band: called with (lo, hi, rows) in float64 for every band of output channels before it is rounded.

    Returns:
        The weight in torch's layout and the bias; or a refusal when they are not finite.
    """
    assert isinstance(op, (Conv, ConvTranspose))
    shape = op.weight.shape[:2] if isinstance(op, Conv) and op.nd == 0 else op.weight.shape
    weight = torch.empty(shape, dtype=like.dtype, device=like.device)
    if like.channels_last and weight.ndim == 4:
        weight = weight.to(memory_format=torch.channels_last)
    for lo, hi in op.weight.bands():
        rows = op.weight.rows(lo, hi)
        weight[lo:hi] = rows.reshape(weight[lo:hi].shape)
        if not _finite(weight[lo:hi]):
            return _overflow(rows, like, lo)
        if band is not None:
            band(lo, hi, rows)
    bias = None if op.bias is None else values(op.bias, op.out_channels, like.device).to(like.dtype)
    if bias is not None and not _finite(bias):
        assert op.bias is not None
        return _overflow(op.bias.value, like, 0)
    if isinstance(op, ConvTranspose):
        weight = turned(weight, op.groups).contiguous()
    return weight, bias


def _finite(tensor: Tensor) -> bool:
    # One pass: a finite sum has finite entries; one that is not may just have overflowed itself.
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def _overflow(wide: Tensor, like: Like, lo: int) -> Refusal:
    if not bool(torch.isfinite(wide).all()):
        return Refusal("RK502", f"merged numbers of output channel {lo} and on are not finite")
    largest = float(wide.abs().max())
    return Refusal("RK501", f"merged numbers reach {largest:.3g}, {like.dtype} holds {torch.finfo(like.dtype).max:.3g}")


class Folded(nn.Identity):
    """Stands where a batch norm was whose numbers have moved into a neighbour.

    It returns its input. To code that still reads a batch norm here (another converter), it is one that does
    nothing: ``weight`` 1, ``bias`` 0, ``running_mean`` 0, ``running_var`` 1, ``eps`` 0.
    """

    eps = 0.0
    momentum = 0.1
    affine = True
    track_running_stats = True

    def __init__(self, num_features: int, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.num_features = num_features
        self.register_buffer("_like", torch.empty(0, dtype=dtype, device=device), persistent=False)

    def _full(self, value: float) -> Tensor:
        like: Any = self._like
        return torch.full((self.num_features,), value, dtype=like.dtype, device=like.device)

    @property
    def weight(self) -> Tensor:
        """Ones."""
        return self._full(1.0)

    @property
    def bias(self) -> Tensor:
        """Zeros."""
        return self._full(0.0)

    @property
    def running_mean(self) -> Tensor:
        """Zeros."""
        return self._full(0.0)

    @property
    def running_var(self) -> Tensor:
        """Ones."""
        return self._full(1.0)

    def extra_repr(self) -> str:
        """The number of features."""
        return str(self.num_features)


def neutral(module: nn.Module) -> nn.Module:
    """What stands in place of a module whose operator has moved elsewhere."""
    features = getattr(module, "num_features", None)
    mean = getattr(module, "running_mean", None)
    if not isinstance(features, int) or not isinstance(mean, Tensor):
        return nn.Identity().eval()
    return Folded(features, mean.dtype, mean.device).eval()
