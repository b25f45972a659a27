"""Where a recipe applies: which block of it each module belongs to, and which rules may be used there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from typing import TYPE_CHECKING

from torch import nn

from reparamkit.edits.edit import Edit
from reparamkit.errors import RecipeError, Refusal
from reparamkit.recipe import Block, Expect, Match, Recipe
from reparamkit.standin import StandIn

if TYPE_CHECKING:
    from reparamkit.registry import Registry
    from reparamkit.rule import Transform

# Reading a layer as an operator is no merge; a recipe need not list it.
_IMPLIED = frozenset({"core/conv", "core/linear", "core/no_op", "core/gate"})


# A recipe that says how layers are expanded takes their branches away as well.
_EXPANDED = Block(match=Match(structure="any"), expect=Expect(convs=1, batch_norms=0))


@dataclass(frozen=True)
class Scope:
    """A module that a block of the recipe matched."""

    path: str
    block: Block


def scopes_of(recipe: Recipe, modules: Iterable[tuple[str, nn.Module]]) -> list[Scope]:
    """Which block of the recipe each module belongs to; the first match has it, under all names of the module.

    Raises:
        RecipeError: RK706 when a block that is not optional, or the recipe as a whole, matches nothing.
    """
    found: list[Scope] = []
    modules = list(modules)
    for path, module in modules:
        block = next((b for b in recipe.blocks if b.match.matches(path, module)), None)
        if block is None and recipe.expand and isinstance(module, StandIn):
            block = _EXPANDED
        if block is not None:
            found.append(Scope(path, block))
    found += _other_names(found, modules)
    used = {id(s.block) for s in found}
    for index, block in enumerate(recipe.blocks):
        if id(block) not in used and not block.optional:
            raise RecipeError("RK706", f"recipe {recipe.name!r}, block {index}: {_described(block)} matches no module")
    if recipe.blocks and not found:
        patterns = "; ".join(_described(b) for b in recipe.blocks)
        raise RecipeError("RK706", f"recipe {recipe.name!r}: none of its blocks matches a module ({patterns})")
    return found


def _other_names(found: list[Scope], modules: list[tuple[str, nn.Module]]) -> list[Scope]:
    """The same for a module that was matched under one of several names: any of them may be the one it is called by."""
    kept = {scope.path: scope.block for scope in found}
    blocks = {id(module): kept[path] for path, module in modules if path in kept}
    return [Scope(path, blocks[id(m)]) for path, m in modules if path not in kept and id(m) in blocks]


def _described(block: Block) -> str:
    keys = {"class": block.match.class_, "name": block.match.name, "structure": block.match.structure}
    return ", ".join(f"{k}: {v}" for k, v in keys.items() if v is not None)


def block_of(edit: Edit, scopes: dict[str, Block]) -> Block | None:
    """The block of the innermost matched module that holds everything the edit touches."""
    first, *others = [path.split(".") if path else [] for path in edit.touched]
    common = first
    for parts in others:
        common = common[
            : next(
                (i for i, (a, b) in enumerate(zip(common, parts, strict=False)) if a != b), min(len(common), len(parts))
            )
        ]
    return innermost(".".join(common), scopes)


def innermost(path: str, scopes: dict[str, Block]) -> Block | None:
    """The block of the innermost matched module that is or holds the one at `path`."""
    common = path.split(".") if path else []
    for length in range(len(common), -1, -1):
        block = scopes.get(".".join(common[:length]))
        if block is not None:
            return block
    return None


def switched_on(recipe: Recipe, opt_in: frozenset[str]) -> Callable[[str], bool]:
    """Whether the recipe has a rule anywhere: not disabled, and named in full where it is off by default.

    Args:
        recipe: the recipe.
        opt_in: ids of the rules that are off by default.
    """
    disabled = recipe.disabled_ids()
    named = {rule for block in recipe.blocks for rule in block.rule_ids() or ()}

    @cache
    def switched(rule: str) -> bool:
        return (rule not in opt_in or rule in named) and not any(fnmatchcase(rule, d) for d in disabled)

    return switched


def out_of_scope(edit: Edit, scopes: dict[str, Block], opt_in: frozenset[str] = frozenset()) -> Refusal | None:
    """Why the recipe does not have this edit, if it does not.

    Args:
        edit: the edit.
        scopes: which block of the recipe a module belongs to, by path.
        opt_in: ids of the rules that a block must name in full.
    """
    block = block_of(edit, scopes)
    where = edit.candidate.target.where
    if block is None:
        return Refusal("RK801", "no block of the recipe matches here", where)
    allowed = block.rule_ids()
    used = edit.candidate.term.rules - _IMPLIED
    named = allowed or ()
    missing = sorted(used & opt_in - set(named))
    if allowed is not None:
        missing += sorted(r for r in used - opt_in if not any(fnmatchcase(r, a) for a in allowed))
    listed = "every rule that is not opt-in" if allowed is None else ", ".join(allowed)
    return Refusal("RK801", f"{', '.join(missing)} (the recipe allows {listed})", where) if missing else None


def transforms_of(recipe: Recipe, registry: Registry) -> list[Transform]:
    """The transforms that a recipe switches on, in the order they run."""
    enabled = switched_on(recipe, registry.opt_in_ids)
    return [t for t in registry.transforms if enabled(t.rule)]


def allowed_here(rule: str, opt_in: bool, path: str, scopes: dict[str, Block]) -> bool:
    """Whether the recipe has a rule for the module at `path` as a whole.

    Args:
        rule: its id.
        opt_in: whether a block must name it in full.
        path: of the module.
        scopes: which block of the recipe a module belongs to, by path.
    """
    block = innermost(path, scopes)
    if block is None:
        return False
    allowed = block.rule_ids()
    if opt_in:
        return rule in (allowed or ())
    return allowed is None or any(fnmatchcase(rule, a) for a in allowed)
