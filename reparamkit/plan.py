"""plan: what a recipe makes of a model, before a single number is computed. Nothing is changed or copied."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from reparamkit.decide import Candidate, Chooser
from reparamkit.emit import Emitted
from reparamkit.errors import Refusal
from reparamkit.flow import Flow, Value
from reparamkit.host import Edit, Rewrite, frozen, host
from reparamkit.lift import Lifter
from reparamkit.merge import Algebra
from reparamkit.naming import name_and_write
from reparamkit.policy import Policy
from reparamkit.recipe import Block, Recipe
from reparamkit.registry import Registry
from reparamkit.scope import Scope, out_of_scope, scopes_of, switched_on
from reparamkit.survey import Survey


@dataclass(frozen=True)
class Planned:
    """One edit that will be made.

    Attributes:
        edit: swap or rewrite.
        flow: the region's flow.
        name: of the merged submodule, for a rewrite.
    """

    edit: Edit
    flow: Flow
    name: str = ""


@dataclass
class Plan:
    """The edits of one conversion.

    Attributes:
        model: the model they are for.
        recipe: the recipe they follow.
        policy: the policy that chose them.
        edits: in order of execution.
        rewrites: the new forward of each rewritten module, by path.
        refusals: what is not merged and why.
        scopes: which modules the recipe matched.
        written: forwards written so far, by what they do.
        survey: what was found out about the model.
        registry: the rules.
    """

    model: nn.Module
    recipe: Recipe
    policy: Policy
    survey: Survey
    registry: Registry
    edits: list[Planned] = field(default_factory=list)
    rewrites: dict[str, Emitted] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)
    scopes: list[Scope] = field(default_factory=list)
    written: dict[Any, Emitted | Refusal] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        from reparamkit.report import report_of

        return str(report_of(self, {}))

    def to_dict(self) -> dict[str, object]:
        """The plan as plain data, as `Report.to_dict`."""
        from reparamkit.report import report_of

        return report_of(self, {}).to_dict()


def make_plan(model: nn.Module, recipe: Recipe, policy: Policy, registry: Registry, survey: Survey) -> Plan:
    """lift, merge and decide: everything up to the first number.

    Args:
        model: a model in eval mode.
        recipe: what to convert.
        policy: what pays.
        registry: rules.
        survey: of the model.
    """
    plan = Plan(model, recipe, policy, survey, registry, scopes=scopes_of(recipe, survey.modules.items()))
    algebra = Algebra(registry.merge, switched_on(recipe, registry.opt_in_ids))
    by_path = {s.path: s.block for s in plan.scopes}
    for flow in Lifter(survey, registry, algebra).flows():
        _plan_flow(plan, flow, algebra, by_path)
    name_and_write(plan, by_path)
    return plan


@dataclass(frozen=True)
class _Choice:
    """The regions of one flow, the edits that make them, and what was refused on the way."""

    edits: tuple[Edit, ...]
    refusals: dict[Value, Refusal]

    @property
    def written_anew(self) -> frozenset[Value]:
        """What is no longer computed once the forwards are rewritten."""
        return frozenset(v for e in self.edits if isinstance(e, Rewrite) for v in e.candidate.values)

    @property
    def freezes(self) -> bool:
        """Whether a forward that is rewritten would still need a constant that was computed from parameters."""
        gone = self.written_anew
        return any(isinstance(e, Rewrite) and frozen(e.frame, gone) is not None for e in self.edits)


def _choose(
    plan: Plan, flow: Flow, algebra: Algebra, scopes: dict[str, Block], gone: frozenset[Value] = frozenset()
) -> _Choice:
    hosts: dict[Candidate, Edit] = {}

    def feasible(candidate: Candidate) -> Refusal | None:
        edit = host(candidate, flow, plan.survey, gone)
        if isinstance(edit, Refusal):
            return edit
        refusal = out_of_scope(edit, scopes, plan.registry.opt_in_ids)
        if refusal is None:
            hosts[candidate] = edit
        return refusal

    chooser = Chooser(algebra, plan.policy, feasible)
    return _Choice(tuple(hosts[c] for c in chooser.choose(flow)), chooser.refusals)


def _chosen(plan: Plan, flow: Flow, algebra: Algebra, scopes: dict[str, Block]) -> _Choice:
    """What is merged in a flow. A constant that the first choice does away with stops no other merge of its forward."""
    choice = _choose(plan, flow, algebra, scopes)
    gone = choice.written_anew
    if not gone or not any(frame.traced.constants for frame in flow.frames.values()):
        return choice
    wider = _choose(plan, flow, algebra, scopes, gone)
    return choice if wider.freezes else wider


def _plan_flow(plan: Plan, flow: Flow, algebra: Algebra, scopes: dict[str, Block]) -> None:
    choice = _chosen(plan, flow, algebra, scopes)
    plan.edits += [Planned(edit, flow) for edit in choice.edits]
    done = {v for e in choice.edits for v in e.candidate.values}
    ends = {e.candidate.target for e in choice.edits}
    plan.refusals += flow.refusals
    for value in flow.values:
        refusal = value.refusal or choice.refusals.get(value)
        if refusal is None or not _worth_telling(value, refusal):
            continue
        # A value that was merged may still say why not further: the border, the geometry.
        if value not in done or (value in ends and refusal.code.startswith("RK31")):
            plan.refusals.append(refusal.at(value.where))


def _worth_telling(value: Value, refusal: Refusal) -> bool:
    """Not that an activation is not affine, nor that an identity was not merged once more."""
    if refusal.code in ("RK318", "RK331") or value.stays:
        return False
    idle = value.module is not None and next(value.module.parameters(), None) is None
    if idle and refusal.code in ("RK301", "RK306"):
        return False
    return value.term is None or not value.term.is_identity
