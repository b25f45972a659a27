"""Hazards of operations in place."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.hazards.models import bn, same, seq
from tests.hazards.row import hazard
from tests.helpers import IMAGES, convert, counts, gap, inputs, places, randomize


class Alias(nn.Module):
    def __init__(self, run: Any) -> None:
        super().__init__()
        self.a, self.b, self.bn, self.run = same(), same(1), bn(), run

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def _iadd(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    z = y
    y += m.b(x)
    return y, z


def _iadd_view(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    z = y.view(-1)
    y += m.b(x)
    return y + z.sum()


def _iadd_input(m: Any, x: Tensor) -> Any:
    x += m.a(x)
    return x + m.b(x)


def _relu_between(m: Any, x: Tensor) -> Any:
    return m.a(x) + m.b(F.relu(x, inplace=True))


def _relu_after(m: Any, x: Tensor) -> Any:
    y = x * 1
    a = m.a(y)
    F.relu_(y)
    return a + m.b(y)


def _relu_first(m: Any, x: Tensor) -> Any:
    y = F.relu(x * 1.0, inplace=True)
    return m.a(y) + m.b(y)


def _setitem(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    y[:, 0] = 0
    return m.bn(y)


def _mul_shared(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    z = m.bn(y)
    y.mul_(2)
    return z + y


def _identity_alias(m: Any, x: Tensor) -> Any:
    y = F.dropout(x * 1, 0.5, False)
    z = y
    z += 1
    return m.a(y) + m.b(y)


def _zero_after(m: Any, x: Tensor) -> Any:
    y = m.a(x) + m.b(x)
    x.zero_()
    return y


def _zero_source(m: Any, x: Tensor) -> Any:
    y = x * 1
    a = m.a(y)
    y.zero_()
    return m.bn(a)


def _out(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    torch.add(y, m.b(x), out=y)
    return m.bn(y)


# Where each is refused; nothing that could be merged reads what the last three change.
REFUSED = {
    **{run: ["a"] for run in (_iadd, _iadd_view, _setitem)},
    _iadd_input: ["x", "iadd"],
    _mul_shared: ["a"],
    _relu_after: ["mul"],
    _identity_alias: ["dropout"],
    _zero_after: ["x"],
    _out: ["add", "a"],
    **{run: [] for run in (_relu_between, _relu_first, _zero_source)},
}


@hazard("C15", "y += 1 where something else holds y", "the change is seen; refused where it would be lost", "RK309")
@hazard("C16", "an activation in place between two branches", "refused: the branches read different numbers", "RK309")
@pytest.mark.parametrize("run", REFUSED)
def test_c15_c16_changes_in_place_are_seen(run: Any) -> None:
    converted, report = convert(Alias(run))
    assert places(report, "RK309") == REFUSED[run]
    original = randomize(Alias(run)).double()
    ours, theirs = inputs(IMAGES[0]), inputs(IMAGES[0])
    with torch.no_grad():
        original(theirs)
        converted(ours)
    assert gap(theirs, ours) < 1e-9, "the caller's input is changed differently"


class InplaceRelu(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.act = same(), same(1), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + self.b(self.act(x))


def test_c16_an_in_place_activation_between_branches() -> None:
    converted, report = convert(seq(same(5), InplaceRelu()))
    assert counts(converted) == (3, 0)
    assert not report.merged
