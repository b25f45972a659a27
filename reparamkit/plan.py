"""plan: what a recipe makes of a model, before a single number is computed. Nothing is changed or copied."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from reparamkit.decide.candidate import Candidate
from reparamkit.decide.choice import Choice, opens_more
from reparamkit.decide.chooser import Chooser
from reparamkit.decide.policy import Policy
from reparamkit.decide.reorder import Finder, Reorderer
from reparamkit.decide.scales import scales_to_move
from reparamkit.decide.spread import with_spread_norms
from reparamkit.decide.sums import SumFinder
from reparamkit.edits.edit import Edit
from reparamkit.edits.emit import Emitted
from reparamkit.edits.host import host
from reparamkit.edits.naming import name_and_write
from reparamkit.errors import Refusal
from reparamkit.flow import Flow, Value
from reparamkit.lift.lifter import Lifter
from reparamkit.merge import Algebra
from reparamkit.operators import Picked
from reparamkit.paths import within
from reparamkit.planned import Pending, Planned
from reparamkit.probe import probe
from reparamkit.recipe import Block, Recipe
from reparamkit.registry import Registry
from reparamkit.report import Report
from reparamkit.report.summary import report_of
from reparamkit.rules import homogeneous, spread
from reparamkit.rules import probe as measured
from reparamkit.scope import Scope, allowed_here, out_of_scope, scopes_of, switched_on, transforms_of
from reparamkit.survey import Survey
from reparamkit.timing.benches import Benches, benches_of
from reparamkit.timing.stopwatch import Stopwatch
from reparamkit.timing.timed import Timings


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
        transforms: what runs after the merges.
        scopes: which modules the recipe matched.
        opens: whether more may merge once these edits are made.
        survey: what was found out about the model.
        registry: the rules.
        clock: what was timed, where the policy wants that.
        flows: all that were looked at.
        further: plans of the merged model that were made when this one was carried out.
    """

    model: nn.Module
    recipe: Recipe
    policy: Policy
    survey: Survey
    registry: Registry
    edits: list[Planned] = field(default_factory=list)
    rewrites: dict[str, Emitted] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)
    transforms: list[Pending] = field(default_factory=list)
    scopes: list[Scope] = field(default_factory=list)
    clock: Stopwatch | None = None
    opens: bool = False
    flows: list[Flow] = field(default_factory=list, init=False, repr=False)
    further: list[Plan] = field(default_factory=list, init=False, repr=False)

    def __str__(self) -> str:
        lines = [f"after the merges: {pending}" for pending in self.transforms]
        return "\n".join([str(self._report()), *lines])

    def apply_to(
        self,
        other: nn.Module,
        *,
        inplace: bool = False,
        verify: bool | float = True,
        example_inputs: Any = None,
        strict: bool = False,
        keep_original: bool = False,
        return_report: bool = False,
    ) -> nn.Module | tuple[nn.Module, Report]:
        """Carry the plan out on a model like the one it was made for: an averaged copy, a teacher, a checkpoint.

        The edits are the same, the numbers are those of `other`, and every merge is proven again.

        Args:
            other: a model in eval mode, with the same modules; it may be the plan's own.
            inplace: change `other` itself.
            verify: as for `reparamkit.apply`, and so are the others.
            example_inputs: to compare the whole model on.
            strict: raise when anything was refused.
            keep_original: so that `Report.undo` works.
            return_report: also return the `Report`.

        Returns:
            The converted model, and the report when asked for.

        Raises:
            ModelError: RK112 when it does not merge in the same way, with the first place that differs.
            VerificationError: a merge does not compute what it replaces. In every case `other` is as it was.
        """
        from reparamkit.pipeline import carry_out
        from reparamkit.replan import replanned

        return carry_out(
            replanned(self, other),
            inplace=inplace,
            verify=verify,
            example_inputs=example_inputs,
            strict=strict,
            keep_original=keep_original,
            return_report=return_report,
        )

    def to_dict(self) -> dict[str, object]:
        """The plan as plain data: `Report.to_dict`, and the transforms."""
        pending = [{"rule": one.rule, "blocks": list(one.blocks)} for one in self.transforms]
        return {**self._report().to_dict(), "transforms": pending}

    def _report(self) -> Report:
        report = report_of(self.recipe, self.policy.name, dict.fromkeys(self.edits), self.refusals)
        return replace(report, timed=self.timed)

    @property
    def timed(self) -> Timings | None:
        """What was timed to decide, where the policy wants that."""
        return None if self.clock is None else self.clock.timings


def let_go(plan: Plan) -> None:
    """Release the model of a plan that was carried out."""
    flows = {id(flow): flow for flow in (*plan.flows, *(planned.flow for planned in plan.edits))}
    for flow in flows.values():
        flow.release()
    for further in plan.further:
        let_go(further)


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
