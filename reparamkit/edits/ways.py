"""Edits of a forward that goes several ways: right only where every way does the same with what they touch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reparamkit.edits.region import region
from reparamkit.edits.shapes import misled
from reparamkit.errors import Refusal
from reparamkit.paths import below, holders, within

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reparamkit.decide.candidate import Candidate
    from reparamkit.flow import Flow, Value


def other_way(candidate: Candidate, flow: Flow, anchor: str = "") -> Refusal | None:
    """Why exchanging the modules of `candidate` would change another way through the forward, if so.

    Args:
        candidate: the region.
        flow: where it is.
        anchor: the module that takes the merged operator.
    """
    if not _forks(flow):
        return None
    if _inside_a_child(candidate, flow):
        return None
    where = candidate.target.where
    if flow.unknown is not None:
        return flow.unknown.at(where)
    steps = _steps(candidate, flow)
    if steps is None:
        return Refusal(
            "RK604", "the forward depends on what it is given, and this is more than a chain of modules", where
        )
    if any(_breaks(steps, way, anchor, candidate.cancels) for way in flow.ways):
        return Refusal("RK604", "the forward does something else with it, depending on what it is given", where)
    return None


def written_for_one(path: str, flow: Flow, where: str) -> Refusal | None:
    """Why the forward of `path` cannot be written anew, if it goes several ways: the new one would go one of them."""
    if path != flow.path or not _forks(flow):
        return None
    return Refusal("RK604", "the forward depends on what it is given, and this is more than a chain of modules", where)


def seen_one_way(flow: Flow, values: Sequence[Value]) -> bool:
    """Whether these values, the first of which all others are computed from, are all there is: no other way, no caller.

    Args:
        flow: where they are.
        values: in forwards of it.
    """
    if not _forks(flow):
        return True
    first, *others = [value.path for value in values]
    common = next((p for p in reversed([*holders(first), first]) if all(within(o, [p]) for o in others)), "")
    while common and common not in flow.frames:  # a list of modules has no forward
        common = common.rpartition(".")[0]
    frame = flow.frames.get(common)
    inside = frame is not None and common != flow.path and not frame.picked
    return inside and frame is not None and frame.output not in values


def _forks(flow: Flow) -> bool:
    return flow.several or not flow.main


def _inside_a_child(candidate: Candidate, flow: Flow) -> bool:
    """Whether all of the region stands in the forward of one child, which goes one way whatever the parent does."""
    prefix = f"{flow.path}." if flow.path else ""
    paths = [value.path for value in candidate.values]
    first = min(paths, key=len)
    return (
        first not in ("", flow.path)
        and first.startswith(prefix)
        and not flow.frames[first].picked
        and all(path == first or below(path, first) for path in paths)
    )


def _steps(candidate: Candidate, flow: Flow) -> list[Any] | None:
    """What a region that is a chain consists of, in order: modules, and steps in the forwards of children."""
    called = [v for v in candidate.values if v.term is None or not v.term.is_identity]
    steps = [_name(v, flow) for v in called]
    return None if any(v.parts for v in called) or None in steps else steps


def _name(value: Value, flow: Flow) -> Any:
    """Something that is the same in every way; `None` for a step of the forward that has them, if it computes."""
    if value.module_path is not None:
        return value.module_path
    if value.path != flow.path and not flow.frames[value.path].picked:
        return value.path, value.node
    return _rearrangement(value) if value.stays else None


def _rearrangement(value: Value) -> Any:
    """What a step that rearranges axes does, where it does not ask for sizes."""
    first, *others = value.node.args
    plain = value.node.all_input_nodes == [first]
    return (str(value.node.target), str(others), str(value.node.kwargs)) if plain else None


def _breaks(steps: list[Any], way: Flow, anchor: str, cancels: bool) -> bool:
    """Whether `way` takes one of the steps, but not as this chain with nobody else reading what is between."""
    # Of a module that is an operator first and something else then, the operator is the first value.
    taken = {_name(v, way): v for v in reversed(way.values) if not v.stays and _name(v, way) in steps}
    if any(_holds(value, steps) for value in way.values):
        return True
    if not taken:
        return False
    value: Value | None = taken.get(steps[-1])
    for step in reversed(steps):
        value = _past_identities(value)
        if value is None or _name(value, way) != step or value.term is None:
            return True
        value = value.source
    if value is None or (value.unstable is not None and steps[0] != anchor):
        return True
    values = region(value, taken[steps[-1]])
    if isinstance(values, Refusal):
        return True
    holder = taken.get(anchor)
    place = (-1, values[-1].index + 1) if holder is None else (holder.index - 1, holder.index)
    return misled(values, place, cancels) is not None


def _holds(value: Value, steps: list[Any]) -> bool:
    """Whether one of the steps is taken inside a module that stays whole in this way, so that nobody sees how."""
    outer = value.module_path
    return outer is not None and any(below(step, outer) for step in steps if isinstance(step, str))


def _past_identities(value: Value | None) -> Value | None:
    while value is not None and value.term is not None and value.term.is_identity:
        value = value.source
    return value
