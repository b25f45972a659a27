"""Forwards that ask what their children return: each child is looked at once, not once for every question."""

from __future__ import annotations

from unittest import mock

import torch
from torch import Tensor, nn

from reparamkit.trace import forward
from tests.helpers import convert, counts

C = 4


class Chain(nn.Module):
    """The container of a speech library: a layer may return a tensor or a tuple."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
            if isinstance(x, tuple) or isinstance(x, list):  # noqa: SIM101 - two questions
                x = x[0]
        return x


def nested(depth: int) -> nn.Module:
    inner = nn.Sequential(nn.Conv2d(C, C, 1), nn.BatchNorm2d(C)) if depth == 0 else nested(depth - 1)
    return Chain(inner, nn.ReLU(), Chain(nn.Conv2d(C, C, 3), nn.BatchNorm2d(C)), nn.ReLU())


def traces(depth: int) -> int:
    with mock.patch.object(forward, "TwinTracer", wraps=forward.TwinTracer) as made:
        converted, _ = convert(nested(depth), (1, C, 19, 19))
    assert counts(converted) == (depth + 2, 0)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in converted.modules())
    return made.call_count


def test_work_grows_as_the_depth_does() -> None:
    three, six = traces(3), traces(6)
    assert six <= 3 * three
