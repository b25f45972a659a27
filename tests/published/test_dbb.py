"""Diverse branch block (arXiv 2103.13425) and DyRep (arXiv 2203.12868)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.blocks import ConvBN
from tests.blocks import DiverseBranchBlock as TracedBlock
from tests.published.assertions import collapses


class BNAndPadLayer(nn.Module):
    """Batch norm, then a border of what the batch norm makes of zero, written by item assignment."""

    def __init__(self, pad: int, c: int) -> None:
        super().__init__()
        self.bn, self.pad_pixels = nn.BatchNorm2d(c), pad

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn(x)
        if self.pad_pixels > 0:
            bn = self.bn
            value = bn.bias.detach() - bn.running_mean * bn.weight.detach() / torch.sqrt(bn.running_var + bn.eps)
            out = F.pad(out, [self.pad_pixels] * 4)
            value = value.view(1, -1, 1, 1)
            out[:, :, 0 : self.pad_pixels, :] = value
            out[:, :, -self.pad_pixels :, :] = value
            out[:, :, :, 0 : self.pad_pixels] = value
            out[:, :, :, -self.pad_pixels :] = value
        return out


class IdentityBasedConv1x1(nn.Conv2d):
    """A 1x1 whose kernel is stored as the distance from the identity."""

    def __init__(self, c: int, groups: int = 1) -> None:
        super().__init__(c, c, 1, groups=groups, bias=False)
        eye = torch.zeros(c, c // groups, 1, 1)
        for channel in range(c):
            eye[channel, channel % (c // groups)] = 1
        self.register_buffer("id_tensor", eye)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight + self.id_tensor, None, 1, 0, 1, self.groups)


class DiverseBranchBlock(nn.Module):
    """As published: kxk, 1x1, 1x1 then kxk, 1x1 then average pooling."""

    def __init__(self, c: int = 8, k: int = 3, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        p = k // 2
        self.dbb_origin = ConvBN(c, c, k, stride, groups=groups)
        self.dbb_avg = nn.Sequential()
        if groups < c:
            self.dbb_avg.add_module("conv", nn.Conv2d(c, c, 1, groups=groups, bias=False))
            self.dbb_avg.add_module("bn", BNAndPadLayer(p, c))
            self.dbb_avg.add_module("avg", nn.AvgPool2d(k, stride, 0))
            self.dbb_1x1 = ConvBN(c, c, 1, stride, groups=groups)
        else:
            self.dbb_avg.add_module("avg", nn.AvgPool2d(k, stride, p))
        self.dbb_avg.add_module("avgbn", nn.BatchNorm2d(c))
        first: nn.Module = IdentityBasedConv1x1(c, groups)
        wide = c if groups < c else 2 * c
        if groups == c:
            first = nn.Conv2d(c, wide, 1, groups=groups, bias=False)
        last = nn.Conv2d(wide, c, k, stride, 0, groups=groups, bias=False)
        self.dbb_1x1_kxk = nn.Sequential(first, BNAndPadLayer(p, wide), last, nn.BatchNorm2d(c))

    def forward(self, x: Tensor) -> Tensor:
        out = self.dbb_origin(x)
        if hasattr(self, "dbb_1x1"):
            out += self.dbb_1x1(x)
        out += self.dbb_avg(x)
        out += self.dbb_1x1_kxk(x)
        return F.relu(out)


class CatPad(nn.Module):
    """DyRep's border: strips of the value, joined to the four sides."""

    def __init__(self, c: int, pad: int = 1) -> None:
        super().__init__()
        self.bn, self.pad = nn.BatchNorm2d(c), pad

    def forward(self, x: Tensor) -> Tensor:
        out, bn, p = self.bn(x), self.bn, self.pad
        value = (bn.bias - bn.running_mean * bn.weight / torch.sqrt(bn.running_var + bn.eps)).view(1, -1, 1, 1)
        side = value.expand(out.size(0), -1, p, out.size(3))
        out = torch.cat((side, out, side), dim=2)
        side = value.expand(out.size(0), -1, out.size(2), p)
        return torch.cat((side, out, side), dim=3)


class DyRepBlock(nn.Module):
    """Seven branches: kxk, 1x1, 1x1-kxk, 1x1-avg, 1xk, kx1, identity."""

    def __init__(self, c: int = 8, bordered: bool = True) -> None:
        super().__init__()
        border: Any = CatPad if bordered else (lambda c: nn.ZeroPad2d(1))
        self.branches = nn.ModuleList(
            [
                ConvBN(c, c, 3),
                ConvBN(c, c, 1),
                ConvBN(c, c, (1, 3)),
                ConvBN(c, c, (3, 1)),
                nn.BatchNorm2d(c),
                nn.Sequential(nn.Conv2d(c, c, 1, bias=False), border(c), ConvBN(c, c, 3, padding=0)),
                nn.Sequential(nn.Conv2d(c, c, 1, bias=False), border(c), nn.AvgPool2d(3, 1), nn.BatchNorm2d(c)),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([branch(x) for branch in self.branches]).sum(0)


class DyRepWithZeros(DyRepBlock):
    """No batch norm in front of the inner padding."""

    def __init__(self, c: int = 8) -> None:
        super().__init__(c, bordered=False)


@pytest.mark.parametrize("recipe", [None, "dbb"])
@pytest.mark.parametrize(
    "options", [{}, {"stride": 2}, {"groups": 4}, {"groups": 8}, {"k": 5}, {"groups": 2, "stride": 2}], ids=str
)
def test_dbb(options: dict[str, int], recipe: str | None) -> None:
    collapses(DiverseBranchBlock(**options), 1, recipe=recipe)


@pytest.mark.parametrize("recipe", [None, "dyrep"])
def test_dyrep(recipe: str | None) -> None:
    collapses(DyRepBlock(), 1, recipe=recipe)


@pytest.mark.parametrize("recipe", [None, "dyrep"])
def test_dyrep_before_it_learned_a_border(recipe: str | None) -> None:
    """No batch norm before the padding: zeros are right."""
    collapses(DyRepWithZeros(), 1, recipe=recipe)


class PadConstant(nn.Module):
    """A border of a constant given as a number, before an unpadded kernel."""

    def __init__(self, value: float, c: int = 8) -> None:
        super().__init__()
        self.first, self.last, self.value = nn.Conv2d(c, c, 1), ConvBN(c, c, 3, padding=0), value

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.pad(self.first(x), (1, 1, 1, 1), value=self.value))


@pytest.mark.parametrize("recipe", [None, "dbb"])
def test_without_inner_norms_zeros_are_right(recipe: str | None) -> None:
    collapses(TracedBlock(), 1, recipe=recipe)


def test_zeros_behind_an_inner_norm_are_refused() -> None:
    """The must-refuse twin: everything beside the two branches merges."""
    collapses(TracedBlock(border="zeros"), 4, norms=1, refused={"RK316"})


def test_joined_border() -> None:
    collapses(TracedBlock(border="bias"), 1)


def test_zeros_behind_a_bias_are_refused() -> None:
    """The must-refuse twin: the border is zero where the first one gives its bias."""
    collapses(PadConstant(0.0), 2, refused={"RK316"})
