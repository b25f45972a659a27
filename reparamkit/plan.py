"""plan: what a recipe makes of a model, before a single number is computed (`planning.py` makes it)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from reparamkit.decide.policy import Policy
from reparamkit.edits.emit import Emitted
from reparamkit.errors import Refusal
from reparamkit.flow import Flow
from reparamkit.planned import Pending, Planned
from reparamkit.recipe import Recipe
from reparamkit.registry import Registry
from reparamkit.report import Report
from reparamkit.report.summary import report_of
from reparamkit.scope import Scope
from reparamkit.survey import Survey
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
