"""Every hazard has a test, and every code is provoked by one."""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from reparamkit.catalogue import catalogue
from reparamkit.errors import CODES
from tests.attacks.corpus import RECIPES

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "docs"))
table: Any = import_module("hazard_table")  # docs is no package

HOSTILE = 20
ROWS = {"A": 19, "B": 23, "C": 27, "D": 26, "E": 18, "F": 21, "G": 16}


@pytest.mark.parametrize("family", ROWS)
def test_every_row_has_one_test_that_is_named_after_it(family: str) -> None:
    rows = [row for row in table.hazards() if row.row[0] == family]
    assert [row.row for row in rows] == [f"{family}{number}" for number in range(1, ROWS[family] + 1)]
    for row in rows:
        assert f"_{family.lower()}{int(row.row[1:]):02d}_" in row.test
        assert row.file.startswith(f"test_{family.lower()}_")


def test_every_kind_of_hostile_input_has_tests_that_are_named_after_it() -> None:
    rows = [row for row in table.hazards() if row.row[0] == "S"]
    assert sorted({int(row.row[1:]) for row in rows}) == list(range(1, HOSTILE + 1))
    for row in rows:
        assert row.test.startswith(f"test_{row.row.lower()}_")
        assert (ROOT / "tests" / "attacks" / row.file).exists()
    assert {row.row[0] for row in table.hazards()} == set(table.FAMILIES) == {*ROWS, "S"}


def test_codes_of_rows_exist_and_are_asserted_by_a_test_of_the_row() -> None:
    provoked = [pair for folder in ("hazards", "attacks") for pair in _provoked(ROOT / "tests" / folder)]
    for row in table.hazards():
        mine = {code for name, code in provoked if _number(row.row) in name}
        mine |= {attack.code for attack in RECIPES if attack.row == row.row}
        assert set(row.codes) <= CODES.keys()
        assert set(row.codes) <= mine, row


PLACING = {"places", "raises", "warns", "refused", "check"}  # ask for the code and the place, or compare them


@pytest.mark.parametrize("row", [row for row in table.hazards() if row.codes], ids=lambda row: f"{row.row} {row.test}")
def test_a_test_of_each_row_asserts_its_codes_and_where_they_are_told(row: Any) -> None:
    tree = ast.parse((ROOT / "tests" / ("attacks" if row.row[0] == "S" else "hazards") / row.file).read_text())
    functions = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef)}
    mine = [function for name, function in functions.items() if _number(row.row) in name]
    placed = {code for function in mine for code in _placed(function, functions, tree)}
    placed |= {attack.code for attack in RECIPES if attack.row == row.row and attack.at}
    assert set(row.codes) <= placed


def test_errors_of_hazards_are_caught_with_their_place() -> None:
    """`raises` of tests.hazards.told demands one; pytest's own does not, and knows no code."""
    allowed = {"ValueError", "RuntimeError", "KeyboardInterrupt", "error", "kind"}
    for file in [*(ROOT / "tests" / "hazards").glob("test_*.py"), *(ROOT / "tests" / "attacks").glob("test_*.py")]:
        for call in filter(_is_raises, ast.walk(ast.parse(file.read_text(encoding="utf-8")))):
            assert ast.unparse(call.args[0]) in allowed, f"{file.name}:{call.lineno}"  # type: ignore[attr-defined]


def test_every_code_is_provoked_by_a_test() -> None:
    assert set(catalogue()) == set(CODES)
    places = [ROOT / "tests", *ROOT.glob("plugins/*/tests")]
    found = Counter(code for place in places for _, code in _provoked(place))
    assert sorted(set(CODES) - set(found)) == []


def _provoked(folder: Path) -> Iterator[tuple[str, str]]:
    """(test, code) for every code that a test names: not in its docstring, nor in the mark of its row."""
    for file in folder.rglob("test_*.py"):
        if file == Path(__file__):
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        helpers = {n.name: _codes(n) for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                used = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
                reached = [node.name, *(used & helpers.keys())]
                tables = {code for table in tree.body if _name(table) in used for code in _codes(table)}
                yield from ((node.name, code) for name in reached for code in helpers[name] | tables)


def _number(row: str) -> str:
    """How names of tests of this row have it."""
    return f"_{row.lower()}_" if row[0] == "S" else f"_{row[0].lower()}{int(row[1:]):02d}_"


def _placed(function: ast.FunctionDef, functions: dict[str, ast.FunctionDef], tree: ast.Module) -> set[str]:
    """Codes whose place is asserted in a test, or in a function of the same file that it calls."""
    found: set[str] = set()
    for call in (n for n in ast.walk(function) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)):
        name = call.func.id  # type: ignore[attr-defined]
        if name in PLACING:
            variables = {n.id for argument in call.args for n in ast.walk(argument) if isinstance(n, ast.Name)}
            tables = {code for table in tree.body if _name(table) in _names(function) for code in _codes(table)}
            found |= _codes(call) | (tables | _codes(function) if variables & {"code"} else set())
        elif name in functions and functions[name] is not function:
            found |= _placed(functions[name], functions, tree)
    return found


def _names(node: ast.AST) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}


def _is_raises(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.raises"


def _name(statement: ast.stmt) -> str:
    """What an assignment assigns to."""
    target = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
    return target.id if isinstance(target, ast.Name) else ""


def _codes(node: ast.AST) -> set[str]:
    skipped = {id(inner) for mark in ast.walk(node) if _is_mark(mark) for inner in ast.walk(mark)}
    if isinstance(node, ast.FunctionDef) and ast.get_docstring(node):
        skipped.add(id(node.body[0].value))  # type: ignore[attr-defined]
    texts = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and id(n) not in skipped]
    return {code for text in texts if isinstance(text, str) for code in re.findall(r"RK\d{3}", text)}


def _is_mark(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "hazard"
