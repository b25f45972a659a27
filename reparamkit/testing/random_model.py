"""Random models of parallel branches, for properties that must hold whatever the structure."""

from __future__ import annotations

import random

import torch
from torch import Tensor, nn

from reparamkit.testing.numbers import randomize


class RandomBlock(nn.Module):
    """A sum of branches and what comes after it.

    Args:
        branches: modules that keep the shape.
        after: applied to their sum.
    """

    def __init__(self, branches: list[nn.Module], after: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.after = after

    def forward(self, x: Tensor) -> Tensor:
        """`x` of shape ``[batch, channels, height, width]``; the same shape comes out."""
        made = torch.stack([branch(x) for branch in self.branches]).sum(0)
        out: Tensor = self.after(made)
        return out


def random_model(seed: int, *, channels: int = 4, blocks: int = 3) -> nn.Sequential:
    """A float64 model of random blocks with random weights, in eval mode.

    Args:
        seed: the same seed gives the same model; torch's own random state is not touched.
        channels: of its input and output; a multiple of two.
        blocks: how many.

    Returns:
        A model of inputs ``[batch, channels, height, width]``, at least 7 positions an axis.
    """
    draw = random.Random(seed)
    with torch.random.fork_rng(devices=[]):
        made = [
            RandomBlock(
                [_branch(draw, channels) for _ in range(draw.randint(1, 4))],
                draw.choice([nn.ReLU(), nn.Identity(), nn.BatchNorm2d(channels), nn.Hardswish()]),
            )
            for _ in range(blocks)
        ]
    return randomize(nn.Sequential(*made), seed).double()


def _branch(draw: random.Random, channels: int) -> nn.Module:
    kind = draw.choice(["conv", "conv", "conv", "bottleneck", "pool", "norm", "identity"])
    if kind == "identity":
        return nn.Identity()
    if kind == "norm":
        return nn.BatchNorm2d(channels)
    if kind == "pool":
        return nn.Sequential(nn.Conv2d(channels, channels, 1, bias=draw.random() < 0.5), nn.AvgPool2d(3, 1, 1))
    if kind == "bottleneck":
        wide = nn.Conv2d(channels, 2 * channels, 1, bias=False)
        return nn.Sequential(wide, _conv(draw, 2 * channels, channels), *_norm(draw, channels))
    return nn.Sequential(_conv(draw, channels, channels), *_norm(draw, channels))


def _conv(draw: random.Random, inputs: int, outputs: int) -> nn.Conv2d:
    tall, wide = draw.choice([1, 3, 5]), draw.choice([1, 3, 5])
    dilation = draw.choice([1, 1, 2])
    return nn.Conv2d(
        inputs,
        outputs,
        (tall, wide),
        padding=(dilation * (tall // 2), dilation * (wide // 2)),
        dilation=dilation,
        groups=draw.choice([1, 1, 2]),
        bias=draw.random() < 0.5,
        padding_mode="reflect" if draw.random() < 0.2 else "zeros",
    )


def _norm(draw: random.Random, channels: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels, affine=draw.random() < 0.8)] if draw.random() < 0.7 else []
