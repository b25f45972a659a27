"""What a forward that could not be traced does to the inside of its children, read from its source.

A traced forward shows every parameter it reads and every module it calls. One that could not be traced might still
read a grandchild's tensors, or call a grandchild past its parent; such modules must keep their numbers.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import nn

from reparamkit.held import held_modules
from reparamkit.parameters import forward_of

_TENSORS = frozenset({"weight", "bias", "running_mean", "running_var"})
# Of a tensor, these are the same after a fold.
_METADATA = frozenset({"dtype", "device", "shape", "size", "dim", "ndim", "is_cuda", "requires_grad", "numel"})


def bypassed(module: nn.Module) -> set[nn.Module]:
    """Modules below `module` whose tensors its forward reads, or which it calls past a forward of their own.

    Args:
        module: a module whose forward could not be traced.

    Returns:
        All modules below it when the source does not tell which.
    """
    everything = {m for m in module.modules() if m is not module}
    if isinstance(module, torch.jit.ScriptModule):
        return everything
    children = {*module.children()}
    found = {
        m for value in module.__dict__.values() for m in held_modules(value) if m not in children and m is not module
    }
    for tree in reachable(type(module), forward_of(module)):
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                hit = _attribute(module, node, tree)
                if hit is _ALL:
                    return everything
                found |= hit
            elif isinstance(node, ast.Call) and _is_getattr(node):
                return everything
    return found


_ALL: set[nn.Module] = set()  # a sentinel: the tensors of a module we cannot name


def _attribute(module: nn.Module, node: ast.Attribute, tree: ast.AST) -> set[nn.Module]:
    names = _chain(node)
    if node.attr in _TENSORS:
        if _only_metadata(node, tree):
            return set()
        holder = None if names is None else _resolve(module, names[:-1])
        if names is not None and len(names) == 1:
            return set()  # a parameter of the module itself
        if names is not None and holder is None:
            return set()  # what is not there is not read
        return {holder} if isinstance(holder, nn.Module) else _ALL
    if names is None or len(names) < 2:
        return set()
    reached, owner = _resolve(module, names), _resolve(module, names[:-1])
    if isinstance(reached, nn.Module) and isinstance(owner, nn.Module) and not isinstance(owner, _HOLDERS):
        return {reached}
    return set()


_HOLDERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)


def _chain(node: ast.expr) -> list[str] | None:
    """``self.a.b`` as ["a", "b"]; `None` when it does not start at self."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return names[::-1] if isinstance(node, ast.Name) and node.id == "self" else None


def _resolve(module: Any, names: list[str]) -> Any:
    for name in names:
        module = getattr(module, name, None)
    return module


def _only_metadata(node: ast.Attribute, tree: ast.AST) -> bool:
    return any(
        isinstance(outer, ast.Attribute) and outer.value is node and outer.attr in _METADATA for outer in ast.walk(tree)
    )


def _is_getattr(call: ast.Call) -> bool:
    if not isinstance(call.func, ast.Name) or call.func.id != "getattr" or len(call.args) < 2:
        return False
    name = call.args[1]
    return isinstance(name, ast.Constant) and name.value in _TENSORS


def reachable(cls: type, function: Any) -> Iterator[ast.AST]:
    """The source of a method and of the methods of self it calls, as trees."""
    seen: set[Any] = set()
    stack: list[Any] = [inspect.unwrap(function)]
    while stack:
        function = stack.pop()
        if function in seen:
            continue
        seen.add(function)
        tree = _tree(function)
        if tree is None:
            continue
        yield tree
        for node in ast.walk(tree):
            names = _chain(node) if isinstance(node, ast.Attribute) else None
            method = getattr(cls, names[0], None) if names and len(names) == 1 else None
            if inspect.isfunction(method):
                stack.append(inspect.unwrap(method))


@cache
def _tree(function: Any) -> ast.AST | None:
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError, IndentationError):  # no source: built in a session, or compiled
        return None
