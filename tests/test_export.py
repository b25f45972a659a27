"""Exported deploy models: free batch and size, the operators that are left, and the numbers another runtime gets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

import reparamkit
from reparamkit.export import RuntimeModule, node_counts
from reparamkit.export.program import free_axes
from tests import blocks
from tests.helpers import gap, randomize
from tests.zoo import counts, timm_model


def trained() -> nn.Module:
    return randomize(nn.Sequential(blocks.RepVGGBlock(), nn.ReLU(), blocks.RepVGGBlock(stride=2))).float()


class Named(nn.Module):
    """Two inputs, one by keyword, and a dict out."""

    def __init__(self) -> None:
        super().__init__()
        self.block = blocks.RepVGGBlock()

    def forward(self, x: Tensor, *, scale: Tensor) -> dict[str, Tensor]:
        y = self.block(x)
        return {"features": y, "scaled": y * scale}


class TestProgram:
    def test_batch_and_size_are_free(self) -> None:
        model = trained()
        program = reparamkit.export_program(reparamkit.apply(model), torch.randn(1, 8, 16, 16))
        assert free_axes(program) == {"input": (0, 2, 3)}
        x = torch.randn(3, 8, 10, 22)
        with torch.no_grad():
            assert gap(model(x), program.module()(x)) < 1e-5

    def test_static(self) -> None:
        program = reparamkit.export_program(reparamkit.apply(trained()), torch.randn(1, 8, 16, 16), dynamic=False)
        assert free_axes(program) == {"input": ()}

    def test_keyword_inputs(self) -> None:
        model = randomize(Named()).float()
        inputs = {"x": torch.randn(2, 8, 9, 9), "scale": torch.tensor(2.0)}
        program = reparamkit.export_program(reparamkit.apply(model), inputs)
        assert free_axes(program)["x"] == (0, 2, 3)

    def test_what_cannot_be_exported_is_said(self) -> None:
        class Branching(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return x if x.sum() > 0 else -x

        with pytest.raises(reparamkit.ExportError, match="RK922"):
            reparamkit.export_program(Branching().eval(), torch.randn(2, 2))


class TestOnnx:
    def test_only_convolutions_are_left_and_the_runtime_agrees(self, tmp_path: Path) -> None:
        model = trained()
        x = torch.randn(1, 8, 16, 16)
        before = reparamkit.export_onnx(model, tmp_path / "train.onnx", x)
        made = reparamkit.export_onnx(reparamkit.apply(model), tmp_path / "deploy.onnx", x, original=model)
        # The exporter folds a batch norm into its convolution, but leaves the branches.
        assert before.counts["Conv"] == 4
        assert before.counts["Add"] == 3
        assert before.counts["BatchNormalization"] == 1
        assert (made.counts["Conv"], made.counts.get("Add", 0), made.counts.get("BatchNormalization", 0)) == (2, 0, 0)
        assert made.comparison is not None
        assert 0 < made.comparison.error <= made.comparison.allowed
        assert made.free == {"input": (0, 2, 3)}

    def test_other_sizes_than_the_example(self, tmp_path: Path) -> None:
        model = trained()
        reparamkit.export_onnx(reparamkit.apply(model), tmp_path / "m.onnx", torch.randn(1, 8, 16, 16))
        x = torch.randn(3, 8, 10, 22)
        reparamkit.verify(model, RuntimeModule(tmp_path / "m.onnx", model, x), x)

    def test_a_size_that_the_model_writes_down_is_not_free(self, tmp_path: Path) -> None:
        class Positions(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv = nn.Conv2d(3, 4, 3, padding=1)
                self.register_buffer("table", torch.randn(1, 4, 12, 12))

            def forward(self, x: Tensor) -> Tensor:
                return self.conv(x) + self.table

        model = Positions().eval()
        made = reparamkit.export_onnx(model, tmp_path / "m.onnx", torch.randn(1, 3, 12, 12), original=model)
        assert made.free == {"x": (0,)}

    def test_what_the_runtime_cannot_run_is_exported_with_less_free(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tried: list[object] = []
        real = reparamkit.export.onnx.export_program

        def some(model: nn.Module, inputs: object, *, dynamic: object) -> object:
            tried.append(dynamic)
            if dynamic is not False:
                raise reparamkit.ExportError("RK922", "not that free")
            return real(model, inputs, dynamic=False)

        monkeypatch.setattr("reparamkit.export.onnx.export_program", some)
        model = trained()
        made = reparamkit.export_onnx(model, tmp_path / "m.onnx", torch.randn(1, 8, 12, 12), original=model)
        assert tried == [True, "batch", False]
        assert made.free == {"input": ()}

    def test_dict_outputs_and_keyword_inputs(self, tmp_path: Path) -> None:
        model = randomize(Named()).float()
        inputs = {"x": torch.randn(2, 8, 9, 9), "scale": torch.tensor(2.0)}
        made = reparamkit.export_onnx(reparamkit.apply(model), tmp_path / "m.onnx", inputs, original=model)
        assert made.comparison is not None

    def test_a_wrong_model_gets_no_file(self, tmp_path: Path) -> None:
        model = trained()
        deploy = reparamkit.apply(model)
        with torch.no_grad():
            next(deploy.parameters())[0, 0, 0, 0] += 1
        with pytest.raises(reparamkit.VerificationError, match="RK901"):
            reparamkit.export_onnx(deploy, tmp_path / "m.onnx", torch.randn(1, 8, 16, 16), original=model)
        assert not list(tmp_path.iterdir())

    def test_existing_files_need_force(self, tmp_path: Path) -> None:
        (tmp_path / "m.onnx").write_text("mine", encoding="utf-8")
        with pytest.raises(reparamkit.OutputError, match="force"):
            reparamkit.export_onnx(trained(), tmp_path / "m.onnx", torch.randn(1, 8, 16, 16))
        assert (tmp_path / "m.onnx").read_text(encoding="utf-8") == "mine"

    def test_openvino_reads_it(self, tmp_path: Path) -> None:
        pytest.importorskip("openvino")
        model, x = trained(), torch.randn(1, 8, 16, 16)
        reparamkit.export_onnx(reparamkit.apply(model), tmp_path / "m.onnx", x)
        comparison = reparamkit.verify(model, RuntimeModule(tmp_path / "m.onnx", model, x, "openvino"), x)
        assert comparison.error <= comparison.allowed

    @pytest.mark.zoo
    @pytest.mark.parametrize("name", ["repvgg_a0", "repghostnet_100"])
    def test_whole_models(self, name: str, tmp_path: Path) -> None:
        pytest.importorskip("timm")
        model = timm_model(name)
        deploy = reparamkit.apply(model)
        made = reparamkit.export_onnx(deploy, tmp_path / "m.onnx", torch.randn(1, 3, 64, 64), original=model)
        assert made.counts["Conv"] == counts(deploy)[0]
        assert "BatchNormalization" not in made.counts
        assert made.free["x"] == (0, 2, 3)


class TestCommand:
    def test_export(self, tmp_path: Path) -> None:
        pytest.importorskip("typer")
        from typer.testing import CliRunner

        from reparamkit.cli.app import app

        arguments = ["export", "-m", "tests.blocks:RepVGGBlock", "-i", "1x8x12x12", "--json"]
        result = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "m.onnx")])
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["counts"]["Conv"] == 1
        assert node_counts(tmp_path / "m.onnx")["Conv"] == 1
        assert CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "m.pt2")]).exit_code == 0
        program = torch.export.load(tmp_path / "m.pt2")
        assert program.module()(torch.randn(2, 8, 5, 5)).shape == (2, 8, 5, 5)
        assert CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "m.txt")]).exit_code == 2
