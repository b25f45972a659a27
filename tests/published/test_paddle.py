"""PP-YOLOE+ (arXiv 2203.16250), PP-LCNetV2 and PP-LCNetV3 (PaddleOCR)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reparamkit.offset import Offset
from tests.blocks import ConvBN, LearnableAffine
from tests.published.assertions import collapses


class PPYOLOERepVGGBlock(nn.Module):
    """The 1x1 branch has a weight; the forward asks whether it is there by its truth value."""

    def __init__(self, c: int = 8, alpha: bool = True, identity: bool = False) -> None:
        super().__init__()
        self.conv1, self.conv2, self.act = ConvBN(c, c, 3), ConvBN(c, c, 1), nn.SiLU()
        self.alpha = nn.Parameter(torch.ones(1)) if alpha else None
        self.bn = nn.BatchNorm2d(c) if identity else None

    def forward(self, x: Tensor) -> Tensor:
        if self.alpha:
            y = self.conv1(x) + self.alpha * self.conv2(x)
        else:
            y = self.conv1(x) + self.conv2(x)
        return self.act(y if self.bn is None else y + self.bn(x))


class RepDepthwise(nn.Module):
    """PP-LCNetV2: depthwise kernels of 5, 3 and 1 beside each other, with a stride too."""

    def __init__(self, c: int = 8, stride: int = 1) -> None:
        super().__init__()
        self.convs = nn.ModuleList(ConvBN(c, c, k, stride, groups=c) for k in (5, 3, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(sum(conv(x) for conv in self.convs))


class LearnableRepLayer(nn.Module):
    """PP-LCNetV3: equal branches, a learned affine on their sum and another behind the activation.

    Args:
        c: channels.
        k: taps.
        stride: of every branch; a tuple for text lines.
        norm_only: whether the identity branch is there.
    """

    def __init__(self, c: int = 8, k: int = 3, stride: Any = 1, norm_only: bool = True) -> None:
        super().__init__()
        self.identity = nn.BatchNorm2d(c) if norm_only else None
        self.conv_1x1 = ConvBN(c, c, 1, stride, groups=c) if k > 1 else None
        self.conv_kxk = nn.ModuleList(ConvBN(c, c, k, stride, groups=c) for _ in range(4))
        self.lab, self.act, self.act_lab = LearnableAffine(0.8, 0.3), nn.Hardswish(), LearnableAffine(1.2, -0.4)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        out: Any = 0
        if self.identity is not None:
            out += self.identity(x)
        if self.conv_1x1 is not None:
            out += self.conv_1x1(x)
        for conv in self.conv_kxk:
            out += conv(x)
        out = self.lab(out)
        return out if self.stride == 2 else self.act_lab(self.act(out))


class TwoLayers(nn.Module):
    """A depthwise layer, then a pointwise one: the affine behind the activation stands before a 1x1."""

    def __init__(self, k: int = 1) -> None:
        super().__init__()
        self.dw, self.pw = LearnableRepLayer(), LearnableRepLayer(k=k)

    def forward(self, x: Tensor) -> Tensor:
        return self.pw(self.dw(x))


@pytest.mark.parametrize("recipe", [None, "ppyoloe"])
@pytest.mark.parametrize("alpha", [True, False])
@pytest.mark.parametrize("identity", [True, False])
def test_ppyoloe(alpha: bool, identity: bool, recipe: str | None) -> None:
    collapses(PPYOLOERepVGGBlock(alpha=alpha, identity=identity), 1, recipe=recipe)


@pytest.mark.parametrize("recipe", [None, "pplcnet"])
@pytest.mark.parametrize("stride", [1, 2])
def test_pplcnet_v2(stride: int, recipe: str | None) -> None:
    """A 1x1 with a stride folds into the kernel beside it, whatever upstream's comment says."""
    collapses(RepDepthwise(stride=stride), 1, recipe=recipe)


@pytest.mark.parametrize("recipe", [None, "pplcnet"])
@pytest.mark.parametrize(
    "options",
    [{}, {"k": 1}, {"stride": 2, "norm_only": False}, {"stride": (2, 1), "norm_only": False}],
    ids=str,
)
def test_pplcnet_v3(options: dict[str, Any], recipe: str | None) -> None:
    """The affine on the sum goes; that behind the activation stays, run or not."""
    deploy: Any = collapses(LearnableRepLayer(**options), 1, recipe=recipe)
    assert not hasattr(deploy, "lab")
    assert len(list(deploy.act_lab.parameters())) == 2


@pytest.mark.parametrize("recipe", [None, "pplcnet"])
def test_affine_behind_the_activation_goes_into_a_pointwise_layer(recipe: str | None) -> None:
    deploy = collapses(TwoLayers(), 2, recipe=recipe)
    assert sum(isinstance(m, LearnableAffine) and bool(list(m.parameters())) for m in deploy.modules()) == 1


@pytest.mark.parametrize("recipe", [None, "pplcnet"])
def test_of_the_affine_behind_the_activation_the_shift_stays_before_a_padded_layer(recipe: str | None) -> None:
    """The must-refuse twin: its shift is not added to the padding of the next kernel."""
    deploy = collapses(TwoLayers(k=3), 2, recipe=recipe)
    numbers = [len(list(m.parameters())) for m in deploy.modules() if isinstance(m, LearnableAffine)]
    assert sorted(numbers)[-2:] == [1, 2]
    assert sum(isinstance(m, Offset) for m in deploy.modules()) == 1
