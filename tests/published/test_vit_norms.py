"""Batch norms of vision transformers and hybrids, around linear layers, pools and layout changes.

LeViT (arXiv 2104.01136), EfficientViT-M (2305.07027), TinyViT (2207.10666), SHViT (2401.16456), NextViT (2207.05501),
iFormer (2501.15369), EfficientViM (2411.15241), Visformer (2104.12533), InceptionNeXt (2303.16900).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.blocks import ConvBN
from tests.helpers import inputs
from tests.published.assertions import collapses

TOKENS = ((2, 6, 8), (1, 9, 8))


class LinearNorm(nn.Sequential):
    """LeViT: linear, then batch norm over all tokens of all images at once."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.add_module("linear", nn.Linear(a, b, bias=False))
        self.add_module("bn", nn.BatchNorm1d(b))

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        return self.bn(x.flatten(0, 1)).reshape_as(x)


class LeViTMlp(nn.Module):
    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.ln1, self.act, self.ln2 = LinearNorm(c, 2 * c), nn.Hardswish(), LinearNorm(2 * c, c)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.ln2(self.act(self.ln1(x)))


class Distilled(nn.Module):
    """Two batch norms with linear layers on pooled tokens, averaged."""

    def __init__(self, c: int = 8, classes: int = 5) -> None:
        super().__init__()
        self.head, self.head_dist = (nn.Sequential(nn.BatchNorm1d(c), nn.Linear(c, classes)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = x.mean(1)
        return (self.head(x) + self.head_dist(x)) / 2


class NextViTAttention(nn.Module):
    """Queries from all tokens; keys and values from pooled and normalised ones."""

    def __init__(self, c: int = 8, ratio: int = 4) -> None:
        super().__init__()
        self.q, self.k, self.v, self.proj = (nn.Linear(c, c) for _ in range(4))
        self.sr, self.norm = nn.AvgPool1d(ratio, ratio), nn.BatchNorm1d(c)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.sr(x.transpose(1, 2))).transpose(1, 2)
        attention = (self.q(x) @ self.k(y).transpose(1, 2)).softmax(-1)
        return self.proj(attention @ self.v(y))


class NextViTPatchEmbed(nn.Module):
    """Average pooling, then a 1x1 and its batch norm."""

    def __init__(self, cin: int = 8, cout: int = 12) -> None:
        super().__init__()
        self.avgpool, self.conv, self.norm = nn.AvgPool2d(2, 2, ceil_mode=False), nn.Conv2d(cin, cout, 1), None
        self.norm = nn.BatchNorm2d(cout)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(self.avgpool(x)))


class NormBeforePointwise(nn.Module):
    """NextViT's and Visformer's MLP: batch norm, 1x1, activation, 1x1."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.norm, self.act = nn.BatchNorm2d(c), nn.ReLU()
        self.conv1, self.conv2 = nn.Conv2d(c, 16, 1), nn.Conv2d(16, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.act(self.conv1(self.norm(x))))


class NormBeforeKernel(nn.Module):
    """XCiT's local patch interaction and others: the norm stands before a padded kernel."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.bn, self.conv = nn.BatchNorm2d(c), nn.Conv2d(c, c, 3, padding=1, groups=c)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.bn(x))


class GatedResidual(nn.Module):
    """EfficientViM: ``x + sigmoid(alpha) (conv(x) - x)``."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.conv, self.alpha = ConvBN(c, c, 3, groups=c), nn.Parameter(1e-4 * torch.ones(c, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.sigmoid(self.alpha) * (self.conv(x) - x)


class IFormerCPE(nn.Module):
    """iFormer: a depthwise kernel with its norm beside the input."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.cpe = ConvBN(c, c, 3, groups=c)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.cpe(x)


class SHSA(nn.Module):
    """SHViT: part of the channels attends to itself, all are projected; its norms are group norms."""

    def __init__(self, c: int = 8, part: int = 4) -> None:
        super().__init__()
        self.pre_norm, self.qkv = nn.GroupNorm(1, part), ConvBN(part, 3 * part, 1)
        self.proj, self.part = nn.Sequential(nn.SiLU(), ConvBN(c, c, 1)), part

    def forward(self, x: Tensor) -> Tensor:
        x1, x2 = torch.split(x, [self.part, x.shape[1] - self.part], dim=1)
        q, k, v = self.qkv(self.pre_norm(x1)).flatten(2).chunk(3, 1)
        attention = (q.transpose(1, 2) @ k).softmax(-1)
        return self.proj(torch.cat([(v @ attention.transpose(1, 2)).unflatten(2, x.shape[2:]), x2], 1))


