"""The table of primitives, and the tests it names, from docs/primitives.yaml."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

SOURCE = Path(__file__).parent / "primitives.yaml"


def primitives() -> list[dict[str, Any]]:
    """All rows."""
    found: list[dict[str, Any]] = yaml.safe_load(SOURCE.read_text(encoding="utf-8"))
    return found


def named_tests() -> Iterator[str]:
    """Every test that is named, from the root of the repository."""
    for row in primitives():
        for name in (*row["fuses"], *row["refused"]):
            yield name if name.startswith("plugins/") else f"tests/{name}"


def page() -> str:
    """docs/primitives.md, without its head."""
    lines = [
        "# Primitives\n\n",
        "What merges are made of. Each is shown by a test, and by a twin of it that must be left alone because one\n"
        "thing is different. A test checks that every one of these tests exists.\n\n",
        "| | primitive | exact when | merges | stays |\n|---|---|---|---|---|\n",
    ]
    for row in primitives():
        cells = (row["id"], row["what"], row["when"], _tests(row["fuses"]), _tests(row["refused"]))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")
    return "".join(lines)


def _tests(names: list[str]) -> str:
    return "<br>".join(f"`{name.rpartition('/')[2]}`" for name in names)
