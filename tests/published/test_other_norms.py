"""Group norms, shared convolutions, products: RIFormer (2304.05659), RTMDet (2212.07784), StarNet (2403.19967)."""

from __future__ import annotations

from typing import Any

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


UNSHARED = "rtmdet"


def test_shared_convolution_becomes_one_a_level_where_the_recipe_asks_for_it() -> None:
    deploy: Any = collapses(SharedHead(), 3, recipe=UNSHARED)
    assert not hasattr(deploy, "conv")


class ConvModule(nn.Module):
    def __init__(self, conv: nn.Module, c: int = 8) -> None:
        super().__init__()
        self.conv, self.bn = conv, nn.BatchNorm2d(c)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class SharedByName(nn.Module):
    """MMYOLO's: the modules of all levels hold the same convolution, each with its own batch norm."""

    def __init__(self, c: int = 8, levels: int = 3) -> None:
        super().__init__()
        conv = nn.Conv2d(c, c, 3, padding=1, bias=False)
        self.convs = nn.ModuleList(ConvModule(conv) for _ in range(levels))

    def forward(self, x: Tensor) -> list[Tensor]:
        return [conv(F.max_pool2d(x, k)) for k, conv in enumerate(self.convs, 1)]


def test_convolution_shared_by_name() -> None:
    block = SharedByName()
    collapses(block, 1, norms=3, refused={"RK301"})
    deploy: Any = collapses(block, 3, recipe=UNSHARED)
    assert len({id(conv.conv) for conv in deploy.convs}) == 3
    assert block.convs[0].conv is block.convs[2].conv


def test_glob_does_not_switch_on_what_is_opt_in() -> None:
    every = {"version": 1, "name": "every", "blocks": [{"match": {"structure": "any"}, "rules": ["core/*"]}]}
    collapses(SharedHead(), 1, norms=3, refused={"RK301"}, recipe=every)


def test_block_that_does_not_name_the_rule_keeps_its_sharing() -> None:
    """Another block of the recipe does."""
    named = {"match": {"structure": "any"}, "rules": ["core/*", "unshare"]}
    recipe = {"version": 1, "name": "two", "blocks": [{"match": {"class": "SharedHead"}}, named]}
    collapses(nn.Sequential(SharedHead()), 1, norms=3, refused={"RK801"}, recipe=recipe)


def test_hooked_module_keeps_its_sharing() -> None:
    block = SharedHead()
    block.conv.register_forward_hook(lambda module, args, out: None)
    collapses(block, 1, norms=3, refused={"RK301"}, recipe=UNSHARED)


def test_star_operation_stays() -> None:
    """Products of two values are not linear; the last pair would need the border of its 1x1."""
    collapses(StarBlock(), 5, refused={"RK305", "RK316"})
