"""pipeline: the stages in order. Start reading here.

    trace -> lift -> merge -> decide        `plan` stops here: nothing is computed, nothing changed
          -> lower -> verify -> splice -> transform -> report      (`rounds.py`: once more, where that leaves something)

`plan` and `apply` share everything up to the decision. `apply` then computes and proves every replacement, and
only when all of them are ready changes the model, or a copy of it.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, ParamSpec, TypeVar, overload

import torch
from torch import nn

from reparamkit.check import checked_example, checked_model, expectations
from reparamkit.decide.policy import Policy
from reparamkit.edits.splice import Journal, Steps, copied, splice
from reparamkit.edits.steps import steps_of
from reparamkit.errors import ModelError, RecipeError
from reparamkit.example_form import form_of
from reparamkit.keymap import key_map, keys_of, moved
from reparamkit.loading import build_or_default
from reparamkit.plan import Plan, let_go
from reparamkit.planning import make_plan
from reparamkit.recipe import Recipe, load_recipe
from reparamkit.registry import Registry
from reparamkit.report import Report
from reparamkit.report.notes import notes_of
from reparamkit.report.summary import report_of
from reparamkit.rounds import Rounds, make_further, prove_all
from reparamkit.survey import survey
from reparamkit.survey.observe import observe_ranks
from reparamkit.transform import transform
from reparamkit.verify import Truth
from reparamkit.warn import parameters_under, unwrapped, warn_of_global_hooks, warn_of_optimizers

RecipeLike = str | Path | Mapping[str, Any] | Recipe | None
P = ParamSpec("P")
R = TypeVar("R")
Plugins = Sequence[ModuleType | object] | None
_log = logging.getLogger("reparamkit")


def _quietly(function: Callable[P, R]) -> Callable[P, R]:
    """Record no gradients, and make normal tensors even inside the caller's `torch.inference_mode`."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.inference_mode(False), torch.no_grad():
            return function(*args, **kwargs)

    return run


@_quietly
def plan(
    model: nn.Module,
    recipe: RecipeLike = None,
    *,
    policy: str | Policy | None = None,
    plugins: Plugins = None,
    example_inputs: Any = None,
) -> Plan:
    """Say what `apply` would merge and what it would refuse, without computing or changing anything.

    Args:
        model: a model in eval mode.
        recipe: a file, the name of a shipped recipe, YAML text, a mapping, a `Recipe`; by default "auto".
        policy: overrides the recipe's policy.
        plugins: modules with hooks, beside the installed plugins.
        example_inputs: a tensor, a tuple of arguments or a dict of keyword arguments; run once to learn how many
            axes each module's input has.

    Returns:
        The plan; ``print(plan)`` reads well.

    Raises:
        ModelError: the model cannot be converted as it is (training mode, TorchScript, meta weights, ...).
        RecipeError: the recipe is wrong or matches nothing.
        PluginError: a rule or policy does not exist, or plugins contradict each other.
    """
    model = unwrapped(model)
    checked_model(model)
    warn_of_global_hooks()
    registry = build_or_default(plugins)
    loaded = load_recipe(recipe, folders=registry.recipe_folders, ops=registry.branch_ops)
    registry.check_ids([*loaded.disabled_ids(), *(r for b in loaded.blocks for r in b.rule_ids() or ())])
    chosen = policy if isinstance(policy, Policy) else registry.policy(policy or loaded.policy)
    checked_example(example_inputs)
    if chosen.timing is not None and example_inputs is None:
        raise ModelError("RK104", f"policy {chosen.name} times layers: pass example_inputs of the size it will see")
    found = survey(model, registry)
    if example_inputs is not None:
        observe_ranks(found, model, example_inputs)
    made = make_plan(model, loaded, chosen, registry, found)
    _log.info("recipe %s: %d merges planned, %d refused", loaded.name, len(made.edits), len(made.refusals))
    return made


