"""Hazards of norms and their statistics."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import reparamkit
from tests.hazards.models import Block, C, bn, same, seq
from tests.hazards.row import hazard
from tests.helpers import (
    Fn,
    branches,
    convert,
    convert_as_is,
    counts,
    places,
    randomize,
    unchanged,
)


@hazard("B11", "another norm where a batch norm is expected", "left alone")
@hazard("B12", "InstanceNorm without running statistics", "refused", "RK205")
@pytest.mark.parametrize(
    "norm", [nn.GroupNorm(2, C), nn.LayerNorm([7, 7]), nn.InstanceNorm2d(C), nn.LocalResponseNorm(2)]
)
def test_b11_b12_norms_of_the_data_stay(norm: nn.Module) -> None:
    model = Fn(lambda m, x: m.bn(m.conv(x)), conv=same(), bn=norm)
    converted, report = convert(model, (2, C, 7, 7))
    assert not report.merged
    assert type(converted.bn) is type(norm)
    assert isinstance(norm, nn.InstanceNorm2d) is (places(report, "RK205") == ["bn"])


@hazard("B13", "InstanceNorm with running statistics", "merged: in evaluation it is a batch norm")
def test_b13_instance_norm_with_running_statistics() -> None:
    assert counts(convert(seq(same(), nn.InstanceNorm2d(C, track_running_stats=True)))[0]) == (1, 0)


@hazard("B14", "running_var is 0", "merged in float64, and still finite; factors above 1e3 are noted")
@hazard("B16", "gamma is 0", "merged: the kernel of the channel is 0; the report notes how many")
def test_b14_b16_variance_zero_and_gamma_zero() -> None:
    model = randomize(seq(same(), bn())).double()
    with torch.no_grad():
        model[1].running_var.zero_()
        model[1].weight[1] = 0
    converted, report = convert_as_is(model)
    assert counts(converted) == (1, 0)
    assert not converted[0].weight[1].any()
    assert "1: weight is 0 in 1 of 4 channels, whose kernels are 0 now" in report.notes
    assert not any("multiplied" in note for note in report.notes)
    with torch.no_grad():
        model[1].weight[2] = 7.0
    _, report = convert_as_is(model)
    assert any(note.startswith("1: channel 2 is multiplied by 2.21e+03") for note in report.notes), report
    assert "notes:\n  1: " in str(report)


@hazard("B15", "statistics are negative, NaN or infinite", "refused; the reason names buffer and channel", "RK210")
@pytest.mark.parametrize(
    ("name", "value"), [("running_var", -1.0), ("running_var", float("nan")), ("running_mean", float("inf"))]
)
def test_b15_unusable_statistics_are_named(name: str, value: float) -> None:
    model = randomize(seq(Block(), seq(same(), bn()))).double()
    with torch.no_grad():
        getattr(model[1][1], name)[2] = value
    with unchanged(model):
        converted, report = reparamkit.apply(model, return_report=True)
    assert places(report, "RK210") == ["1.1"]
    refusal = next(r for r in report.refused if r.code == "RK210")
    assert "channel 2" in refusal.reason
    assert name in refusal.reason
    assert counts(converted) == (2, 1)


@hazard("B17", "gamma is negative", "merged")
@hazard("B18", "eps differs from branch to branch", "each is read")
def test_b17_b18_every_branch_has_its_own_eps_and_signs() -> None:
    model = branches(seq(same(), bn(eps=0.5)), seq(same(1), bn(eps=1e-5)), bn(eps=0.1))
    assert counts(convert(model)[0]) == (1, 0)
