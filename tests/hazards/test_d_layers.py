"""Hazards of subclasses, biases and cost."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.hazards.models import C, bn, same, seq
from tests.hazards.row import hazard
from tests.helpers import (
    Fn,
    branches,
    convert,
    counts,
    inputs,
)


class Standardized(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, padding=1)


class OwnPadding(nn.Conv2d):
    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1), value=0.3), weight, bias)


class Sized(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        h = x.shape[-1] % 2
        return F.conv2d(F.pad(x, (h, 2 - h, 1, 1)), self.weight, self.bias)


class Renamed(nn.Conv2d):
    """A subclass that changes nothing about the forward."""


@hazard("D23", "a subclass of a convolution has a forward of its own", "its own forward is what counts")
@pytest.mark.parametrize("kind", [Standardized, OwnPadding, Sized])
def test_d23_subclasses_with_a_forward_of_their_own(kind: Any) -> None:
    convert(seq(kind(C, C, 3), bn()))
    convert(branches(kind(C, C, 3), same()))


def test_d23_subclasses_that_inherit_the_forward() -> None:
    assert counts(convert(seq(Renamed(C, C, 3), bn()))[0]) == (1, 0)


def test_d23_subclasses_of_timm() -> None:
    layers: Any = pytest.importorskip("timm.layers")
    convert(seq(layers.StdConv2d(C, C, 3), bn()))
    convert(seq(layers.ScaledStdConv2d(C, C, 3), bn()))
    convert(branches(layers.Conv2dSame(C, C, 3, stride=2), seq(layers.Conv2dSame(C, C, 1, stride=2), bn())))


@hazard("D24", "a bias is missing in a branch", "read as zero")
@pytest.mark.parametrize("one", [True, False])
@pytest.mark.parametrize("other", [True, False])
def test_d24_biases_missing_in_some_branches(one: bool, other: bool) -> None:
    converted, _ = convert(branches(same(bias=one), same(1, bias=other)))
    assert counts(converted) == (1, 0)
    assert (converted.reparam.bias is not None) is (one or other)


@hazard("D25", "a 1x1 kernel with padding", "merged")
def test_d25_pointwise_with_padding() -> None:
    model = branches(nn.Conv2d(C, C, 1, padding=1), nn.Conv2d(C, C, 3, padding=2))
    assert counts(convert(model)[0]) == (1, 0)


def test_cropping_before_padding() -> None:
    model = Fn(lambda m, x: m.bn(m.f(x[:, :, 1:-1, 1:-1])), f=nn.Conv2d(C, C, 1, padding=1, bias=False), bn=bn())
    convert(model)


def test_constants_with_more_axes_than_the_value() -> None:
    for shape in ((1, 1, C, 1, 1), (1, 1, 1, 1, 1)):
        converted, _ = convert(
            Fn(lambda m, x: m.f(x) * m.g, f=same(), g=nn.Parameter(torch.ones(shape))), (1, C, 5, 5), (2, C, 4, 4)
        )
        assert converted(inputs((1, C, 5, 5))).ndim == 5
