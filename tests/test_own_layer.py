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


class NoBias(OwnConv):
    """Takes another way when it has a bias."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(input if self.bias is None else -input, self.weight, self.bias)


class Unbiased(OwnConv):
    """Has a bias that it does not use."""

    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(input, self.weight)


TAKES = {
    "subclass": lambda: OwnConv(C, C, 3, padding=1),
    "without a bias": lambda: OwnConv(C, C, 3, padding=1, bias=False),
    "module": Plain,
}


@pytest.mark.parametrize("layer", TAKES.values(), ids=TAKES.keys())
def test_takes_the_weights_of_a_batch_norm_behind_it(layer: Any) -> None:
    model = nn.Sequential(layer(), nn.BatchNorm2d(C), nn.ReLU())
    converted, report = convert(model)
    assert [m.path for m in report.merged] == ["0"]
    assert type(converted[0]) is type(model[0])  # type: ignore[index]
    assert list(converted.state_dict()) == ["0.weight", "0.bias"]
    assert reparamkit.plan(converted).edits == []


OTHERS: dict[str, Any] = {
    "no place for a bias": lambda: NoBias(C, C, 3),
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


class Same(nn.Conv2d):
    """TensorFlow's padding: as much as the size of the input asks for, and none at all where that is nothing."""

    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(self.padded(input), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)

    def padded(self, x: Tensor) -> Tensor:
        missing = [
            max((-(-size // s) - 1) * s + k - size, 0)
            for size, k, s in zip(x.shape[-2:], self.kernel_size, self.stride, strict=True)
        ]
        if missing[0] > 0 or missing[1] > 0:
            x = F.pad(x, [p for m in reversed(missing) for p in (m // 2, m - m // 2)])
        return x


class ReadsNumbers(Same):
    """What it does depends on the numbers of its weight, which a merge changes."""

    def forward(self, input: Tensor) -> Tensor:
        made = super().forward(input)
        return made if self.weight.abs().max() < 100 else -made


class ReadsWeightTwice(Same):
    def forward(self, input: Tensor) -> Tensor:
        x = self.padded(input) * self.weight.mean()
        return F.conv2d(x, self.weight, self.bias, self.stride)


class OneWayDiffers(Same):
    def forward(self, input: Tensor) -> Tensor:
        if input.shape[2] % 2:
            return F.conv2d(input, self.weight, self.bias, self.stride, 1)
        return super().forward(input)


@pytest.mark.parametrize("bias", [False, True])
def test_every_way_ends_with_the_same_layer(bias: bool) -> None:
    model = nn.Sequential(Same(C, 6, 3, stride=2, bias=bias), nn.BatchNorm2d(6), nn.ReLU(), Same(6, C, 3, 2), nn.ReLU())
    converted, report = convert(model)
    assert [m.path for m in report.merged] == ["0"]
    assert type(converted[0]) is Same  # type: ignore[index]
    assert counts(converted) == (2, 0)
    assert reparamkit.plan(converted).edits == []


STAY: dict[str, Any] = {
    "reads numbers": lambda: ReadsNumbers(C, C, 3, stride=2),
    "reads its weight twice": lambda: ReadsWeightTwice(C, C, 3, stride=2),
    "one way differs": lambda: OneWayDiffers(C, C, 3, stride=2),
}


@pytest.mark.parametrize("layer", STAY.values(), ids=STAY.keys())
def test_weights_stay_where_the_ways_differ(layer: Any) -> None:
    converted, _ = convert(nn.Sequential(layer(), nn.BatchNorm2d(C), nn.ReLU()))
    assert counts(converted)[1] == 1


def test_nothing_but_weights_can_change() -> None:
    """A layer behind it is no part of it, one in front neither; a scale is."""
    model = nn.Sequential(nn.BatchNorm2d(C), Same(C, C, 3, stride=2), nn.Conv2d(C, 6, 1), nn.ReLU())
    assert counts(convert(model)[0]) == (2, 1)


def test_called_twice_or_hooked_it_stays() -> None:
    twice = Fn(lambda m, x: m.norm(m.conv(x)) + m.conv(x), conv=Same(C, C, 3, stride=2), norm=nn.BatchNorm2d(C))
    assert counts(convert(twice)[0]) == (1, 1)
    hooked = nn.Sequential(Same(C, C, 3, stride=2), nn.BatchNorm2d(C))
    hooked[0].register_forward_hook(lambda *_: None)
    assert counts(convert(hooked)[0]) == (1, 1)
