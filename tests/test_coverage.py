"""A sample of the models that benchmarks/coverage.py checks; the whole takes the better part of an hour."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.zoo
SCRIPT = Path(__file__).parent.parent / "benchmarks" / "coverage.py"

# Convolutions executed before and after; every batch norm goes.
SAMPLE = {
    "timm:mobileone_s0": (191, 43),
    "timm:lcnetv2_small": (46, 36),
    "timm:efficientformerv2_s0": (83, 83),
    "timm:starnet_s050": (35, 35),
    "timm:tf_efficientnet_b0": (81, 81),
    "torchvision:mobilenet_v3_small": (52, 51),
    "ultralytics:yolov9t": (228, 186),
    "transformers:textnet": (40, 16),
    "transformers:efficientloftr": (54, 33),
    "transformers:d_fine": (169, 145),
    "transformers:rt_detr": (97, 85),
    "transformers:rt_detr_v2": (97, 85),
    "transformers:deimv2": (161, 137),
    "transformers:omdet-turbo": (43, 31),
    "transformers:pp_lcnet_v3": (131, 33),
}


def coverage(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parent.parent), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-W", "ignore", str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)


def results_in(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]], str]:
    """The sample, as far as its libraries are installed: the folder, the results, what was printed."""
    folder = tmp_path_factory.mktemp("coverage")
    specs = [spec for spec in SAMPLE if importlib.util.find_spec(spec.split(":")[0]) is not None]
    if not specs:
        pytest.skip("no model library is installed")
    done = coverage(*specs, "--jobs", "1", "--page", "page.md", cwd=folder)
    results = results_in(folder / "coverage.jsonl")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, {r["spec"]: r for r in results}, done.stdout


def test_nothing_wrong_nothing_left(sampled: tuple[Path, dict[str, dict[str, Any]], str]) -> None:
    for spec, result in sampled[1].items():
        assert result["problems"] == [], spec
        assert (result["before"]["conv"], result["after"]["conv"]) == SAMPLE[spec], spec
        assert result["before"]["norm"] > 0, spec
        assert result["after"]["norm"] == 0, spec
        assert result["error"] <= 1e-9, spec


def test_never_behind_the_converter_of_the_library(sampled: tuple[Path, dict[str, dict[str, Any]], str]) -> None:
    for spec, result in sampled[1].items():
        if result["own"] is not None:
            assert result["after"]["conv"] <= result["own"]["conv"], spec
            assert result["after"]["norm"] <= result["own"]["norm"], spec


def rows_of_the_page() -> dict[str, list[str]]:
    """The cells of each model in docs/zoos.md, by library and name."""
    found, library = {}, ""
    for line in (SCRIPT.parent.parent / "docs" / "zoos.md").read_text(encoding="utf-8").splitlines():
        library = line.removeprefix("## ") if line.startswith("## ") else library
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if library in ("timm", "torchvision", "ultralytics", "transformers") and len(cells) == 10:
            found[f"{library}:{cells[0]}"] = cells
    return {spec: cells for spec, cells in found.items() if cells[0] not in ("model", "---")}


def test_the_page_of_all_models_has_none_wrong_and_none_behind_its_own_converter() -> None:
    """A * marks a converter that takes outputs of the model away, and their layers with them."""
    rows = rows_of_the_page()
    assert len(rows) > 250
    for spec, (_, conv, own, _, norm, own_norm, error, _, _, problems) in rows.items():
        assert problems == "", spec
        assert float(error) <= 1e-8, spec
        if own and "*" not in own:
            assert int(conv.split(" → ")[-1]) <= int(own), spec
            assert int(norm.split(" → ")[-1]) <= int(own_norm), spec


def test_the_sample_is_what_the_page_says() -> None:
    rows = rows_of_the_page()
    assert len(rows.keys() & SAMPLE.keys()) > 10
    for spec, (before, after) in ((s, SAMPLE[s]) for s in SAMPLE if s in rows):
        wanted = f"{before} → {after}" if before != after else str(before)
        assert rows[spec][1] == wanted, spec


def test_says_what_it_did_and_writes_a_page(sampled: tuple[Path, dict[str, dict[str, Any]], str]) -> None:
    folder, results, printed = sampled
    page = (folder / "page.md").read_text(encoding="utf-8")
    for spec in results:
        assert spec in printed
        assert f"| {spec.split(':')[1]} |" in page


def test_goes_on_where_it_stopped(sampled: tuple[Path, dict[str, dict[str, Any]], str]) -> None:
    folder, results, _ = sampled
    before = (folder / "coverage.jsonl").read_text(encoding="utf-8")
    done = coverage(*results, cwd=folder)
    assert done.returncode == 0
    assert done.stdout.strip() == f"{len(results)} models, 0 with problems"
    assert (folder / "coverage.jsonl").read_text(encoding="utf-8") == before


def test_model_that_cannot_be_built_is_a_result(tmp_path: Path) -> None:
    done = coverage("timm:no_such_model", cwd=tmp_path)
    assert done.returncode == 1
    (result,) = results_in(tmp_path / "coverage.jsonl")
    assert result["problems"][0].startswith("not run: ")
