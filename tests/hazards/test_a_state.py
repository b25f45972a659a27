"""Hazards of a model's state: modes, gradients, optimizers, copies of itself."""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import reparamkit
from reparamkit import apply
from tests.hazards.models import Block, C, bn, same, seq
from tests.hazards.row import hazard
from tests.hazards.told import raises, warns
from tests.helpers import (
    IMAGES,
    assert_same,
    convert,
    convert_as_is,
    counts,
    inputs,
    randomize,
    unchanged,
)


@hazard("A1", "the model is in training mode", "error; the message names the modules", "RK101")
def test_a01_a_model_in_training_mode_is_an_error() -> None:
    model = randomize(seq(Block(), Block())).train()
    for call in (reparamkit.apply, reparamkit.plan):
        with unchanged(model), raises("RK101", "0.dense.1", "0.dense.1 (BatchNorm2d)"):
            call(model)


@hazard("A2", "only some batch norms are in training mode", "error; every module is asked, not the root", "RK101")
def test_a02_one_batch_norm_in_training_mode_is_an_error() -> None:
    model = randomize(seq(Block(), Block()))
    model[1].identity.train()
    with unchanged(model), raises("RK101", "1.identity") as caught:
        reparamkit.apply(model)
    assert "0." not in str(caught.value)


@hazard("A3", "modes are lost when a model is put back into training", "the mode of each module is kept")
def test_a03_modes_of_all_modules_are_kept() -> None:
    model = randomize(seq(Block(), Block()))
    model[0].act = nn.ReLU().train()  # a frozen flag of a module without a mode of its own would be an error: RK101
    with raises("RK101", "0.act"):
        reparamkit.apply(model)
    model[0].act.eval()
    with unchanged(model):
        converted = reparamkit.apply(model, example_inputs=inputs(IMAGES[0], dtype=torch.float32))
    assert not any(m.training for m in converted.modules())


class TrainingBranch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = same(), same(1)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return self.a(x) * 2
        return self.a(x) + self.b(x)


@hazard("A4", "the forward asks for the mode", "the evaluation form is merged; in training mode it raises", "RK103")
def test_a04_a_forward_that_asks_for_the_mode_keeps_its_evaluation_half_only() -> None:
    converted, _ = convert(TrainingBranch())
    assert counts(converted) == (1, 0)
    with raises("RK103", "TrainingBranch"):
        converted.train()(inputs(IMAGES[0]))


