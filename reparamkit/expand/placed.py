"""Branches as values: as a recipe says them (`Branch`), and beside one layer with all numbers settled (`Placed`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from reparamkit.branch import BranchOp, Place
from reparamkit.expand.layer import Pads


@dataclass(frozen=True)
class Step:
    """One operation of a branch, as a recipe says it.

    Attributes:
        op: the operation.
        options: an instance of its options.
        branches: of a `sum`, the branches that are added.
    """

    op: BranchOp
    options: Any
    branches: tuple[Branch, ...] = ()


@dataclass(frozen=True)
class Branch:
    """One branch, as a recipe says it.

    Attributes:
        steps: operations, in order.
        name: of the module that holds it; empty for one made from what it does.
        train: whether its parameters are trained.
    """

    steps: tuple[Step, ...]
    name: str = ""
    train: bool = True


@dataclass(frozen=True)
class PlacedStep:
    """An operation with its place.

    Attributes:
        op: the operation.
        options: its options.
        place: its place.
        branches: of a `sum`.
    """

    op: BranchOp
    options: Any
    place: Place
    branches: tuple[Placed, ...] = ()

    @property
    def shifts(self) -> bool:
        """Whether it makes something else of zero."""
        return self.op.shifts or self.place.bias


@dataclass(frozen=True)
class Border:
    """Explicit padding or cropping inside a branch.

    Attributes:
        at: index of the step in front of which it stands.
        pads: (before, after) of each axis; negative amounts crop.
        mode: padding mode.
        framed: it pads with what the steps in front of it make of zero.
    """

    at: int
    pads: Pads
    mode: str
    framed: bool


@dataclass(frozen=True)
class Placed:
    """A branch beside one layer, all its numbers settled.

    Attributes:
        name: of the module that holds it.
        steps: in order.
        border: explicit padding, where a step cannot do it by itself.
        train: whether its parameters are trained.
    """

    name: str
    steps: tuple[PlacedStep, ...]
    border: Border | None = None
    train: bool = True
