"""Plugins that do whatever a plugin should not: the answer is an error or a refusal, or the model stays right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reparamkit
from reparamkit.branch import BranchOp
from reparamkit.errors import PluginError, ReparamError
from reparamkit.operators import Scale
from reparamkit.policy import Policy
from reparamkit.rule import Lift, Transform
from tests.fuzz.answers import ANSWERS, C, plugin, raises, slow, tried
from tests.helpers import assert_untouched, randomize, snapshot, unchanged


class Gain(nn.Module):
    """A layer that only a plugin knows."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(C))

    def forward(self, x: Tensor) -> Tensor:
        return gained(x, self.gain)


def gained(x: Tensor, gain: Tensor) -> Tensor:
    if float(gain.sum()) == 1e9:  # so that no tracer can follow it
        raise AssertionError
    return x * gain.view(-1, 1, 1)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(C, C, 3, padding=1), nn.BatchNorm2d(C)
        self.gain, self.last, self.other = Gain(), Gain(), nn.Conv2d(C, C, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)) + self.other(x)
        return torch.cat([self.gain(x), torch.relu(self.last(x * 2))], 1)


KINDS: dict[str, Callable[[Any], Any]] = {
    "lift of a module": lambda run: Lift("p/x", Gain, run),
    "lift of a known module": lambda run: Lift("p/x", nn.Conv2d, run, overrides="core/conv"),
    "lift of a call": lambda run: Lift("p/x", torch.relu, run, overrides="core/no_op"),
    "transform": lambda run: Transform("p/x", run, opt_in=False),
}


def model() -> nn.Module:
    return randomize(Model()).double()


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("kind", KINDS)
def test_rules_that_answer_anything(kind: str, answer: str, inplace: bool) -> None:
    rule = KINDS[kind](ANSWERS[answer])
    tried(model(), plugin(reparamkit_rules=lambda: [rule]), inplace)


HOOKS = ["reparamkit_rules", "reparamkit_policies", "reparamkit_recipes", "reparamkit_branches"]
RETURNED: dict[str, Callable[[], Any]] = {
    "nothing": lambda: None,
    "a number": lambda: 3,
    "text": lambda: "rules",
    "wrong things": lambda: [1, "a", None],
    "a class": lambda: [Lift],
    "raises": raises(ValueError("no")),
    "twice": lambda: [KINDS["lift of a module"](slow)] * 2,
    "id without a plugin": lambda: [Lift("x", Gain, slow)],
    "id that is no text": lambda: [Lift(3, Gain, slow)],  # type: ignore[arg-type]
    "target that is nothing": lambda: [Lift("p/x", None, slow)],
    "run that cannot be called": lambda: [Lift("p/x", Gain, 3)],
}


@pytest.mark.parametrize(
    "hook", ["reparamkit_rules", "reparamkit_policies", "reparamkit_recipes", "reparamkit_branches"]
)
@pytest.mark.parametrize("returned", RETURNED.values(), ids=RETURNED.keys())
def test_hooks_that_return_anything(hook: str, returned: Callable[[], Any]) -> None:
    tried(model(), plugin(**{hook: lambda: returned()}))


def _zero(module: Any, context: Any) -> Any:
    with torch.no_grad():
        module.gain.zero_()
    return Scale(torch.zeros(C, dtype=torch.float64))


def _train(module: Any, context: Any) -> Any:
    module.train()


def _drop(module: Any, context: Any) -> Any:
    del module.gain


@pytest.mark.parametrize("run", [_zero, _train, _drop])
def test_rules_that_change_what_they_look_at_are_named(run: Any) -> None:
    given = plugin(reparamkit_rules=lambda: [Lift("p/x", Gain, run)])
    tried_on = model()
    with unchanged(tried_on):
        report = reparamkit.plan(tried_on, plugins=[given])
    assert any(r.code == "RK804" and "p/x" in r.reason for r in report.refusals)


POLICIES = {
    "allows raises": Policy("p", raises(KeyError("no")), lambda cost: cost.score),
    "allows nothing known": Policy("p", lambda old, new: None, lambda cost: cost.score),  # type: ignore[arg-type, return-value]
    "scores text": Policy("p", lambda old, new: True, lambda cost: "best"),  # type: ignore[arg-type, return-value]
    "scores NaN": Policy("p", lambda old, new: True, lambda cost: float("nan")),
    "score raises": Policy("p", lambda old, new: True, raises(ZeroDivisionError())),
}


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES.keys())
def test_policies_that_answer_anything_are_named(policy: Policy) -> None:
    given = plugin(reparamkit_policies=lambda: [policy])
    asked = model()
    with unchanged(asked), pytest.raises(PluginError, match=r"RK804.*policy p \(Given\)"):
        reparamkit.apply(asked, policy="p", plugins=[given], inplace=True)


BUILDS: dict[str, Callable[..., Any]] = {
    "raises": raises(KeyError("no")),
    "nothing": lambda options, place: None,
    "text": lambda options, place: "conv",
    "class": lambda options, place: nn.Identity,
    "other channels": lambda options, place: nn.Conv2d(place.in_channels, place.out_channels + 1, 1),
    "other input": lambda options, place: nn.Conv2d(place.in_channels + 1, place.out_channels, 1),
    "NaN": lambda options, place: _filled(nn.Conv2d(place.in_channels, place.out_channels, 1), float("nan")),
    "not affine": lambda options, place: nn.ReLU(),
    "random": lambda options, place: Noise(),
    "unrunnable": lambda options, place: nn.Module(),
}


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


def _filled(module: nn.Module, value: float) -> nn.Module:
    for parameter in module.parameters():
        nn.init.constant_(parameter, value)
    return module


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS.keys())
def test_operations_for_branches_that_build_anything_are_found_out(build: Any) -> None:
    given = plugin(reparamkit_branches=lambda: [BranchOp("strange", build)])
    spec = {"version": 1, "name": "x", "expand": [{"match": {"type": "conv2d"}, "branches": [["conv"], ["strange"]]}]}
    asked = nn.Sequential(nn.Conv2d(C, C, 3, padding=1)).double().eval()
    before = snapshot(asked)
    del before["rng"]  # initial numbers are drawn
    with pytest.raises(ReparamError, match=r"strange|RK710"):
        reparamkit.expand(asked, spec, plugins=[given], inplace=True)
    assert_untouched(asked, before)
