"""RepGhost (arXiv 2211.06088) and GhostNetV3 (arXiv 2404.11202)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.blocks import ConvBN, RepGhostModule
from tests.published.assertions import collapses


class Shortcut(nn.Sequential):
    """RepGhost's shortcut: depthwise, pointwise, each with its batch norm, nothing nonlinear between."""

    def __init__(self, cin: int = 8, cout: int = 12, stride: int = 2) -> None:
        super().__init__(*ConvBN(cin, cin, 3, stride, groups=cin), *ConvBN(cin, cout, 1))


class GhostModuleV3(nn.Module):
    """Several equal pointwise branches, an activation, several depthwise ones, a 1x1 and a batch norm; stacked."""

    def __init__(self, cin: int = 8, cout: int = 16, branches: int = 3) -> None:
        super().__init__()
        half = cout // 2
        self.primary_rpr_skip = nn.BatchNorm2d(cin) if cin == half else None
        self.primary_rpr_conv = nn.ModuleList(ConvBN(cin, half, 1) for _ in range(branches))
        self.primary_activation, self.cheap_activation = nn.ReLU(inplace=True), nn.ReLU(inplace=True)
        self.cheap_rpr_skip = nn.BatchNorm2d(half)
        self.cheap_rpr_conv = nn.ModuleList(ConvBN(half, half, 3, groups=half) for _ in range(branches))
        self.cheap_rpr_scale = ConvBN(half, half, 1, groups=half)

    def forward(self, x: Tensor) -> Tensor:
        x1: Any = 0 if self.primary_rpr_skip is None else self.primary_rpr_skip(x)
        for branch in self.primary_rpr_conv:
            x1 += branch(x)
        x1 = self.primary_activation(x1)
        x2 = self.cheap_rpr_scale(x1) + self.cheap_rpr_skip(x1)
        for branch in self.cheap_rpr_conv:
            x2 += branch(x1)
        return torch.cat([x1, self.cheap_activation(x2)], dim=1)


class GhostBottleneckV3(nn.Module):
    """Two ghost modules around a strided depthwise convolution of several branches, and a linear shortcut."""

    def __init__(self, c: int = 8, stride: int = 2) -> None:
        super().__init__()
        self.ghost1, self.ghost2 = GhostModuleV3(c, 2 * c), GhostModuleV3(2 * c, c)
        self.dw_rpr_conv = nn.ModuleList(ConvBN(2 * c, 2 * c, 3, stride, groups=2 * c) for _ in range(3))
        self.dw_rpr_scale = ConvBN(2 * c, 2 * c, 1, stride, groups=2 * c)
        self.shortcut = Shortcut(c, c, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.ghost1(x)
        out = self.dw_rpr_scale(y)
        for branch in self.dw_rpr_conv:
            out += branch(y)
        return self.ghost2(out) + self.shortcut(x)


class WithoutActivation(nn.Module):
    """RepGhost's last module of a block has no activation: primary, cheap and identity are one linear map."""

    def __init__(self, cin: int = 8, c: int = 8) -> None:
        super().__init__()
        self.primary_conv, self.fusion_bn = ConvBN(cin, c, 1), nn.Sequential(nn.BatchNorm2d(c))
        self.cheap_operation = ConvBN(c, c, 3, groups=c)

    def forward(self, x: Tensor) -> Tensor:
        x1 = self.primary_conv(x)
        return self.cheap_operation(x1) + self.fusion_bn(x1)


@pytest.mark.parametrize("recipe", [None, "repghost"])
def test_repghost(recipe: str | None) -> None:
    collapses(RepGhostModule(), 2, recipe=recipe)


@pytest.mark.parametrize("recipe", [None, "repghost"])
def test_shortcut_keeps_its_pair_because_one_dense_kernel_would_cost_more(recipe: str | None) -> None:
    """Its 1x1 and that of the module behind it are one."""
    collapses(nn.Sequential(Shortcut(), RepGhostModule(12, 12)), 3, recipe=recipe)


def test_module_without_activation_has_a_border() -> None:
    """The 1x1 gives its shift where the depthwise kernel pads with zeros."""
    collapses(WithoutActivation(), 2, refused={"RK316"})


@pytest.mark.parametrize("recipe", [None, "ghostnetv3"])
@pytest.mark.parametrize("cin", [8, 6])
def test_ghost_module(cin: int, recipe: str | None) -> None:
    shapes = [(n, cin, h, w) for n, _, h, w in ((1, 8, 7, 7), (2, 8, 14, 9))]
    collapses(GhostModuleV3(cin), 2, *shapes, recipe=recipe)


@pytest.mark.parametrize("recipe", [None, "ghostnetv3"])
def test_ghost_bottleneck(recipe: str | None) -> None:
    collapses(GhostBottleneckV3(), 7, recipe=recipe)


def test_identity_beside_an_activated_branch_stays() -> None:
    """The must-refuse twin: the branch that is added went through an activation."""

    class Activated(RepGhostModule):
        def forward(self, x: Tensor) -> Tensor:
            x1 = self.primary_conv(x)
            return F.relu(self.cheap_operation(x1)) + self.fusion_bn(x1)

    collapses(Activated(), 2, norms=1, refused={"RK321"})
