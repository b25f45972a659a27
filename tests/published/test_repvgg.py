"""RepVGG and what grew from it: RepVGGplus, QARepVGG, RepOptimizers.

arXiv 2101.03697, 2212.01593, 2205.15242; YOLO-NAS' block is the one of SuperGradients.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.blocks import ConvBN, QARepVGGBlock, RepVGGBlock, SqueezeExcite
from tests.helpers import gap, inputs, randomize
from tests.published.assertions import collapses


class RepVGGplusBlock(nn.Module):
    """Squeeze-and-excitation behind the activation."""

    def __init__(self, c: int = 8, stride: int = 1) -> None:
        super().__init__()
        self.rbr_dense, self.rbr_1x1 = ConvBN(c, c, 3, stride), ConvBN(c, c, 1, stride)
        self.rbr_identity = nn.BatchNorm2d(c) if stride == 1 else None
        self.nonlinearity, self.post_se = nn.ReLU(), SqueezeExcite(c)

    def forward(self, x: Tensor) -> Tensor:
        identity = 0 if self.rbr_identity is None else self.rbr_identity(x)
        return self.post_se(self.nonlinearity(self.rbr_dense(x) + self.rbr_1x1(x) + identity))


class QARepVGGBlockWithBias(nn.Module):
    """The variant whose 1x1 branch has a bias of its own."""

    def __init__(self, c: int = 8, groups: int = 1) -> None:
        super().__init__()
        self.rbr_dense = ConvBN(c, c, 3, groups=groups)
        self.rbr_1x1, self.bn = nn.Conv2d(c, c, 1, groups=groups), nn.BatchNorm2d(c)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.rbr_dense(x) + self.rbr_1x1(x) + x))


class WeightedQARepVGGBlock(nn.Module):
    """SuperGradients' QARepVGG: a learned weight on the 1x1 branch, a bias in it, a batch norm behind the sum."""

    def __init__(self, c: int = 8, dilation: int = 1) -> None:
        super().__init__()
        self.branch_3x3 = nn.Sequential(
            nn.Conv2d(c, c, 3, padding=dilation, dilation=dilation, bias=False), nn.BatchNorm2d(c)
        )
        self.branch_1x1, self.alpha = nn.Conv2d(c, c, 1), nn.Parameter(torch.tensor([0.6]))
        self.identity, self.post_bn, self.se = nn.Identity(), nn.BatchNorm2d(c), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = self.branch_3x3(x) + self.alpha * self.branch_1x1(x) + self.identity(x)
        return self.se(F.relu(self.post_bn(out)))


class ScaleLayer(nn.Module):
    """RepOptimizers: one learned factor a channel, sometimes a shift."""

    def __init__(self, c: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(c))
        self.bias = nn.Parameter(torch.zeros(c)) if bias else None
        self.c = c

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.view(1, self.c, 1, 1)
        return x * weight if self.bias is None else x * weight + self.bias.view(1, self.c, 1, 1)


class LinearAddBlock(nn.Module):
    """The search form of RepOptimizers: scaled, not normalised branches, a batch norm behind the sum."""

    def __init__(self, c: int = 8, bias: bool = False) -> None:
        super().__init__()
        self.rbr_3x3 = nn.Sequential(nn.Conv2d(c, c, 3, padding=1, bias=False), ScaleLayer(c, bias))
        self.rbr_1x1 = nn.Sequential(nn.Conv2d(c, c, 1, bias=False), ScaleLayer(c, bias))
        self.rbr_identity, self.bn = ScaleLayer(c, bias), nn.BatchNorm2d(c)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.rbr_identity(x) + self.rbr_3x3(x) + self.rbr_1x1(x)))


@pytest.mark.parametrize("recipe", [None, "repvgg"])
@pytest.mark.parametrize("options", [{}, {"groups": 4}, {"groups": 8}, {"stride": 2}, {"cout": 12}], ids=str)
def test_repvgg(options: dict[str, int], recipe: str | None) -> None:
    collapses(RepVGGBlock(**options), 1, recipe=recipe)


@pytest.mark.parametrize("recipe", [None, "repvgg"])
def test_two_more_convolutions_belong_to_squeeze_and_excitation(recipe: str | None) -> None:
    collapses(RepVGGBlock(se=True), 3, recipe=recipe)


@pytest.mark.parametrize("recipe", [None, "repvgg"])
@pytest.mark.parametrize("stride", [1, 2])
def test_repvggplus(stride: int, recipe: str | None) -> None:
    collapses(RepVGGplusBlock(stride=stride), 3, recipe=recipe)


@pytest.mark.parametrize("recipe", [None, "repvgg"])
@pytest.mark.parametrize(
    "build",
    [lambda: QARepVGGBlock(), lambda: QARepVGGBlock(pool=True), lambda: QARepVGGBlockWithBias()],
    ids=["V1", "V2 with average pooling", "biased 1x1"],
)
def test_qarepvgg(build: Any, recipe: str | None) -> None:
    collapses(build(), 1, recipe=recipe)


@pytest.mark.parametrize("recipe", [None, "repvgg"])
@pytest.mark.parametrize("dilation", [1, 2])
def test_supergradients(dilation: int, recipe: str | None) -> None:
    collapses(WeightedQARepVGGBlock(dilation=dilation), 1, recipe=recipe)


@pytest.mark.parametrize("recipe", [None, "repoptimizer"])
@pytest.mark.parametrize("bias", [False, True])
def test_repoptimizer_search_block(bias: bool, recipe: str | None) -> None:
    collapses(LinearAddBlock(bias=bias), 1, recipe=recipe)


def test_batch_statistics_are_refused() -> None:
    """The must-refuse twin: the identity branch normalises with the batch even in eval mode."""
    block = RepVGGBlock()
    block.rbr_identity = nn.BatchNorm2d(8, track_running_stats=False)
    collapses(block, 1, norms=1, refused={"RK201"})


def upstream_switch_to_deploy(block: Any) -> nn.Module:
    """What GRE variants of QARepVGG inherit: RepVGG's formula, which knows neither the bias nor the norm behind."""
    conv = copy.deepcopy(block.rbr_dense.conv)
    conv.bias = nn.Parameter(torch.zeros(conv.out_channels, dtype=torch.float64))
    bn = block.rbr_dense.bn
    factor = bn.weight / torch.sqrt(bn.running_var + bn.eps)
    kernel = conv.weight * factor.reshape(-1, 1, 1, 1) + F.pad(block.rbr_1x1.weight, (1, 1, 1, 1))
    for channel in range(conv.out_channels):
        kernel[channel, channel, 1, 1] += 1
    conv.weight, conv.bias = nn.Parameter(kernel), nn.Parameter(bn.bias - bn.running_mean * factor)
    return nn.Sequential(conv, nn.ReLU())


def test_norm_behind_the_sum_is_not_forgotten() -> None:
    block = randomize(QARepVGGBlockWithBias()).double()
    x = inputs((1, 8, 7, 7))
    with torch.no_grad():
        assert gap(block(x), upstream_switch_to_deploy(block)(x)) > 0.1
    collapses(block, 1)
