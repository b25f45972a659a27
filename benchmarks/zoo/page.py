"""The page about all models, `docs/zoos.md`."""

from __future__ import annotations

from collections import Counter, defaultdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from reparamkit.errors import CODES

_HEAD = """# What `apply` does to other libraries' models

Written by `benchmarks/coverage.py`; do not edit. Every model has random weights and batch norms that do something,
and is converted by `reparamkit.apply(model)`: no recipe, no example input.

What is checked on each: the output agrees in float64 (largest difference relative to the largest magnitude); the class
is the same; the original did not change by a bit, and in the converted model no tensor did but those of merged modules;
a second conversion finds nothing to do. Counts are kernels executed in one forward, before and after; `own` is what
the package's own converter leaves, where it has one (with a * where it takes outputs of the model away, such as a head
that only training needs, and their kernels with them). `norms left` names the reason of each batch norm that still
runs.
"""


def page(results: list[dict[str, Any]]) -> str:
    """The page for `results`, in Markdown."""
    by_library: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for result in results:
        by_library[result["spec"].split(":")[0]].append(result)
    parts = [_HEAD, _summary(by_library), *(_table(name, rows) for name, rows in by_library.items()), _codes(results)]
    return "\n".join(parts)


def _summary(by_library: dict[str, list[dict[str, Any]]]) -> str:
    lines = [
        "## In short\n",
        "| library | version | models | wrong | crashed | other problems | convolutions | batch norms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, rows in by_library.items():
        kinds = Counter(_kind(problem) for row in rows for problem in row["problems"][:1])
        good = [row for row in rows if "after" in row]
        lines.append(
            f"| {name} | {_version(name)} | {len(rows)} | {kinds['wrong']} | {kinds['crashed']} | {kinds['other']} "
            f"| {_total(good, 'conv')} | {_total(good, 'norm')} |"
        )
    return "\n".join(lines) + "\n"


def _kind(problem: str) -> str:
    return next((kind for kind in ("wrong", "crashed") if problem.startswith(kind)), "other")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _total(rows: list[dict[str, Any]], kind: str) -> str:
    return f"{sum(r['before'][kind] for r in rows):,d} → {sum(r['after'][kind] for r in rows):,d}"


def _table(name: str, rows: list[dict[str, Any]]) -> str:
    lines = [
        f"## {name}\n",
        "| model | conv | own | linear | batch norm | own | error | seconds | norms left | problems |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [_row(row) for row in sorted(rows, key=lambda r: r["spec"].lower())]
    return "\n".join(lines) + "\n"


def _row(row: dict[str, Any]) -> str:
    name = row["spec"].split(":", 1)[1]
    problems = "; ".join(row["problems"]).replace("|", "\\|")[:160]
    if "after" not in row:
        return f"| {name} | | | | | | | | | {problems} |"
    counts = {kind: _arrow(row["before"][kind], row["after"][kind]) for kind in ("conv", "linear", "norm")}
    star = "*" if row.get("own_drops") else ""
    own = {kind: f"{count}{star}" for kind, count in (row["own"] or {}).items()}
    left = ", ".join(f"{count} {reason}" for reason, count in sorted(row["left"]["codes"].items()))
    return (
        f"| {name} | {counts['conv']} | {own.get('conv', '')} | {counts['linear']} | {counts['norm']} "
        f"| {own.get('norm', '')} | {row['error']:.1e} | {row['seconds']:.1f} | {left} | {problems} |"
    )


def _arrow(before: int, after: int) -> str:
    return str(before) if before == after else f"{before} → {after}"


def _codes(results: list[dict[str, Any]]) -> str:
    """What was refused most, with an example of each."""
    counts: Counter[str] = Counter()
    models: dict[str, list[str]] = defaultdict(list)
    for result in results:
        for code, count in result.get("refused", {}).items():
            counts[code] += count
            models[code].append(result["spec"])
        if result.get("untraceable"):
            counts["RK604"] += len(result["untraceable"])
            models["RK604"].append(result["spec"])
    lines = ["## What was refused\n", "| code | meaning | times | models | for example |", "|---|---|---|---|---|"]
    for code, count in counts.most_common():
        found = models[code]
        lines.append(f"| {code} | {CODES[code]} | {count:,d} | {len(found)} | {', '.join(found[:3])} |")
    return "\n".join(lines) + "\n"
