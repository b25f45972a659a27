"""benches: on inputs of which size the operators of a flow are timed, from what was seen in a run of the model.

A value has the size of the input of a module that reads it, or of the output of the module that it is. Where no module
tells, the nearest value in front of it is asked, and what its operators make of a position is reckoned with.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from reparamkit.timing.job import Bench

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reparamkit.flow import Flow, Value
    from reparamkit.survey import Survey
    from reparamkit.term import Like

_Shape = tuple[int, ...]
_FAR = 40  # values that are asked for a size, one in front of the other


@dataclass(frozen=True)
class Benches:
    """The benches of one flow.

    Attributes:
        survey: has the sizes that were seen.
        like: dtype, device and memory format of what is run.
    """

    survey: Survey
    like: Like

    def at(self, value: Value, nd: int | None) -> Bench | None:
        """The bench for jobs that read `value`, or `None` where no size was seen.

        Args:
            value: a value of the flow.
            nd: spatial axes of the operator; `None` for one that works on any number of them.
        """
        axes = nd if nd is not None else next(_axes(value), None)
        for shape, positions in _seen(value, self.survey):
            spatial = len(shape) - 2 if axes is None else axes
            if spatial == 0:
                return Bench(prod(shape[:-1]), (), self.like)
            if len(shape) == spatial + 2:
                side = positions ** (1 / spatial)
                return Bench(shape[0], tuple(max(1, round(n * side)) for n in shape[2:]), self.like)
        return None


def benches_of(flow: Flow, survey: Survey) -> Benches | None:
    """The benches of a flow; `None` where nothing in it has numbers."""
    like = next((v.term.like for v in flow.values if v.term is not None and v.term.like is not None), None)
    return None if like is None else Benches(survey, like)


def _axes(value: Value) -> Iterator[int]:
    """Spatial axes of the operators along its chain."""
    for one in value.chain():
        for near in (one, *one.inputs, *one.users):
            if near.term is not None and near.term.op.nd is not None:
                yield near.term.op.nd


def _seen(value: Value, survey: Survey) -> Iterator[tuple[_Shape, float]]:
    """Sizes that were seen, the nearest first, each with the positions of `value` per position of it."""
    one: Value | None = value
    positions = 1.0
    for _ in range(_FAR):
        if one is None:
            return
        shape = _shape_of(one, survey)
        if shape is not None:
            yield shape, positions
        if one.source is not None:
            positions *= one.density / one.source.density
        one = one.source or next((read for read in one.inputs if not read.meta), None)


def _shape_of(value: Value, survey: Survey) -> _Shape | None:
    for reader in value.users:
        whole = reader.split is None and reader.tail is None
        if whole and reader.module_path in survey.sizes_in and reader.inputs[0] is value:
            return survey.sizes_in[reader.module_path]
    if value.module_path is not None and value.split is None:
        return survey.sizes_out.get(value.module_path)
    return survey.sizes_in.get(value.path) if value.node.op == "placeholder" else None
