"""cost: what an operator costs to run and to store. Numbers only, relative to the input positions of its flow."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

from reparamkit.operators import Arranged, Conv, ConvTranspose, Layout, Picked, Stencil
from reparamkit.timing.job import Job

if TYPE_CHECKING:
    from reparamkit.operators import Operator


@dataclass(frozen=True, slots=True)
class Cost:
    """Costs add up.

    Attributes:
        macs: multiply-accumulates per position.
        params: numbers stored.
        buffers: numbers stored beside them, such as statistics.
        traffic: activations written per position.
        ops: kernels launched.
        jobs: what is to be run, where the policy wants it timed; `None` for what cannot be.
    """

    macs: float = 0.0
    params: float = 0.0
    buffers: float = 0.0
    traffic: float = 0.0
    ops: int = 0
    jobs: tuple[Job | None, ...] = ()

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.macs + other.macs,
            self.params + other.params,
            self.buffers + other.buffers,
            self.traffic + other.traffic,
            self.ops + other.ops,
            self.jobs + other.jobs,
        )

    def at(self, density: float) -> Cost:
        """The cost, given for one position of a result, for `density` of them."""
        return replace(self, macs=self.macs * density, traffic=self.traffic * density)

    def at_most(self, other: Cost) -> bool:
        """Whether no work is more than in `other`."""
        pairs = ((self.macs, other.macs), (self.traffic, other.traffic), (self.ops, other.ops))
        return all(mine <= theirs * (1 + 1e-9) for mine, theirs in pairs)

    def times(self, factor: float) -> Cost:
        """As many times what is computed and stored, without the launches."""
        return Cost(self.macs * factor, self.params * factor, self.buffers * factor, self.traffic * factor)

    @property
    def score(self) -> float:
        """One number to compare by: an activation written costs as much as a few products, a launch something."""
        return self.macs + 8.0 * self.traffic + 32.0 * self.ops


def cost_of(op: Operator, density: float, channels: int = 1) -> Cost:
    """The cost of a module that computes `op`.

    Args:
        op: the operator.
        density: positions of its result per position of the input of the flow.
        channels: of the result, where the operator does not say.
    """
    if isinstance(op, (Conv, ConvTranspose)):
        positions = density if isinstance(op, Conv) else density / prod(op.stride)
        cost = Cost(op.macs * positions, op.params, 0, op.out_channels * density, 1)
        return cost + _padding(op, density) if isinstance(op, Conv) else cost
    if isinstance(op, Stencil):
        return Cost(ops=1) if op.is_view else Cost(op.macs * channels * density, 0, 0, channels * density, 1)
    if isinstance(op, Picked):
        copied = Cost() if op.is_slice else Cost(traffic=len(op.index) * density, ops=1)
        return copied if op.macs == 0 else copied + cost_of(op.op, density, len(op.index))
    if isinstance(op, (Layout, Arranged)):
        return Cost()
    channels = op.channels or channels
    return Cost(channels * density, op.params, 0, channels * density, 1)


def _padding(op: Conv, density: float) -> Cost:
    """Of uneven padding, which torch writes out in front of the convolution: as much as the padding alone."""
    if all(before == after for before, after in op.padding):
        return Cost()
    written = op.in_channels * density * prod(op.stride)
    return Cost(macs=written, traffic=written, ops=1)
