"""loading: plugins become a `Registry`.

Built-in rules first, then installed plugins sorted by name. A plugin that cannot be loaded is reported and left
out; two that claim one target are an error that names both. Nothing depends on the order in which plugins were found.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from reparamkit import core, hookspecs
from reparamkit.branch import BranchOp
from reparamkit.decide.policy import POLICIES, Policy
from reparamkit.errors import PluginError
from reparamkit.guarded import guarded, guarded_branch, guarded_policy
from reparamkit.registry import LoadFailure, Registry
from reparamkit.rule import Lift, Rule, Switch, Transform, grouped

_API = (Rule.__args__, Policy, Path)


def _entry_points() -> list[EntryPoint]:
    if os.environ.get("REPARAMKIT_DISABLE_PLUGINS"):
        return []
    found = sorted(entry_points(group="reparamkit"), key=lambda e: (e.name, e.dist.name if e.dist else ""))
    only = os.environ.get("REPARAMKIT_LOAD_PLUGINS")
    if only is None:
        return found
    wanted = {name.strip() for name in only.split(",")}
    return [e for e in found if e.name in wanted]


class _Loader:
    """Registers plugins with pluggy one by one and remembers what went wrong."""

    def __init__(self) -> None:
        self.manager = pluggy.PluginManager("reparamkit")
        self.manager.add_hookspecs(hookspecs)
        self.names: list[tuple[str, str]] = []
        self.failures: list[LoadFailure] = []

    def add(self, name: str, plugin: Any, origin: str) -> None:
        if self.manager.has_plugin(name):
            self.failures.append(LoadFailure(name, origin, f"the name is taken by {dict(self.names).get(name, '?')}"))
            return
        try:
            self.manager.register(plugin, name)
            self.manager.check_pending()
        except Exception as error:  # a plugin may fail in any way; it is reported, not raised
            if self.manager.has_plugin(name):
                self.manager.unregister(name=name)
            self.failures.append(LoadFailure(name, origin, f"{type(error).__name__}: {error}"))
            return
        self.names.append((name, origin))

    def entry_point(self, entry: EntryPoint) -> None:
        dist = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "?"
        try:
            plugin = None if self.manager.has_plugin(entry.name) else entry.load()
        except (Exception, SystemExit) as error:  # an import may fail in any way; it is reported, not raised
            self.failures.append(LoadFailure(entry.name, dist, f"{type(error).__name__}: {error}"))
            return
        self.add(entry.name, plugin, dist)

    def collect(self, hook: str, kinds: type | tuple[type, ...]) -> dict[str, list[Any]]:
        """What each plugin's implementation of `hook` returned."""
        found: dict[str, list[Any]] = {}
        for impl in getattr(self.manager.hook, hook).get_hookimpls():
            try:
                items = list(impl.function())
                wrong = [type(i).__name__ for i in items if not isinstance(i, kinds)]
                if wrong:
                    raise TypeError(f"{hook} returned a {wrong[0]}")
                nameless = [type(i.rule).__name__ for i in items if not isinstance(getattr(i, "rule", ""), str)]
                if nameless:
                    raise TypeError(f"the id of a rule is a {nameless[0]}, not text")
            except Exception as error:  # as above: reported with the plugin's name
                origin = dict(self.names)[impl.plugin_name]
                self.failures.append(LoadFailure(impl.plugin_name, origin, f"{type(error).__name__}: {error}"))
                continue
            found[impl.plugin_name] = items
            if os.environ.get("REPARAMKIT_TRACE_PLUGINS"):
                print(f"reparamkit: {impl.plugin_name}.{hook}() -> {len(items)}", file=sys.stderr)
        return found


