"""Layers of the user's that call the function themselves: they take merged weights where that is all they do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import reparamkit
from tests.helpers import Fn, convert, counts

C = 4


class OwnConv(nn.Conv2d):
    """Does what its base class does."""

    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Plain(nn.Module):
    """No layer by class, but one by what it does; without padding, whatever its attribute says."""

    padding = 1

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(C, C, 3, 3)), nn.Parameter(torch.randn(C))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, bias=self.bias, weight=self.weight)


class PadsFirst(OwnConv):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(F.pad(input, (1, 1, 1, 1)))


class Doubled(OwnConv):
    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(input, 2 * self.weight, self.bias)


class Unbiased(OwnConv):
    """Has a bias that it does not use."""

    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(input, self.weight)


@pytest.mark.parametrize("layer", [OwnConv(C, C, 3, padding=1), Plain()], ids=["subclass", "module"])
def test_takes_the_weights_of_a_batch_norm_behind_it(layer: nn.Module) -> None:
    model = nn.Sequential(layer, nn.BatchNorm2d(C), nn.ReLU())
    converted, report = convert(model)
    assert [m.path for m in report.merged] == ["0"]
    assert type(converted[0]) is type(layer)  # type: ignore[index]
    assert list(converted.state_dict()) == ["0.weight", "0.bias"]
    assert reparamkit.plan(converted).edits == []


OTHERS: dict[str, Any] = {
    "no bias to take": lambda: OwnConv(C, C, 3, bias=False),
    "pads first": lambda: PadsFirst(C, C, 3),
    "computes its weight": lambda: Doubled(C, C, 3),
    "does not use its bias": lambda: Unbiased(C, C, 3),
}


@pytest.mark.parametrize("layer", OTHERS.values(), ids=OTHERS.keys())
def test_anything_more_takes_no_weights(layer: Any) -> None:
    """It steps aside, or its forward is written anew; the weights it had are not those of the merged layer."""
    converted, report = convert(nn.Sequential(layer(), nn.BatchNorm2d(C), nn.ReLU()))
    assert counts(converted)[1] == 0
    assert [m.path for m in report.merged] != ["0"]
    assert [m for m in converted.modules() if isinstance(m, OwnConv) and m.weight is not None] == []


def test_one_that_grows_is_written_anew() -> None:
    """The merged kernel has more taps than the forward that would have to call it."""
    model = Fn(lambda m, x: m.norm(m.wide(m.point(x))), point=nn.Conv2d(C, C, 3), wide=OwnConv(C, C, 1))
    model.norm = nn.BatchNorm2d(C)
    converted, _ = convert(model)
    assert sum(isinstance(m, nn.Conv2d) and m.weight is not None for m in converted.modules()) == 1


def test_tied_weights_are_not_taken_from_the_other_owner() -> None:
    model = Fn(lambda m, x: m.norm(m.one(x)) * torch.sigmoid(m.two(x)), one=OwnConv(C, C, 1), two=OwnConv(C, C, 1))
    model.norm = nn.BatchNorm2d(C)
    model.two.weight = model.one.weight
    converted, report = convert(model)
    assert [m.path for m in report.merged] == ["one"]
    assert torch.equal(converted.two.weight, model.two.weight)


@pytest.mark.parametrize(("limit", "met"), [(1, True), (0, False)])
def test_a_layer_that_was_written_anew_counts_once(limit: int, met: bool) -> None:
    """As its recipe counts: the convolution inside it took its weight."""
    recipe = {"version": 1, "name": "mine", "blocks": [{"match": {"name": "0"}, "expect": {"convs": limit}}]}
    model = nn.Sequential(Doubled(C, C, 3), nn.ReLU()).eval()
    if met:
        deploy = reparamkit.apply(model, recipe)
        assert sum(isinstance(m, nn.Conv2d) for m in deploy.modules()) == 2
    else:
        with pytest.raises(reparamkit.RecipeError, match="1 convs left, expected at most 0"):
            reparamkit.apply(model, recipe)
