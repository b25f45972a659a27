"""host: which edit of the model can express a region. Swapping leaves is preferred to rewriting a forward."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import nn

from reparamkit.constant import readers
from reparamkit.ends import around, backs, fronts, lies_inside, only_around, outermost, unit
from reparamkit.errors import Refusal
from reparamkit.operators import Conv, ConvTranspose
from reparamkit.own_layer import OwnLayer, fits, geometry, takes_weights
from reparamkit.paths import below, within
from reparamkit.standin import StandIn
from reparamkit.survey import hooked
from reparamkit.ways import other_way

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import fx

    from reparamkit.decide import Candidate
    from reparamkit.flow import Flow, Frame, Value
    from reparamkit.survey import Survey


@dataclass(frozen=True, eq=False)
class Swap:
    """A chain of modules: one takes the merged operator, the others step aside. No forward changes.

    Attributes:
        candidate: the region.
        anchor: path of the module that takes the operator.
        aside: paths of the modules that become identities.
        remainders: paths of modules of which only the non-affine rest stays, with the names of the children it
            consists of (for a `Split` its rule says what the rest is).
        keeps_forward: the anchor is a module of the user's that goes on calling the layer itself.
    """

    candidate: Candidate
    anchor: str
    aside: tuple[str, ...] = ()
    remainders: dict[str, tuple[str, ...]] = field(default_factory=dict)
    keeps_forward: bool = False

    @property
    def path(self) -> str:
        """Where the merged operator is."""
        return self.anchor

    @property
    def held(self) -> tuple[Value, Value]:
        """What the merged operator reads and what it stands for, where axes are rearranged around it."""
        layers = (v for v in self.candidate.values if v.term and isinstance(v.term.op, (Conv, ConvTranspose)))
        first = next(layers)
        assert first.source is not None
        return first.source, first

    @property
    def touched(self) -> tuple[str, ...]:
        """Paths of all modules that change."""
        return (self.anchor, *self.aside, *self.remainders)


@dataclass(frozen=True, eq=False)
class Rewrite:
    """A module whose own forward calls one merged submodule in place of a region.

    Attributes:
        candidate: the region.
        frame: the module's forward.
        source: what the merged submodule reads: where the region starts, or where it enters the module, when what
            is in front is a chain of modules that step aside.
        target: what it stands for: the end of the region, or where the region leaves the module, likewise.
        aside: paths of the modules that step aside.
    """

    candidate: Candidate
    frame: Frame
    source: Value
    target: Value
    aside: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """The module that is rewritten."""
        return self.frame.path

    @property
    def held(self) -> tuple[Value, Value]:
        """What the merged operator reads and what it stands for; as `Swap.held`."""
        return self.source, self.target

    @property
    def touched(self) -> tuple[str, ...]:
        """Paths of all modules that change."""
        return (self.frame.path, *self.aside)


Edit = Swap | Rewrite


def host(candidate: Candidate, flow: Flow, survey: Survey, gone: frozenset[Value] = frozenset()) -> Edit | Refusal:
    """The edit that expresses `candidate`, or why none can.

    Args:
        candidate: the region.
        flow: where it is.
        survey: of the model.
        gone: values that other edits do away with.
    """
    swap = _restored(candidate, flow, survey) or _swap(candidate, flow, survey)
    if swap is not None:
        return _checked(swap.aside, flow) or other_way(candidate, flow, swap.anchor) or swap
    if any(v.share is not None for v in candidate.values):
        return Refusal("RK304", "a norm goes into several layers only where all are modules", candidate.target.where)
    if candidate.source.unstable is not None:
        return candidate.source.unstable
    rewrite = _rewrite(candidate, flow, survey, gone)
    if isinstance(rewrite, Refusal):
        return rewrite
    refusal = _checked([v.path for v in candidate.values if v.path != rewrite.path], flow)
    if refusal is not None:
        return refusal
    # The outermost forward may insist on a plain call: its caller reads the error. Inside, what worked must work.
    insists = flow.main and rewrite.path == flow.path == ""
    return rewrite if insists else other_way(candidate, flow) or rewrite


def _checked(gone: Iterable[str], flow: Flow) -> Refusal | None:
    """A refusal when one of the forwards that would go raises for some inputs."""
    for path in dict.fromkeys(gone):
        frame = flow.frames.get(path)
        if frame is not None and frame.traced.guarded:
            return Refusal("RK604", "the forward raises for some inputs; merging it would lose that", path)
    return None


def _restored(candidate: Candidate, flow: Flow, survey: Survey) -> Swap | None:
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
    around = {path[:at] for path in paths for at, sign in enumerate(path) if sign == "."} | paths
    frames = [flow.frames[path] for path in sorted(around - {""}) if path in flow.frames]
    return [f for f in frames if isinstance(f.module, StandIn) and _unknown(f, survey)]


def _unknown(frame: Frame, survey: Survey) -> bool:
    alone = survey.names[id(frame.module)] == 1 and hooked(frame.module, frame.path) is None
    return alone and not survey.is_read_from_outside(frame.path)


def _swap(candidate: Candidate, flow: Flow, survey: Survey) -> Swap | None:
    values = [v for v in candidate.values if not v.stays and (not v.term or not v.term.is_identity)]
    if any(v.parts for v in candidate.values) or (candidate.arranged and _apart(candidate)):
        return None
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
            if name == value.module_path or takes_weights(flow.frames[name], value, candidate.term.op):
                anchors.append((_weight(value), name, value))
            continue
        rest = _remainder(value, candidate, flow, survey)
        if rest is None:
            return None
        remainders[rest[0]] = rest[1]
    if not anchors or _nested([*aside, *remainders]):
        return None
    if candidate.cancels:
        anchors = [a for a in anchors if _outside(a[2], candidate)]
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


def _apart(candidate: Candidate) -> bool:
    """Whether axes are rearranged between two layers, each of which means other axes."""
    layers = [v.index for v in candidate.values if v.term and isinstance(v.term.op, (Conv, ConvTranspose))]
    return any(v.stays and min(layers) < v.index < max(layers) for v in candidate.values) if layers else False


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
    if chain is None or len(frame.inputs) != 1:
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


def _rewrite(candidate: Candidate, flow: Flow, survey: Survey, gone: frozenset[Value]) -> Rewrite | Refusal:
    found = _innermost(candidate, flow, survey)
    if found is None and candidate.arranged:
        return Refusal("RK304", "axes are rearranged in between, and not all of it is modules", candidate.target.where)
    if found is None:
        where = f"{candidate.source.where} to {candidate.target.where}"
        return Refusal("RK304", f"no single forward sees both ends of the region from {where}", candidate.target.where)
    frame = found.frame
    refusal = unwritable(frame) or frozen(frame, gone.union(candidate.values)) or _lost(frame, candidate)
    refusal = refusal or _read_elsewhere(frame, candidate, flow, survey)
    return found if refusal is None else refusal


def _innermost(candidate: Candidate, flow: Flow, survey: Survey) -> Rewrite | None:
    """The innermost forward that can hold the region, modules in front of it and behind it stepping aside."""
    best: Rewrite | None = None
    for source, front in fronts(candidate, flow, survey):
        for target, back in backs(candidate, flow, survey):
            frame = _seeing(source, target, flow) if target.index > source.index else None
            aside = outermost([*front, *back])
            if frame is None or within(frame.path, aside):
                continue  # it would be written anew and stepped aside at once
            if candidate.arranged and not only_around(candidate, source, target):
                continue
            if candidate.cancels and any(v.stays for v in around(candidate, source, target)):
                continue  # half of what cancels would be left
            if best is None or len(frame.path) > len(best.frame.path):
                best = Rewrite(candidate, frame, source, target, aside)
    return best


def unwritable(frame: Frame) -> Refusal | None:
    """Why the forward of this module must stay as it is."""
    if type(frame.module) is nn.Sequential:
        return Refusal("RK304", "a Sequential has no forward of its own to rewrite", frame.path)
    if "forward" in frame.module.__dict__:
        return Refusal("RK331", "the instance has a forward of its own", frame.path)
    if frame.traced.guarded:
        return Refusal("RK604", "the forward raises for some inputs; rewriting would lose that", frame.path)
    if frame.traced.stored:
        return Refusal("RK305", "the forward stores values in attributes; rewriting would lose that", frame.path)
    if frame.traced.leaves:
        name = min(frame.traced.leaves)
        return Refusal("RK305", f"the forward sets the attribute {name}; rewriting would lose that", frame.path)
    if frame.traced.follows and any(map(_is_placed, frame.traced.graph.nodes)):
        return Refusal(
            "RK604", "the forward follows the dtype or device of its weights; rewriting would fix it", frame.path
        )
    if frame.traced.switches:
        reason = f"part of the forward runs under {frame.traced.switches}; rewriting would lose that"
        return Refusal("RK604", reason, frame.path)
    return None


def _is_placed(node: fx.Node) -> bool:
    """Whether a dtype or a device is written into the call."""
    given = (*node.args, *node.kwargs.values())
    return any(isinstance(item, (torch.dtype, torch.device)) for item in given)


def frozen(frame: Frame, gone: frozenset[Value]) -> Refusal | None:
    """A constant computed from parameters that the rest of the forward needs: written down, it would never change.

    Args:
        frame: the forward.
        gone: values that will no longer be computed in it.
    """
    for node in frame.traced.graph.nodes:
        if node.op != "get_attr" or str(node.target) not in frame.traced.constants:
            continue
        for user in readers(node, frame):
            if frame.values.get(user) not in gone:
                reason = f"{user.name} reads a constant computed from parameters; rewriting would freeze it"
                return Refusal("RK604", reason, frame.path)
    return None


def _seeing(source: Value, target: Value, flow: Flow) -> Frame | None:
    """The innermost forward that makes the target, or gets it from a child, and holds the source."""
    path = target.path
    while True:
        frame = flow.frames.get(path)
        if frame is None or frame.node_of(target) is None:
            return None
        if frame.node_of(source) is not None:
            return frame
        if not path:
            return None
        path = path.rpartition(".")[0]
        while path and path not in flow.frames:  # a list of modules has no forward
            path = path.rpartition(".")[0]


def _read_elsewhere(frame: Frame, candidate: Candidate, flow: Flow, survey: Survey) -> Refusal | None:
    """A module that would go while another forward, one that does not go with it, reads its tensors."""
    inside = set(candidate.values)
    for value in candidate.values:
        if value.module is None:
            continue
        readers = survey.touched.get(id(value.module), set()) - {frame.path}
        readers = {r for r in readers if r not in flow.frames or not lies_inside(flow.frames[r], inside, flow)}
        if readers:
            where = value.module_path or value.where
            return Refusal("RK301", f"the forward of {min(readers) or '(root)'} reads its tensors", where)
    return None


def _lost(frame: Frame, candidate: Candidate) -> Refusal | None:
    """A shape of something inside the region that is still asked for."""
    inside = set(candidate.values) - {candidate.target}
    for node, value in frame.values.items():
        if not value.meta or not any(v in inside for v in value.inputs):
            continue
        read = [frame.values[user] for user in node.users if user in frame.values]
        if any(not (user.meta or user in candidate.values) for user in read):
            return Refusal("RK305", f"{node.name} asks for the shape of {value.inputs[0].where}", frame.path)
    return None
