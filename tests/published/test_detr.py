"""RT-DETR, D-FINE, DEIMv2, OmDet-Turbo, EfficientLoFTR, TextNet.

arXiv 2304.08069, 2410.13842, 2509.20787, 2403.06892, 2403.04765, 2111.02394.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.blocks import ConvBN, TextNetBlock
from tests.published.assertions import collapses


class VggBlock(nn.Module):
    """RT-DETR: a 3x3 and a 1x1, each with its batch norm."""

    def __init__(self, c: int = 8, identity: bool = False) -> None:
        super().__init__()
        self.conv1, self.conv2, self.activation = ConvBN(c, c, 3), ConvBN(c, c, 1), nn.SiLU()
        self.identity = nn.BatchNorm2d(c) if identity else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(x) + self.conv2(x)
        return self.activation(y if self.identity is None else y + self.identity(x))


class CSPRepLayer(nn.Module):
    """Two 1x1 beside each other, three blocks behind the first, their sum, a 1x1 or nothing."""

    def __init__(self, c: int = 8, wide: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(ConvBN(c, wide, 1), nn.SiLU())
        self.conv2 = nn.Sequential(ConvBN(c, wide, 1), nn.SiLU())
        self.bottlenecks = nn.Sequential(*(VggBlock(wide) for _ in range(3)))
        self.conv3 = nn.Sequential(ConvBN(wide, c, 1), nn.SiLU()) if wide != c else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(self.bottlenecks(self.conv1(x)) + self.conv2(x))


class LwDetrRepVggBlock(nn.Module):
    """Named like a RepVGG block, but two convolutions with an activation between them."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.conv1, self.conv2 = ConvBN(c, c, 3), ConvBN(c, c, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.conv2(F.silu(self.conv1(x))))


class FrozenBatchNorm2d(nn.Module):
    """The DETR family's: buffers only, written out in the forward."""

    def __init__(self, c: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.rand(c, generator=generator) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.reshape(1, -1, 1, 1), self.bias.reshape(1, -1, 1, 1)
        scale = weight * (self.running_var.reshape(1, -1, 1, 1) + 1e-5).rsqrt()
        return x * scale + (bias - self.running_mean.reshape(1, -1, 1, 1) * scale)


class FrozenBlock(nn.Module):
    """A residual block of a frozen backbone."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(c, c, 3, padding=1, bias=False), FrozenBatchNorm2d(c)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)) + x)


@pytest.mark.parametrize("recipe", [None, "rtdetr"])
@pytest.mark.parametrize("wide", [8, 12])
def test_csp_rep_layer(wide: int, recipe: str | None) -> None:
    collapses(CSPRepLayer(wide=wide), 5 if wide == 8 else 6, recipe=recipe)


@pytest.mark.parametrize("recipe", [None, "rtdetr"])
@pytest.mark.parametrize("identity", [False, True], ids=["RT-DETR", "EfficientLoFTR"])
def test_block(identity: bool, recipe: str | None) -> None:
    collapses(VggBlock(identity=identity), 1, recipe=recipe)


@pytest.mark.parametrize("recipe", [None, "rtdetr"])
def test_name_is_not_the_structure(recipe: str | None) -> None:
    """The must-refuse twin: the recipe knows the name, the proof knows better."""
    collapses(LwDetrRepVggBlock(), 2, recipe=recipe)


@pytest.mark.parametrize("recipe", [None, "textnet"])
def test_textnet(recipe: str | None) -> None:
    collapses(TextNetBlock(), 1, recipe=recipe)


def test_frozen_norm_and_input() -> None:
    """The frozen norm folds; the input beside it is one more tap in the middle."""
    collapses(FrozenBlock(), 1)
