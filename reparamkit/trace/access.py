"""access: which modules a piece of Python gets hold of, and what it does with them, read from its source.

Names stand for sets of the model's own modules (or of containers and functions that hold some); statements are read
again and again until no name stands for more (`reading`). Functions without Python source are taken to call what they
are given.
"""

from __future__ import annotations

import ast
import functools
import inspect
import types
from typing import Any

from torch import nn

from reparamkit.trace.reading import Reading
from reparamkit.trace.source import tree_of
from reparamkit.trace.things import NOTHING, Bag, Method, Super, Things, bag, is_tensor, is_torchs, things_in

_CHILDREN = frozenset({"children", "named_children", "items", "values", "__iter__"})
_ALL_MODULES = frozenset({"modules", "named_modules", "get_submodule", "apply"})
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


class Access:
    """What the forward of a module gets hold of.

    Attributes:
        past: modules whose tensors it reads, or which it gets hold of past a forward that would call them.
    """

    def __init__(self, root: nn.Module) -> None:
        self.root = root
        self.past: set[nn.Module] = set()
        self._known: dict[Any, Things] = {}

    def function(self, function: Any, given: list[Things], named: dict[str, Things] | None = None) -> Things:
        """Read a Python function that is called with these arguments; what it returns."""
        function = inspect.unwrap(function)
        named = named or {}
        key = (function, tuple(given), tuple(sorted(named.items())))
        if key in self._known:
            return self._known[key]
        self._known[key] = NOTHING
        tree = tree_of(function)
        found = None if tree is None else next((n for n in ast.walk(tree) if isinstance(n, _FUNCTIONS)), None)
        if found is None:
            self.anything(*given, *named.values())
        else:
            self._known[key] = Reading(self, function, found).run(given, named)
        return self._known[key]

    def obtain(self, owner: nn.Module, child: nn.Module) -> nn.Module:
        """The code has `child` in its hands, taken from `owner`."""
        holds = inspect.getattr_static(type(owner), "forward") is nn.Module.forward
        if owner is not self.root and (not holds or owner in self.past):
            self.past.add(child)
        return child

    def anything(self, *things: Things) -> None:
        """The code may do anything with these."""
        for thing in frozenset[Any]().union(*things):
            if isinstance(thing, nn.Module):
                inside = set(thing.modules())
                self.past |= inside - {self.root}
            elif isinstance(thing, Bag):
                self.anything(thing.items)
            elif isinstance(thing, Method) and thing.run is not None:
                self.function(thing.run, [frozenset([thing.owner])])

    def elements(self, things: Things) -> Things:
        """What an iteration over these gives."""
        found: set[Any] = set()
        for thing in things:
            if isinstance(thing, Bag):
                found |= thing.items
            elif isinstance(thing, nn.Module):
                found |= {self.obtain(thing, child) for _, child in thing._modules.items() if child is not None}
        return frozenset(found)

    def member(self, thing: Any, name: str) -> Things:
        """What ``thing.name`` is."""
        if isinstance(thing, Super):
            order = type(thing.owner).__mro__
            later = order[order.index(thing.cls) + 1 :] if thing.cls in order else ()
            run = next((vars(c)[name] for c in later if name in vars(c)), None)
            return self._method(thing.owner, name, run)
        if isinstance(thing, Bag):
            return frozenset([Method(thing, name)])
        if not isinstance(thing, nn.Module):
            return NOTHING
        child = dict(thing._modules.items()).get(name)
        if child is not None:
            return frozenset([self.obtain(thing, child)])
        if is_tensor(thing, name):
            self.past |= {thing} - {self.root}
            return NOTHING
        if name in thing.__dict__:
            return things_in(thing.__dict__[name])
        return self._method(thing, name, inspect.getattr_static(type(thing), name, None))

    def _method(self, owner: nn.Module, name: str, run: Any) -> Things:
        if isinstance(run, property):
            return self.function(run.fget, [frozenset([owner])])
        if isinstance(run, staticmethod):
            return frozenset([run.__func__])
        return frozenset([Method(owner, name, run)]) if inspect.isfunction(run) else NOTHING

    def called(self, thing: Any, given: list[Things], named: dict[str, Things]) -> Things:
        """What a call of `thing` gives."""
        if isinstance(thing, Method):
            return self._method_called(thing, given, named)
        if isinstance(thing, functools.partial):
            fixed = [things_in(a) for a in thing.args]
            more = {k: things_in(v) for k, v in thing.keywords.items()} | named
            found = [self.called(f, [*fixed, *given], more) for f in things_in(thing.func)]
            return frozenset[Any]().union(*found)
        if isinstance(thing, types.FunctionType) and not is_torchs(thing):
            return self.function(thing, given, named)
        return NOTHING

    def _method_called(self, method: Method, given: list[Things], named: dict[str, Things]) -> Things:
        owner, name = method.owner, method.name
        if isinstance(owner, Bag):
            if name in ("get", "pop"):
                return owner.items
            return bag(frozenset([owner])) if name == "items" else frozenset([owner])
        if name in _CHILDREN and is_torchs(method.run):
            found = bag(self.elements(frozenset([owner])))
            return bag(found) if name in ("named_children", "items") else found
        if name in _ALL_MODULES and is_torchs(method.run):
            self.anything(frozenset([owner]), *given)
            return frozenset([Bag(frozenset(owner.modules()))])
        if name == "forward" and owner is not self.root:
            return self.called(owner, given, named)
        if is_torchs(method.run):
            if method.run.__module__ != "torch.nn.modules.module" and owner is not self.root:
                self.anything(frozenset([owner]))
            return NOTHING
        return self.function(method.run, [frozenset([owner]), *given], named)
