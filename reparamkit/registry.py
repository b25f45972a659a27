"""registry: which rules, policies, recipe folders and operations there are, and who brought them.

A frozen value: nothing is global. `reparamkit.loading` makes it from plugins.
"""

from __future__ import annotations

import difflib
import sys
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from reparamkit.branch import BranchOp
from reparamkit.decide.policy import Policy
from reparamkit.errors import PluginError
from reparamkit.rule import Lift, Rule, RuleSet, Transform

_SAME = ("forward", "_conv_forward", "__call__")


@dataclass(frozen=True)
class LoadFailure:
    """A plugin that was found and could not be used."""

    plugin: str
    distribution: str
    error: str


@dataclass(frozen=True)
class Registry:
    """Everything the plugins declared.

    Attributes:
        rules: all declarations, with their origin.
        merge: the merge rules, grouped for dispatch.
        policies: by name.
        recipe_folders: by plugin.
        branch_ops: operations of branches, by name.
        plugins: (name, where it comes from) in loading order.
        failures: plugins that could not be loaded.
    """

    rules: tuple[Rule, ...]
    merge: RuleSet
    policies: Mapping[str, Policy]
    recipe_folders: Mapping[str, tuple[Path, ...]]
    branch_ops: Mapping[str, BranchOp]
    plugins: tuple[tuple[str, str], ...] = ()
    failures: tuple[LoadFailure, ...] = ()
    _lifts: Mapping[Any, Lift] = field(default_factory=dict)
    _found: WeakKeyDictionary[type, Lift | None] = field(default_factory=WeakKeyDictionary)

    @property
    def rule_ids(self) -> tuple[str, ...]:
        """Ids of all rules, sorted."""
        return tuple(sorted({r.rule for r in self.rules if r.rule}))

    @cached_property
    def opt_in_ids(self) -> frozenset[str]:
        """Ids of the rules that are off until a recipe names them."""
        return frozenset(r.rule for r in self.rules if getattr(r, "opt_in", False))

    @property
    def transforms(self) -> tuple[Transform, ...]:
        """The transforms, by plugin and id."""
        return tuple(r for r in self.rules if isinstance(r, Transform))

    def module_lift(self, cls: type) -> Lift | None:
        """The lift for modules of class `cls`: exact, or of a base whose forward it inherits."""
        if cls not in self._found:
            self._found[cls] = self._find_module_lift(cls)
        return self._found[cls]

    def _find_module_lift(self, cls: type) -> Lift | None:
        for base in cls.__mro__:
            lift = self._lifts.get(base) or self._lifts.get(f"{base.__module__}.{base.__qualname__}")
            lift = lift or self._by_alias(base)
            if lift is None:
                continue
            if base is cls or (lift.subclasses and _inherits(cls, base)):
                return lift
            return None
        return None

    def _by_alias(self, cls: type) -> Lift | None:
        """A dotted target may name a re-export ("timm.layers.LayerScale"); only imported modules are asked."""
        for target, lift in self._lifts.items():
            if not isinstance(target, str) or target[0] == ".":
                continue
            module, _, name = target.rpartition(".")
            if name == cls.__name__ and getattr(sys.modules.get(module), name, None) is cls:
                return lift
        return None

    def call_lift(self, target: Any) -> Lift | None:
        """The lift for a function, or for a tensor method given as ``".name"``."""
        try:
            found = self._lifts.get(target)
            if found is None and isinstance(target, types.FunctionType):
                found = self._lifts.get(f"{target.__module__}.{target.__qualname__}")
            return found
        except TypeError:  # an unhashable callable is no function of ours
            return None

    def check_ids(self, names: Iterable[str]) -> None:
        """Raise `PluginError` RK709 when a rule id or glob names nothing."""
        known = self.rule_ids
        for name in names:
            if not any(fnmatchcase(rule, name) for rule in known):
                raise PluginError("RK709", _unknown("rule", name, known))

    def policy(self, name: str) -> Policy:
        """The policy called `name`, or `PluginError` RK709 with the known names."""
        if name not in self.policies:
            raise PluginError("RK709", _unknown("policy", name, tuple(self.policies)))
        return self.policies[name]


def _inherits(cls: type, base: type) -> bool:
    return all(getattr(cls, name, None) is getattr(base, name, None) for name in _SAME)


def _unknown(what: str, name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"no {what} {name!r}; {hint}known: {', '.join(sorted(known))}"
