"""The source of functions and methods, as trees."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from functools import cache
from typing import Any


def reachable(cls: type, function: Any) -> Iterator[ast.AST]:
    """The source of a method and of the methods of self it calls, as trees."""
    seen: set[Any] = set()
    stack: list[Any] = [inspect.unwrap(function)]
    while stack:
        function = stack.pop()
        if function in seen:
            continue
        seen.add(function)
        tree = tree_of(function)
        if tree is None:
            continue
        yield tree
        for node in ast.walk(tree):
            name = node.attr if isinstance(node, ast.Attribute) and _is_self(node.value) else None
            method = getattr(cls, name, None) if name is not None else None
            if inspect.isfunction(method):
                stack.append(inspect.unwrap(method))


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


@cache
def tree_of(function: Any) -> ast.AST | None:
    """The tree of a function, or `None` when it has no source: built in a session, or compiled."""
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError, IndentationError):
        return None