class InceptionNeXtMixer(nn.Module):
    """Split channels: identity, square, two bars, stacked, batch norm, 1x1."""

    def __init__(self, c: int = 16) -> None:
        super().__init__()
        g = c // 4
        self.dwconv_hw = nn.Conv2d(g, g, 3, padding=1, groups=g)
        self.dwconv_w = nn.Conv2d(g, g, (1, 11), padding=(0, 5), groups=g)
        self.dwconv_h = nn.Conv2d(g, g, (11, 1), padding=(5, 0), groups=g)
        self.split, self.norm, self.fc1 = (c - 3 * g, g, g, g), nn.BatchNorm2d(c), nn.Conv2d(c, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        i, hw, w, h = torch.split(x, self.split, dim=1)
        y = torch.cat((i, self.dwconv_hw(hw), self.dwconv_w(w), self.dwconv_h(h)), dim=1)
        return self.fc1(self.norm(y))


@pytest.mark.parametrize("recipe", [None, "levit"])
def test_levit(recipe: str | None) -> None:
    """Alone it needs to be told that its input are tokens; in LeViT the convolutions in front say so."""
    collapses(LeViTMlp(), 2, *TOKENS, recipe=recipe, example_inputs=inputs(TOKENS[0]))


@pytest.mark.parametrize("recipe", [None, "levit"])
def test_distilled_heads(recipe: str | None) -> None:
    collapses(Distilled(), 1, *TOKENS, recipe=recipe, example_inputs=inputs(TOKENS[0]))


@pytest.mark.parametrize("recipe", [None, "nextvit"])
def test_norm_behind_a_pool_goes_into_keys_and_values(recipe: str | None) -> None:
    """One norm into two linear layers, both of which read nothing else."""
    shapes = ((2, 8, 8), (1, 12, 8))
    collapses(NextViTAttention(), 4, *shapes, recipe=recipe)


@pytest.mark.parametrize("recipe", [None, "nextvit"])
def test_pool_before_pointwise(recipe: str | None) -> None:
    """The pool stays: as one 2x2 of stride 2 it would be four times the products."""
    collapses(NextViTPatchEmbed(), 1, recipe=recipe)


@pytest.mark.parametrize("recipe", [None, "nextvit"])
def test_norm_before_pointwise(recipe: str | None) -> None:
    collapses(NormBeforePointwise(), 2, recipe=recipe)


def test_norm_before_a_padded_kernel_is_refused() -> None:
    """The must-refuse twin: its shift is not on the padding."""
    collapses(NormBeforeKernel(), 1, norms=1, refused={"RK316"})


@pytest.mark.parametrize("recipe", [None, "efficientvim"])
def test_gated_residual(recipe: str | None) -> None:
    collapses(GatedResidual(), 1, recipe=recipe)


@pytest.mark.parametrize("recipe", [None, "iformer"])
def test_position_encoding(recipe: str | None) -> None:
    collapses(IFormerCPE(), 1, recipe=recipe)


@pytest.mark.parametrize("recipe", [None, "shvit"])
def test_single_head_attention(recipe: str | None) -> None:
    collapses(SHSA(), 2, recipe=recipe)


def test_inception_mixer() -> None:
    """The norm goes into the 1x1; the parts stay because one kernel for all would cost more."""
    deploy: Any = collapses(InceptionNeXtMixer(), 4, (1, 16, 13, 12), (2, 16, 12, 15))
    assert deploy.fc1.kernel_size == (1, 1)


def test_norm_of_a_stack_goes_into_the_pointwise_behind_it() -> None:
    """Whatever was stacked."""

    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = ConvBN(8, 8, 3), ConvBN(8, 8, 1)
            self.norm, self.fc = nn.BatchNorm2d(16), nn.Conv2d(16, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.norm(torch.cat([F.relu(self.a(x)), F.gelu(self.b(x))], 1)))

    collapses(Stack(), 3)
