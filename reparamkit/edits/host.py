"""host: which edit of the model can express a region. Swapping leaves is preferred to rewriting a forward."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reparamkit.edits.edit import Edit, Rewrite
from reparamkit.edits.rewrite import rewrite_for
from reparamkit.edits.swap import restored, swap_for
from reparamkit.edits.ways import other_way
from reparamkit.errors import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from reparamkit.decide import Candidate
    from reparamkit.flow import Flow, Value
    from reparamkit.survey import Survey


def host(candidate: Candidate, flow: Flow, survey: Survey, gone: frozenset[Value] = frozenset()) -> Edit | Refusal:
    """The edit that expresses `candidate`, or why none can.

    Args:
        candidate: the region.
        flow: where it is.
        survey: of the model.
        gone: values that other edits do away with.
    """
    swap = restored(candidate, flow, survey) or swap_for(candidate, flow, survey)
    if swap is not None:
        return _checked(swap.aside, flow) or other_way(candidate, flow, swap.anchor) or swap
    if any(v.share is not None for v in candidate.values):
        return Refusal("RK304", "a norm goes into several layers only where all are modules", candidate.target.where)
    if candidate.source.unstable is not None:
        return candidate.source.unstable
    rewrite = rewrite_for(candidate, flow, survey, gone)
    if isinstance(rewrite, Refusal):
        return rewrite
    refusal = _checked([v.path for v in candidate.values if v.path != rewrite.path], flow)
    if refusal is not None:
        return refusal
    # The outermost forward may insist on a plain call: its caller reads the error. Inside, what worked must work.
    insists = flow.main and rewrite.path == flow.path == ""
    return rewrite if insists else other_way(candidate, flow) or _only_one(rewrite, flow) or rewrite


def _only_one(rewrite: Rewrite, flow: Flow) -> Refusal | None:
    """A refusal when the forward to be written anew goes other ways too, which the new one would not."""
    if rewrite.path != flow.path or not (flow.ways or flow.unknown):
        return None
    reason = "the forward goes other ways too, depending on what it is given; rewriting would lose them"
    return Refusal("RK604", reason, rewrite.path)


def _checked(gone: Iterable[str], flow: Flow) -> Refusal | None:
    """A refusal when one of the forwards that would go raises for some inputs."""
    for path in dict.fromkeys(gone):
        frame = flow.frames.get(path)
        if frame is not None and frame.traced.guarded:
            return Refusal("RK604", "the forward raises for some inputs; merging it would lose that", path)
    return None
