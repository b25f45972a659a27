"""replan: the plan of one model for another one like it: an averaged copy, a teacher, another checkpoint.

The structure must come out the same, edit by edit; the numbers are the other model's own.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from reparamkit.check import checked_model
from reparamkit.errors import ModelError
from reparamkit.plan import Plan
from reparamkit.planned import Planned
from reparamkit.planning import make_plan
from reparamkit.survey import Survey, survey
from reparamkit.warn import unwrapped

if TYPE_CHECKING:
    from reparamkit.decide.policy import Policy
    from reparamkit.errors import Refusal


def replanned(made: Plan, other: nn.Module) -> Plan:
    """The plan `made`, for `other`.

    Args:
        made: a plan for another model.
        other: a model in eval mode; not touched.

    Raises:
        ModelError: RK112 with the first place where the two differ; and what `checked_model` raises.
    """
    other = unwrapped(other)
    checked_model(other)
    with torch.inference_mode(False), torch.no_grad():
        return _replanned(made, other)


def _replanned(made: Plan, other: nn.Module) -> Plan:
    found = survey(other, made.registry)
    _same_modules(made.survey, found)
    found.ranks_in, found.ranks_out = dict(made.survey.ranks_in), dict(made.survey.ranks_out)
    found.sizes_in, found.sizes_out = dict(made.survey.sizes_in), dict(made.survey.sizes_out)
    plan = make_plan(other, made.recipe, _as_decided(made), made.registry, found)
    for first, second in zip_longest(made.edits, plan.edits):
        if _edit(first) != _edit(second):
            raise ModelError("RK112", _difference(first, second, plan.refusals))
    return plan


def _as_decided(made: Plan) -> Policy:
    """The plan's policy, which takes what was timed for the plan as it is."""
    return made.policy if made.timed is None else made.policy.with_answers(made.timed.answers)


def _same_modules(first: Survey, second: Survey) -> None:
    for (path, module), (place, other) in zip_longest(
        first.modules.items(), second.modules.items(), fillvalue=("", None)
    ):
        if path != place or type(module) is not type(other):
            raise ModelError("RK112", f"{_named(path, module)} in the plan's model, {_named(place, other)} in this one")


def _named(path: str, module: nn.Module | None) -> str:
    return "nothing more" if module is None else f"{path or '(root)'} is a {type(module).__name__}"


_GEOMETRY = "nd in_channels out_channels kernel_size stride padding dilation groups padding_mode".split()


def _edit(planned: Planned | None) -> Any:
    """What an edit does, without its numbers."""
    if planned is None:
        return None
    edit, term = planned.edit, planned.edit.candidate.term
    geometry = tuple(getattr(term.op, name, None) for name in _GEOMETRY)
    values = tuple(value.where for value in edit.candidate.values)
    return type(edit), edit.path, planned.name, tuple(edit.touched), values, type(term.op), geometry


def _difference(first: Planned | None, second: Planned | None, refusals: list[Refusal]) -> str:
    planned = first or second
    assert planned is not None
    where = planned.edit.candidate.target.where
    if first is not None:
        places = {value.where for value in planned.edit.candidate.values}
        why = next((f" ({refusal})" for refusal in refusals if refusal.where in places), "")
        return f"{where}: the plan merges it in another way than can be done in this model{why}"
    return f"{where}: the plan leaves it, in this model it merges"
