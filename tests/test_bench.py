"""Measurements: the counts are those of the layers, what two equal models differ by is no difference."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from xml.etree import ElementTree

import pytest
import torch
from torch import Tensor, nn

import reparamkit
from reparamkit.bench.compare import size
from reparamkit.bench.latency import Latency, latency
from reparamkit.bench.memory import peak_activations
from tests import blocks
from tests.helpers import randomize

X = torch.zeros(2, 8, 12, 10)


def measured(**options: Any) -> reparamkit.Bench:
    model = randomize(blocks.RepVGGBlock()).float()
    return reparamkit.bench(model, reparamkit.apply(model), X, **{"rounds": 3, "seconds": 0.001, **options})


class TestSize:
    def test_products_are_those_of_the_formula(self) -> None:
        found = size(nn.Conv2d(8, 4, 3, padding=1, groups=2).eval(), X)
        assert found.macs == 2 * 12 * 10 * 4 * 4 * 9
        assert found.parameters == 4 * 4 * 9 + 4
        assert found.layers == 1
        assert found.activations == 2 * 12 * 10 * 4 * 4

    def test_before_and_after(self) -> None:
        found = measured()
        assert found.before.macs == 2 * 120 * 64 * (9 + 1)
        assert found.after.macs == 2 * 120 * 64 * 9
        assert (found.before.layers, found.after.layers) == (5, 1)
        assert found.after.activations < found.before.activations
        assert found.shapes == ((2, 8, 12, 10),)

    def test_a_result_that_is_let_go_is_not_counted(self) -> None:
        class Chain(nn.Module):
            def forward(self, x: Tensor, kept: bool) -> Tensor:
                first = x + 1
                second = first * 2
                if not kept:
                    del first
                return second * 3

        one = X.numel() * 4
        assert peak_activations(Chain(), (X, False)) == 2 * one
        assert peak_activations(Chain(), (X, True)) == 3 * one
        assert peak_activations(Chain(), (X,), {"kept": True}) == 3 * one


class TestLatency:
    def test_what_takes_longer_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With a stopwatch of our own: a busy machine may call anything longer."""
        seconds = {"slow": [4e-3, 5e-3, 3e-3, 4e-3, 9e-3], "fast": [1e-3, 2e-3, 1e-3, 1e-3, 3e-3]}

        class Stopwatch:
            def __init__(self, code: str, globals: dict[str, Any], num_threads: int) -> None:
                self.times = iter(seconds[globals["model"]])

            def timeit(self, number: int) -> None:
                """Warm up."""

            def blocked_autorange(self, min_run_time: float) -> Any:
                return SimpleNamespace(median=next(self.times))

        monkeypatch.setattr(sys.modules[latency.__module__], "Timer", Stopwatch)
        slow, fast = cast("Any", "slow"), cast("Any", "fast")
        found = latency(slow, fast, (X,), rounds=5)
        assert (found.ratio, found.before, found.after, found.differs) == (3.0, 4e-3, 1e-3, True)
        assert "3.00 times shorter" in str(found)
        assert "3.00 times LONGER" in str(latency(fast, slow, (X,), rounds=5))

    def test_what_lies_within_the_spread_is_no_difference(self) -> None:
        found = Latency("eager", 1.1, 0.9, 1.3, 2e-3, 1.8e-3, 15)
        assert not found.differs
        assert str(found).startswith("no difference within the spread (2.00 ms -> 1.80 ms")
        assert "one thread" in str(found)

    def test_threads_are_given_back(self) -> None:
        before = torch.get_num_threads()
        latency(lambda x: x + 1, lambda x: x + 1, (X,), rounds=2, threads=2, seconds=0.001)
        assert torch.get_num_threads() == before


class TestBench:
    def test_json_and_text_say_the_same(self) -> None:
        found = measured()
        data = json.loads(found.to_json())
        assert data["after"]["layers"] == 1
        assert data["latency"][0]["engine"] == "eager"
        assert isinstance(data["latency"][0]["differs"], bool)
        assert "multiply-accumulates: 0.15 M -> 0.14 M (-10.0%)" in str(found)
        assert "input 2x8x12x10" in str(found)

    def test_plot_is_an_svg_with_a_row_for_everything(self) -> None:
        root = ElementTree.fromstring(measured().to_svg())
        texts = ["".join(t.itertext()) for t in root.iter("{http://www.w3.org/2000/svg}text")]
        assert {"MACs", "parameters", "peak activations", "layers", "time, eager"} <= set(texts)
        assert "0.90" in texts
        assert "0.20" in texts

    def test_onnxruntime(self) -> None:
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
        assert [one.engine for one in measured(engines=["eager", "onnxruntime"]).latency] == ["eager", "onnxruntime"]

    def test_training_mode_is_refused(self) -> None:
        model = blocks.RepVGGBlock()
        with pytest.raises(reparamkit.ModelError, match="RK101"):
            reparamkit.bench(model.train(), model, X)

    def test_unknown_engine(self) -> None:
        with pytest.raises(reparamkit.ModelError, match=r"RK104.*eager"):
            measured(engines=["warp"])


class TestCommand:
    def test_table_json_and_plot(self, tmp_path: Path) -> None:
        pytest.importorskip("typer")
        from typer.testing import CliRunner

        from reparamkit.cli.app import app

        arguments = ["bench", "-m", "tests.blocks:RepVGGBlock", "-i", "1x8x12x12", "--rounds", "2"]
        result = CliRunner().invoke(app, [*arguments, "--plot", str(tmp_path / "bars.svg")])
        assert result.exit_code == 0, result.output
        assert "multiply-accumulates" in result.stdout
        assert (tmp_path / "bars.svg").read_text(encoding="utf-8").startswith("<svg")
        assert json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)["after"]["layers"] == 1
        assert CliRunner().invoke(app, [*arguments, "--engine", "warp"]).exit_code == 2
