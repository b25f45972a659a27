"""`reparamkit expand` and back again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("typer")
pytest.importorskip("safetensors")
pytest.importorskip("torchvision")

from safetensors.torch import load_file
from typer.testing import CliRunner

from reparamkit.cli.app import app


def test_expand(tmp_path: Path) -> None:
    target = tmp_path / "train.safetensors"
    arguments = ["expand", "-m", "torchvision:resnet18", "-r", "acnet", "-o", str(target), "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert len(json.loads(done.stdout)["layers"]) == 16
    assert "layer1.0.conv1.conv1x3.bn.running_var" in load_file(target)
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 2  # nothing is replaced without --force


def test_recipe_without_branches() -> None:
    done = CliRunner().invoke(app, ["expand", "-m", "torchvision:resnet18", "-r", "fold_bn"])
    assert done.exit_code == 3
    assert "RK706" in done.stderr
