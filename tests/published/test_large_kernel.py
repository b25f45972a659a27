"""RepLKNet (arXiv 2203.06717), UniRepLKNet (arXiv 2311.15599), RepNeXt (arXiv 2406.16004)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.blocks import ConvBN, DilatedReparamBlock, RepLKBlock, RepNeXtSmall
from tests.published.assertions import collapses


class LinearScaledByGRN(nn.Module):
    """UniRepLKNet's: global response normalisation, whose shift goes through the linear layer behind it."""

    def __init__(self, c: int = 16) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.zeros(1, 1, 1, c)), nn.Parameter(torch.zeros(1, 1, 1, c))
        self.eps = 1e-6

    def forward(self, x: Tensor) -> Tensor:
        size = torch.norm(x, p=2, dim=(1, 2), keepdim=True)
        return (self.gamma * (size / (size.mean(-1, keepdim=True) + self.eps)) + 1) * x + self.beta


class UniRepLKNetBlock(nn.Module):
    """Dilated block, batch norm; then linear, GELU, GRN, linear without a bias, batch norm, layer scale."""

    def __init__(self, c: int = 8, k: int = 13) -> None:
        super().__init__()
        self.dwconv, self.norm = DilatedReparamBlock(c, k), nn.BatchNorm2d(c)
        self.pwconv1, self.act, self.grn = nn.Linear(c, 2 * c), nn.GELU(), LinearScaledByGRN(2 * c)
        self.pwconv2, self.last = nn.Linear(2 * c, c, bias=False), nn.BatchNorm2d(c)
        self.gamma = nn.Parameter(torch.ones(c))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x)).permute(0, 2, 3, 1)
        y = self.pwconv2(self.grn(self.act(self.pwconv1(y)))).permute(0, 3, 1, 2)
        return x + self.gamma.view(1, -1, 1, 1) * self.last(y)


class RepUnitM(nn.Module):
    """RepNeXt: 7x7, 5x3, 3x5, 1x7 then 7x1, 1x5 then 5x1, all depthwise, the chains without biases inside."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.full, self.wide, self.tall = (ConvBN(c, c, k, groups=c) for k in ((7, 7), (5, 3), (3, 5)))
        self.chain7 = nn.Sequential(
            nn.Conv2d(c, c, (1, 7), padding=(0, 3), groups=c, bias=False), ConvBN(c, c, (7, 1), groups=c)
        )
        self.chain5 = nn.Sequential(
            nn.Conv2d(c, c, (1, 5), padding=(0, 2), groups=c, bias=False), ConvBN(c, c, (5, 1), groups=c)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.full(x) + self.wide(x) + self.tall(x) + self.chain7(x) + self.chain5(x)


class RepDownsample(nn.Module):
    """RepNeXt with a stride: 3x3, 1x3 then 3x1, an even kernel of dilation 2."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.square = ConvBN(c, 2 * c, 3, 2, groups=c)
        self.chain = nn.Sequential(
            nn.Conv2d(c, c, (1, 3), (1, 2), (0, 1), groups=c, bias=False),
            nn.Conv2d(c, 2 * c, (3, 1), (2, 1), (1, 0), groups=c, bias=False),
            nn.BatchNorm2d(2 * c),
        )
        self.even = ConvBN(c, 2 * c, 2, 2, padding=1, dilation=2, groups=c)

    def forward(self, x: Tensor) -> Tensor:
        return self.square(x) + self.chain(x) + self.even(x)


class ChunkConv(nn.Module):
    """RepNeXt: four parts of the channels, each mixed by a kernel of its own, stacked, batch norm."""

    def __init__(self, c: int = 16, bias: bool = True) -> None:
        super().__init__()
        q = c // 4
        self.small, self.medium = RepNeXtSmall(q), RepUnitM(q)
        self.large = nn.Sequential(
            nn.Conv2d(q, q, (1, 11), padding=(0, 5), groups=q, bias=bias),
            nn.Conv2d(q, q, (11, 1), padding=(5, 0), groups=q),
        )
        self.bn = nn.BatchNorm2d(c)

    def forward(self, x: Tensor) -> Tensor:
        i, s, m, large = torch.chunk(x, 4, dim=1)
        return self.bn(torch.cat((i, self.small(s), self.medium(m), self.large(large)), 1))


@pytest.mark.parametrize("recipe", [None, "replknet"])
@pytest.mark.parametrize("k", [13, 31])
def test_replknet(k: int, recipe: str | None) -> None:
    """With the batch norm in front of the first 1x1, which upstream leaves."""
    collapses(RepLKBlock(k=k), 3, recipe=recipe)


@pytest.mark.parametrize("recipe", [None, "unireplknet"])
def test_dilated_block(recipe: str | None) -> None:
    collapses(DilatedReparamBlock(), 1, recipe=recipe)


@pytest.mark.parametrize("recipe", [None, "unireplknet"])
def test_unireplknet(recipe: str | None) -> None:
    """What is left to tell: the gate depends on the input; the layer scale is a step of the forward, not a module."""
    collapses(UniRepLKNetBlock(), 3, recipe=recipe, refused={"RK304", "RK310"})


@pytest.mark.parametrize("recipe", [None, "repnext"])
def test_repnext_small(recipe: str | None) -> None:
    collapses(RepNeXtSmall(), 1, recipe=recipe)


@pytest.mark.parametrize("recipe", [None, "repnext"])
def test_repnext_medium(recipe: str | None) -> None:
    collapses(RepUnitM(), 1, recipe=recipe)


@pytest.mark.parametrize("recipe", [None, "repnext"])
def test_repnext_downsample(recipe: str | None) -> None:
    collapses(RepDownsample(), 1, recipe=recipe)


def test_bias_inside_a_chain_of_bars_is_refused() -> None:
    """The must-refuse twin; what is beside the chain merges."""
    collapses(RepNeXtSmall(bias=True), 3, refused={"RK316"})


def test_chunks() -> None:
    """The bars with a bias between them stay two; without it all four parts are one depthwise kernel."""
    shapes = ((1, 16, 15, 13), (2, 16, 12, 16))
    collapses(ChunkConv(), 4, *shapes, norms=1, refused={"RK316", "RK321"})
    collapses(ChunkConv(bias=False), 1, *shapes, policy="always")
