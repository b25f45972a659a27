"""Per-channel float64 vectors computed when first asked for: biases and pad values of operators."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from reparamkit.operators.weight import Weight


class Vector:
    """A float64 vector ``[channels]``, computed once. `None` in its place means zeros.

    Attributes:
        rounding: how far, relative to the largest entry, the entries may be off because they were computed in a
            narrower dtype.
    """

    def __init__(self, compute: Callable[[], Tensor], rounding: float = 0.0) -> None:
        self.rounding = rounding
        self._compute: Callable[[], Tensor] | None = compute
        self._value: Tensor | None = None

    @property
    def value(self) -> Tensor:
        """The values, ``[channels]``."""
        if self._value is None:
            assert self._compute is not None
            self._value, self._compute = self._compute().to(torch.float64), None
        return self._value


def vector(tensor: Tensor) -> Vector:
    """A vector of values that exist."""
    return Vector(lambda: tensor.detach())


def is_zero(v: Vector | None) -> bool:
    """Whether every entry is exactly 0."""
    return v is None or not bool(v.value.any())


def values(v: Vector | None, channels: int, device: torch.device) -> Tensor:
    """The entries of `v`, zeros where there are none, ``[channels]``."""
    if v is None:
        return torch.zeros(channels, dtype=torch.float64, device=device)
    return v.value.expand(channels)


def plus(*vectors: Vector | None) -> Vector | None:
    """The sum; `None` when every summand is."""
    present = [v for v in vectors if v is not None]
    if len(present) < 2:
        return present[0] if present else None
    return Vector(lambda: sum((v.value for v in present[1:]), present[0].value))


def times(v: Vector | None, scale: Tensor) -> Vector | None:
    """Entry by entry product with `scale` ``[channels]`` or ``[]``."""
    return None if v is None else Vector(lambda: v.value * scale)


def stacked(parts: list[tuple[Vector | None, int]], device: torch.device) -> Vector | None:
    """Vectors of the given lengths, one after the other."""
    if all(v is None for v, _ in parts):
        return None
    return Vector(lambda: torch.cat([values(v, n, device) for v, n in parts]))


def through(weight: Weight, groups: int, v: Vector | None) -> Vector | None:
    """What a kernel makes of an input that is `v` everywhere: ``weight @ v`` over all taps, ``[out_channels]``."""
    if v is None:
        return None

    def compute() -> Tensor:
        rows_per_group = weight.shape[0] // groups
        columns = values(v, weight.shape[1] * groups, weight.device).reshape(groups, -1)
        out = []
        for lo, hi in weight.bands():
            taps = weight.rows(lo, hi).flatten(2).sum(-1) if len(weight.shape) > 2 else weight.rows(lo, hi)
            group = torch.arange(lo, hi, device=weight.device) // rows_per_group
            out.append((taps * columns[group]).sum(1))
        return torch.cat(out)

    return Vector(compute)
