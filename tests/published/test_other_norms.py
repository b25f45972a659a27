"""Group norms, shared convolutions, products: RIFormer (2304.05659), RTMDet (2212.07784), StarNet (2403.19967)."""

from __future__ import annotations

import pytest
from torch import Tensor, nn
from torch.nn import functional as F

from tests.blocks import ConvBN
from tests.published.assertions import collapses


class RIFormerAffine(nn.Module):
    """RIFormer: a depthwise affine whose own input is subtracted, so that it starts as nothing."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.affine = nn.Conv2d(c, c, 1, groups=c)

    def forward(self, x: Tensor) -> Tensor:
        return self.affine(x) - x


class RIFormerBlock(nn.Module):
    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.norm1, self.token_mixer = nn.GroupNorm(1, c), RIFormerAffine(c)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.token_mixer(self.norm1(x))


class SharedHead(nn.Module):
    """RTMDet: one convolution for all levels, a batch norm for each."""

    def __init__(self, c: int = 8, levels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c, c, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) for _ in range(levels))

    def forward(self, x: Tensor) -> list[Tensor]:
        levels = [x, F.max_pool2d(x, 2), F.max_pool2d(x, 3)]
        return [F.relu(norm(self.conv(level))) for norm, level in zip(self.norms, levels, strict=True)]


class StarBlock(nn.Module):
    """StarNet: two 1x1 multiplied with each other, a 1x1 with its norm, then a padded depthwise kernel."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.dwconv, self.f1, self.f2 = ConvBN(c, c, 7, groups=c, bias=True), nn.Conv2d(c, 24, 1), nn.Conv2d(c, 24, 1)
        self.g, self.dwconv2 = ConvBN(24, c, 1, bias=True), nn.Conv2d(c, c, 7, padding=3, groups=c)

    def forward(self, x: Tensor) -> Tensor:
        y = self.dwconv(x)
        return x + self.dwconv2(self.g(F.relu6(self.f1(y)) * self.f2(y)))


@pytest.mark.parametrize("recipe", [None, "riformer"])
def test_riformer_affine_and_its_input_are_one(recipe: str | None) -> None:
    """Into the group norm it would go too, but that holds no convolution."""
    collapses(RIFormerBlock(), 1, recipe=recipe)


def test_shared_convolution_keeps_its_norms() -> None:
    """Folding one norm into it would change the other levels."""
    collapses(SharedHead(), 1, norms=3, refused={"RK301"})


def test_star_operation_stays() -> None:
    """Products of two values are not linear; the last pair would need the border of its 1x1."""
    collapses(StarBlock(), 5, refused={"RK305", "RK316"})
