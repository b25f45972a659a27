"""planning: a plan, from a survey: lift, merge and decide, flow by flow. Nothing is computed, changed or copied."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from reparamkit.decide.candidate import Candidate
from reparamkit.decide.choice import Choice, opens_more
from reparamkit.decide.chooser import Chooser
from reparamkit.decide.parted import Parting
from reparamkit.decide.policy import Policy
from reparamkit.decide.reorder import Finder, Reorderer
from reparamkit.decide.scales import scales_to_move
from reparamkit.decide.spread import with_spread_norms
from reparamkit.decide.sums import SumFinder
from reparamkit.edits.edit import Edit
from reparamkit.edits.host import host
from reparamkit.edits.naming import name_and_write
from reparamkit.errors import Refusal
from reparamkit.flow import Flow, Value
from reparamkit.lift.lifter import Lifter
from reparamkit.merge import Algebra
from reparamkit.operators import Picked
from reparamkit.paths import within
from reparamkit.plan import Plan
from reparamkit.planned import Pending, Planned
from reparamkit.probe import probe
from reparamkit.recipe import Block, Recipe
from reparamkit.registry import Registry
from reparamkit.rules import homogeneous, parted, spread
from reparamkit.rules import probe as measured
from reparamkit.scope import allowed_here, out_of_scope, scopes_of, switched_on, transforms_of
from reparamkit.survey import Survey
from reparamkit.timing.benches import Benches, benches_of
from reparamkit.timing.stopwatch import Stopwatch

_OPENING = frozenset({spread.RULE, homogeneous.RULE})  # what they make may merge with what is beside it


def make_plan(model: nn.Module, recipe: Recipe, policy: Policy, registry: Registry, survey: Survey) -> Plan:
    """lift, merge and decide: everything up to the first number.

    Args:
        model: a model in eval mode.
        recipe: what to convert.
        policy: what pays.
        registry: rules.
        survey: of the model.
    """
    clock = None if policy.timing is None else Stopwatch(policy.timing)
    plan = Plan(model, recipe, policy, survey, registry, scopes=scopes_of(recipe, survey.modules.items()), clock=clock)
    algebra = Algebra(registry.merge, switched_on(recipe, registry.opt_in_ids))
    by_path = {s.path: s.block for s in plan.scopes}
    if algebra.enabled(measured.RULE):
        plan.refusals += probe(survey, lambda path: allowed_here(measured.RULE, True, path, by_path))
    replaced: set[str] = set()
    paths: list[str] = []
    lifter = Lifter(survey, registry, algebra)
    for flow in lifter.flows():
        plan.flows.append(flow)
        if not within(flow.path, replaced):
            replaced |= _measured(_plan_flow(plan, flow, lifter, by_path))
        paths += flow.frames
    written = name_and_write(plan.edits, by_path)
    plan.edits, plan.rewrites = written.edits, written.rewrites
    plan.refusals += written.refusals
    plan.refusals = list(dict.fromkeys(plan.refusals))  # a forward may be met at the call of it and by itself
    plan.transforms = list(_pending(plan, paths, by_path))
    return plan


def _measured(choice: Choice) -> set[str]:
    """Modules that go as a whole: they were measured, so what is inside is no part of the flow."""
    return {v.path for v in choice.done if v.term is not None and measured.RULE in v.term.rules}


def _pending(plan: Plan, paths: Sequence[str], scopes: dict[str, Block]) -> Iterator[Pending]:
    for transform in transforms_of(plan.recipe, plan.registry):
        found = [path for path in paths if allowed_here(transform.rule, transform.opt_in, path, scopes)]
        yield Pending(transform.rule, tuple(found))


def _choose(
    plan: Plan, flow: Flow, algebra: Algebra, scopes: dict[str, Block], gone: frozenset[Value] = frozenset()
) -> Choice:
    hosts: dict[Candidate, Edit] = {}
    homeless: list[Candidate] = []

    def feasible(candidate: Candidate) -> Refusal | None:
        edit = host(candidate, flow, plan.survey, gone)
        if isinstance(edit, Refusal):
            homeless.append(candidate)
            return edit
        refusal = out_of_scope(edit, scopes, plan.registry.opt_in_ids)
        if refusal is None:
            hosts[candidate] = edit
        return refusal

    chooser = Chooser(algebra, plan.policy, feasible, plan.clock, _benches(plan, flow))
    edits = tuple(hosts[c] for c in chooser.choose(flow))
    return Choice(edits, chooser.refusals, opens=opens_more(edits, flow, homeless))


def _benches(plan: Plan, flow: Flow) -> Benches | None:
    return None if plan.clock is None else benches_of(flow, plan.survey)


_TRIES = 4


def _chosen(plan: Plan, flow: Flow, algebra: Algebra, scopes: dict[str, Block]) -> Choice:
    """What is merged in a flow.

    A forward that is written anew must not need a constant computed from parameters (``softmax(alpha)``): it would
    be frozen. Each merge alone leaves it to the others, so first all are taken to be made, and then those that were.
    """
    if not any(frame.traced.constants for frame in flow.frames.values()):
        return _choose(plan, flow, algebra, scopes)
    gone = frozenset(flow.values)
    for _ in range(_TRIES):
        choice = _choose(plan, flow, algebra, scopes, gone)
        if not choice.freezes:
            return choice
        gone = choice.written_anew
    return _choose(plan, flow, algebra, scopes)


def _plan_flow(plan: Plan, flow: Flow, lifter: Lifter, scopes: dict[str, Block]) -> Choice:
    """Add to the plan what is merged in a flow, and what is refused."""
    algebra = lifter.algebra
    choice = _chosen(plan, flow, algebra, scopes)
    finders: list[Finder] = [SumFinder(algebra, plan.policy)]
    if algebra.enabled(homogeneous.RULE):
        finders.append(scales_to_move)
    order = Reorderer(finders, lifter.again, lambda other: _chosen(plan, other, algebra, scopes))
    flow, choice = order.improved(flow, choice)
    if algebra.enabled(spread.RULE):
        choice = with_spread_norms(flow, choice, lambda: _chosen(plan, flow, algebra, scopes), plan.policy)
    if algebra.enabled(parted.RULE):
        choice = _parting(plan, flow, algebra, scopes).improved(flow, choice)
    plan.edits += [Planned(edit, flow) for edit in choice.edits]
    plan.opens |= choice.opens or any(region.term.rules & _OPENING for region in choice.regions)
    done, ends = choice.done, {region.target for region in choice.regions}
    plan.refusals += flow.refusals
    for value in flow.values:
        refusal = value.refusal or choice.refusals.get(value)
        if refusal is None or not _worth_telling(value, refusal):
            continue
        # A value that was merged may still say why not further: the border, the geometry.
        if value not in done or (value in ends and refusal.code.startswith("RK31")):
            plan.refusals.append(refusal.at(value.where))
    return choice


def _parting(plan: Plan, flow: Flow, algebra: Algebra, scopes: dict[str, Block]) -> Parting:
    def edit_of(candidate: Candidate, gone: frozenset[Value]) -> Edit | Refusal:
        edit = host(candidate, flow, plan.survey, gone)
        refused = None if isinstance(edit, Refusal) else out_of_scope(edit, scopes, plan.registry.opt_in_ids)
        return refused or edit

    return Parting(algebra, plan.policy, plan.survey, lambda: _chosen(plan, flow, algebra, scopes), edit_of)


def _worth_telling(value: Value, refusal: Refusal) -> bool:
    """Not that an activation is not affine, nor that an identity was not merged once more."""
    if refusal.code in ("RK318", "RK331") or value.stays:
        return False
    if refusal.code == "RK319" and value.term is not None and isinstance(value.term.op, Picked):
        return False  # a slice is taken where it stands, whatever is in front of it
    idle = value.module is not None and next(value.module.parameters(), None) is None
    if idle and refusal.code in ("RK301", "RK306"):
        return False
    return value.term is None or not value.term.is_identity
