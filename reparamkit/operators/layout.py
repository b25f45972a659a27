"""Rearranged axes: flatten, reshape, transpose, averages over axes, as far as they leave the channels alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any

from torch import Tensor

from reparamkit.operators.conv import Conv
from reparamkit.operators.conv_transpose import ConvTranspose
from reparamkit.operators.regroup import Regroup
from reparamkit.operators.scale import Scale, Stencil


@dataclass(frozen=True, eq=False)
class Layout:
    """The same numbers with their axes arranged in another way.

    Attributes:
        moves: (axes behind it before, axes behind it after) of every axis that stays whole, or whose entries only
            change places or numbers (`channels`).
        ones: axes, by how many are behind them afterwards, that have one position then.
        rank: number of axes, where they only change places.
        channels: what happens to the channels, step by step; nothing, as a rule.
        left: number of axes afterwards, where only this tells.
        folds: the sizes, by whose they are, of axes that become one; the others stay.
        unfolds: likewise, of axes that one is taken apart into.
        resizes: "fewer" or "more" where positions become that by averaging or copying, the same in all channels; "same"
            where axes of one position come or go.
    """

    moves: tuple[tuple[int, int], ...]
    nd: None = None
    ones: tuple[int, ...] = ()
    rank: int | None = None
    channels: tuple[Regroup, ...] = ()
    left: int | None = None
    folds: tuple[Any, ...] = ()
    unfolds: tuple[Any, ...] = ()
    resizes: str = ""

    def after(self, behind: int) -> int | None:
        """Axes behind the channels afterwards, for channels with `behind` axes behind them; `None`: not kept."""
        return next((b for a, b in self.moves if a == behind), None)

    def before(self, behind: int) -> int | None:
        """The other way round."""
        return next((a for a, b in self.moves if b == behind), None)

    def values_before(self, values: Tensor) -> Tensor | None:
        """One number for each channel in front that is `values` ``[C]`` behind; `None` where there is none."""
        found: Tensor | None = values
        for step in reversed(self.channels):
            found = None if found is None else step.before(found)
        return found

    def values_after(self, values: Tensor) -> Tensor | None:
        """The other way round."""
        found: Tensor | None = values
        for step in self.channels:
            found = None if found is None else step.after(found)
        return found

    def count_before(self, channels: int) -> int:
        """Channels in front, where there are `channels` behind."""
        for step in reversed(self.channels):
            channels = step.count_before(channels)
        return channels

    @property
    def positions(self) -> int:
        """Positions in front, on each axis behind the channels, that one behind is made of."""
        return prod(step.positions for step in self.channels)

    @property
    def rearranges(self) -> bool:
        """Whether it only turns axes and makes one of several: what maps each position by itself crosses it."""
        named = self.rank is not None or self.resizes == "same"
        return not self.channels and (named or bool(self.folds or self.unfolds))

    @property
    def changes_nothing(self) -> bool:
        """Whether every axis is where it was."""
        return self.rank is not None and not self.channels and all(a == b for a, b in self.moves)

    def then(self, other: Layout) -> Layout:
        """This one, then `other`."""
        pairs = [(a, other.after(b)) for a, b in self.moves]
        kept = tuple((a, c) for a, c in pairs if c is not None)
        made = Layout(kept, ones=other.ones, channels=(*self.channels, *other.channels))
        if self.resizes or other.resizes:
            return replace(made, resizes=self._resized(other))
        if self.rank is not None and self.rank == other.rank:
            return replace(made, rank=self.rank)
        back = len(kept) == 2 and self.folds == other.unfolds and self.unfolds == other.folds
        if back and (self.folds or self.unfolds):
            return replace(made, rank=len(self.folds) + 2 if self.folds else 3)
        if self.rearranges and other.rearranges and not (self._refolds and other._refolds):
            return replace(made, folds=self.folds or other.folds, unfolds=self.unfolds or other.unfolds)
        return made

    def _resized(self, other: Layout) -> str:
        """What is left of `resizes` with another rearrangement in front or behind."""
        found = {layout.resizes for layout in (self, other)} - {"", "same"}
        plain = all(layout.resizes or layout.rearranges for layout in (self, other))
        if self.channels or other.channels or len(found) > 1 or not plain:
            return ""
        return found.pop() if found else "same"

    @property
    def _refolds(self) -> bool:
        return bool(self.folds or self.unfolds)

    @property
    def params(self) -> int:
        """Nothing is stored."""
        return 0

    @property
    def macs(self) -> int:
        """Nothing is computed."""
        return 0


@dataclass(frozen=True, eq=False)
class Arranged:
    """``back(op(front(x)))``: an operator between rearrangements, which stay where they are.

    Attributes:
        op: the operator.
        front: what comes before it.
        back: what comes after it.
    """

    op: Conv | ConvTranspose | Scale | Stencil
    front: Layout | None = None
    back: Layout | None = None

    @property
    def nd(self) -> None:
        """Axes behind the channels: not one number."""
        return

    @property
    def params(self) -> int:
        """Numbers the operator stores."""
        return self.op.params

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the operator per position."""
        return self.op.macs
