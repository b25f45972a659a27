"""Declarations: what an operation of the branch grammar is. `reparamkit_branches` returns them.

An operation has a name that recipes write, options, and a function that builds its module for a place whose numbers
are all settled: channels, taps, stride, padding, groups. Where it may stand follows from what the declaration
says about it; that it is what it says is proven on every block that `expand` builds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from torch import nn

Extent = int | Literal["k"]
PerAxis = Annotated[
    Extent | Annotated[tuple[Extent, ...], Field(strict=False)],
    Field(description="One number for every axis or one an axis; 'k' is the layer's own kernel size."),
]
Channels = Annotated[
    Annotated[int, Field(ge=1)] | Annotated[str, Field(pattern=r"^(\d+(\.\d+)?\*)?(in|out)$")],
    Field(description="A number, or relative to the layer: 'in', 'out', '2*in', '0.5*out'."),
]


class Options(BaseModel):
    """Options of an operation; this one has none."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


@dataclass(frozen=True)
class Place:
    """Where a module is to stand.

    Attributes:
        in_channels: it gets.
        out_channels: it must give.
        kernel_size: its taps, one number a spatial axis; empty beside a linear layer.
        stride: one an axis.
        padding: the same on both sides of an axis; what is uneven is padded in front of it.
        dilation: one an axis.
        groups: channel groups.
        padding_mode: of its padding.
        bias: whether it has one.
    """

    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1
    padding_mode: str = "zeros"
    bias: bool = False

    @property
    def nd(self) -> int:
        """Number of spatial axes."""
        return len(self.kernel_size)

    @property
    def span(self) -> tuple[int, ...]:
        """Distance from the first tap to the last on each axis."""
        return tuple(d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True))


@dataclass(frozen=True)
class BranchOp:
    """An operation that recipes can put into a branch.

    Attributes:
        name: how recipes write it.
        build: ``build(options, place)`` gives the module; affine in eval mode, with default initial numbers.
        about: one line for people.
        options: what a recipe may say about it. Where it has a field ``kernel_size``, ``channels``, ``groups``,
            ``dilation`` or ``bias``, the place is made by it.
        taps: its kernel size when no option says it: "k" for the layer's own, a number, or 1 for an operation on each
            position alone.
        mixes: it can change the number of channels.
        strides: it can skip positions.
        pads: padding modes it knows itself.
        shifts: it makes something else of zero (a batch norm).
        by_batch: in training mode it looks at the whole batch or draws random numbers, so that it cannot be computed
            on a kernel.
        axes: numbers of spatial axes it is for; 0 is beside a linear layer.
        origin: the plugin that brought it.
    """

    name: str
    build: Callable[[Any, Place], nn.Module]
    about: str = ""
    options: type[Options] = Options
    taps: Extent = 1
    mixes: bool = False
    strides: bool = False
    pads: Sequence[str] = ()
    shifts: bool = False
    by_batch: bool = False
    axes: Sequence[int] = (0, 1, 2, 3)
    origin: str = ""
