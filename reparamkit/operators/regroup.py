"""Channels that a rearrangement moves or counts anew, and what that makes of a number for each of them."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

from torch import Tensor


@dataclass(frozen=True)
class Grouped:
    """Every `front` consecutive channels become `back` consecutive ones: r * r and 1 in a pixel shuffle by r.

    Attributes:
        front: channels of a group before.
        back: channels of a group afterwards.
    """

    front: int
    back: int

    def before(self, values: Tensor) -> Tensor | None:
        """The values ``[C]`` of the channels in front that these are behind; `None` where a group has several."""
        return _spread(values, self.back, self.front)

    def after(self, values: Tensor) -> Tensor | None:
        """The other way round."""
        return _spread(values, self.front, self.back)

    def count(self, channels: int) -> int:
        """Channels afterwards."""
        return channels // self.front * self.back

    def count_before(self, channels: int) -> int:
        """Channels in front of as many afterwards."""
        return channels // self.back * self.front

    @property
    def positions(self) -> int:
        """Positions on each axis that go into the channels of one."""
        return isqrt(self.back)


@dataclass(frozen=True)
class Dealt:
    """Channels dealt out as cards: a channel shuffle.

    Attributes:
        groups: into how many groups they were cut before.
    """

    groups: int

    def before(self, values: Tensor) -> Tensor | None:
        """As `Grouped.before`."""
        return None if len(values) % self.groups else values.reshape(-1, self.groups).t().flatten()

    def after(self, values: Tensor) -> Tensor | None:
        """As `Grouped.after`."""
        return None if len(values) % self.groups else values.reshape(self.groups, -1).t().flatten()

    def count(self, channels: int) -> int:
        """As `Grouped.count`."""
        return channels

    def count_before(self, channels: int) -> int:
        """As `Grouped.count_before`."""
        return channels

    @property
    def positions(self) -> int:
        """As `Grouped.positions`."""
        return 1


Regroup = Grouped | Dealt


def _spread(values: Tensor, size: int, new: int) -> Tensor | None:
    if len(values) % size:
        return None
    groups = values.reshape(-1, size)
    return groups[:, 0].repeat_interleave(new) if bool((groups == groups[:, :1]).all()) else None
