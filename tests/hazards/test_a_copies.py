"""Hazards of copies: their memory, their keys, the way back, files."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import nn

import reparamkit
from tests.hazards.models import Block, C, bn, same, seq
from tests.hazards.row import hazard
from tests.hazards.told import CALL, raises
from tests.helpers import IMAGES, assert_same, assert_untouched, counts, inputs, randomize, snapshot, unchanged


class Counted(nn.Parameter):
    """A parameter that notes when its numbers are copied."""

    copies = 0

    def __deepcopy__(self, memo: Any) -> Any:
        Counted.copies += 1
        return super().__deepcopy__(memo)


@hazard("A16", "a copy takes the memory of the whole model", "what is thrown away is not copied")
def test_a16_what_goes_is_not_copied() -> None:
    model = randomize(seq(Block(), same(), bn(), nn.ReLU(), same())).double()
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                module._parameters[name] = Counted(parameter.detach())
    Counted.copies = 0
    copy.deepcopy(model)
    everything, Counted.copies = Counted.copies, 0
    # A parameter of a foreign type is not merged, so the conversion is planned for the plain model.
    plain = randomize(seq(Block(), same(), bn(), nn.ReLU(), same())).double()
    from reparamkit.edits.splice import copied
    from reparamkit.edits.steps import steps_of
    from reparamkit.prove.merge import Proven

    plan = reparamkit.plan(plain)
    copied(model, steps_of(plan, {p: Proven(nn.Conv2d(C, C, 3, padding=1), None) for p in plan.edits}))
    assert everything == 14
    assert Counted.copies == 2, "only the last convolution stays"


@hazard("A17", "the conversion should be undone", "keep_original, then undo: every tensor and module is back", "RK111")
@pytest.mark.parametrize("build", [lambda: seq(Block(), same(), bn()), Block, lambda: seq(seq(bn(), nn.ReLU()))])
def test_a17_undone_bit_for_bit(build: Any) -> None:
    model = randomize(build()).double()
    with unchanged(model):
        _, report = reparamkit.apply(model, inplace=True, keep_original=True, return_report=True)
        report.undo()
    with raises("RK111", CALL):
        report.undo()


@hazard(
    "A18",
    "checkpoints and averaged copies have the old keys",
    "a key map, convert_state_dict, Plan.apply_to",
    "RK112",
)
def test_a18_a_plan_for_an_averaged_copy() -> None:
    model = randomize(seq(Block(), same(), bn())).double()
    average = torch.optim.swa_utils.AveragedModel(model)
    randomize(average.module, 5)
    plan = reparamkit.plan(model)
    with unchanged(model), unchanged(average.module):
        converted, report = plan.apply_to(average.module, return_report=True)  # type: ignore[misc]
    assert counts(converted) == (2, 0)
    assert report.max_error is not None
    assert report.max_error < 1e-12
    assert_same(average.module, converted)
    student = reparamkit.apply(model)
    assert list(student.state_dict()) == list(converted.state_dict())
    state = reparamkit.convert_state_dict(model, average.module.state_dict())
    assert all(torch.equal(v, converted.state_dict()[k]) for k, v in state.items())


def test_a18_in_place_and_back() -> None:
    model, teacher = randomize(seq(Block(), bn())).double(), randomize(seq(Block(), bn()), 3).double()
    original, before = copy.deepcopy(teacher), snapshot(teacher)
    converted, report = reparamkit.plan(model).apply_to(teacher, inplace=True, keep_original=True, return_report=True)  # type: ignore[misc]
    assert converted is teacher
    assert_same(original, teacher)
    report.undo()
    assert_untouched(teacher, before)


def _another_class(model: nn.Module) -> tuple[str, ...]:
    model[2] = nn.Sequential(bn())  # type: ignore[operator,index]
    return "2", "2 is a BatchNorm2d", "2 is a Sequential"


def _another_kernel(model: nn.Module) -> tuple[str, ...]:
    model[1] = same(5)  # type: ignore[operator,index]
    return "2", "the plan merges it in another way"


def _statistics(model: nn.Module) -> tuple[str, ...]:
    model.get_buffer("2.running_var")[1] = -1
    return "2", "the plan merges it", "RK210", "channel 1"


def _hook(model: nn.Module) -> tuple[str, ...]:
    model.get_submodule("2").register_forward_hook(lambda m, args, output: None)
    return "2", "the plan merges it", "RK306"


def _one_less(model: nn.Module) -> tuple[str, ...]:
    del model[3]  # type: ignore[attr-defined]
    return "3", "3 is a Block in the plan's model, nothing more"


@pytest.mark.parametrize("change", [_another_class, _another_kernel, _statistics, _hook, _one_less])
def test_a18_a_model_that_differs_is_refused(change: Any) -> None:
    def build() -> nn.Module:
        return randomize(seq(Block(), same(), bn(), Block())).double()

    other = build()
    said = change(other)
    plan = reparamkit.plan(build())
    with unchanged(other.eval()), raises("RK112", *said):
        plan.apply_to(other, inplace=True)


def test_a18_a_model_in_training_mode_is_refused() -> None:
    model = randomize(Block())
    with raises("RK101", "dense.1"):
        reparamkit.plan(model).apply_to(copy.deepcopy(model).train())


@hazard("A19", "the converted model is pickled", "its class is rebuilt; the state dict needs no code")
def test_a19_files_of_converted_models() -> None:
    model = randomize(seq(Block(), same(), bn())).double()
    converted = reparamkit.apply(model)
    whole, state = io.BytesIO(), io.BytesIO()
    torch.save(converted, whole)
    torch.save(converted.state_dict(), state)
    again = torch.load(io.BytesIO(whole.getvalue()), weights_only=False)
    assert isinstance(again[0], Block)
    assert not isinstance(again, torch.fx.GraphModule)
    assert_same(model, again)
    assert b"def forward" not in state.getvalue()
    fresh = reparamkit.apply(randomize(seq(Block(), same(), bn()), 9).double())
    fresh.load_state_dict(torch.load(io.BytesIO(state.getvalue()), weights_only=True))
    x = inputs(IMAGES[0])
    assert torch.equal(fresh(x), converted(x))
