"""The table of hazards, read from the marks on their tests."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).parents[1] / "tests"
FAMILIES = {
    "A": "A model's state and life cycle",
    "B": "Batch norms and other norms",
    "C": "Graph, sharing, hooks",
    "D": "Geometry of convolutions",
    "E": "Dtypes, devices, numbers",
    "F": "Tracing, wrappers, threads",
    "G": "Recipes and plugins",
    "S": "Hostile input",
}


@dataclass(frozen=True)
class Hazard:
    """One row.

    Attributes:
        row: letter and number.
        what: what goes wrong in rewriters of models.
        does: what happens here.
        codes: with which refusal or error.
        file: of the test, below tests/hazards or tests/attacks.
        test: its name.
    """

    row: str
    what: str
    does: str
    codes: tuple[str, ...]
    file: str
    test: str

    @property
    def order(self) -> tuple[str, int]:
        """For sorting."""
        return self.row[0], int(self.row[1:])


def hazards() -> list[Hazard]:
    """All rows, in order; a row of hostile input may have several tests."""
    files = [file for folder in ("hazards", "attacks") for file in sorted((TESTS / folder).glob("test_*.py"))]
    return sorted((row for file in files for row in _in(file)), key=lambda row: row.order)


def _in(file: Path) -> Iterator[Hazard]:
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.FunctionDef):
            continue
        for mark in node.decorator_list:
            if isinstance(mark, ast.Call) and isinstance(mark.func, ast.Name) and mark.func.id == "hazard":
                row, what, does, *codes = (ast.literal_eval(argument) for argument in mark.args)
                yield Hazard(row, what, does, tuple(codes), file.name, node.name)


def page() -> str:
    """docs/hazards.md, without its head."""
    lines = [
        "# Hazards\n\n",
        "Ways in which rewriting a model goes wrong, and what reparamkit does about each. Every row is a test, of\n"
        "the code and of the place that it names; it also proves that a model is bit for bit what it was after a\n"
        "refusal or an error: parameters, buffers, modes, hooks, gradients, random generators. Hostile\n"
        "input runs nothing, changes no file, and ends in bounded time; SECURITY.md says what is trusted.\n",
    ]
    rows = hazards()
    for letter, title in FAMILIES.items():
        lines.append(f"\n## {title}\n\n| | hazard | here | codes | test |\n|---|---|---|---|---|\n")
        lines += [_row(row) for row in rows if row.row[0] == letter]
    return "".join(lines)


def _row(row: Hazard) -> str:
    codes = ", ".join(f"[{code}](reference/errors.md#{code.lower()})" for code in row.codes)
    cells = (row.row, row.what, row.does, codes, f"`{row.file.removesuffix('.py')}`")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"
