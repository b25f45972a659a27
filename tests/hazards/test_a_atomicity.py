"""Hazards of a conversion that stops half-way, or is taken back."""

from __future__ import annotations

import threading
import types
from typing import Any

import pytest
from torch import Tensor, nn

import reparamkit
from reparamkit import conv, lifts
from tests.hazards.models import Block, bn, same, seq
from tests.hazards.row import hazard
from tests.hazards.told import raises
from tests.helpers import (
    assert_untouched,
    convert,
    counts,
    places,
    randomize,
    snapshot,
)


def liar(scale: float) -> types.SimpleNamespace:
    """A plugin whose rule is right for a model's first block only."""

    @lifts(Odd, "liar/odd")
    def lift(module: Any, context: Any) -> Any:
        return conv(module.inner.weight * (scale if module.second else 1.0), padding=((0, 0), (0, 0)))

    @reparamkit.hookimpl
    def reparamkit_rules() -> list[Any]:
        return [lift]

    return types.SimpleNamespace(__name__="liar", reparamkit_rules=reparamkit_rules)


class Odd(nn.Module):
    def __init__(self, second: bool) -> None:
        super().__init__()
        self.inner, self.second = same(1, bias=False), second

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


@hazard("A14", "something fails half-way", "the model is as it was, whatever fails and wherever", "RK901", "RK707")
def test_a14_an_exception_half_way_leaves_the_model_as_it_was() -> None:
    model = randomize(seq(Block(), Odd(False), bn(), Odd(True), bn())).double()
    before = snapshot(model)
    with raises("RK901", "4", "liar/odd"):
        reparamkit.apply(model, inplace=True, plugins=[liar(2.0)])
    assert_untouched(model, before)
    recipe = {"version": 1, "name": "strict", "blocks": [{"match": {"class": "*Block"}, "expect": {"convs": 0}}]}
    with raises("RK707", "0"):
        reparamkit.apply(model, recipe, inplace=True)
    assert_untouched(model, before)
    assert counts(reparamkit.apply(model, plugins=[liar(1.0)]))[1] == 0


def test_a14_a_rule_that_raises_is_a_refusal() -> None:
    @lifts(Odd, "broken/odd")
    def lift(module: Any, context: Any) -> Any:
        raise ZeroDivisionError("oops")

    plugin = types.SimpleNamespace(
        __name__="broken", reparamkit_rules=reparamkit.hookimpl(lambda: [lift], specname="reparamkit_rules")
    )
    _, report = convert(seq(Odd(False), bn()), plugins=[plugin])
    assert places(report, "RK804") == ["0"]


@hazard("A15", "something in the model cannot be copied", "error with its path; in place it works", "RK110")
@pytest.mark.parametrize("kind", ["lock", "graph"])
def test_a15_what_cannot_be_copied_is_named(kind: str) -> None:
    model = randomize(seq(Block(), Block()))
    culprit: Any = threading.Lock() if kind == "lock" else model[0].dense[0].weight * 2
    model[1].culprit = culprit
    with raises("RK110", "1.culprit"):
        reparamkit.apply(model)
    assert counts(reparamkit.apply(model, inplace=True)) == (2, 0)
