"""MobileOne and MobileCLIP's text mixer (arXiv 2206.04040, 2311.17049)."""

from __future__ import annotations

import pytest
from torch import Tensor, nn

from tests.blocks import ConvBN, MobileOneBlock, SqueezeExcite
from tests.published.assertions import collapses


class SqueezedMobileOneBlock(nn.Module):
    """With squeeze-and-excitation, and a sum that starts at the number 0."""

    def __init__(self, c: int = 8, branches: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.rbr_skip = nn.BatchNorm2d(c) if stride == 1 else None
        self.rbr_conv = nn.ModuleList(ConvBN(c, c, 3, stride, groups=c) for _ in range(branches))
        self.rbr_scale = ConvBN(c, c, 1, stride, groups=c)
        self.se, self.activation = SqueezeExcite(c), nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        out = 0 if self.rbr_skip is None else self.rbr_skip(x)
        out = self.rbr_scale(x) + out
        for index in range(len(self.rbr_conv)):
            out += self.rbr_conv[index](x)
        return self.activation(self.se(out))


class TextRepMixer(nn.Module):
    """MobileCLIP mixes tokens with kernels of 1 x k."""

    def __init__(self, c: int = 8, k: int = 11) -> None:
        super().__init__()
        self.norm, self.mixer_skip = nn.BatchNorm2d(c), nn.BatchNorm2d(c)
        self.mixer = ConvBN(c, c, (1, k), groups=c)
        self.mixer_scale = ConvBN(c, c, (1, 1), groups=c)
        self.layer_scale = nn.Parameter(Tensor(c, 1, 1).fill_(1e-5))

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.mixer(x) + self.mixer_scale(x) + self.mixer_skip(x)
        return x + self.layer_scale * (mixed - self.norm(x))


@pytest.mark.parametrize("recipe", [None, "mobileone"])
@pytest.mark.parametrize(
    "options",
    [{}, {"k": 1, "groups": 1}, {"branches": 1}, {"branches": 0}, {"groups": 4}],
    ids=["depthwise", "pointwise", "one branch", "no kernel branch", "grouped"],
)
def test_mobileone(options: dict[str, int], recipe: str | None) -> None:
    collapses(MobileOneBlock(**options), 1, recipe=recipe)


@pytest.mark.parametrize("recipe", [None, "mobileone"])
@pytest.mark.parametrize("stride", [1, 2])
def test_two_more_convolutions_belong_to_squeeze_and_excitation(stride: int, recipe: str | None) -> None:
    collapses(SqueezedMobileOneBlock(stride=stride), 3, recipe=recipe)


def test_pair_of_depthwise_and_pointwise_stays_two() -> None:
    """Between them stands an activation."""
    pair = nn.Sequential(MobileOneBlock(), MobileOneBlock(k=1, groups=1))
    collapses(pair, 2)


@pytest.mark.parametrize("recipe", [None, "fastvit"])
def test_text_mixer(recipe: str | None) -> None:
    collapses(TextRepMixer(), 1, (2, 8, 1, 17), (1, 8, 3, 12), recipe=recipe)


def test_skip_of_another_width_is_refused() -> None:
    """The must-refuse twin: a skip of one channel broadcasts, so it is no branch of the sum."""
    block = nn.Sequential(MobileOneBlock(c=8, k=3, branches=2))
    block[0].rbr_conv[1] = nn.Sequential(nn.Conv2d(8, 1, 3, padding=1), nn.BatchNorm2d(1))
    collapses(block, 2, refused={"RK311"})
