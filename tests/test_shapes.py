"""Shapes that a forward asks for between two layers that merge: they stay true, or the layers stay."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import Fn, codes, convert, counts


def channels(z: Tensor, y: Tensor) -> Tensor:
    return z * y.shape[1]


def positions(z: Tensor, y: Tensor) -> Tensor:
    return torch.relu(z) / (y.size(2) * y.size(3))


def numbers(z: Tensor, y: Tensor) -> Tensor:
    return z + y.numel()


def zeros(z: Tensor, y: Tensor) -> Tensor:
    return z + z.new_zeros(y.shape).sum() + len(y.shape)


def asserted(z: Tensor, y: Tensor) -> Tensor:
    torch._assert(y.shape[1] == 6, "six channels")
    return z


def asked(z: Tensor, y: Tensor) -> Tensor:
    return z if y.shape[1] == 6 else z * 2


def other_things(z: Tensor, y: Tensor) -> Tensor:
    return z.to(y.dtype) * y.ndim


ASKS = [channels, positions, numbers, zeros, asked]
PAIRS = {
    "one more": (lambda: nn.Conv2d(4, 6, 3), lambda: nn.Conv2d(6, 8, 1)),
    "the second is larger": (lambda: nn.Conv2d(4, 6, 1), lambda: nn.Conv2d(6, 4, 3)),
    "a stride": (lambda: nn.Conv2d(4, 6, 1), lambda: nn.Conv2d(6, 6, 1, stride=2)),
}


def model(first: nn.Module, second: nn.Module, asks: Any) -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        y = m.first(x)
        return asks(m.second(y), y)  # type: ignore[no-any-return]

    return Fn(run, first=first, second=second)


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("asks", ASKS)
def test_layers_stay_where_a_size_between_them_would_change(asks: Any, pair: Any) -> None:
    converted, report = convert(model(pair[0](), pair[1](), asks), (2, 4, 6, 6), policy="always")
    assert counts(converted) == (2, 0)
    assert codes(report) == {"RK604" if asks is asked else "RK305"}


@pytest.mark.parametrize("asks", [*ASKS, asserted, other_things])
@pytest.mark.parametrize("second", [lambda: nn.Conv2d(6, 6, 1), lambda: nn.BatchNorm2d(6)], ids=["conv", "norm"])
def test_layers_merge_where_the_sizes_stay(second: Any, asks: Any) -> None:
    converted, _ = convert(model(nn.Conv2d(4, 6, 3), second(), asks), (2, 4, 6, 6), policy="always")
    assert counts(converted) == (1, 0)


@pytest.mark.parametrize("asks", [asserted, other_things])
def test_layers_merge_where_nothing_needs_the_size(asks: Any) -> None:
    """A forward that is written anew asserts nothing of a value that is gone."""
    converted, _ = convert(model(nn.Conv2d(4, 6, 3), nn.Conv2d(6, 8, 1), asks), (2, 4, 6, 6), policy="always")
    assert counts(converted) == (1, 0)


class Inner(nn.Module):
    """Takes its input for as many channels as it has itself."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * x.shape[1]


def test_a_child_asks_for_the_shape_of_what_it_is_given() -> None:
    converted, report = convert(nn.Sequential(nn.Conv2d(4, 6, 3), Inner()), (2, 4, 6, 6), policy="always")
    assert counts(converted) == (2, 0)
    assert "RK305" in codes(report)
