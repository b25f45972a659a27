"""ends: where a merged submodule may start and end: at the ends of its region, or nearer, where modules step aside."""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING

from reparamkit.nodes.names import name_of
from reparamkit.operators import Conv, Layout, Scale
from reparamkit.operators.conv import pointwise
from reparamkit.paths import below

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reparamkit.decide.candidate import Candidate
    from reparamkit.flow import Flow, Frame, Value
    from reparamkit.survey import Survey


def in_front(source: Value, start: Value) -> list[Value]:
    """The values behind `source` up to `start`, in order of execution."""
    return list(takewhile(lambda v: v is not source, start.chain()))[::-1]


def only_around(candidate: Candidate, start: Value, end: Value) -> bool:
    """Whether axes are rearranged only in front of `start` and behind `end`, with nothing that cannot cross there."""
    front, back = in_front(candidate.source, start), in_front(end, candidate.target)
    outside = {*front, *back}
    counted = any(v.stays and counts_channels(v) for v in outside)
    if not all(crosses(v, counted) for v in outside) or any(v.stays and v not in outside for v in candidate.values):
        return False
    if not any(v.term is not None and isinstance(v.term.op, Conv) for v in outside):
        return True
    sides = any(v.stays for v in front), any(v.stays for v in back)
    return sides == (candidate.front is not None, candidate.back is not None)


def crosses(value: Value, counted: bool) -> bool:
    """Whether a step may go from one side of rearranged axes to the other, where those may count the channels."""
    op = None if value.term is None else value.term.op
    if isinstance(op, Conv):
        return pointwise(op) and (not counted or op.in_channels == op.out_channels)
    return isinstance(op, (Layout, Scale))


def counts_channels(value: Value) -> bool:
    """Whether a rearrangement is told how many channels there are, or may be."""
    name = type(value.module).__name__ if value.module is not None else name_of(value.node.target)
    return name.lower() not in _COUNTS_NONE


_COUNTS_NONE = frozenset(
    "flatten permute transpose movedim moveaxis swapaxes swapdims squeeze unsqueeze mean interpolate upsample "
    "upsamplingnearest2d upsamplingbilinear2d adaptiveavgpool1d adaptiveavgpool2d adaptiveavgpool3d "
    "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d rearrange".split()
)


def around(candidate: Candidate, start: Value, end: Value) -> set[Value]:
    """The values of the region in front of `start` and behind `end`."""
    return {*in_front(candidate.source, start), *in_front(end, candidate.target)}


def fronts(candidate: Candidate, flow: Flow, survey: Survey) -> Iterator[tuple[Value, list[str]]]:
    """Where the merged submodule may start: at the source, or behind modules of the region that step aside."""
    source, aside = candidate.source, list[str]()
    while True:
        yield source, list(aside)
        readers = [v for v in candidate.values if source in v.inputs and not v.meta]
        if len(readers) != 1 or readers[0].parts or readers[0] is candidate.target:
            return
        source = readers[0]
        if source.parted:
            return
        if source.stays:
            continue
        name = unit(source, candidate, flow)
        if name is None or survey.is_read_from_outside(name):
            return
        aside.append(name)


def backs(candidate: Candidate, flow: Flow, survey: Survey) -> Iterator[tuple[Value, list[str]]]:
    """Where it may end: at the target, or in front of modules of the region that step aside."""
    target, aside = candidate.target, list[str]()
    while True:
        yield target, list(aside)
        if target.parts or target.source not in candidate.values:
            return
        if not target.stays:
            name = unit(target, candidate, flow)
            if name is None or survey.is_read_from_outside(name):
                return
            aside.append(name)
        target = target.source


def unit(value: Value, candidate: Candidate, flow: Flow) -> str | None:
    """The module that computes `value` and nothing outside the region."""
    if value.module_path is not None:
        return None if value.shared or value.tail is not None else value.module_path
    inside = set(candidate.values)
    frame = flow.frames[value.path]
    if not frame.takes_one or frame.output not in inside:
        return None
    return frame.path if lies_inside(frame, inside, flow) else None


def lies_inside(frame: Frame, inside: set[Value], flow: Flow) -> bool:
    """Whether everything the forward computes, its children included, is in the region."""
    own = [v for v in flow.values[slice(*frame.span)] if not v.meta and v.node.op != "placeholder"]
    return all(v in inside and not v.stays for v in own)


def outermost(paths: list[str]) -> tuple[str, ...]:
    """Each path that lies below none of the others."""
    return tuple(dict.fromkeys(p for p in paths if not any(below(p, other) for other in paths)))
