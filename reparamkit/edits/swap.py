"""swap: regions that can be expressed by exchanging modules, so that no forward changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from reparamkit.edits.edit import Swap
from reparamkit.edits.ends import backs, counts_channels, crosses, fronts, outermost, unit
from reparamkit.lift.own_layer import OwnLayer, fits, geometry, goes_on_with_weights, takes_weights
from reparamkit.operators import Conv, ConvTranspose
from reparamkit.paths import below, holders
from reparamkit.standin import StandIn
from reparamkit.survey import hooked

if TYPE_CHECKING:
    from torch import fx

    from reparamkit.decide.candidate import Candidate
    from reparamkit.flow import Flow, Frame, Value
    from reparamkit.survey import Survey


def restored(candidate: Candidate, flow: Flow, survey: Survey) -> Swap | None:
    """A plain layer in the place of a module that is all of the region and does nothing but stand for one."""
    frames = [] if candidate.cancels else _stand_ins(candidate, flow, survey)
    if not frames:
        return None
    for source, front in fronts(candidate, flow, survey):
        for target, back in backs(candidate, flow, survey):
            for frame in frames:
                aside = outermost([*front, *back])
                whole = frame.output is target and frame.inputs == [source]
                if whole and not any(below(path, frame.path) for path in aside):
                    return Swap(candidate, frame.path, aside)
    return None


def _stand_ins(candidate: Candidate, flow: Flow, survey: Survey) -> list[Frame]:
    """The stand-ins around values of the region that nothing else knows of."""
    paths = {value.path for value in candidate.values}
    around = {holder for path in paths for holder in holders(path)} | paths
    frames = [flow.frames[path] for path in sorted(around - {""}) if path in flow.frames]
    return [f for f in frames if isinstance(f.module, StandIn) and _unknown(f, survey)]


def _unknown(frame: Frame, survey: Survey) -> bool:
    alone = survey.names[id(frame.module)] == 1 and hooked(frame.module, frame.path) is None
    return alone and not survey.is_read_from_outside(frame.path)


def swap_for(candidate: Candidate, flow: Flow, survey: Survey) -> Swap | None:
    """The exchange of modules that expresses `candidate`; `None` when it is more than a chain of modules."""
    values = [v for v in candidate.values if not (v.stays or v.parted or (v.term and v.term.is_identity))]
    if any(v.parts or v.idle for v in candidate.values):
        return None  # arithmetic in a forward that stays
    aside: list[str] = []
    anchors: list[tuple[int, str, Value]] = []
    remainders: dict[str, tuple[str, ...]] = {}
    for value in values:
        if isinstance(value.tail, OwnLayer):
            if value.module_path is None or not _takes(value.tail, value.module_path, candidate, survey):
                return None
            anchors.append((_weight(value), value.module_path, value))
            continue
        if (value.split or value.tail) and value.module_path is not None:
            remainders[value.module_path] = ()
            continue
        name = unit(value, candidate, flow)
        if name is not None:
            if survey.is_needed_outside(name):
                return None
            aside.append(name)
            own = name == value.module_path or takes_weights(flow.frames[name], value, candidate.term.op)
            if own and value.share is None:  # where a norm goes into several layers, its place is none of theirs
                anchors.append((_weight(value), name, value))
            continue
        if value.share is None and _goes_on(value, candidate, flow, survey):
            anchors.append((_weight(value), value.path, value))
            continue
        rest = _remainder(value, candidate, flow, survey)
        if rest is None:
            return None
        remainders[rest[0]] = rest[1]
    if not anchors or _nested([*aside, *remainders]):
        return None
    if candidate.cancels:
        anchors = [a for a in anchors if _outside(a[2], candidate)]
    if candidate.arranged:
        anchors = [a for a in anchors if _on_its_side(a[2], candidate)]
    if not anchors:
        return None
    _, anchor, holder = max(anchors, key=lambda a: a[0])
    if candidate.source.unstable is not None and holder is not values[0]:
        return None
    if any(v.stays for v in candidate.values) and not _weight(holder):
        return None  # the layer is a function call on the other side of what stays
    aside = [a for a in dict.fromkeys(aside) if a != anchor]
    if not _still_answer(anchor, holder, aside, candidate, survey):
        return None
    return Swap(
        candidate, anchor, tuple(aside), remainders, keeps_forward=holder.module is None or holder.tail is not None
    )


def _goes_on(value: Value, candidate: Candidate, flow: Flow, survey: Survey) -> bool:
    """Whether a layer with a forward of its own can take the operator, and does the rest as before: pads, or cuts."""
    if value.path == flow.path or survey.is_read_from_outside(value.path):
        return False
    return goes_on_with_weights(flow.frames[value.path], value, candidate.term.op)


def _still_answer(anchor: str, holder: Value, aside: list[str], candidate: Candidate, survey: Survey) -> bool:
    """Whether modules that others ask for the shape, dtype or device of their weight can be asked afterwards."""
    asked = [name for name in aside if survey.is_read_from_outside(name)]
    if not all(isinstance(survey.modules[name], nn.modules.batchnorm._BatchNorm) for name in asked):
        return False
    op, made = holder.term.op if holder.term else None, candidate.term.op
    same = isinstance(op, Conv) and isinstance(made, Conv) and geometry(op) == geometry(made)
    return same or not survey.is_read_from_outside(anchor)


def _takes(layer: OwnLayer, path: str, candidate: Candidate, survey: Survey) -> bool:
    return fits(layer.layer, candidate.term.op, layer.takes) and not survey.is_read_from_outside(path)


def _on_its_side(value: Value, candidate: Candidate) -> bool:
    """Whether the merged operator stands where `value` does, the rearranged axes in front of it and behind it."""
    stays = [v for v in candidate.values if v.stays]
    sides = any(v.index < value.index for v in stays), any(v.index > value.index for v in stays)
    if sides != (candidate.front is not None, candidate.back is not None):
        return False
    counted = any(map(counts_channels, stays))
    across = [v for v in candidate.values if any(_between(v, value, s) for s in stays)]
    return all(crosses(v, counted) for v in across if not v.stays)


def _between(one: Value, other: Value, middle: Value) -> bool:
    low, high = sorted((one.index, other.index))
    return low < middle.index < high


def _outside(value: Value, candidate: Candidate) -> bool:
    """Whether all axes are rearranged, and put back, in front of the value or behind it."""
    behind = [v.index > value.index for v in candidate.values if v.stays]
    return all(behind) or not any(behind)


def _nested(paths: list[str]) -> bool:
    """Whether one of the modules lies in another: what becomes of the outer one would take the inner one along."""
    return any(below(path, other) for path in paths for other in paths)


def _weight(value: Value) -> int:
    op = value.term.op if value.term is not None else None
    return op.params if isinstance(op, (Conv, ConvTranspose)) else 0


def _remainder(value: Value, candidate: Candidate, flow: Flow, survey: Survey) -> tuple[str, tuple[str, ...]] | None:
    """The module that begins with `value` and goes on with a chain of its children, and with nothing else."""
    frame = flow.frames[value.path]
    if value is not candidate.target or frame.path == flow.path or survey.is_read_from_outside(frame.path):
        return None
    own = value if value.share is None else value.share.of
    chain = _children_after(frame.nodes_of(own)[-1], frame)
    if chain is None or len(frame.inputs) != 1 or not frame.takes_one:
        return None
    inside = {own, *candidate.values, *candidate.source.chain()}
    others = [n for n, held in frame.values.items() if n.op != "placeholder" and not held.meta and held not in inside]
    if set(others) - set(chain):
        return None  # a call beside the chain would be lost
    names = [str(node.target) for node in chain]
    return frame.path, tuple(n for n in names if not isinstance(frame.module.get_submodule(n), nn.Identity))


def _children_after(node: fx.Node, frame: Frame) -> list[fx.Node] | None:
    """The calls of children that lead from `node` to the output, if that is all that happens to it."""
    chain: list[fx.Node] = []
    while True:
        users = [u for u in node.users if u.op == "output" or not frame.values[u].meta]
        if len(users) != 1:
            return None
        user = users[0]
        if user.op == "output":
            return chain if user.args[0] is node else None
        if user.op != "call_module" or user.args != (node,) or user.kwargs:
            return None
        chain.append(user)
        node = user
