"""VanillaNet (arXiv 2305.12972) and RMNet (arXiv 2111.00687)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.blocks import ConvBN
from tests.helpers import gap, inputs, randomize
from tests.published.assertions import collapses


class SeriesActivation(nn.ReLU):
    """VanillaNet: the activation summed over neighbours, a depthwise convolution behind a ReLU."""

    def __init__(self, c: int, n: int = 3) -> None:
        super().__init__()
        self.weight, self.n, self.dim = nn.Parameter(torch.empty(c, 1, 2 * n + 1, 2 * n + 1)), n, c
        self.bn = nn.BatchNorm2d(c)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(F.conv2d(super().forward(x), self.weight, padding=self.n, groups=self.dim))


class VanillaBlock(nn.Module):
    """1x1, leaky activation whose slope goes to 1 while training, 1x1, pool, activation.

    Args:
        c: channels.
        act_learn: the slope; at the end of the schedule it is 1.
        stride: of the pool.
    """

    def __init__(self, c: int = 8, act_learn: float = 1.0, stride: int = 2) -> None:
        super().__init__()
        self.conv1, self.conv2, self.act_learn = ConvBN(c, c, 1, bias=True), ConvBN(c, c, 1, bias=True), act_learn
        self.pool = nn.Identity() if stride == 1 else nn.MaxPool2d(stride)
        self.act = SeriesActivation(c)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x = F.leaky_relu(x, self.act_learn)
        return self.act(self.pool(self.conv2(x)))


class VanillaStem(nn.Module):
    """A 4x4 of stride 4, the same leaky activation, a 1x1."""

    def __init__(self, c: int = 8, act_learn: float = 1.0) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, c, 4, 4), nn.BatchNorm2d(c))
        self.stem2, self.act_learn = ConvBN(c, c, 1, bias=True), act_learn

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.stem2(F.leaky_relu(self.stem(x), self.act_learn)))


class Gated(nn.Module):
    """A gate of modules instead of a function: `nn.LeakyReLU` or `nn.PReLU` with a slope of one."""

    def __init__(self, gate: nn.Module) -> None:
        super().__init__()
        self.first, self.gate, self.last = nn.Conv2d(8, 8, 1), gate, nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.gate(self.first(x)))


def unit_prelu(c: int = 1) -> nn.Module:
    gate = nn.PReLU(c)
    torch.nn.init.ones_(gate.weight)
    return gate


class ResBlock(nn.Module):
    """RMNet starts from ResNet's: the residual stands around an activation."""

    def __init__(self, c: int = 8) -> None:
        super().__init__()
        self.conv1, self.conv2 = ConvBN(c, c, 3), ConvBN(c, c, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.conv2(F.relu(self.conv1(x))))


@pytest.mark.parametrize("recipe", [None, "vanillanet"])
@pytest.mark.parametrize("stride", [1, 2])
def test_at_the_end_of_its_schedule(stride: int, recipe: str | None) -> None:
    """One 1x1, and the activation's depthwise kernel with its batch norm."""
    deploy: Any = collapses(VanillaBlock(stride=stride), 2, recipe=recipe)
    assert deploy(torch.zeros(1, 8, 6, 6, dtype=torch.float64)).shape == (1, 8, 6 // stride, 6 // stride)


@pytest.mark.parametrize("recipe", [None, "vanillanet"])
def test_stem(recipe: str | None) -> None:
    collapses(VanillaStem(), 1, (1, 3, 12, 8), (2, 3, 16, 16), recipe=recipe)


@pytest.mark.parametrize("recipe", [None, "vanillanet"])
@pytest.mark.parametrize("act_learn", [0.0, 0.5, 0.999])
def test_before_the_end_of_its_schedule_both_stay(act_learn: float, recipe: str | None) -> None:
    """Upstream merges them whatever the slope is."""
    block = VanillaBlock(act_learn=act_learn, stride=1)
    if act_learn < 0.9:
        randomize(block).double()
        upstream = nn.Sequential(block.conv1, block.conv2, block.act)
        x = inputs((1, 8, 7, 7))
        with torch.no_grad():
            assert gap(block(x), upstream(x)) > 1e-3
    collapses(block, 3, recipe=recipe)


@pytest.mark.parametrize("gate", [lambda: nn.LeakyReLU(1.0), lambda: nn.PReLU(8), lambda: nn.PReLU()], ids=str)
def test_gate_is_judged_by_its_value(gate: Any) -> None:
    from tests.helpers import convert_as_is, counts

    for one, convs in ((True, 1), (False, 2)):
        made = gate()
        if isinstance(made, nn.PReLU):
            nn.init.constant_(made.weight, 1.0 if one else 0.99)
        elif not one:
            made = nn.LeakyReLU(0.99)
        deploy, _ = convert_as_is(Gated(made).double().eval(), (1, 8, 7, 7))
        assert counts(deploy)[0] == convs


def test_rmnet_residual_stays_without_its_plugin() -> None:
    """It needs inputs that are not negative, which a block alone cannot promise."""
    collapses(ResBlock(), 2)
