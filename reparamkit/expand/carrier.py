"""carrier: the convolution that takes up what the other branches add, so that the sum stays what the layer was.

It has the layer's own kernel, stride, dilation and groups, and nothing with taps stands before or behind it on the
way from the input to the sum.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from reparamkit.expand.layer import Layer
from reparamkit.expand.ops.nest import SUM
from reparamkit.expand.placed import Placed, PlacedStep

_KINDS = ("conv", "linear")


@dataclass(frozen=True)
class Way:
    """The way to a carrier.

    Attributes:
        branch: index of the branch it is in.
        step: index of the step in that branch.
        rest: the way on, when that step is a `sum`.
    """

    branch: int
    step: int
    rest: Way | None = None


def carriers(branches: Sequence[Placed], layer: Layer) -> Iterator[Way]:
    """The ways to all convolutions that could be it, in the order of the recipe."""
    for b, branch in enumerate(branches):
        for s, step in enumerate(branch.steps):
            if any(any(other.place.span) or other.op.name == SUM for other in branch.steps if other is not step):
                continue
            if step.op.name == SUM:
                yield from (Way(b, s, way) for way in carriers(step.branches, layer))
            elif _could(step, layer):
                yield Way(b, s)


def _could(step: PlacedStep, layer: Layer) -> bool:
    place = step.place
    same = (place.kernel_size, place.stride, place.groups) == (layer.kernel_size, layer.stride, layer.groups)
    on_grid = place.span == layer.span
    return step.op.name in _KINDS and same and on_grid and not getattr(step.options, "identity", False)


def with_bias(branches: Sequence[Placed], layer: Layer) -> tuple[Placed, ...]:
    """The branches with a place for the layer's bias: on the first carrier, unless something behind it has one.

    Biases in other branches, which are random at first, have to be made up for as well.
    """
    way = next(carriers(branches, layer), None)
    if way is None or not (layer.bias or _biased(branches)) or any(_holds_bias(step) for step in _from(branches, way)):
        return tuple(branches)
    return _given_bias(branches, way)


def _biased(branches: Sequence[Placed]) -> bool:
    return any(s.place.bias or _biased(s.branches) for b in branches for s in b.steps)


def _from(branches: Sequence[Placed], way: Way) -> Iterator[PlacedStep]:
    """The carrier and every step behind it."""
    steps = branches[way.branch].steps
    if way.rest is not None:
        yield from _from(steps[way.step].branches, way.rest)
        yield from steps[way.step + 1 :]
        return
    yield from steps[way.step :]


def _holds_bias(step: PlacedStep) -> bool:
    if step.op.name == "bn":
        return bool(step.options.affine)
    return step.op.name in _KINDS and step.place.bias


def _given_bias(branches: Sequence[Placed], way: Way) -> tuple[Placed, ...]:
    branch = branches[way.branch]
    step = branch.steps[way.step]
    if way.rest is not None:
        step = replace(step, branches=_given_bias(step.branches, way.rest))
    elif step.options.bias is None:
        step = replace(step, place=replace(step.place, bias=True))
    steps = (*branch.steps[: way.step], step, *branch.steps[way.step + 1 :])
    made = replace(branch, steps=steps)
    return (*branches[: way.branch], made, *branches[way.branch + 1 :])
