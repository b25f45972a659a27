"""plan: what a recipe makes of a model, before a single number is computed. Nothing is changed or copied."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from reparamkit.decide import Candidate, Chooser
from reparamkit.emit import Emitted, emit
from reparamkit.errors import RecipeError, Refusal
from reparamkit.flow import Flow, Frame, Value
from reparamkit.host import Edit, Rewrite, Swap, host
from reparamkit.lift import Lifter
from reparamkit.merge import Algebra
from reparamkit.policy import Policy
from reparamkit.recipe import Block, Recipe
from reparamkit.registry import Registry
from reparamkit.splice import is_free, new_name
from reparamkit.survey import Survey

# Reading a layer as an operator is no merge; a recipe need not list it.
_IMPLIED = frozenset({"core/conv", "core/linear", "core/no_op"})


@dataclass(frozen=True)
class Scope:
    """A module that a block of the recipe matched."""

    path: str
    block: Block


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


def scopes_of(recipe: Recipe, modules: Iterable[tuple[str, nn.Module]]) -> list[Scope]:
    """Which block of the recipe each module belongs to; the first match has it.

    Raises:
        RecipeError: RK706 when a block that is not optional, or the recipe as a whole, matches nothing.
    """
    found: list[Scope] = []
    for path, module in modules:
        block = next((b for b in recipe.blocks if b.match.matches(path, module)), None)
        if block is not None:
            found.append(Scope(path, block))
    used = {id(s.block) for s in found}
    for index, block in enumerate(recipe.blocks):
        if id(block) not in used and not block.optional:
            raise RecipeError("RK706", f"recipe {recipe.name!r}, block {index}: {_described(block)} matches no module")
    if recipe.blocks and not found:
        patterns = "; ".join(_described(b) for b in recipe.blocks)
        raise RecipeError("RK706", f"recipe {recipe.name!r}: none of its blocks matches a module ({patterns})")
    return found


def _described(block: Block) -> str:
    keys = {"class": block.match.class_, "name": block.match.name, "structure": block.match.structure}
    return ", ".join(f"{k}: {v}" for k, v in keys.items() if v is not None)


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
    disabled = recipe.disabled_ids()
    algebra = Algebra(registry.merge, lambda rule: not any(fnmatchcase(rule, d) for d in disabled))
    by_path = {s.path: s.block for s in plan.scopes}
    for flow in Lifter(survey, registry, algebra).flows():
        _plan_flow(plan, flow, algebra, by_path)
    _name_and_emit(plan, by_path)
    return plan


def _plan_flow(plan: Plan, flow: Flow, algebra: Algebra, scopes: dict[str, Block]) -> None:
    hosts: dict[Candidate, Edit] = {}

    def feasible(candidate: Candidate) -> Refusal | None:
        edit = host(candidate, flow, plan.survey)
        if isinstance(edit, Refusal):
            return edit
        refusal = _out_of_scope(edit, scopes)
        if refusal is None:
            hosts[candidate] = edit
        return refusal

    chooser = Chooser(algebra, plan.policy, feasible)
    chosen = chooser.choose(flow)
    plan.edits += [Planned(hosts[c], flow) for c in chosen]
    done = {v for c in chosen for v in c.values}
    ends = {c.target for c in chosen}
    plan.refusals += flow.refusals
    for value in flow.values:
        refusal = value.refusal or chooser.refusals.get(value)
        if refusal is None or not _worth_telling(value, refusal):
            continue
        # A value that was merged may still say why not further: the border, the geometry.
        if value not in done or (value in ends and refusal.code.startswith("RK31")):
            plan.refusals.append(refusal.at(value.where))


def _worth_telling(value: Value, refusal: Refusal) -> bool:
    """Not that an activation is not affine, nor that an identity was not merged once more."""
    if refusal.code in ("RK318", "RK331"):
        return False
    idle = value.module is not None and next(value.module.parameters(), None) is None
    if idle and refusal.code in ("RK301", "RK306"):
        return False
    return value.term is None or not value.term.is_identity


def _block_of(edit: Edit, scopes: dict[str, Block]) -> Block | None:
    """The block of the innermost matched module that holds everything the edit touches."""
    first, *others = [path.split(".") if path else [] for path in edit.touched]
    common = first
    for parts in others:
        common = common[
            : next(
                (i for i, (a, b) in enumerate(zip(common, parts, strict=False)) if a != b), min(len(common), len(parts))
            )
        ]
    for length in range(len(common), -1, -1):
        block = scopes.get(".".join(common[:length]))
        if block is not None:
            return block
    return None


def _out_of_scope(edit: Edit, scopes: dict[str, Block]) -> Refusal | None:
    block = _block_of(edit, scopes)
    where = edit.candidate.target.where
    if block is None:
        return Refusal("RK801", "no block of the recipe matches here", where)
    allowed = block.rule_ids()
    if allowed is None:
        return None
    used = edit.candidate.term.rules - _IMPLIED
    missing = sorted(r for r in used if not any(fnmatchcase(r, a) for a in allowed))
    return (
        Refusal("RK801", f"{', '.join(missing)} (the recipe allows {', '.join(allowed)})", where) if missing else None
    )


def _name_and_emit(plan: Plan, scopes: dict[str, Block]) -> None:
    """Name the merged submodules and write the new forwards; a forward that cannot be written gives its edits up."""
    groups: dict[str, list[Planned]] = {}
    for planned in plan.edits:
        if isinstance(planned.edit, Rewrite):
            groups.setdefault(planned.edit.path, []).append(planned)
    for path, group in groups.items():
        emitted = _emit(plan, path, group, scopes)
        if isinstance(emitted, Refusal):
            plan.refusals.append(emitted.at(path))
            plan.edits = [p for p in plan.edits if p not in group]
    gone = {f"{path}.{name}" if path else name for path, e in plan.rewrites.items() for name in e.removed}
    plan.edits = [p for p in plan.edits if not (isinstance(p.edit, Swap) and _inside(p.edit.anchor, gone))]


def _remembered(plan: Plan, frame: Frame, merged: Sequence[tuple[Candidate, str]]) -> Emitted | Refusal:
    """Blocks that are alike were traced once; the code that merges the same nodes is written once."""
    ends = [(frame.node_of(c.source), frame.node_of(c.target), name) for c, name in merged]
    key = (id(frame.traced), type(frame.module), tuple(ends))
    if key not in plan.written:
        plan.written[key] = emit(frame, merged)
    return plan.written[key]


def _inside(path: str, roots: set[str]) -> bool:
    return any(path == root or path.startswith(f"{root}.") for root in roots)


def _emit(plan: Plan, path: str, group: Sequence[Planned], scopes: dict[str, Block]) -> Emitted | Refusal:
    frame = group[0].edit.frame  # type: ignore[union-attr]
    block = scopes.get(path)
    wanted = block.into if block is not None and block.into else "reparam"
    gone: tuple[str, ...] = ()
    if not is_free(frame.module, wanted):
        # The name may belong to a branch that is about to go (UniRepLKNet merges into the large kernel itself).
        trial = emit(frame, [(p.edit.candidate, f"_merged_{i}") for i, p in enumerate(group)])
        if isinstance(trial, Refusal):
            return trial
        gone = trial.removed
    names: list[str] = []
    for _ in group:
        mine = wanted in gone and wanted not in names
        names.append(wanted if mine else new_name(frame.module, wanted, names))
    emitted = _remembered(plan, frame, [(p.edit.candidate, n) for p, n in zip(group, names, strict=True)])
    if isinstance(emitted, Refusal):
        return emitted
    for planned, name in zip(group, names, strict=True):
        plan.edits[plan.edits.index(planned)] = replace(planned, name=name)
    plan.rewrites[path] = emitted
    return emitted
