"""The page about the deploy form, written from results."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from deployed.lines import Result

_FORMS = ("train", "author", "reparamkit")
_HEAD = """# Speed of the deploy form

Written by `python benchmarks/deploy.py --page docs/benchmarks.md`. Machine: {machine}.

"train" is the model as it was trained, "author" what its own library makes of it (timm's `reparameterize_model`,
ultralytics' `fuse`), "reparamkit" is `reparamkit.apply(model)`. timm's converter leaves resnet50 and efficientnet_b0 as
they are: there "author" is the train form.

## What one forward does

Counted with a dispatch mode, so the same on every machine: kernels that are executed; calls of ATen operators;
megabytes of all results that have memory of their own; megabytes of results alive at once, at most. Batch 1.

Train → author → reparamkit:

| model | kernels | ATen calls | MB allocated | MB at once |
|---|---|---|---|---|
"""
_NOTES = """
{more}

For yolov10n the author's `fuse` also deletes the head that only training needs, so its outputs are fewer; reparamkit
keeps every output. With that head deleted first, both do the same work. `tests/test_deploy_work.py` has the gates.
"""
_TIMES = """
## Time

One thread, medians of {rounds} interleaved rounds with quartiles in brackets. The machine ran other work all along, so
read a ratio between 0.9 and 1.1 as no difference. "compile" is `torch.compile` with freezing, "jit" is
`torch.jit.trace` and `optimize_for_inference`, "bf16" is channels_last too. What has no figure was not measured.
"""
_BEST = """
### What it is worth

The fastest way to run each form, of the engines that were measured with both: how many times faster than the train form
in eager mode, in CPU time. The last column is what re-parameterization adds for somebody who chooses the best engine
anyway; where it is near 1, the engine had done the work already.

| model | batch | train form | reparamkit's | added |
|---|---|---|---|---|
"""


def page(results: Iterable[Result], machine: str) -> str:
    """The whole page."""
    found = list(results)
    counts = [r for r in found if "work" in r]
    timed = [r for r in found if r.get("speedup")]
    parts = [_HEAD.format(machine=machine) + _work(counts), _NOTES.format(more=_more(counts))]
    if timed:
        parts.append(_TIMES.format(rounds=" or ".join(sorted({str(r["rounds"]) for r in timed}))))
        parts += [_BEST + _best(timed), *(_beside(timed, other) for other in ("author", "train"))]
        parts += [_speedup(timed), _failures(found)]
    return "\n".join(part.strip("\n") + "\n" for part in parts if part)


def _work(results: Iterable[Result]) -> str:
    return "\n".join(f"| {r['model']} | {_done(r['work'])} |" for r in results if r["batch"] == 1)


def _done(work: dict[str, dict[str, int]]) -> str:
    forms = [work[form] for form in _FORMS]
    cells = [" → ".join(str(form[key]) for form in forms) for key in ("kernels", "ops")]
    cells += [" → ".join(f"{form[key] / 1e6:.2f}" for form in forms) for key in ("allocated", "peak")]
    return " | ".join(cells)


def _more(results: list[Result]) -> str:
    """Where more is done than by the author's form, at any batch size."""
    batches = " and ".join(str(b) for b in sorted({r["batch"] for r in results}))
    more = [r["model"] for r in results if _is_more(r["work"])]
    models = ", ".join(dict.fromkeys(more)) or "no model"
    return f"At batch {batches}, more of any of the four than in the author's form: {models}."


def _is_more(work: dict[str, dict[str, int]]) -> bool:
    return any(work["reparamkit"][key] > work["author"][key] for key in ("kernels", "ops", "allocated", "peak"))


def _quartiles(values: list[float]) -> str:
    return f"{values[1]:.2f} [{values[0]:.2f}, {values[2]:.2f}]"


def _columns(results: list[Result]) -> list[str]:
    return list(dict.fromkeys(r["engine"] for r in results))


def _rows(results: list[Result]) -> dict[tuple[str, int], dict[str, Result]]:
    """By model and batch size, then by engine."""
    rows: dict[tuple[str, int], dict[str, Result]] = {}
    for result in sorted(results, key=lambda r: r["batch"]):
        rows.setdefault((result["model"], result["batch"]), {})[result["engine"]] = result
    return rows


def _table(results: list[Result], cell: Callable[[Result], str]) -> str:
    columns = _columns(results)
    lines = [f"| model | batch | {' | '.join(columns)} |", "|---|---|" + "---|" * len(columns)]
    for (model, batch), by_engine in _rows(results).items():
        cells = [cell(by_engine[engine]) if engine in by_engine else "-" for engine in columns]
        lines.append(f"| {model} | {batch} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _beside(results: list[Result], other: str) -> str:
    what = "the author's form" if other == "author" else "the train form"
    parts = [f"### Time of {what} / time of reparamkit's, in the same engine\n\nAbove 1 reparamkit's is faster."]
    for clock, name in (("cpu", "CPU time"), ("wall", "Wall time")):

        def cell(result: Result, clock: str = clock) -> str:
            found = result["beside"].get(other)
            return _quartiles(found[clock]) if found else "-"

        parts.append(f"{name}:\n\n{_table(results, cell)}")
    return "\n\n".join(parts)


def _best(results: list[Result]) -> str:
    lines = []
    for (model, batch), by_engine in _rows(results).items():
        both = {e: r["speedup"] for e, r in by_engine.items() if {"train", "reparamkit"} <= set(r["speedup"])}
        if len(both) < 2:
            continue
        train, ours = (max((s[form]["cpu"][1], e) for e, s in both.items()) for form in ("train", "reparamkit"))
        cells = f"{train[0]:.2f}, {train[1]} | {ours[0]:.2f}, {ours[1]} | {ours[0] / train[0]:.2f}"
        lines.append(f"| {model} | {batch} | {cells} |")
    return "\n".join(lines)


def _speedup(results: list[Result]) -> str:
    rows = _rows(results)
    title = "### Speed-up over the train form in eager mode\n\n"
    title += 'CPU time; "fx" is `torch.fx.experimental.optimization.fuse`.\n'
    lines = [f"| | {' | '.join(f'{model} b{batch}' for model, batch in rows)} |", "|---|" + "---|" * len(rows)]
    for engine in _columns(results):
        for form in (*_FORMS, "fx"):
            cells = [_cell(by_engine.get(engine), form) for by_engine in rows.values()]
            if set(cells) - {"-", "1.00"}:
                lines.append(f"| {form} {engine} | {' | '.join(cells)} |")
    return title + "\n" + "\n".join(lines)


def _cell(result: Any, form: str) -> str:
    found = None if result is None else result["speedup"].get(form)
    return f"{found['cpu'][1]:.2f}" if found else "-"


def _failures(results: list[Result]) -> str:
    lines = [
        f"- {r['model']}, batch {r['batch']}, {r['engine']}{'' if form == 'all' else ', ' + form}: {why}"
        for r in results
        for form, why in r.get("failed", {}).items()
    ]
    return "### What could not be run\n\n" + "\n".join(dict.fromkeys(lines)) if lines else ""
