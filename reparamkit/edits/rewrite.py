"""rewrite: regions that are expressed by a forward that calls one merged submodule in their place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from reparamkit.edits.edit import Rewrite
from reparamkit.edits.ends import around, backs, fronts, lies_inside, only_around, outermost
from reparamkit.edits.imports import not_importable
from reparamkit.errors import Refusal
from reparamkit.lift.constant import read_by, readers
from reparamkit.paths import below, holders, joined, within
from reparamkit.survey import hooked
from reparamkit.trace.classes import PAST_HOOKS

if TYPE_CHECKING:
    from torch import fx

    from reparamkit.decide.candidate import Candidate
    from reparamkit.flow import Flow, Frame, Value
    from reparamkit.survey import Survey


def rewrite_for(candidate: Candidate, flow: Flow, survey: Survey, gone: frozenset[Value]) -> Rewrite | Refusal:
    """The rewritten forward that expresses `candidate`, or why none can; values of `gone` go with other edits."""
    found = _innermost(candidate, flow, survey)
    if found is None and candidate.arranged:
        return Refusal("RK304", "axes are rearranged in between, and not all of it is modules", candidate.target.where)
    if found is None:
        where = f"{candidate.source.where} to {candidate.target.where}"
        return Refusal("RK304", f"no single forward sees both ends of the region from {where}", candidate.target.where)
    frame = found.frame
    refusal = unwritable(frame) or frozen(frame, gone.union(candidate.values)) or _lost(frame, candidate)
    refusal = refusal or not_importable(frame, candidate.values)
    refusal = refusal or _read_elsewhere(frame, candidate, flow, survey) or _named_again(frame, candidate, survey)
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
    hooks = _bypassed_hooks(frame)
    if hooks is not None:
        return hooks
    if frame.traced.guarded:
        return Refusal("RK604", "the forward raises for some inputs; rewriting would lose that", frame.path)
    if frame.picked:
        reason = "the forward goes other ways for other arguments; rewriting would lose them"
        return Refusal("RK604", reason, frame.path)
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
        return Refusal("RK307", reason, frame.path)
    return None


def _bypassed_hooks(frame: Frame) -> Refusal | None:
    """A child with hooks whose `forward` is called itself: written anew it would be called with its hooks."""
    names = {str(n.target) for n in frame.traced.graph.nodes if n.meta.get(PAST_HOOKS)}
    found = (hooked(frame.module.get_submodule(name), joined(frame.path, name)) for name in sorted(names))
    return next((refusal for refusal in found if refusal is not None), None)


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
        for owner in _owners(value, flow, survey):
            readers = survey.touched.get(id(owner), set()) - {frame.path}
            readers = {r for r in readers if r not in flow.frames or not lies_inside(flow.frames[r], inside, flow)}
            if readers:
                where = value.module_path or value.where
                return Refusal("RK301", f"the forward of {min(readers) or '(root)'} reads its tensors", where)
    return None


def _named_again(frame: Frame, candidate: Candidate, survey: Survey) -> Refusal | None:
    """A module that would go here and stay under another name."""
    for value in candidate.values:
        path = value.path if value.module_path is None else value.module_path
        for place in (path, *holders(path)):
            names = survey.names[id(survey.modules[place])]
            if names > 1 and (below(place, frame.path) or not frame.path):
                return Refusal("RK301", f"the module has {names} names, and would stay under another", place)
    return None


def _owners(value: Value, flow: Flow, survey: Survey) -> list[nn.Module]:
    """The module that a value calls, or the modules whose tensors its operation is given."""
    if value.module is not None:
        return [value.module]
    names = [str(node.target) for node in read_by(value.node, flow.frames[value.path])]
    paths = {joined(value.path, name).rpartition(".")[0] for name in names} | ({value.path} if names else set())
    return [survey.modules[path] for path in sorted(paths) if path in survey.modules]


def _lost(frame: Frame, candidate: Candidate) -> Refusal | None:
    """A shape of something inside the region that is still asked for."""
    inside = set(candidate.values) - {candidate.target}
    for node, value in frame.values.items():
        if not value.meta or not any(v in inside for v in value.inputs):
            continue
        if any(frame.values.get(reader) not in candidate.values for reader in _last_readers(node, frame)):
            return Refusal("RK305", f"{node.name} asks for the shape of {value.inputs[0].where}", frame.path)
    return None


def _last_readers(node: fx.Node, frame: Frame) -> set[fx.Node]:
    """The nodes that read what is computed from a shape, however many steps later."""
    found: set[fx.Node] = set()
    for user in node.users:
        value = frame.values.get(user)
        found |= _last_readers(user, frame) if value is not None and value.meta else {user}
    return found
