"""Hazards of memory formats, modes and numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reparamkit
from tests.hazards.models import Block, bn, same, seq
from tests.hazards.row import hazard
from tests.helpers import (
    IMAGES,
    Fn,
    branches,
    convert,
    counts,
    gap,
    inputs,
    places,
    randomize,
    unchanged,
)


@hazard("E10", "channels_last", "kept")
def test_e10_memory_format() -> None:
    model = randomize(seq(Block(), same(1))).to(memory_format=torch.channels_last)
    converted = reparamkit.apply(model)
    assert converted[0].reparam.weight.is_contiguous(memory_format=torch.channels_last)
    plain = reparamkit.apply(randomize(Block()))
    assert plain.reparam.weight.is_contiguous()


class Autocast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = same(), same(1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.a(x) + self.b(x)


@hazard("E13", "autocast inside a forward", "refused", "RK604")
def test_e13_autocast_inside_a_forward_stays() -> None:
    model = randomize(Autocast())
    converted, report = reparamkit.apply(model, return_report=True)
    x = inputs(IMAGES[0], dtype=torch.float32)
    assert converted(x).dtype == model(x).dtype == torch.bfloat16
    assert places(report, "RK604") == ["(root)"]


class Partly(nn.Module):
    """One branch is frozen by the forward itself."""

    def __init__(self, context: Any) -> None:
        super().__init__()
        self.a, self.b, self.context = same(), same(1), context

    def forward(self, x: Tensor) -> Tensor:
        with self.context():
            y = self.a(x)
        return y + self.b(x)


@hazard("E14", "no_grad, checkpoint inside a forward", "gradients stay stopped; nothing merges across", "RK307")
def test_e14_gradients_stopped_inside_a_forward_stay_stopped() -> None:
    model = randomize(Partly(torch.no_grad)).double()
    converted, report = reparamkit.apply(model, return_report=True)
    assert places(report, "RK307") == ["add"]
    grads = []
    for which in (model, converted):
        x = inputs(IMAGES[0]).requires_grad_()
        which(x).sum().backward()
        grads.append(x.grad)
    assert gap(*grads) < 1e-9, "gradients flow where the forward stopped them"


def test_e14_checkpointing_inside_a_forward() -> None:
    from torch.utils.checkpoint import checkpoint

    model = Fn(lambda m, x: checkpoint(m.a, x, use_reentrant=False) + x, a=seq(same(), bn()))
    convert(seq(model, same()))


@hazard("E15", "weights that are not finite", "refused", "RK502")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_e15_weights_that_are_not_finite(value: float) -> None:
    model = randomize(seq(Block(), seq(same(), bn())))
    with torch.no_grad():
        model[1][0].weight[0, 0, 0, 0] = value
    with unchanged(model):
        converted, report = reparamkit.apply(model, return_report=True)
    assert places(report, "RK502") == ["1.1"]
    assert counts(converted) == (2, 1)


@hazard("E16", "branches that cancel", "compared with the float64 truth, not with float32")
def test_e16_branches_that_cancel() -> None:
    first, second = same(), same()
    model = branches(seq(first, bn()), seq(second, bn()))
    randomize(model)
    with torch.no_grad():
        for name, parameter in model.all[0].named_parameters():
            model.all[1].get_parameter(name).copy_(-1e4 * parameter if name == "1.weight" else parameter)
            if name == "1.weight":
                parameter.mul_(1e4 * (1 + 1e-7))
        model.all[1][1].running_mean.copy_(model.all[0][1].running_mean)
        model.all[1][1].running_var.copy_(model.all[0][1].running_var)
    model.eval()
    converted, report = reparamkit.apply(
        model, return_report=True, example_inputs=inputs(IMAGES[0], dtype=torch.float32)
    )
    assert counts(converted) == (1, 0)
    assert report.whole_model is not None