class Restless(nn.Module):
    """A forward that counts, averages, and draws from three generators."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.seen: list[Any] = []
        self.register_buffer("mean", torch.zeros(C))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen.append(tuple(x.shape))
        self.mean.mul_(0.9).add_(x.mean((0, 2, 3)))
        torch.rand(()), random.random(), np.random.rand()
        return x + self.mean.reshape(1, -1, 1, 1)


@hazard("A5", "checking the model changes it", "only copies are run; statistics, counters and caches stay")
@hazard(
    "A6", "checking the model moves the random generators", "torch, Python and numpy draw what they would have drawn"
)
@pytest.mark.parametrize("call", [reparamkit.plan, reparamkit.apply, reparamkit.verify])
def test_a05_a06_looking_changes_neither_the_model_nor_the_random_state(call: Any) -> None:
    model = randomize(seq(Block(), nn.Dropout(), Restless(), Block())).double()
    x = inputs(IMAGES[0])
    with unchanged(model):
        call(model, copy.deepcopy(model), x) if call is reparamkit.verify else call(model, example_inputs=x)


def test_a05_the_model_itself_is_never_run() -> None:
    model = randomize(seq(Restless(), same(), bn())).double()
    recipe = {"version": 1, "name": "x", "blocks": [{"match": {"name": "1"}, "expect": {"convs": 0}}]}
    with unchanged(model), raises("RK707", "1"):
        reparamkit.apply(model, recipe, inplace=True, example_inputs=inputs(IMAGES[0]))


@hazard("A7", "an optimizer was built before a conversion in place", "a warning; its steps reach what is left", "RK113")
def test_a07_an_optimizer_of_the_original_still_steps() -> None:
    model = randomize(seq(Block(), same()))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with warns("RK113", __file__, "8 parameters of a SGD"):
        apply(model, inplace=True)  # it warns of the line it is called in, so it is not the one that is watched
    merged, left = model[0].reparam.weight.clone(), model[1].weight.clone()
    model(inputs(IMAGES[0], dtype=torch.float32)).sum().backward()
    optimizer.step()
    assert torch.equal(model[0].reparam.weight, merged)
    assert not torch.equal(model[1].weight, left)
    del optimizer


def test_a07_no_warning_where_the_optimizer_holds_nothing_that_goes() -> None:
    model = randomize(seq(Block(), same()))
    kept = torch.optim.SGD(model[1].parameters(), lr=0.1)
    assert counts(reparamkit.apply(model, inplace=True)) == (2, 0)
    model = randomize(seq(Block(), same()))
    all_of_it = torch.optim.SGD(model.parameters(), lr=0.1)
    assert counts(reparamkit.apply(model)) == (2, 0)
    assert kept.param_groups
    assert all_of_it.param_groups


@hazard("A8", "some parameters are frozen", "merged weights are trainable when one of their sources was")
@pytest.mark.parametrize("frozen", ["nothing", "everything", "weights", "norms"])
def test_a08_what_was_frozen_stays_frozen(frozen: str) -> None:
    model = seq(same(), bn())
    for name, parameter in model.named_parameters():
        weight, norm = name == "0.weight", name.startswith("1.")
        parameter.requires_grad = not {"nothing": False, "everything": True, "weights": weight, "norms": norm}[frozen]
    converted, _ = convert(model)
    assert counts(converted) == (1, 0)
    flags = [p.requires_grad for p in converted.parameters()]
    assert flags == [frozen != "everything"] * 2 if frozen != "weights" else any(flags)


@hazard("A9", "conversion inside inference_mode", "normal tensors, which can be trained")
@hazard("A10", "the model was built inside inference_mode", "merged weights are normal tensors")
@pytest.mark.parametrize("inside", ["when converting", "when building"])
def test_a09_a10_inference_mode_leaves_weights_that_can_be_trained(inside: str) -> None:
    with torch.inference_mode(inside == "when building"):
        model = randomize(seq(same(), bn(), Block()))
    with torch.inference_mode(inside == "when converting"):
        converted = reparamkit.apply(model)
    assert counts(converted) == (2, 0)
    assert not any(p.is_inference() for p in converted.parameters())
    converted(inputs(IMAGES[0], dtype=torch.float32)).sum().backward()
    assert all(p.grad is not None for p in converted.parameters())


@hazard("A11", "parameters have gradients", "merged ones have none, which the report notes")
def test_a11_gradients_of_the_branches_are_not_carried_over() -> None:
    model = randomize(seq(same(), bn()))
    model(inputs(IMAGES[0], dtype=torch.float32)).sum().backward()
    converted, report = reparamkit.apply(model, return_report=True)
    assert report.notes == ("0: gradients of what was merged are not carried over",)
    assert not reparamkit.apply(randomize(seq(same(), bn())), return_report=True)[1].notes
    assert counts(converted) == (1, 0)
    assert all(p.grad is None for p in converted.parameters())
    assert all(p.grad is not None for p in model.parameters())


@hazard("A12", "the model is converted twice", "the second time changes nothing, bit for bit")
def test_a12_a_second_application_changes_nothing() -> None:
    once, _ = convert(seq(Block(), same(1), bn(), Block()))
    twice, report = convert_as_is(once)
    assert not report.merged
    assert list(twice.state_dict()) == list(once.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(once.state_dict().values(), twice.state_dict().values(), strict=True))
    in_place = reparamkit.apply(once, inplace=True)
    assert list(in_place.state_dict()) == list(twice.state_dict())


@hazard("A13", "the root itself is the block", "converted, also in place")
def test_a13_the_root_may_be_the_block() -> None:
    converted, _ = convert(Block())
    assert counts(converted) == (1, 0)
    assert isinstance(converted, Block)
    model = randomize(Block()).double()
    original = copy.deepcopy(model)
    assert reparamkit.apply(model, inplace=True) is model
    assert_same(original, model)
