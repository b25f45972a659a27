"""ECBSR (Zhang, Zeng and Zhang, ACM MM 2021) and EDBB of EFDN (arXiv 2204.08759): edge-oriented super-resolution."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.published.assertions import collapses

FILTERS = {
    "sobelx": ((1, 0, -1), (2, 0, -2), (1, 0, -1)),
    "sobely": ((1, 2, 1), (0, 0, 0), (-1, -2, -1)),
    "laplacian": ((0, 1, 0), (1, -4, 1), (0, 1, 0)),
}


class SeqConv3x3(nn.Module):
    """1x1 with a bias, a border of that bias written by item assignment, then a 3x3: learned, or a fixed filter.

    Args:
        kind: "conv1x1-conv3x3" or one of `FILTERS`, scaled and shifted for every channel.
        cin: channels in.
        cout: channels out.
        wide: channels between.
    """

    def __init__(self, kind: str, cin: int, cout: int, wide: int = 2) -> None:
        super().__init__()
        self.kind = kind
        first = nn.Conv2d(cin, cout * wide if kind == "conv1x1-conv3x3" else cout, 1)
        self.k0, self.b0 = nn.Parameter(first.weight.detach()), nn.Parameter(first.bias.detach())
        if kind == "conv1x1-conv3x3":
            second = nn.Conv2d(cout * wide, cout, 3)
            self.k1, self.b1 = nn.Parameter(second.weight.detach()), nn.Parameter(second.bias.detach())
            return
        self.scale, self.bias = nn.Parameter(torch.randn(cout, 1, 1, 1)), nn.Parameter(torch.randn(cout))
        taps = torch.tensor(FILTERS[kind], dtype=torch.float32)
        self.mask = nn.Parameter(taps.expand(cout, 1, 3, 3).clone(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.pad(F.conv2d(x, self.k0, self.b0), (1, 1, 1, 1), "constant", 0)
        border = self.b0.view(1, -1, 1, 1)
        y[:, :, 0:1, :] = border
        y[:, :, -1:, :] = border
        y[:, :, :, 0:1] = border
        y[:, :, :, -1:] = border
        if self.kind == "conv1x1-conv3x3":
            return F.conv2d(y, self.k1, self.b1)
        return F.conv2d(y, self.scale * self.mask, self.bias, groups=self.scale.shape[0])


class ECB(nn.Module):
    """Edge-oriented convolution block: 3x3, 1x1-3x3, Sobel in both directions, Laplacian, and the identity."""

    def __init__(self, cin: int = 8, cout: int = 8, identity: bool = False) -> None:
        super().__init__()
        self.identity = identity and cin == cout
        self.conv3x3 = nn.Conv2d(cin, cout, 3, padding=1)
        self.conv1x1_3x3 = SeqConv3x3("conv1x1-conv3x3", cin, cout)
        self.sobelx, self.sobely, self.laplacian = (SeqConv3x3(kind, cin, cout) for kind in FILTERS)
        self.act = nn.PReLU(cout)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv3x3(x) + self.conv1x1_3x3(x)
        y += self.sobelx(x) + self.sobely(x) + self.laplacian(x)
        return self.act(y + x if self.identity else y)


class EDBB(ECB):
    """EFDN's: a 1x1 beside the others."""

    def __init__(self, c: int = 8) -> None:
        super().__init__(c, c, identity=True)
        self.conv1x1 = nn.Conv2d(c, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv3x3(x) + self.conv1x1(x) + self.conv1x1_3x3(x)
        return self.act(y + self.sobelx(x) + self.sobely(x) + self.laplacian(x) + x)


class EdgeFilters(nn.Module):
    """The fixed filters alone, padded with zeros, on what has no bias: what is left of the block without its border."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.conv3x3, self.reduce = nn.Conv2d(c, c, 3, padding=1), nn.Conv2d(c, c, 1, bias=False)
        self.channels = c
        for kind, taps in FILTERS.items():
            self.register_buffer(kind, torch.tensor(taps, dtype=torch.float32).expand(c, 1, 3, 3).clone())
        self.scale = nn.Parameter(torch.ones(len(FILTERS), c, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y, total = self.reduce(x), self.conv3x3(x)
        for scale, kind in zip(self.scale, FILTERS, strict=True):
            total = total + F.conv2d(y, scale * getattr(self, kind), padding=1, groups=self.channels)
        return total


class Squared(EdgeFilters):
    """The must-refuse twin: the magnitude of the gradient is not linear."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.reduce(x)
        edges = F.conv2d(y, self.scale[0] * self.sobelx, padding=1, groups=self.channels)
        return self.conv3x3(x) + edges * edges


@pytest.mark.parametrize("recipe", [None, "ecbsr"])
@pytest.mark.parametrize("build", [lambda: ECB(), lambda: ECB(identity=True), lambda: ECB(8, 12), lambda: EDBB()])
def test_block(build: Any, recipe: str | None) -> None:
    collapses(build(), 1, recipe=recipe)


def test_fixed_filters() -> None:
    collapses(EdgeFilters(), 1)


def test_edges_that_are_squared_stay() -> None:
    """Their filter, put together in the forward, becomes a stored one."""
    collapses(Squared(), 3)
