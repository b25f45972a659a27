"""rounds: plans proven and made, one after the other: what some rules make opens the way for more.

A norm that was shared out, or a scale that went in front of an activation, leaves a layer that may merge with what is
beside it; a sum that became a layer may take its share of the norm in front of it. Where a plan has such edits the
merged model is planned once more, so that a second conversion finds nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from reparamkit.decide.spread import without_halves
from reparamkit.edits.edit import Rewrite
from reparamkit.edits.splice import Journal, splice
from reparamkit.edits.steps import steps_of
from reparamkit.errors import Refusal
from reparamkit.keymap import followed, key_map, keys_of
from reparamkit.plan import Plan
from reparamkit.planned import Planned
from reparamkit.planning import make_plan
from reparamkit.progress import watched
from reparamkit.prove.merge import Proven, prove
from reparamkit.prove.samples import Samples
from reparamkit.survey import survey
from reparamkit.survey.observe import observe_ranks

if TYPE_CHECKING:
    from torch import nn


_MOST = 8  # rounds after the first; models that are known need one


@dataclass
class Rounds:
    """What was made, round by round.

    Attributes:
        proven: the merges.
        refusals: what the last plan that made something refused.
        refused: what did not fit when it was proven.
        key_map: keys of the model before -> keys of the merged one.
    """

    proven: dict[Planned, Proven]
    refusals: list[Refusal]
    refused: list[Refusal] = field(default_factory=list)
    key_map: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def prove_all(made: Plan, rtol: float | None) -> tuple[dict[Planned, Proven], list[Refusal]]:
    """Every replacement, complete and proven; those whose numbers do not fit are refused."""
    proven: dict[Planned, Proven] = {}
    refused: list[Refusal] = []
    samples = Samples()
    for planned in watched(made.edits, "proving"):
        candidate = planned.edit.candidate
        found = prove(planned.edit, planned.flow, made.registry.merge, rtol, samples)
        if isinstance(found, Refusal):
            refused.append(found.at(candidate.target.where))
            continue
        proven[planned] = found
    # A forward is rewritten with all its merges or not at all.
    broken = {p.edit.path for p in made.edits if isinstance(p.edit, Rewrite) and p not in proven}
    kept = [p for p in proven if not (isinstance(p.edit, Rewrite) and p.edit.path in broken)]
    return {p: proven[p] for p in without_halves(made.edits, kept)}, refused


def make_further(
    rounds: Rounds, made: Plan, model: nn.Module, example_inputs: Any, rtol: float | None, journal: Journal
) -> None:
    """Plan the merged model again and make what that gives, as long as it gives something.

    Args:
        rounds: what was made so far; is added to.
        made: the first plan.
        model: the merged model; it is changed in place.
        example_inputs: as for `apply`.
        rtol: largest relative deviation of a merge; `None` skips the proofs.
        journal: what is done is written down there.
    """
    latest, again = rounds.proven, made
    for _ in range(_MOST):
        if not again.opens:
            return
        again = _planned_again(made, model, example_inputs)
        made.further.append(again)
        latest, refused = prove_all(again, rtol)
        rounds.refused = [*rounds.refused, *refused]
        if not latest:
            return
        rounds.refusals = again.refusals
        before = keys_of(model)
        splice(model, steps_of(again, latest), journal)
        rounds.key_map = followed(rounds.key_map, key_map(before, keys_of(model), latest))
        rounds.proven = {**rounds.proven, **latest}


def _planned_again(made: Plan, model: nn.Module, example_inputs: Any) -> Plan:
    found = survey(model, made.registry)
    if example_inputs is not None:
        observe_ranks(found, model, example_inputs)
    # What a block of the recipe named may be gone by now.
    blocks = tuple(block.model_copy(update={"optional": True}) for block in made.recipe.blocks)
    recipe = made.recipe.model_copy(update={"blocks": blocks})
    return make_plan(model, recipe, made.policy, made.registry, found)
