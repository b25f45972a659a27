"""Hazards of batch norms in all their forms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.hazards.models import C, bn, same, seq
from tests.hazards.row import hazard
from tests.helpers import (
    IMAGES,
    convert,
    counts,
    inputs,
    places,
    randomize,
)


@hazard("B1", "a batch norm has no running statistics", "refused", "RK201")
@pytest.mark.parametrize("how", ["flag", "buffers"])
def test_b01_batch_statistics_are_no_constants(how: str) -> None:
    norm = bn(track_running_stats=how != "flag")
    model = randomize(seq(same(), norm))
    if how == "buffers":
        norm.running_mean = norm.running_var = None
    _, report = convert(model)
    assert places(report, "RK201") == ["1"]


@hazard("B2", "the flag says no statistics, the buffers are there", "merged: the buffers are what the forward uses")
def test_b02_buffers_count_not_the_flag() -> None:
    norm = bn()
    norm.track_running_stats = False
    converted, _ = convert(seq(same(), norm))
    assert counts(converted) == (1, 0)


@hazard("B3", "a batch norm has no scale and shift", "merged, behind convolutions and linear layers")
@pytest.mark.parametrize("layers", ["conv", "linear"])
def test_b03_without_scale_and_shift(layers: str) -> None:
    linear = layers == "linear"
    model = seq(nn.Linear(C, C), nn.BatchNorm1d(C, affine=False)) if linear else seq(same(), bn(affine=False))
    shape = (3, C) if linear else IMAGES[0]
    converted, _ = convert(model, shape, example_inputs=inputs(shape))
    assert counts(converted) == (1, 0)


@hazard("B4", "momentum is None", "merged")
def test_b04_without_momentum() -> None:
    assert counts(convert(seq(same(), bn(momentum=None)))[0]) == (1, 0)


@hazard("B5", "SyncBatchNorm", "merged")
def test_b05_sync_batch_norm() -> None:
    assert counts(convert(nn.SyncBatchNorm.convert_sync_batchnorm(seq(same(), bn())))[0]) == (1, 0)


@hazard("B6", "torchvision's FrozenBatchNorm2d", "merged, by the operations of its forward")
def test_b06_frozen_batch_norm() -> None:
    ops: Any = pytest.importorskip("torchvision.ops")
    model = seq(same(), ops.FrozenBatchNorm2d(C, eps=1e-3))
    converted, report = convert(model)
    assert report.merged
    assert "FrozenBatchNorm2d" not in str(converted)


class HardCodedEps(nn.Module):
    """A frozen batch norm whose eps is not 1e-5 and nowhere to be read."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.ones(C))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias, mean, var = (b.reshape(1, -1, 1, 1) for b in self.buffers())
        scale = weight * (var + 1e-2).rsqrt()
        return x * scale + bias - mean * scale


@hazard("B7", "a frozen batch norm has its eps in the code", "merged with the eps that the forward uses")
def test_b07_eps_is_what_the_forward_uses() -> None:
    _, report = convert(seq(same(), HardCodedEps()))
    assert report.merged


@hazard("B8", "timm's BatchNormAct2d is a batch norm with an activation", "the norm is merged, the activation stays")
@pytest.mark.parametrize("activation", ["relu", "identity"])
def test_b08_a_batch_norm_with_an_activation_keeps_it(activation: str) -> None:
    layers: Any = pytest.importorskip("timm.layers")
    converted, report = convert(seq(same(), layers.BatchNormAct2d(C, apply_act=activation == "relu")))
    assert report.merged
    assert counts(converted) == (1, 0)
    assert bool((converted(inputs(IMAGES[0])) >= 0).all()) == (activation == "relu")


class FunctionalNorm(nn.Module):
    def __init__(self, training: Any = False) -> None:
        super().__init__()
        self.conv, self.bn, self.mode = same(), bn(), training

    def forward(self, x: Tensor) -> Tensor:
        n = self.bn
        training = self.mode(x) if callable(self.mode) else self.mode
        mean, var = (None, None) if training is True else (n.running_mean, n.running_var)
        return F.batch_norm(self.conv(x), mean, var, n.weight, n.bias, training, 0.1, n.eps)


@hazard("B9", "a call of F.batch_norm", "merged")
def test_b09_a_functional_batch_norm_is_folded() -> None:
    converted, report = convert(FunctionalNorm())
    assert len(report.merged) == 1
    assert counts(converted) == (1, 0)


@hazard("B10", "F.batch_norm with batch statistics, or maybe", "refused", "RK202")
@pytest.mark.parametrize("training", [True, lambda x: x.ndim == 3])
def test_b10_a_functional_batch_norm_with_batch_statistics_stays(training: Any) -> None:
    _, report = convert(FunctionalNorm(training))
    assert not report.merged
    assert callable(training) or places(report, "RK202") == ["batch_norm"]
