"""Forwards that need an argument though it has a default, as pytorchcv writes blocks of two inputs."""

from __future__ import annotations

import pytest
from torch import Tensor, nn
from torch.nn import functional as F

import reparamkit
from tests.helpers import IMAGES, convert, counts, inputs

C = 4


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.other = nn.Conv2d(C, C, 3, padding=1), nn.BatchNorm2d(C), nn.Conv2d(C, C, 1)


class Raising(Two):
    def forward(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        if y is None:
            raise ValueError("both are needed")
        return self.norm(self.conv(x)) + self.other(y), y


class Computing(Two):
    """Fails in torch's own code where nothing is given."""

    def forward(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        return self.norm(self.conv(x)) + self.other(F.avg_pool2d(y, 1)), y


class Host(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([kind(), kind()])

    def forward(self, x: Tensor) -> Tensor:
        y = x.relu()
        for block in self.blocks:
            x, y = block(x, y)
        return x


@pytest.mark.parametrize("kind", [Raising, Computing])
def test_block_is_traced_as_it_is_called(kind: type[nn.Module]) -> None:
    converted, report = convert(Host(kind))
    assert counts(converted) == (4, 0)
    assert not report.untraceable


class Either(Two):
    """Both ways compute something, and the plain one cannot be traced."""

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        if y is None:
            return self.norm(F.relu(self.conv(x))) if float(x.mean()) > 0 else x
        return self.norm(self.conv(x)) + self.other(y)


def test_way_that_cannot_be_traced_stays_as_it_was() -> None:
    model = Either()
    converted, report = convert(model, *IMAGES)
    assert counts(converted) == (2, 1)
    assert report.untraceable or report.refused
    x = inputs(IMAGES[0])
    assert reparamkit.verify(model, converted, {"x": x, "y": x.relu()}).error < 1e-12
