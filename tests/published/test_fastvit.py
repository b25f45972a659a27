"""FastViT (arXiv 2303.14189) and MobileCLIP (arXiv 2311.17049)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.blocks import ConvBN, RepMixer, SqueezeExcite
from tests.published.assertions import collapses


class RepCPE(nn.Module):
    """Conditional position encoding: a depthwise 7x7 beside the identity, no batch norm."""

    def __init__(self, c: int = 8, k: int = 7) -> None:
        super().__init__()
        self.pe = nn.Conv2d(c, c, k, 1, k // 2, groups=c)

    def forward(self, x: Tensor) -> Tensor:
        return self.pe(x) + x


class ReparamLargeKernelConv(nn.Module):
    """A large and a small kernel with a stride; the activation's result is dropped, or not (MobileCLIP)."""

    def __init__(self, c: int = 8, stride: int = 2, groups: int = 8, se: bool = False, activated: bool = False) -> None:
        super().__init__()
        self.lkb_origin = ConvBN(c, 2 * c, 7, stride, groups=groups)
        self.small_conv = ConvBN(c, 2 * c, 3, stride, groups=groups)
        self.se = SqueezeExcite(2 * c) if se else nn.Identity()
        self.activation, self.activated = nn.GELU(), activated

    def forward(self, x: Tensor) -> Tensor:
        out = self.lkb_origin(x) + self.small_conv(x)
        if self.activated:
            return self.activation(self.se(out))
        self.activation(out)
        return self.se(out)


class ConvFFN(nn.Module):
    """Depthwise 7x7 with a batch norm, then two 1x1 around an activation, behind a layer scale and beside the input."""

    def __init__(self, c: int = 8, wide: int = 24) -> None:
        super().__init__()
        self.conv = nn.Sequential(ConvBN(c, c, 7, groups=c))
        self.fc1, self.act, self.fc2 = nn.Conv2d(c, wide, 1), nn.GELU(), nn.Conv2d(wide, c, 1)
        self.drop, self.layer_scale = nn.Dropout(0.1), nn.Parameter(torch.ones(c, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.drop(self.fc2(self.drop(self.act(self.fc1(self.conv(x))))))
        return x + self.layer_scale * y


@pytest.mark.parametrize("recipe", [None, "fastvit"])
@pytest.mark.parametrize("k", [3, 7])
def test_rep_mixer(k: int, recipe: str | None) -> None:
    collapses(RepMixer(k=k), 1, recipe=recipe)


@pytest.mark.parametrize("recipe", [None, "fastvit"])
def test_position_encoding(recipe: str | None) -> None:
    collapses(RepCPE(), 1, recipe=recipe)


@pytest.mark.parametrize("recipe", [None, "fastvit"])
@pytest.mark.parametrize(
    ("options", "convs"),
    [({}, 1), ({"stride": 1}, 1), ({"groups": 1}, 1), ({"se": True}, 3), ({"activated": True}, 1)],
    ids=str,
)
def test_large_kernel(options: dict[str, Any], convs: int, recipe: str | None) -> None:
    collapses(ReparamLargeKernelConv(**options), convs, recipe=recipe)


@pytest.mark.parametrize("recipe", [None, "fastvit"])
def test_ffn_keeps_the_depthwise_beside_the_pointwise(recipe: str | None) -> None:
    """As one dense 7x7 they would be exact and cost 33 times as much; the layer scale folds."""
    deploy: Any = collapses(ConvFFN(), 3, recipe=recipe)
    assert deploy.fc1.kernel_size == (1, 1)
    assert not hasattr(deploy, "layer_scale")


def test_ffn_as_one_dense_kernel_when_that_is_wanted() -> None:
    collapses(ConvFFN(), 2, policy="always")


class Gated(nn.Module):
    """The must-refuse twin of a layer scale: a factor that depends on the input."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.mixer = ConvBN(c, c, 3, groups=c)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.sigmoid(F.adaptive_avg_pool2d(x, 1)) * self.mixer(x)


def test_gate_stays() -> None:
    collapses(Gated(), 1)
