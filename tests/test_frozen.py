"""Constants computed from parameters that several merges share: each alone would leave them to the others."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.helpers import convert, counts, places

C = 4


class Weighted(nn.Module):
    """Branches whose weights are a softmax; the depthwise one is not worth being merged with the others."""

    def __init__(self, mix: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.point = nn.Sequential(nn.Conv2d(C, C, 1, bias=False), nn.BatchNorm2d(C))
        self.dense = nn.Sequential(nn.Conv2d(C, C, 3, padding=1, bias=False), nn.BatchNorm2d(C))
        self.deep = nn.Sequential(nn.Conv2d(C, C, 7, padding=3, groups=C, bias=False), nn.BatchNorm2d(C))
        self.norm = nn.BatchNorm2d(C)
        self.alpha = nn.Parameter(torch.tensor([0.3, 0.5, 1.2, 0.7]))
        self.mix = mix

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.mix(self, x))

    def branches(self, x: Tensor) -> list[Tensor]:
        return [self.point(x), self.dense(x), self.deep(x), self.norm(x)]


def one_by_one(m: Any, x: Tensor) -> Tensor:
    w = torch.softmax(m.alpha, 0)
    return w[0] * m.point(x) + w[1] * m.dense(x) + w[2] * m.deep(x) + w[3] * m.norm(x)  # type: ignore[no-any-return]


def reduced(m: Any, x: Tensor) -> Tensor:
    w = torch.softmax(m.alpha, 0)
    return reduce(torch.add, [w[i] * branch for i, branch in enumerate(m.branches(x))])


def zipped(m: Any, x: Tensor) -> Tensor:
    return sum(w * branch for w, branch in zip(m.alpha.sigmoid(), m.branches(x), strict=True))  # type: ignore[return-value]


@pytest.mark.parametrize("mix", [one_by_one, reduced, zipped])
def test_merges_that_share_a_constant_are_made_together(mix: Any) -> None:
    converted, report = convert(Weighted(mix))
    assert counts(converted) == (2, 0)
    assert not report.refused


def behind_an_activation(m: Any, x: Tensor) -> Tensor:
    w = torch.softmax(m.alpha, 0)
    return w[0] * m.point(x) + w[1] * m.dense(x) + w[2] * m.deep(x).tanh()  # type: ignore[no-any-return]


def test_a_constant_that_is_still_read_is_not_frozen() -> None:
    converted, report = convert(Weighted(behind_an_activation))
    assert counts(converted) == (3, 1)  # norm is not called
    assert "add" in places(report, "RK604")
    before = converted(torch.ones(1, C, 5, 5, dtype=torch.float64))
    converted.alpha.data.mul_(-1.0)
    assert not torch.allclose(converted(torch.ones(1, C, 5, 5, dtype=torch.float64)), before)


def test_one_forward_that_keeps_its_constant_stops_no_other() -> None:
    model = nn.Sequential(Weighted(behind_an_activation), Weighted(one_by_one))
    converted, _ = convert(model)
    assert counts(converted) == (5, 1)
