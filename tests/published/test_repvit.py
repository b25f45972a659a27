"""RepViT (arXiv 2307.09283) and LSNet (arXiv 2503.23135)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.blocks import RepVGGDW
from tests.helpers import gap, inputs, randomize
from tests.published.assertions import collapses


class Conv2d_BN(nn.Sequential):
    """Convolution and batch norm, called `c` and `bn`."""

    def __init__(self, a: int, b: int, k: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.add_module("c", nn.Conv2d(a, b, k, stride, k // 2, groups=groups, bias=False))
        self.add_module("bn", nn.BatchNorm2d(b))


class Residual(nn.Module):
    """The input beside a depthwise convolution, with or without its batch norm."""

    def __init__(self, m: nn.Module) -> None:
        super().__init__()
        self.m = m

    def forward(self, x: Tensor) -> Tensor:
        return x + self.m(x)


class BN_Linear(nn.Sequential):
    """Batch norm in front of a linear layer."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.add_module("bn", nn.BatchNorm1d(a))
        self.add_module("l", nn.Linear(a, b))


class Classifier(nn.Module):
    """Two heads that are averaged, as distillation leaves them."""

    def __init__(self, c: int = 8, classes: int = 5) -> None:
        super().__init__()
        self.classifier, self.classifier_dist = BN_Linear(c, classes), BN_Linear(c, classes)

    def forward(self, x: Tensor) -> Tensor:
        return (self.classifier(x) + self.classifier_dist(x)) / 2


class Head(nn.Module):
    """Pooled features and the classifier on them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.classifier = Conv2d_BN(8, 8), Classifier()

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(nn.functional.adaptive_avg_pool2d(self.conv(x), 1).flatten(1))


class LSNetRepVGGDW(nn.Module):
    """LSNet: depthwise 3x3 and 1x1, each with its own batch norm, and the input."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.conv, self.conv1 = Conv2d_BN(c, c, 3, groups=c), Conv2d_BN(c, c, 1, groups=c)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + self.conv1(x) + x


class DynamicKernel(nn.Module):
    """LSNet's small-kernel aggregation: the weights come from the input, so only its batch norms fold."""

    def __init__(self, c: int = 8, k: int = 3) -> None:
        super().__init__()
        self.weights, self.project, self.k = Conv2d_BN(c, c * k * k), Conv2d_BN(c, c), k

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        patches = nn.functional.unfold(x, self.k, padding=self.k // 2).view(n, c, self.k**2, h, w)
        mixed = (patches * self.weights(x).view(n, c, self.k**2, h, w)).sum(2)
        return self.project(mixed) + x


@pytest.mark.parametrize("recipe", [None, "repvit"])
def test_token_mixer(recipe: str | None) -> None:
    collapses(RepVGGDW(), 1, recipe=recipe)


@pytest.mark.parametrize("recipe", [None, "lsnet"])
def test_lsnet_token_mixer(recipe: str | None) -> None:
    collapses(LSNetRepVGGDW(), 1, recipe=recipe)


@pytest.mark.parametrize("recipe", [None, "lsnet"])
def test_dynamic_kernel_stays(recipe: str | None) -> None:
    collapses(DynamicKernel(), 2, recipe=recipe)


@pytest.mark.parametrize("recipe", [None, "repvit"])
@pytest.mark.parametrize("k", [1, 3])
def test_residual(k: int, recipe: str | None) -> None:
    collapses(Residual(Conv2d_BN(8, 8, k, groups=8)), 1, recipe=recipe)


@pytest.mark.parametrize("recipe", [None, "repvit"])
@pytest.mark.parametrize("k", [1, 3])
def test_residual_of_a_plain_convolution(k: int, recipe: str | None) -> None:
    """Where upstream's `fuse` asserts the opposite of what it needs, and adds a kernel of ones."""
    block = Residual(nn.Conv2d(8, 8, k, padding=k // 2, groups=8))
    randomize(block).double()
    wrong = nn.Conv2d(8, 8, k, padding=k // 2, groups=8).double()
    wrong.weight, wrong.bias = nn.Parameter(block.m.weight + 1), block.m.bias
    x = inputs((1, 8, 7, 7))
    with torch.no_grad():
        assert (gap(block(x), wrong(x)) > 0.1) == (k > 1)
    collapses(block, 1, recipe=recipe)


@pytest.mark.parametrize("recipe", [None, "repvit"])
def test_averaged_heads_become_one(recipe: str | None) -> None:
    """The convolution of one tap in front of the pooling goes into them as well."""
    collapses(Head(), 1, recipe=recipe)


def test_heads_alone_need_to_know_the_rank() -> None:
    """On ``[N, L, C]`` the same batch norm would act on another axis."""
    collapses(Classifier(), 2, (3, 8), norms=2, refused={"RK203"})
    collapses(Classifier(), 1, (3, 8), example_inputs=inputs((3, 8)))


def test_linear_on_tokens_does_not_take_the_norm_of_another_axis() -> None:
    """The must-refuse twin: batch norm over the tokens, linear over the channels."""
    block: Any = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(8, 5))
    collapses(block, 1, (3, 6, 8), norms=1, refused={"RK310"}, example_inputs=inputs((3, 6, 8)))
