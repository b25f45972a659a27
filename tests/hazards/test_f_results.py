"""Hazards of results, sizes, exports and of errors that pass as nothing to do."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import reparamkit
from tests.hazards.models import Block, C, bn, same, seq
from tests.hazards.row import hazard
from tests.hazards.told import CALL, raises
from tests.helpers import IMAGES, Fn, convert, counts, gap, inputs, places, randomize, unchanged


@dataclass
class Boxes:
    """A result that is no tensor and cannot be taken apart."""

    scores: Tensor

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Boxes) and torch.allclose(self.scores, other.scores)


@hazard(
    "F13",
    "random results, results that are no tensors",
    "compared with the same random numbers; what is no tensor is compared by equality",
    "RK901",
)
def test_f13_random_results_are_compared_with_the_same_numbers() -> None:
    model = randomize(Fn(lambda m, x: m.body(x) + torch.rand(x.shape, dtype=x.dtype), body=seq(Block()))).double()
    with unchanged(model):
        converted, report = reparamkit.apply(model, example_inputs=inputs(IMAGES[0]), return_report=True)
    assert counts(converted) == (1, 0)
    assert report.whole_model is not None
    assert report.whole_model.error < 1e-9


def test_f13_results_that_are_no_tensors() -> None:
    def run(m: Any, x: Tensor) -> Any:
        y = m.body(x)
        keep = torch.topk(y.flatten(), 3).indices
        return {"boxes": Boxes(y), "keep": keep, "name": "a", "none": None, "pair": (y, [y.sum()])}

    model = randomize(Fn(run, body=seq(Block()))).double()
    x = inputs(IMAGES[0])
    converted = reparamkit.apply(model, example_inputs=x)
    assert counts(converted) == (1, 0)
    with torch.no_grad():
        converted.body[0].reparam.weight[0, 0] += 1
    with raises("RK901", CALL, "inf (relative)"):
        reparamkit.verify(model, converted, x)


class Sized(nn.Module):
    """A forward whose code reads the sizes of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.norm = Block(), nn.LayerNorm(C)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        y = self.block(x).view(n, c, h * w).transpose(1, 2)
        return self.norm(y).transpose(1, 2).reshape(n, c, h, w) + x.mean(dim=(2, 3)).view(n, c, 1, 1)


@hazard("F14", "sizes of one input are baked in", "sizes stay symbolic: other sizes and batches work")
@pytest.mark.parametrize("example", [None, inputs((1, C, 6, 6))])
def test_f14_sizes_are_not_baked_in(example: Tensor | None) -> None:
    converted, _ = convert(Sized(), (1, C, 6, 6), (3, C, 5, 8), (2, C, 9, 4), example_inputs=example)
    assert counts(converted) == (1, 0)


@hazard("F15", "export with a batch of one bakes the batch in", "exported with a batch of two where it is dynamic")
def test_f15_an_exported_program_takes_any_batch() -> None:
    model = reparamkit.apply(randomize(seq(Block(), same(), bn())))
    program = reparamkit.export_program(model, inputs((1, C, 8, 8), dtype=torch.float32), dynamic="batch")
    loaded = program.module()
    for batch in (1, 2, 5):
        x = inputs((batch, C, 8, 8), dtype=torch.float32)
        assert gap(model(x).detach(), loaded(x).detach()) < 1e-6


class Checkpointing(nn.Module):
    """As transformers' GradientCheckpointingLayer: the call goes another way where it saves memory."""

    gradient_checkpointing = True

    def __init__(self) -> None:
        super().__init__()
        self.block = Block()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(super().__call__, *args, use_reentrant=False, **kwargs)
        return super().__call__(*args, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


@hazard("F16", "gradient checkpointing layers are called another way", "exact with checkpointing on and off")
@pytest.mark.parametrize("on", [True, False])
def test_f16_checkpointing_layers(on: bool) -> None:
    model = randomize(seq(Checkpointing(), bn(), Checkpointing())).double()
    for layer in (model[0], model[2]):
        layer.gradient_checkpointing = on
    converted = reparamkit.apply(model)
    assert counts(converted) == (2, 1)
    grads = []
    for which in (model, converted):
        x = inputs(IMAGES[0]).requires_grad_()
        which(x).square().sum().backward()
        grads.append(x.grad)
    assert gap(*grads) < 1e-9


def test_f16_transformers_checkpointing_layer() -> None:
    layers: Any = pytest.importorskip("transformers.modeling_layers")
    kind: Any = type("Layer", (layers.GradientCheckpointingLayer,), {"forward": lambda self, x: self.block(x)})
    layer = kind()
    layer.block = Block()
    model = randomize(seq(layer, same())).double()
    converted = reparamkit.apply(model)
    assert counts(converted) == (2, 0)
    with torch.no_grad():
        assert gap(model(inputs(IMAGES[0])), converted(inputs(IMAGES[0]))) < 1e-9


def _numbers(m: Any, x: Tensor) -> Any:
    return m.a(x) + m.b(x) * sum(value for value in x.flatten().tolist())


@hazard(
    "F17",
    "an error while tracing passes as 'nothing to merge'",
    "reported as not traced, with the line; the command line ends with exit code 3",
    "RK604",
)
def test_f17_what_cannot_be_traced_is_said() -> None:
    model = randomize(Fn(_numbers, a=same(), b=same(1))).double()
    converted, report = reparamkit.apply(model, return_report=True)
    assert counts(converted) == (2, 0)
    assert not report.merged
    assert places(report, "RK604") == ["(root)"]
    assert "test_f_results.py" in report.untraceable[0].reason
    assert "not traced" in str(report)


def test_f17_exit_code(tmp_path: Path) -> None:
    pytest.importorskip("typer")
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n\n\nclass Odd(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)\n\n"
        "    def forward(self, x):\n        return self.a(x) + self.b(x) if float(x.sum()) else x\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "reparamkit", "plan", "--model", "mine:Odd"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 3, done.stderr
    assert "RK604" in done.stdout + done.stderr
