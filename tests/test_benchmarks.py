"""What the benchmarks share: results that survive a stop, the page made of them, flame graphs."""

from __future__ import annotations

import sys
import time
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))  # type: ignore[no-untyped-call]


def test_results_are_there_after_a_stop_and_the_last_one_counts(tmp_path: Path) -> None:
    lines = import_module("deployed.lines")

    file = tmp_path / "results.jsonl"
    first = lines.Lines(file, ("model", "batch"))
    assert first.get("a", 1) is None
    for value in (1, 2):
        first.add({"model": "a", "batch": 1, "value": value})
    first.add({"model": "a", "batch": 8, "value": 3})
    again = lines.Lines(file, ("model", "batch"))
    assert [again.get("a", batch) for batch in (1, 8)] == [first.get("a", 1), first.get("a", 8)]
    assert [result["value"] for result in again] == [2, 3]


def result(engine: str, train: float, ours: float) -> dict[str, Any]:
    def clocks(value: float) -> dict[str, list[float]]:
        return {"cpu": [value - 0.1, value, value + 0.1], "wall": [value, value + 1, value + 2]}

    return {
        "model": "net",
        "batch": 1,
        "engine": engine,
        "rounds": 5,
        "failed": {"author": "no such thing"},
        "speedup": {"train": clocks(train), "reparamkit": clocks(ours)},
        "beside": {"train": clocks(ours / train)},
    }


def test_the_page_says_what_was_measured_and_what_it_is_worth() -> None:
    page = import_module("deployed.page")

    work = {form: {"kernels": n, "ops": n, "allocated": 1e6, "peak": 1e6} for n, form in enumerate(FORMS, 3)}
    counts = {"model": "net", "batch": 1, "engine": "counts", "work": work}
    text = page.page([counts, result("eager", 1.0, 3.0), result("onnxruntime", 4.0, 5.0)], "a machine")
    assert "| net | 3 → 4 → 5 | 3 → 4 → 5 | 1.00 → 1.00 → 1.00 | 1.00 → 1.00 → 1.00 |" in text
    assert "more of any of the four than in the author's form: net." in text
    assert "| net | 1 | 4.00, onnxruntime | 5.00, onnxruntime | 1.25 |" in text
    assert "| net | 1 | 3.00 [2.90, 3.10] | 1.25 [1.15, 1.35] |" in text
    assert "| net | 1 | 4.00 [3.00, 5.00] | 2.25 [1.25, 3.25] |" in text, "wall time has a table of its own"
    assert "- net, batch 1, eager, author: no such thing" in text


FORMS = ("train", "author", "reparamkit")


def test_a_stack_is_what_the_package_called() -> None:
    sample = import_module("flames.sample")

    def waits() -> None:
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            ElementTree.fromstring("<a/>")

    stacks = sample.sampled(waits, Path(__file__).parent)
    me, inner = (f"test_benchmarks.py {name}" for name in ("test_a_stack_is_what_the_package_called", "waits"))
    assert sum(n for stack, n in stacks.items() if stack[:3] == (me, "python", inner)) > 5
    assert {name for stack in stacks for name in stack} == {me, inner, "python"}
    assert sys.getswitchinterval() > 1e-3


def test_a_flame_graph_is_as_wide_as_the_time() -> None:
    draw = import_module("flames.draw")

    drawn = draw.flame(Counter({("a <b>",): 1, ("a <b>", "c d"): 2, ("e f",): 1}), 2.0, "<it>")
    root = ElementTree.fromstring(drawn)
    boxes = {box[0].text: box for box in root.iter("{http://www.w3.org/2000/svg}rect")}
    widths = {str(name).partition(":")[0]: float(box.get("width", "0")) for name, box in boxes.items()}
    assert widths == {"a <b>": draw.WIDTH * 0.75, "c d": draw.WIDTH * 0.5, "e f": draw.WIDTH * 0.25}
    assert "a <b>: 75.0%, 1500 ms" in boxes


def test_each_stage_of_the_flame_graph_is_a_function_there_is() -> None:
    flame = import_module("flame")
    for place in flame.STAGES.values():
        file, name = place.split()
        assert f"def {name}(" in (flame.PACKAGE / file).read_text()