def build(plugins: Sequence[ModuleType | object] = (), *, autoload: bool = True) -> Registry:
    """The registry of the built-in rules, installed plugins and the given ones.

    Args:
        plugins: modules (or objects) that implement hooks.
        autoload: also load the plugins that are installed.

    Raises:
        PluginError: RK803 when two plugins claim one target and none overrides the other, RK802 when a given
            plugin cannot be used.
    """
    loader = _Loader()
    loader.add("core", core, "reparamkit")
    for entry in _entry_points() if autoload else []:
        loader.entry_point(entry)
    installed = len(loader.failures)
    for plugin in plugins:
        if loader.manager.is_registered(plugin):
            continue  # it is installed as well
        loader.add(_plugin_name(plugin), plugin, "given")
    rules = loader.collect("reparamkit_rules", _API[0])
    policies = loader.collect("reparamkit_policies", Policy)
    folders = loader.collect("reparamkit_recipes", Path)
    branch_ops = loader.collect("reparamkit_branches", BranchOp)
    given = [f for f in loader.failures if f.distribution == "given"]
    if given:
        raise PluginError("RK802", f"{given[0].plugin}: {given[0].error}")
    for failure in loader.failures[:installed]:
        warnings.warn(f"reparamkit plugin {failure.plugin} ({failure.distribution}): {failure.error}", stacklevel=2)
    order = sorted(rules, key=lambda name: (name != "core", name))
    declared = tuple(replace(rule, origin=name) for name in order for rule in rules[name])
    resolved = _resolved(declared)
    return Registry(
        declared,
        grouped([guarded(rule) for rule in resolved]),
        {p.name: p for p in (*POLICIES, *(guarded_policy(p, name) for name in policies for p in policies[name]))},
        {name: tuple(paths) for name, paths in folders.items()},
        _by_name({name: branch_ops[name] for name in sorted(branch_ops, key=lambda n: (n != "core", n))}),
        tuple(loader.names),
        tuple(loader.failures),
        {r.target: r for r in resolved if isinstance(r, Lift)},
    )


def _by_name(found: Mapping[str, Sequence[BranchOp]]) -> dict[str, BranchOp]:
    ops: dict[str, BranchOp] = {}
    for plugin, declared in found.items():
        for op in declared:
            if op.name in ops:
                raise PluginError("RK803", f"{ops[op.name].origin} and {plugin} both bring the operation {op.name!r}")
            ops[op.name] = guarded_branch(replace(op, origin=plugin))
    return ops


def _plugin_name(plugin: object) -> str:
    name = getattr(plugin, "__name__", type(plugin).__name__)
    return str(name).rpartition(".")[2].removeprefix("reparamkit_").replace("_", "-")


def _key(rule: Rule) -> tuple[Any, ...]:
    if isinstance(rule, (Switch, Transform)):
        return (type(rule).__name__, rule.rule)
    fields = ("target", "outer", "inner", "kind", "order")
    return (type(rule).__name__, *(getattr(rule, f) for f in fields if hasattr(rule, f)))


def _resolved(rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """One rule a target: the one that nobody of the group overrides."""
    claims: dict[tuple[Any, ...], list[Rule]] = defaultdict(list)
    for rule in rules:
        claims[_key(rule)].append(rule)
    kept = []
    for group in claims.values():
        overridden = {getattr(r, "overrides", "") for r in group} - {""}
        owners = [r for r in group if r.rule not in overridden]
        if len(owners) != 1:
            names = " and ".join(f"{r.rule} ({r.origin})" for r in group)
            advice = "say overrides= in one" if hasattr(group[0], "overrides") else "give one another id"
            raise PluginError("RK803", f"{names} claim {_key(group[0])[1:]}; {advice} of them")
        kept.append(owners[0])
    return tuple(kept)


@cache
def default_registry() -> Registry:
    """The registry of the built-in rules and the installed plugins, built at its first use."""
    return build()


def build_or_default(plugins: Sequence[ModuleType | object] | None) -> Registry:
    """The default registry, or one with these plugins beside the installed ones."""
    return build(tuple(plugins)) if plugins else default_registry()
