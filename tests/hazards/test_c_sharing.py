"""Hazards of modules, weights and values that several places use."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor, nn

import reparamkit
from tests.hazards.models import Block, bn, same, seq
from tests.hazards.row import hazard
from tests.helpers import (
    Fn,
    assert_same,
    codes,
    convert,
    counts,
    places,
)

SHARED: dict[str, tuple[Callable[[Any, Tensor], Any], str, list[str]]] = {
    "C1 called twice, bn on one path": (lambda m, x: m.bn(m.conv(x)) + m.conv(x.relu()), "RK301", ["conv"]),
    "C2 behind two bns": (lambda m, x: m.bn(m.conv(x)) * m.other(m.conv(x.relu())), "RK301", ["conv"]),
    "C3 the pair used twice": (lambda m, x: m.bn(m.conv(m.bn(m.conv(x)).relu())), "RK301", ["conv", "bn"]),
    "C3 one value into both bns": (lambda m, x: _both(m.bn, m.other, m.conv(x)), "RK305", ["bn", "other"]),
}


def _both(one: nn.Module, other: nn.Module, y: Tensor) -> Any:
    return one(y) * other(y)


@hazard(
    "C1", "a convolution is called twice, one call has a batch norm", "refused; merged with the rule unshare", "RK301"
)
@hazard("C2", "a convolution is shared by two batch norms", "refused", "RK301")
@hazard("C3", "the same pair is used twice", "not folded twice", "RK301", "RK305")
@pytest.mark.parametrize("case", SHARED)
def test_c01_c02_c03_shared_modules_are_not_folded_twice(case: str) -> None:
    run, code, where = SHARED[case]
    _, report = convert(Fn(run, conv=same(), bn=bn(), other=bn()))
    assert codes(report) == {code}
    assert places(report, code) == where


@hazard("C4", "one module has two names", "counted by identity; a block is converted once and stays one", "RK301")
def test_c04_one_module_under_two_names() -> None:
    model = Fn(lambda m, x: m.bn(m.first(x)) + m.second(x.relu()), first=same(), bn=bn())
    model.second = model.first
    _, report = convert(model)
    assert places(report, "RK301") == ["first", "second"]
    assert model.first is model.second


def test_c04_a_block_called_twice_is_merged_once() -> None:
    converted, _ = convert(Fn(lambda m, x: m.f(m.f(x)), f=Block()))
    assert counts(converted) == (1, 0)


def test_c04_a_block_with_two_names_stays_one() -> None:
    block = Block()
    converted, _ = convert(seq(block, block))
    assert converted[0] is converted[1]


@hazard("C5", "weights are tied", "the other user keeps the numbers it had; the report notes it")
def test_c05_tied_weights_stay_right() -> None:
    first, second = same(bias=False), same(bias=False)
    second.weight = first.weight
    model = seq(first, bn(), nn.ReLU(), second)
    converted, report = convert(model)
    assert counts(converted) == (2, 0)
    assert report.notes == ("0.weight: was tied to 3.weight, which keeps its numbers; they are apart now",)
    in_place = copy.deepcopy(model)
    reparamkit.apply(in_place, inplace=True)
    assert_same(model, in_place)


@hazard("C6", "an intermediate value is used elsewhere or returned", "refused", "RK305")
@pytest.mark.parametrize(
    "run",
    [
        lambda m, x: (lambda y: m.bn(y) + y.relu())(m.conv(x)),
        lambda m, x: (lambda y: (m.bn(y), y))(m.conv(x)),
        lambda m, x: (lambda y: {"out": m.bn(y), "mid": y})(m.conv(x)),
        lambda m, x: (lambda y: m.bn(y) * y.shape[1])(m.conv(x).relu()),
    ],
)
def test_c06_values_read_elsewhere_stay(run: Any) -> None:
    converted, report = convert(Fn(run, conv=same(), bn=bn()))
    assert counts(converted) == (1, 1)
    assert codes(report) <= {"RK321"} or places(report, "RK305") == ["bn"]


def test_c06_the_reader_is_named() -> None:
    model = Fn(lambda m, x: (lambda y: (m.bn(y), y))(m.conv(x)), conv=same(), bn=bn())
    _, report = convert(model)
    assert [str(r) for r in report.refused] == [
        "bn: RK305 intermediate value is used elsewhere: conv is also read by the caller"
    ]
