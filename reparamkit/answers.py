"""answers: what a lift may say of a module or a call, and what it is asked with.

A plain operator is the simplest answer: this module is that map. The others name what is read, what is added up or
stacked, or where an affine part ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from reparamkit.decide.cost import Cost
    from reparamkit.operators import Operator, Picked, Scale


@dataclass(frozen=True)
class Split:
    """A module that is an affine operator first and something else after it.

    Attributes:
        op: the affine part.
        remainder: makes the module that does the rest, called when the affine part has moved elsewhere.
    """

    op: Operator
    remainder: Callable[[], nn.Module]


@dataclass(frozen=True)
class Tail:
    """A module that is something else first and an affine operator of that then.

    Attributes:
        op: the affine part.
        head: makes the module that does the rest, called when the affine part has moved elsewhere; `None` where the
            two cannot be parted.
        affine: what the affine part computes, for proofs; not made of `op`.
    """

    op: Operator
    head: Callable[[], nn.Module] | None
    affine: Callable[[Any], Any]


@dataclass(frozen=True)
class Through:
    """A call that is one operator applied to one of its inputs.

    Attributes:
        value: the input.
        op: the operator.
        rounding: how far, relatively, numbers of the call may be off because the forward computed them in its dtype.
        cost: what the call costs a position of its result, where `op` does not tell; then it may be replaced alone.
    """

    value: Any
    op: Operator
    rounding: float = 0.0
    cost: Cost | None = None


@dataclass(frozen=True)
class Sum:
    """A call that adds its inputs: ``sum(factor * value)``.

    Attributes:
        terms: factors and values; a factor is a number, a `Scale` without a shift, or some of the channels.
    """

    terms: tuple[tuple[float | Scale | Picked, Any], ...]


@dataclass(frozen=True)
class Stack:
    """A call whose result holds operators of its inputs side by side, along an axis of its own.

    Attributes:
        terms: what stands at each place: an operator without a shift, and the value it is of.
        dim: the axis.
        rank: number of axes of the result, where known.
        whole: what the call is of one of its inputs as a whole, where it is an operator of that as well.
    """

    terms: tuple[tuple[Scale | Picked, Any], ...]
    dim: int
    rank: int | None = None
    whole: Through | None = None


@dataclass(frozen=True)
class Cat:
    """A call that stacks its inputs along the axis `dim`."""

    values: tuple[Any, ...]
    dim: int


class Context(Protocol):
    """What a lift may ask about the place it is used at."""

    @property
    def rank(self) -> int | None:
        """Number of axes of the (first) input, where it is known."""

    @property
    def ones(self) -> tuple[int, ...]:
        """Axes of it, by how many are behind them, that are known to have one position."""

    @property
    def channels(self) -> int | None:
        """Channels of it, where they are the second axis and something in front of it tells."""

    @property
    def grouped(self) -> bool:
        """Whether a convolution of several groups of more than one channel makes it."""


class Call:
    """A function or method call in a traced forward, its tensor inputs as opaque values.

    Attributes:
        args: positional arguments; constants are real tensors and numbers, inputs are `Value`s.
        kwargs: keyword arguments.
    """

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any], is_input: Callable[[Any], bool]) -> None:
        self.args = args
        self.kwargs = kwargs
        self.is_input = is_input

    def bind(self, *names: str, **defaults: Any) -> dict[str, Any]:
        """The arguments by name: `names` without a default first, then those of `defaults`, in order."""
        order = (*names, *defaults)
        bound = {**defaults, **dict(zip(order, self.args, strict=False)), **self.kwargs}
        return {name: bound.get(name) for name in order} | {k: v for k, v in bound.items() if k not in order}

    def constant(self, value: Any) -> bool:
        """Whether `value` holds no input anywhere."""
        if isinstance(value, (list, tuple)):
            return all(self.constant(v) for v in value)
        return not self.is_input(value)
