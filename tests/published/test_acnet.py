"""ACNet (arXiv 1908.03930)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.blocks import ACBlock, ConvBN
from tests.published.assertions import collapses


class GroupedACBlock(nn.Module):
    """With a stride, groups, dilation and any padding mode: kernels beside each other, bars padded on one axis."""

    def __init__(self, c: int = 8, k: int = 3, **options: Any) -> None:
        super().__init__()
        d = options.get("dilation", 1)
        p = d * (k // 2)
        self.square_conv = nn.Conv2d(c, c, k, padding=p, bias=False, **options)
        self.ver_conv = nn.Conv2d(c, c, (k, 1), padding=(p, 0), bias=False, **options)
        self.hor_conv = nn.Conv2d(c, c, (1, k), padding=(0, p), bias=False, **options)
        self.square_bn, self.ver_bn, self.hor_bn = (nn.BatchNorm2d(c) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        square = self.square_bn(self.square_conv(x))
        return square + self.ver_bn(self.ver_conv(x)) + self.hor_bn(self.hor_conv(x))


class UnaffineACBlock(GroupedACBlock):
    """Batch norms without gamma and beta, on which upstream's converter stops."""

    def __init__(self) -> None:
        super().__init__()
        self.square_bn, self.ver_bn, self.hor_bn = (nn.BatchNorm2d(8, affine=False) for _ in range(3))


@pytest.mark.parametrize("recipe", [None, "acnet"])
@pytest.mark.parametrize(("k", "padding"), [(3, 1), (5, 2), (3, 0), (5, 1), (3, 2)])
def test_any_padding(k: int, padding: int, recipe: str | None) -> None:
    """Less padding than the square kernel needs crops the input of the bars."""
    collapses(ACBlock(k=k, padding=padding), 1, recipe=recipe)


@pytest.mark.parametrize(
    "options",
    [
        {"stride": 2},
        {"groups": 4},
        {"groups": 8},
        {"dilation": 2},
        {"padding_mode": "reflect"},
        {"padding_mode": "replicate"},
        {"padding_mode": "circular"},
    ],
    ids=str,
)
def test_geometry(options: dict[str, Any]) -> None:
    collapses(GroupedACBlock(**options), 1)


def test_norms_without_gamma_and_beta() -> None:
    collapses(UnaffineACBlock(), 1)


def test_bars_that_pad_differently_are_refused() -> None:
    """The must-refuse twin."""
    block = GroupedACBlock()
    block.hor_conv = nn.Conv2d(8, 8, (1, 3), padding=(0, 1), bias=False, padding_mode="circular")
    collapses(block, 2, refused={"RK312"})


def test_block_used_for_its_bars_only() -> None:
    """Without the square kernel the two bars still make one: a cross in a 3x3."""

    class Cross(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ver, self.hor = ConvBN(8, 8, (3, 1), groups=8), ConvBN(8, 8, (1, 3), groups=8)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.ver(x) + self.hor(x))

    collapses(Cross(), 2, refused={"RK340"})
    collapses(Cross(), 1, policy="always")
