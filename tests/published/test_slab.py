"""SLAB (arXiv 2405.11582): batch norm with a learned skip replaces layer norm while training."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import inputs
from tests.published.assertions import collapses

TOKENS = ((2, 6, 8), (1, 9, 8))


class RepBN(nn.Module):
    """``bn(x) + alpha x`` over the channels of tokens ``[N, L, C]``."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.alpha, self.bn = nn.Parameter(torch.ones(1)), nn.BatchNorm1d(c)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        x = self.bn(x) + self.alpha * x
        return x.transpose(1, 2)


class LinearNorm(nn.Module):
    """``lam ln(x) + (1 - lam) repbn(x)`` whose weight goes from one to the other; in eval mode the second alone."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.register_buffer("iter", torch.tensor(0))
        self.register_buffer("total_step", torch.tensor(100))
        self.norm1, self.norm2 = nn.LayerNorm(c), RepBN(c)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            lam = self.iter / self.total_step
            return lam * self.norm1(x) + (1 - lam) * self.norm2(x)
        return self.norm2(x)


class Mlp(nn.Module):
    """The norm in front of a linear layer, as Swin has it."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.norm, self.fc1, self.act, self.fc2 = LinearNorm(c), nn.Linear(c, 16), nn.GELU(), nn.Linear(16, c)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(self.act(self.fc1(self.norm(x))))


class Head(nn.Module):
    """The same norm on pooled tokens ``[N, C]``, in front of the classifier."""

    def __init__(self, c: int = 8, classes: int = 5) -> None:
        super().__init__()
        self.alpha, self.bn, self.head = nn.Parameter(torch.ones(1)), nn.BatchNorm1d(c), nn.Linear(c, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.bn(x) + self.alpha * x)


@pytest.mark.parametrize("recipe", [None, "slab"])
def test_norm_of_pooled_tokens_goes_into_the_classifier(recipe: str | None) -> None:
    collapses(Head(), 1, (3, 8), recipe=recipe, example_inputs=inputs((3, 8)))


@pytest.mark.parametrize("recipe", [None, "slab"])
def test_norm_goes_into_the_linear_layer_behind_it(recipe: str | None) -> None:
    collapses(Mlp(), 2, *TOKENS, recipe=recipe, example_inputs=inputs(TOKENS[0]))


def test_the_norm_alone_stays() -> None:
    """It is one affine map, but there is no convolution or linear layer to go into."""
    collapses(RepBN(), 0, *TOKENS, norms=1, refused={"RK321"}, example_inputs=inputs(TOKENS[0]))


def test_layer_norm_is_not_affine() -> None:
    """The must-refuse twin: before the end of its schedule the layer norm is still there."""
    block = Mlp()
    block.norm = nn.LayerNorm(8)
    collapses(block, 2, *TOKENS)
