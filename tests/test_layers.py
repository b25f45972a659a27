"""Imports point one way: no ring of files, and what is below does not know what is above."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import reparamkit

ROOT = Path(reparamkit.__file__).parent
FILES = {
    ".".join(("reparamkit", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in ROOT.rglob("*.py")
}
# package or file -> what it may import of this package, beside itself and `errors`
BELOW = {
    "operators": set(),
    "nodes": {"remember"},
    "term": {"operators"},
    "merge": {"operators", "term", "rule"},
    "trace": {"nodes", "paths", "remember", "mode", "chance"},
}


def imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(module, name) of what is imported when a file is, not only for types."""
    waiting: list[ast.stmt] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            waiting += [*node.body, *node.orelse]
        elif isinstance(node, ast.ImportFrom):
            yield from ((str(node.module), alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)


def imported_by(path: Path) -> set[str]:
    """Files of this package that are imported when this one is; a package that is imported is one file."""
    found = {f"{module}.{name}" if f"{module}.{name}" in FILES else module for module, name in imports(parsed(path))}
    return found & set(FILES)


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_no_ring() -> None:
    # The package itself imports lazily, but for its version.
    graph = {name: imported_by(path) - {name, "reparamkit"} for name, path in FILES.items()}
    assert len(list(TopologicalSorter(graph).static_order())) > 200


@pytest.mark.parametrize("part", BELOW)
def test_what_is_below_does_not_know_what_is_above(part: str) -> None:
    own = f"reparamkit.{part}"
    found = set()
    for name, path in FILES.items():
        if name == own or name.startswith(f"{own}."):
            found |= {other.split(".")[1] for other in imported_by(path) if other != "reparamkit"}
    assert found <= {part, "errors", *BELOW[part]}
