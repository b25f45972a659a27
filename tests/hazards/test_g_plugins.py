"""Hazards of plugins: rules that raise, lie, write, or claim what is another's."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reparamkit
from reparamkit import VerificationError, conv, lifts
from tests.hazards.models import Block, C, bn, same, seq
from tests.hazards.row import hazard
from tests.hazards.told import check, raises
from tests.helpers import assert_same, counts, places, randomize, unchanged


class Opaque(nn.Module):
    """A layer that no tracer can follow: y = w * x for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(C))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x[:, i] * float(self.gain[i]) for i in range(C)], 1) if x.sum() != 3 else x


def right(module: Any, context: Any) -> Any:
    """What the layer computes."""
    return reparamkit.Scale(module.gain.detach().double())


def plugin(run: Callable[..., Any], name: str = "given", **options: Any) -> types.SimpleNamespace:
    """A plugin with one rule, `run`."""
    rule = lifts(Opaque, f"{name}/opaque", **options)(run)
    hook = reparamkit.hookimpl(lambda: [rule], specname="reparamkit_rules")
    return types.SimpleNamespace(__name__=name, reparamkit_rules=hook)


def model() -> nn.Module:
    """A block beside the layer, so that there is something that must go on being merged."""
    return randomize(seq(Block(), same(), Opaque(), bn())).double()


def test_g00_the_right_rule_is_used() -> None:
    original = model()
    converted = reparamkit.apply(original, plugins=[plugin(right)])
    assert counts(converted) == (2, 0)
    assert_same(original, converted)


@hazard("G5", "two rules claim one target", "error that names both; overrides= decides", "RK803")
def test_g05_two_rules_for_one_target() -> None:
    two = [plugin(right, "first"), plugin(right, "second")]
    original = model()
    for plugins in (two, two[::-1]):
        with unchanged(original), raises("RK803", "first/opaque", "second/opaque"):
            reparamkit.apply(original, plugins=plugins)
    decided = [plugin(_raises, "first"), plugin(right, "second", overrides="first/opaque")]
    for plugins in (decided, decided[::-1]):
        assert counts(reparamkit.apply(original, plugins=plugins)) == (2, 0)


def _raises(module: Any, context: Any) -> Any:
    raise ZeroDivisionError("oops")


@hazard("G9", "a plugin raises", "a refusal that names the rule; the rest goes on", "RK804")
def test_g09_a_rule_that_raises() -> None:
    original = model()
    with unchanged(original):
        converted, report = reparamkit.apply(original, plugins=[plugin(_raises)], return_report=True)
    assert places(report, "RK804") == ["2"]
    refusal = next(r for r in report.refused if r.code == "RK804")
    assert "given/opaque (given): ZeroDivisionError: oops" in refusal.reason
    assert counts(converted) == (2, 1)


def _none() -> list[Any]:
    return []


@hazard("G10", "a plugin's hook is misspelt, or fails", "error when the plugin is loaded", "RK802")
def test_g10_a_hook_that_does_not_exist() -> None:
    misspelt = types.SimpleNamespace(
        __name__="given", reparamkit_ruls=reparamkit.hookimpl(_none, specname="reparamkit_ruls")
    )
    failing = types.SimpleNamespace(
        __name__="given", reparamkit_rules=reparamkit.hookimpl(lambda: 1 / 0, specname="reparamkit_rules")
    )
    original = model()
    for wrong, word in ((misspelt, "reparamkit_ruls"), (failing, "ZeroDivisionError")):
        with unchanged(original), raises("RK802", "given", word):
            reparamkit.apply(original, plugins=[wrong], inplace=True)


LIES: dict[str, Callable[[Any], Any]] = {
    "another scale": lambda w: reparamkit.Scale(2 * w),
    "a shift": lambda w: reparamkit.Scale(w, w),
    "another kernel": lambda w: conv(torch.diag(w).reshape(C, C, 1, 1).flip(0), padding=((0, 0), (0, 0))),
    "another size": lambda w: conv(torch.ones(C, C, 3, 3, dtype=torch.float64), padding=((0, 0), (0, 0))),
    "other channels": lambda w: conv(torch.ones(C + 1, C, 1, 1, dtype=torch.float64), padding=((0, 0), (0, 0))),
    "not finite": lambda w: reparamkit.Scale(w * float("nan")),
    "too few": lambda w: reparamkit.Scale(w[:2]),
    "no operator": lambda w: w,
    "nothing": lambda w: None,
    "single precision": lambda w: reparamkit.Scale(w.float()),
}


@hazard(
    "G11",
    "a rule returns wrong shapes, or numbers that are wrong or not finite",
    "the proof finds it and the rule is named, or it is a refusal",
    "RK901",
)
@pytest.mark.parametrize("lie", LIES)
def test_g11_a_rule_that_lies(lie: str) -> None:
    original = model()
    wrong = plugin(lambda module, context: LIES[lie](module.gain.detach().double() + 0.5))
    with unchanged(original):
        try:
            converted, report = reparamkit.apply(original, plugins=[wrong], return_report=True)
        except VerificationError as error:
            converted, said = None, str(error)
    if converted is None:
        check(said, "RK901", "3", "given/opaque")
    else:  # refused, and the rest is right
        assert {r.where for r in report.refused} & {"2", "3"}
        assert_same(original, converted)


def _writes_in_place(module: Any, context: Any) -> Any:
    module.gain.data.mul_(2)
    return right(module, context)


def _writes_an_attribute(module: Any, context: Any) -> Any:
    module.seen = True
    return right(module, context)


def _replaces_a_parameter(module: Any, context: Any) -> Any:
    module.gain = nn.Parameter(module.gain.detach() * 2)
    return right(module, context)


def _adds_a_hook(module: Any, context: Any) -> Any:
    del module._parameters["gain"]
    return right(module, context)


@hazard("G12", "a rule changes the module it looks at", "stopped or taken back; a refusal names the rule", "RK804")
@pytest.mark.parametrize("run", [_writes_in_place, _writes_an_attribute, _replaces_a_parameter, _adds_a_hook])
@pytest.mark.parametrize("call", [reparamkit.plan, reparamkit.apply])
def test_g12_a_rule_that_writes(run: Any, call: Any) -> None:
    original = model()
    with unchanged(original):
        call(original, plugins=[plugin(run)])
    assert places(reparamkit.apply(original, plugins=[plugin(run)], return_report=True)[1], "RK804") == ["2"]


@hazard("G13", "a plugin returns what another version knew", "error that says what it returned", "RK802")
@pytest.mark.parametrize("what", ["given/opaque", {"rule": "given/opaque"}, Opaque, None])
def test_g13_declarations_of_another_kind(what: Any) -> None:
    old = types.SimpleNamespace(
        __name__="given", reparamkit_rules=reparamkit.hookimpl(lambda: [what], specname="reparamkit_rules")
    )
    with raises("RK802", "given", type(what).__name__):
        reparamkit.plan(model(), plugins=[old])


@hazard("G14", "a plugin is given twice, or takes the name of another", "error that says whose name it is", "RK802")
@pytest.mark.parametrize("name", ["given", "core"])
def test_g14_names_that_are_taken(name: str) -> None:
    plugins = [plugin(right), plugin(right, name)]
    original = model()
    with unchanged(original), raises("RK802", name, "the name is taken by") as caught:
        reparamkit.plan(original, plugins=plugins)
    assert "/" not in str(caught.value), "no paths of other plugins"
