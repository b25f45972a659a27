"""spread: where a norm stands beside several layers, each of them takes its share, or the norm stays.

`shares.py` changes the flow; if one of the shares finds no layer to go into, or all of it does not pay, the flow is
changed back. `rules/spread.py` says when this is right.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from reparamkit.decide.candidate import together, too_dear
from reparamkit.decide.shares import shared_out
from reparamkit.decide.spreading import Spread
from reparamkit.edits.edit import Rewrite
from reparamkit.errors import Refusal
from reparamkit.operators import Scale
from reparamkit.operators.scale import Offset
from reparamkit.rules.spread import may_spread

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence

    from reparamkit.decide.candidate import Candidate
    from reparamkit.decide.choice import Choice
    from reparamkit.decide.policy import Policy
    from reparamkit.flow import Flow, Value
    from reparamkit.planned import Planned

_VAGUE = ("RK318", "RK331")  # not an operator of the source; not affine


def without_halves(planned: Sequence[Planned], kept: Sequence[Planned]) -> list[Planned]:
    """Those of `kept` whose norms go into all layers they should: `planned` has every edit there was."""
    kept, spread = list(kept), [edit for edit in planned if _norms(edit)]
    while True:
        lost = {norm for edit in spread if edit not in kept for norm in _norms(edit)}
        whole = [edit for edit in kept if lost.isdisjoint(_norms(edit))]
        if len(whole) == len(kept):
            return kept
        kept = whole


def _norms(planned: Planned) -> set[Value]:
    """What has shares in a region, or left its scale to others."""
    candidate = planned.edit.candidate
    left = {candidate.target} if isinstance(candidate.term.op, Offset) else set()
    return left | {value.share.norm for value in candidate.values if value.share is not None}


def with_spread_norms(flow: Flow, chosen: Choice, choose: Callable[[], Choice], policy: Policy) -> Choice:
    """Give every norm that is in no region to its neighbours, where they are several, and choose again.

    Args:
        flow: is changed where that succeeds.
        chosen: the regions without it.
        choose: chooses the regions of the flow as it is.
        policy: has to allow all of the exchange.
    """
    failed: dict[Value, Refusal] = {}
    norms = [norm for norm in flow.values if norm not in chosen.done and may_spread(norm)]
    while True:
        spreads = [made for norm in norms if norm not in failed and (made := shared_out(norm, flow, chosen.done))]
        better = choose() if spreads else chosen
        refused = {s.norm: refusal for s in spreads if (refusal := _refused(s, better, policy))}
        if not refused:
            refusals = better.refusals | failed | _explained(norms, better, failed)
            opens = better.opens or any(_gets_a_layer(norm, better) for norm in norms)
            return replace(better, refusals=refusals, opens=opens)
        failed |= refused
        for made in reversed(spreads):
            made.undo(flow)


def _refused(spread: Spread, chosen: Choice, policy: Policy) -> Refusal | None:
    """Why the norm cannot go into all layers beside it, if it cannot."""
    where, missing = spread.norm.where, spread.missing(chosen.done)
    if missing is None:
        mine = [region for region in chosen.regions if not set(spread.shares).isdisjoint(region.values)]
        return too_dear(policy, *together(mine), where)
    for value in (missing, *missing.users):
        refusal = chosen.refusals.get(value)
        if refusal is not None and refusal.code not in _VAGUE:
            return replace(refusal, where=where)
    whole = missing.share is not None and missing.share.size is None
    beside = missing.users[0] if whole else missing.inputs[0]
    return Refusal("RK321", f"not all of the values beside it can take it: not {beside.where}", where)


def _gets_a_layer(norm: Value, chosen: Choice) -> bool:
    """Whether the norm stays, and a sum or two norms beside it become a layer, which can take a share."""
    if norm.gone or norm in chosen.done:
        return False
    front = () if norm.source is None else norm.source.parts
    anew = [edit.candidate for edit in chosen.edits if isinstance(edit, Rewrite)]
    if any(region.source is norm or region.target in front for region in anew):
        return True
    return any(region.source is norm and _were_norms(region) for region in chosen.regions)


def _were_norms(region: Candidate) -> bool:
    return all(value.term is not None and isinstance(value.term.op, Scale) for value in region.values)


def _explained(norms: Sequence[Value], chosen: Choice, failed: Container[Value]) -> dict[Value, Refusal]:
    """For each norm that stays, and of which nothing else is known, what stands beside it."""
    found = {}
    for norm in norms:
        if norm.gone or norm in failed or norm.source is None or not (norm.readers or norm.escapes):
            continue
        if any(_told(value, chosen) for value in (norm, *norm.readers)):
            continue
        before = norm.source.refusal
        if before is not None and before.code not in _VAGUE and not norm.source.parts:
            continue
        reason = f"it stands behind {norm.source.where}" + (f" ({before.code})" if before is not None else "")
        readers = sorted({reader.where for reader in norm.readers}) or ["the caller"]
        more = f" and {len(readers) - 1} more" if len(readers) > 1 else ""
        found[norm] = Refusal("RK321", f"{reason}, in front of {readers[0]}{more}", norm.where)
    return found


def _told(value: Value, chosen: Choice) -> bool:
    """Whether it is an operator of which something particular was refused."""
    refusal = chosen.refusals.get(value)
    return value.term is not None and refusal is not None and refusal.code not in _VAGUE