@overload
def apply(
    model: nn.Module,
    recipe: RecipeLike = ...,
    *,
    inplace: bool = ...,
    policy: str | Policy | None = ...,
    verify: bool | float = ...,
    plugins: Plugins = ...,
    example_inputs: Any = ...,
    strict: bool = ...,
    keep_original: bool = ...,
    return_report: Literal[False] = ...,
) -> nn.Module: ...
@overload
def apply(
    model: nn.Module,
    recipe: RecipeLike = ...,
    *,
    inplace: bool = ...,
    policy: str | Policy | None = ...,
    verify: bool | float = ...,
    plugins: Plugins = ...,
    example_inputs: Any = ...,
    strict: bool = ...,
    keep_original: bool = ...,
    return_report: Literal[True],
) -> tuple[nn.Module, Report]: ...
@_quietly
def apply(
    model: nn.Module,
    recipe: RecipeLike = None,
    *,
    inplace: bool = False,
    policy: str | Policy | None = None,
    verify: bool | float = True,
    plugins: Plugins = None,
    example_inputs: Any = None,
    strict: bool = False,
    keep_original: bool = False,
    return_report: bool = False,
) -> nn.Module | tuple[nn.Module, Report]:
    """Turn the multi-branch blocks of `model` into single-path ones that compute the same.

    Args:
        model: a model in eval mode, of any class. Its class, methods and attributes survive.
        recipe: a file, the name of a shipped recipe, YAML text, a mapping, a `Recipe`; by default "auto":
            everything exact that pays.
        inplace: change `model` itself; otherwise it is not touched and a converted copy is returned.
        policy: overrides the recipe's policy ("cheaper", "always", "measured").
        verify: prove every merge in float64 before it is made. A number is the tolerance.
        plugins: modules with hooks, beside the installed plugins.
        example_inputs: a tensor, a tuple of arguments or a dict of keyword arguments. With it the whole model is
            compared before and after, and layers whose meaning depends on the number of axes are understood.
        strict: raise `RecipeError` RK707 when anything was refused.
        keep_original: keep what is replaced, so that `Report.undo` can bring it back; costs its memory.
        return_report: also return the `Report`.

    Returns:
        The converted model, and the report when asked for.

    Raises:
        ModelError: the model cannot be converted as it is (training mode, TorchScript, meta weights, ...).
        RecipeError: the recipe is wrong, matches nothing, or an expectation of it is not met.
        PluginError: a rule or policy does not exist, or plugins contradict each other.
        VerificationError: a merge does not compute what it replaces. In every case `model` is as it was.
    """
    made = plan(model, recipe, policy=policy, plugins=plugins, example_inputs=example_inputs)
    return carry_out(
        made,
        inplace=inplace,
        verify=verify,
        example_inputs=example_inputs,
        strict=strict,
        keep_original=keep_original,
        return_report=return_report,
    )


@_quietly
def carry_out(
    made: Plan,
    *,
    inplace: bool,
    verify: bool | float,
    example_inputs: Any,
    strict: bool,
    keep_original: bool,
    return_report: bool,
) -> nn.Module | tuple[nn.Module, Report]:
    """Compute, prove and make what a plan says, once; arguments, result and errors as those of `apply`."""
    model = made.model
    rtol = _tolerance(made.recipe, verify)
    proven, refused = prove_all(made, rtol)
    steps = steps_of(made, proven)
    truth = None if example_inputs is None or rtol is None else Truth(model, example_inputs)
    if strict and (refused or made.refusals):
        raise RecipeError(
            "RK707", f"strict: {len(refused) + len(made.refusals)} refusals, the first: {(*refused, *made.refusals)[0]}"
        )
    target = model if inplace else copied(model, Steps() if keep_original else steps)
    keys = keys_of(model) if return_report else ()
    notes = notes_of(proven, made.survey.modules) if return_report else ()
    parameters = parameters_under(model) if inplace else []
    journal = Journal()
    try:
        splice(target, steps, journal)
        merged_keys = keys_of(target) if return_report else ()
        rounds = Rounds(proven, made.refusals, refused, key_map(keys, merged_keys, proven))
        make_further(rounds, made, target, example_inputs, rtol, journal)
        _log.info("%d merges proven and made", len(rounds.proven))
        more = transform(made, target, example_inputs, rtol, journal)
        if strict and more.refused:
            raise RecipeError("RK707", f"strict: {len(more.refused)} refusals, the first: {more.refused[0]}")
        expectations(made, target)
        comparison = None if truth is None else truth.judge(target)
        warn_of_optimizers(parameters, target)
        if not return_report:
            let_go(made)
            return target
        refusals = (*rounds.refusals, *rounds.refused, *more.refused)
        report = report_of(made.recipe, made.policy.name, rounds.proven, refusals, comparison)
        report = replace(
            report,
            merged=(*report.merged, *more.merged),
            key_map=moved(rounds.key_map, more.moves),
            example=form_of(example_inputs),
            timed=made.timed,
            notes=notes,
            _undo=[journal.rollback] if keep_original else [],
        )
        let_go(made)
        return target, report
    except BaseException:  # an interrupt, too; not `with`, which an interrupt could leave before its exit is entered
        journal.rollback()
        raise


def _tolerance(recipe: Recipe, verify: bool | float) -> float | None:
    if verify is False or (verify is True and not recipe.verify.enabled):
        return None
    return recipe.verify.rtol if verify is True else float(verify)


__all__ = ["Registry", "apply", "plan"]
