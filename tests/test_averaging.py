"""Norms across averages: the pool or the upsampling stays where it is, the norm moves into the layer beyond it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.helpers import Fn, convert, counts

IMAGES = ((2, 4, 7, 7), (1, 4, 6, 9))


class Head(nn.Module):
    """Batch norm, `pool`, linear: the end of many networks."""

    def __init__(self, pool: Any) -> None:
        super().__init__()
        self.norm, self.pool, self.drop, self.fc = nn.BatchNorm2d(4), pool, nn.Dropout(0.2), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(self.pool(self.norm(x))))


FLAT = {
    "module": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(1)),
    "mean": lambda: Fn(lambda m, x: x.mean((2, 3))),
    "mean by negative axes": lambda: Fn(lambda m, x: x.mean(dim=[-2, -1])),
    "mean, kept": lambda: Fn(lambda m, x: x.mean((2, 3), keepdim=True).flatten(1)),
    "function": lambda: Fn(lambda m, x: torch.flatten(F.adaptive_avg_pool2d(x, (1, 1)), 1)),
    "tokens": lambda: Fn(lambda m, x: x.flatten(2).transpose(1, 2).mean(1)),
}


@pytest.mark.parametrize("pool", FLAT.values(), ids=FLAT.keys())
def test_last_norm_goes_into_the_classifier(pool: Any) -> None:
    deploy, _ = convert(Head(pool()), *IMAGES)
    assert counts(deploy) == (1, 0)


class OwnLinear(nn.Linear):
    """timm's: a linear layer with a forward of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


def test_norm_goes_into_a_classifier_with_a_forward_of_its_own() -> None:
    """The layer is a function call; the norm on the other side of the pool is not the one that takes its weights."""
    head = Head(FLAT["module"]())
    head.fc = OwnLinear(4, 3)
    deploy, _ = convert(head, *IMAGES)
    assert counts(deploy) == (1, 0)
    assert type(deploy.fc) is OwnLinear


STAYS = {
    "maximum": lambda: Fn(lambda m, x: x.amax((2, 3))),
    "max pool": lambda: nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten(1)),
    "sum": lambda: Fn(lambda m, x: x.sum((2, 3))),
    "mean over channels": lambda: Fn(lambda m, x: x.mean(1)[:, :4, 0]),
}


@pytest.mark.parametrize("pool", STAYS.values(), ids=STAYS.keys())
def test_what_is_no_average_of_positions_is_left_alone(pool: Any) -> None:
    """The must-refuse twins."""
    deploy, _ = convert(Head(pool()), *IMAGES)
    assert counts(deploy) == (1, 1)


def test_flatten_of_more_than_one_position_is_left_alone() -> None:
    model = nn.Sequential(nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(2), nn.Flatten(1), nn.Linear(16, 3))
    deploy, _ = convert(model, *IMAGES)
    assert counts(deploy) == (1, 1)


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_norm_behind_an_upsampling_goes_into_the_convolution(mode: str) -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.Upsample(scale_factor=2, mode=mode), nn.BatchNorm2d(6))
    deploy, _ = convert(model, *IMAGES)
    assert counts(deploy) == (1, 0)


def test_backbone_that_is_a_dictionary_with_a_forward() -> None:
    """As torchvision's `IntermediateLayerGetter`."""

    class Backbone(nn.ModuleDict):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            out = {}
            for name, module in self.items():
                x = module(x)
                if name == "relu":
                    out[name] = x
            return out

    model = Backbone({"conv": nn.Conv2d(4, 4, 3), "bn": nn.BatchNorm2d(4), "relu": nn.ReLU(inplace=True)})
    deploy, _ = convert(model, *IMAGES)
    assert counts(deploy) == (1, 0)


class Chomp(nn.Module):
    """Cuts off what a causal convolution (Bai et al., An empirical evaluation of TCNs, 2018) padded too much."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :-2].contiguous()


@pytest.mark.parametrize(
    "cut", [Chomp, lambda: Fn(lambda m, x: x[..., :-2]), lambda: Fn(lambda m, x: x[..., :-2].clone())]
)
def test_norm_behind_a_causal_convolution_goes_into_it(cut: Any) -> None:
    model = nn.Sequential(nn.Conv1d(4, 6, 3, padding=2), cut(), nn.BatchNorm1d(6), nn.ReLU())
    deploy, _ = convert(model, (2, 4, 9), (1, 4, 6))
    assert counts(deploy) == (1, 0)
    assert deploy[0].kernel_size == (3,)


class Causal(nn.Conv1d):
    """A layer that cuts for itself, as braindecode's."""

    def __init__(self, kernel: int, **options: Any) -> None:
        super().__init__(4, 6, kernel, padding=kernel - 1, **options)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[..., : -self.padding[0]]


class Leading(nn.Conv1d):
    """A layer that pads for itself in a way that no convolution does."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.cat([x[..., :2] * x[..., :2], x], -1))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", [Causal, Leading])
def test_layer_that_does_more_than_convolve_takes_the_weights(kind: Any, bias: bool) -> None:
    layer = Causal(3, bias=bias) if kind is Causal else Leading(4, 6, 3, bias=bias)
    model = nn.Sequential(layer, nn.BatchNorm1d(6), nn.ReLU())
    deploy, _ = convert(model, (2, 4, 9), (1, 4, 6))
    assert counts(deploy) == (1, 0)
    assert type(deploy[0]) is kind


def test_layer_whose_weight_is_used_twice_keeps_it() -> None:
    class Twice(Causal):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * self.weight.mean()

    model = nn.Sequential(Twice(3), nn.BatchNorm1d(6))
    deploy, _ = convert(model, (2, 4, 9))
    assert torch.equal(deploy[0].weight, model[0].weight)
