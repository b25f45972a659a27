"""reading: one function of somebody's, statement by statement: what its names stand for."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torch import nn

from reparamkit.trace.things import NOTHING, Bag, Inner, Super, Things, bag, content, is_tensor, things_in

if TYPE_CHECKING:
    from reparamkit.trace.access import Access

_ROUNDS = 8
# Of a tensor, these are the same after a fold.
_METADATA = frozenset({"dtype", "device", "shape", "size", "dim", "ndim", "is_cuda", "requires_grad", "numel"})
_HARMLESS = frozenset("len isinstance hasattr type id bool callable print repr str issubclass format".split())
_ELEMENTS = frozenset("list tuple set iter reversed sorted enumerate zip next filter".split())
_BUILTINS = _HARMLESS | _ELEMENTS | {"getattr", "super"}
_CALLERS = frozenset({"checkpoint", "map"})  # they call what they are given


class Reading:
    """One function while it is read."""

    def __init__(self, access: Access, function: Any, node: Any) -> None:
        self.access, self.node = access, node
        self.globals = getattr(function, "__globals__", {})
        self.names: dict[str, Things] = {}
        self.returned: Things = NOTHING
        self.entered: set[Inner] = set()
        cells = zip(getattr(function.__code__, "co_freevars", ()), function.__closure__ or (), strict=True)
        self.cells = {name: cell for name, cell in cells if name != "__class__"}
        self.cls = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)).get("__class__")

    def run(self, given: list[Things], named: dict[str, Things]) -> Things:
        """Read until nothing changes; what is returned."""
        self._bind(self.node.args, given, named)
        for name, cell in self.cells.items():
            self._add(name, things_in(content(cell)))
        for _ in range(_ROUNDS):
            before = dict(self.names), self.returned
            self._body(self.node)
            if (self.names, self.returned) == before:
                break
        return self.returned

    def _bind(self, arguments: ast.arguments, given: list[Things], named: dict[str, Things]) -> None:
        positional = [a.arg for a in (*arguments.posonlyargs, *arguments.args)]
        for name, things in zip(positional, given, strict=False):
            self._add(name, things)
        rest = frozenset[Any]().union(*given[len(positional) :])
        if arguments.vararg is not None and rest:
            self._add(arguments.vararg.arg, frozenset([Bag(rest)]))
        for name, things in named.items():
            self._add(name, things)

    def _add(self, name: str, things: Things) -> None:
        if things:
            self.names[name] = self.names.get(name, NOTHING) | things

    def _body(self, node: Any) -> None:
        if isinstance(node, ast.Lambda):
            self.returned |= self.value(node.body)
            return
        for statement in node.body:
            self._statement(statement)

    def _statement(self, node: ast.AST) -> None:
        if isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            things = NOTHING if node.value is None else self.value(node.value)
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                self._assign(target, things)
        elif isinstance(node, (ast.For, ast.AsyncFor)):
            self._assign(node.target, self.access.elements(self.value(node.iter)))
            self._statements([*node.body, *node.orelse])
        elif isinstance(node, ast.Return):
            self.returned |= NOTHING if node.value is None else self.value(node.value)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            self._add(node.name, frozenset([self._inner(node)]))
        else:
            self._parts(node)

    def _statements(self, nodes: Iterable[ast.AST]) -> None:
        for node in nodes:
            self._statement(node)

    def _parts(self, node: ast.AST) -> None:
        for part in ast.iter_child_nodes(node):
            if isinstance(part, ast.expr):
                self.value(part)
            elif not isinstance(part, (ast.expr_context, ast.operator, ast.cmpop, ast.boolop, ast.unaryop)):
                self._statement(part)

    def _assign(self, target: ast.expr, things: Things) -> None:
        if isinstance(target, ast.Name):
            self._add(target.id, things)
        elif isinstance(target, ast.Starred):
            self._assign(target.value, bag(things))
        elif isinstance(target, (ast.Tuple, ast.List)):
            parts = self.access.elements(things)
            for part in target.elts:
                self._assign(part, parts)
        else:
            self.access.anything(things)  # stored somewhere
            self._parts(target)

    def _inner(self, node: Any) -> Inner:
        """The same object each time the same place is read."""
        if not hasattr(node, "_as_inner"):
            node._as_inner = Inner(node)
        return node._as_inner  # type: ignore[no-any-return]

    def value(self, node: ast.expr) -> Things:
        """What an expression stands for."""
        if isinstance(node, ast.Name):
            return self._name(node.id)
        if isinstance(node, ast.Attribute):
            return self._attribute(node, metadata=False)
        if isinstance(node, ast.Call):
            return self._call(node)
        if isinstance(node, ast.Subscript):
            return self._subscript(node)
        if isinstance(node, ast.NamedExpr):
            things = self.value(node.value)
            self._assign(node.target, things)
            return things
        if isinstance(node, (ast.List, ast.Tuple, ast.Set, ast.Dict)):
            parts = node.values if isinstance(node, ast.Dict) else node.elts
            held = frozenset[Any]().union(*(self.value(part) for part in parts))
            return bag(held)
        if isinstance(node, ast.Starred):
            return self.access.elements(self.value(node.value))
        if isinstance(node, (ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp)):
            return self._comprehension(node)
        if isinstance(node, (ast.IfExp, ast.BoolOp)):
            parts = node.values if isinstance(node, ast.BoolOp) else [node.body, node.orelse]
            self._parts(node)
            return frozenset[Any]().union(*(self.value(part) for part in parts))
        if isinstance(node, ast.Lambda):
            return frozenset([self._inner(node)])
        self._parts(node)
        return NOTHING

    def _name(self, name: str) -> Things:
        if name in self.names:
            return self.names[name]
        return things_in(self.globals.get(name))

    def _attribute(self, node: ast.Attribute, *, metadata: bool) -> Things:
        if node.attr in _METADATA and isinstance(node.value, ast.Attribute):
            return self._attribute(node.value, metadata=True) and NOTHING
        before = set(self.access.past)
        things = self.value(node.value)
        found = frozenset[Any]().union(*(self.access.member(t, node.attr) for t in things))
        if not found and things and (metadata or not any(is_tensor(t, node.attr) for t in things)):
            self.access.past = before  # a number or a name was looked at on the way, nothing else
        return found

    def _subscript(self, node: ast.Subscript) -> Things:
        things, index = self.value(node.value), node.slice
        self.value(index)
        found: set[Any] = set()
        for thing in things:
            if isinstance(thing, nn.Module) and isinstance(index, ast.Constant):
                child = dict(thing._modules.items()).get(str(index.value))
                if child is not None:
                    found.add(self.access.obtain(thing, child))
                    continue
            found |= self.access.elements(frozenset([thing]))
        return bag(frozenset(found)) if isinstance(index, ast.Slice) else frozenset(found)

    def _comprehension(self, node: Any) -> Things:
        for part in node.generators:
            self._assign(part.target, self.access.elements(self.value(part.iter)))
            for condition in part.ifs:
                self.value(condition)
        held = self.value(node.value if isinstance(node, ast.DictComp) else node.elt)
        return bag(held)

    def _call(self, node: ast.Call) -> Things:
        given = [self.value(a) for a in node.args]
        named = {k.arg or "**": self.value(k.value) for k in node.keywords}
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        if isinstance(node.func, ast.Name) and name not in self.names and name in _BUILTINS:
            return self._builtin(name, node, given)
        if name in _CALLERS:
            called = [self._run(t, [self.access.elements(g) for g in given[1:]], {}) for t in (given or [NOTHING])[0]]
            return frozenset[Any]().union(*called)
        things = self.value(node.func)
        if not things:
            self._unknown(*given, *named.values())
        return frozenset[Any]().union(*(self._run(t, given, named) for t in things))

    def _builtin(self, name: str, node: ast.Call, given: list[Things]) -> Things:
        if name in _HARMLESS:
            return NOTHING
        if name == "super":
            return self._super()
        if name == "getattr":
            return self._getattr(given[0], node.args[1]) if len(node.args) > 1 else NOTHING
        found = self.access.elements(frozenset[Any]().union(*given))
        if name in ("enumerate", "zip"):
            return bag(bag(found))
        return found if name == "next" else bag(found)

    def _unknown(self, *things: Things) -> None:
        """A function without source calls the functions and goes through the lists that it is given."""
        self._inners(*things)
        for thing in frozenset[Any]().union(*things):
            if isinstance(thing, nn.Module) and hasattr(type(thing), "__iter__"):
                self.access.elements(frozenset([thing]))

    def _run(self, thing: Any, given: list[Things], named: dict[str, Things]) -> Things:
        self._inners(*given, *named.values())
        if isinstance(thing, Inner):
            self._bind(thing.node.args, given, named)
            return self._inside(thing)
        return self.access.called(thing, given, named)

    def _inside(self, inner: Inner) -> Things:
        """Read the body of a function in this one, unless that is what is being read."""
        if inner in self.entered:
            return NOTHING
        self.entered.add(inner)
        try:
            if isinstance(inner.node, ast.Lambda):
                return self.value(inner.node.body)
            self._statements(inner.node.body)
            return self.returned
        finally:
            self.entered.discard(inner)

    def _inners(self, *things: Things) -> None:
        """Functions that are handed on are called by somebody."""
        for thing in frozenset[Any]().union(*things):
            if isinstance(thing, Inner):
                self._inside(thing)

    def _getattr(self, things: Things, name: ast.expr) -> Things:
        if isinstance(name, ast.Constant):
            return frozenset[Any]().union(*(self.access.member(t, str(name.value)) for t in things))
        for thing in things:
            if isinstance(thing, nn.Module) and thing is not self.access.root and any(thing.parameters(recurse=False)):
                self.access.past.add(thing)
        return self.access.elements(things)

    def _super(self) -> Things:
        cls = None if self.cls is None else content(self.cls)
        first = next(iter((*self.node.args.posonlyargs, *self.node.args.args)), None)
        owners = self.names.get(first.arg, NOTHING) if first is not None else NOTHING
        known = isinstance(cls, type)
        return frozenset(Super(o, cls) for o in owners if isinstance(o, nn.Module)) if known else NOTHING  # type: ignore[arg-type]
