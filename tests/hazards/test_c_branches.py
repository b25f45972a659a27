"""Hazards of how branches are put together."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor, nn

from tests.hazards.models import C, bn, same, seq
from tests.hazards.row import hazard
from tests.helpers import (
    Fn,
    Shape,
    branches,
    convert,
    counts,
)


@hazard("C18", "a sum broadcasts", "left alone")
@pytest.mark.parametrize("shape", [(1, 1, 7, 7), (1, C, 1, 1)])
def test_c18_sums_that_broadcast(shape: Shape) -> None:
    other: nn.Module = nn.Conv2d(C, 1, 3, padding=1) if shape[1] == 1 else seq(nn.AdaptiveAvgPool2d(1), same(1))
    converted, _ = convert(branches(same(), other))
    assert counts(converted) == (2, 0)


@hazard("C19", "a layer is called with keywords", "merged; output_size stays")
def test_c19_keyword_calls() -> None:
    model = Fn(lambda m, x: m.bn(input=m.conv(input=x)), conv=same(), bn=bn())
    assert counts(convert(model)[0]) == (1, 0)


def test_c19_output_size_of_a_transposed_conv_stays() -> None:
    up = nn.ConvTranspose2d(C, C, 3, stride=2, padding=1)
    model = Fn(lambda m, x: m.bn(m.up(x, output_size=[2 * s for s in x.shape[2:]])), up=up, bn=bn())
    assert counts(convert(model)[0]) == (1, 1)


@hazard("C20", "layers are registered in another order than they are called", "the graph counts")
def test_c20_execution_order_counts_not_registration() -> None:
    model = Fn(lambda m, x: m.late(m.early(x).relu()), bn=bn(), late=same(), early=same())
    assert counts(convert(model)[0]) == (2, 1)
    swapped = Fn(lambda m, x: m.bn(m.conv(x)), bn=bn(), conv=same())
    assert counts(convert(swapped)[0]) == (1, 0)


@hazard("C21", "an activation, dropout or gate inside a branch", "left alone; dropout in evaluation is an identity")
def test_c21_what_is_not_affine_stays_in_its_branch() -> None:
    layers: Any = pytest.importorskip("timm.layers")
    for middle, fused in (
        (nn.ReLU(), False),
        (nn.Dropout(), True),
        (layers.DropPath(0.3), True),
        (nn.Sigmoid(), False),
    ):
        model = branches(same(), seq(same(1), middle, bn()))
        assert (counts(convert(model)[0]) == (1, 0)) is fused, middle


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate = same(), seq(nn.AdaptiveAvgPool2d(1), same(1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y * self.gate(y)


def test_c21_squeeze_and_excitation_stays() -> None:
    assert counts(convert(branches(Gated(), same(1)))[0]) == (3, 0)
