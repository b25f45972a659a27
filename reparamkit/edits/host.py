"""host: which edit of the model can express a region. Swapping leaves is preferred to rewriting a forward."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reparamkit.edits.cast import cast_elsewhere
from reparamkit.edits.edit import Edit
from reparamkit.edits.rewrite import rewrite_for
from reparamkit.edits.shapes import resized
from reparamkit.edits.swap import restored, swap_for
from reparamkit.edits.ways import other_way, written_for_one
from reparamkit.errors import Refusal
from reparamkit.paths import holders, within

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reparamkit.decide.candidate import Candidate
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
    refusal = _switched(candidate) or cast_elsewhere(candidate)
    if refusal is not None:
        return refusal
    swap = restored(candidate, flow, survey) or swap_for(candidate, flow, survey)
    if swap is not None and resized(swap) is None:
        return _lost(swap.touched, candidate, flow) or other_way(candidate, flow, swap.anchor) or swap
    if candidate.source.unstable is not None:
        return candidate.source.unstable
    rewrite = rewrite_for(candidate, flow, survey, gone)
    if isinstance(rewrite, Refusal):
        return rewrite
    if not all(v.share is None or v.parted or (v.module_path or v.path) in rewrite.aside for v in candidate.values):
        return Refusal("RK304", "a norm goes into several layers only where all are modules", candidate.target.where)
    refusal = _lost([v.path for v in candidate.values if v.path != rewrite.path], candidate, flow) or resized(rewrite)
    if refusal is not None:
        return refusal
    # The outermost forward may insist on a plain call: its caller reads the error. Inside, what worked must work.
    insists = flow.main and rewrite.path == flow.path == ""
    if insists:
        return rewrite
    return other_way(candidate, flow) or written_for_one(rewrite.path, flow, candidate.target.where) or rewrite


def _switched(candidate: Candidate) -> Refusal | None:
    """A refusal when a part of the region drops the gradients that another part records, or the like."""
    modes = {value.under for value in candidate.values}
    if len(modes) == 1:
        return None
    return Refusal("RK307", f"part of it runs under {max(modes)}", candidate.target.where)


def _lost(gone: Sequence[str], candidate: Candidate, flow: Flow) -> Refusal | None:
    """A refusal when one of the forwards that would go with the modules `gone` does more than compute."""
    holding = {path for value in candidate.values for path in (value.path, *holders(value.path))}
    for path in sorted(holding & flow.frames.keys()):
        traced = flow.frames[path].traced
        if not (traced.guarded or traced.switches) or not within(path, gone):
            continue
        if traced.guarded:
            return Refusal("RK604", "the forward raises for some inputs; merging it would lose that", path)
        return Refusal("RK307", f"part of it runs under {traced.switches}; merging it would lose that", path)
    return None
