"""The page about the deploy form, written from results."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Result = dict[str, Any]
_FORMS = ("train", "author", "reparamkit")

_HEAD = """# Speed of the deploy form

Written by `python benchmarks/deploy.py --page docs/benchmarks.md`. Machine: {machine}.

"train" is the model as it was trained, "author" what its own library makes of it (timm's `reparameterize_model`,
ultralytics' `fuse`), "reparamkit" is `reparamkit.apply(model)`.

## What one forward does

Counted with a dispatch mode, so the same on every machine: calls of ATen operators; megabytes of all results that have
memory of their own; megabytes of results alive at once, at most. Batch 1.

"""
_NOTES = """
For yolov10n the author's `fuse` also deletes the head that only training needs, so its outputs are fewer; reparamkit
keeps every output. With that head deleted first, both do the same work. `tests/test_deploy_work.py` has the gates.

"""
_TIMES = """## Time

CPU time, {rounds} interleaved rounds, one thread, medians with quartiles in brackets. The machine ran other
work all along, so read a ratio between 0.9 and 1.1 as no difference; wall time is in the results file.

"""


def page(results: Path, machine: str) -> str:
    """The whole page; of a model that was measured twice, the last line counts."""
    found: dict[tuple[str, int], Result] = {}
    for line in results.read_text(encoding="utf-8").splitlines():
        result = json.loads(line)
        key = (result["model"], result["batch"])
        if "speedup" in result or key not in found:
            found[key] = result
    parts = [_HEAD.format(machine=machine), _work(r for (_, batch), r in found.items() if batch == 1), _NOTES]
    timed = [r for r in found.values() if "speedup" in r]
    if timed:
        parts.append(_TIMES.format(rounds="/".join(sorted({str(r["rounds"]) for r in timed}))))
        parts += [_beside(timed, other) for other in ("author", "train")]
        parts += [_speedup(timed), _failures(timed)]
    return "\n".join(part.strip("\n") + "\n" for part in parts if part)


def _work(results: Iterable[Result]) -> str:
    lines = ["| model | ATen calls | MB allocated | MB at once |", "|---|---|---|---|"]
    for result in results:
        forms = [result["work"][form] for form in _FORMS]
        cells = [" → ".join(str(f["ops"]) for f in forms)]
        cells += [" → ".join(f"{f[key] / 1e6:.2f}" for f in forms) for key in ("allocated", "peak")]
        lines.append(f"| {result['model']} | {' | '.join(cells)} |")
    return "Train → author → reparamkit:\n\n" + "\n".join(lines)


def _quartiles(values: list[float]) -> str:
    return f"{values[1]:.2f} [{values[0]:.2f}, {values[2]:.2f}]"


def _table(results: list[Result], columns: list[str], cell: Any) -> str:
    lines = [f"| model | batch | {' | '.join(columns)} |", "|---|---|" + "---|" * len(columns)]
    for result in results:
        cells = [cell(result, column) for column in columns]
        lines.append(f"| {result['model']} | {result['batch']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _beside(results: list[Result], other: str) -> str:
    columns = list(dict.fromkeys(engine for r in results for engine in r["beside"]))

    def cell(result: Result, engine: str) -> str:
        found = result["beside"].get(engine, {}).get(other)
        return _quartiles(found["cpu"]) if found else "-"

    what = "the author's form" if other == "author" else "the train form"
    title = f"### Time of {what} / time of reparamkit's, in the same engine\n\nAbove 1 reparamkit's is faster.\n\n"
    return title + _table(results, columns, cell)


def _speedup(results: list[Result]) -> str:
    columns = list(dict.fromkeys(name for r in results for name in r["speedup"] if name != "train eager"))

    def cell(result: Result, name: str) -> str:
        found = result["speedup"].get(name)
        return f"{found['cpu'][1]:.2f}" if found else "-"

    title = '### Speed-up over the train form in eager mode\n\n"fx" is `torch.fx.experimental.optimization.fuse`.\n\n'
    names = " | ".join("{model} b{batch}".format(**r) for r in results)
    lines = [f"| | {names} |", "|---|" + "---|" * len(results)]
    lines += [f"| {name} | {' | '.join(cell(r, name) for r in results)} |" for name in columns]
    return title + "\n".join(lines)


def _failures(results: list[Result]) -> str:
    lines = [f"- {r['model']}, batch {r['batch']}, {name}: {why}" for r in results for name, why in r["failed"].items()]
    return "### What could not be run\n\n" + "\n".join(dict.fromkeys(lines)) if lines else ""
