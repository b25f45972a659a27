"""Some of the channels, and an operator of them."""

from __future__ import annotations

from dataclasses import dataclass

from reparamkit.operators.conv import Conv
from reparamkit.operators.scale import Scale, Stencil


@dataclass(frozen=True, eq=False)
class Picked:
    """``op(x[:, index])``: an operator that reads some channels of its input.

    Attributes:
        op: the operator, of as many channels as `index` lists.
        index: the channels it reads, in order.
        channels: how many there are.
        nd: axes behind them.
    """

    op: Conv | Scale | Stencil
    index: tuple[int, ...]
    channels: int
    nd: int

    @property
    def is_slice(self) -> bool:
        """Whether the channels are a slice, which is a view of the input; else they are copied."""
        step = self.index[1] - self.index[0] if len(self.index) > 1 else 1
        return step > 0 and self.index == tuple(range(self.index[0], self.index[-1] + 1, step))

    @property
    def is_permutation(self) -> bool:
        """Whether they are all channels, in some order."""
        return len(self.index) == self.channels and set(self.index) == set(range(self.channels))

    @property
    def params(self) -> int:
        """Numbers the operator stores."""
        return self.op.params

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the operator per position; picking costs none."""
        return 0 if isinstance(self.op, Scale) and self.op.is_identity else self.op.macs
