"""Small layers and blocks that the tests of hazards are made of."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

C = 4


def seq(*modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(*modules)


def same(kernel: int = 3, **options: Any) -> nn.Conv2d:
    """A convolution that keeps the size."""
    return nn.Conv2d(C, C, kernel, padding=kernel // 2, **options)


def bn(**options: Any) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(C, **options)


class Block(nn.Module):
    """RepVGG's block: 3x3, 1x1 and identity, each with batch norm, then an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.dense, self.point, self.identity = seq(same(bias=False), bn()), seq(same(1, bias=False), bn()), bn()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.dense(x) + self.point(x) + self.identity(x))
