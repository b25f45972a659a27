"""Norms and scales across rearranged axes where the layer on the other side is more than a module: a sum, a function.

The forward around the layer is written anew, the rearrangement stays in it, and a second conversion finds nothing.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import reparamkit
from tests.helpers import Fn, convert, counts
from tests.test_averaging import OwnLinear

IMAGES = ((2, 4, 5, 6), (1, 4, 4, 4))
C = 4


class Net(nn.Module):
    """An activation, a norm, a rearrangement, and a head that is not one module."""

    def __init__(self, between: Any, head: Any, **children: nn.Module) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(C, C, 3), nn.BatchNorm2d(C)
        self.one, self.two = nn.Linear(C, 3), nn.Linear(C, 3)
        self.own, self.between, self.head = OwnLinear(C, 3), between, head
        for name, child in children.items():
            setattr(self, name, child)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self, self.between(self.norm(torch.relu(self.stem(x)))))  # type: ignore[no-any-return]


def mean(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


HEADS: dict[str, Any] = {
    "two averaged": lambda m, x: (m.one(x) + m.two(x)) / 2,
    "own forward": lambda m, x: m.own(x),
    "function": lambda m, x: F.linear(x, m.one.weight, m.one.bias),
}


@pytest.mark.parametrize("between", [mean, tokens])
@pytest.mark.parametrize("head", HEADS)
def test_norm_in_front(between: Any, head: str) -> None:
    model = Net(between, HEADS[head])
    others = {"two averaged": 2, "own forward": 3, "function": 3}[head]
    converted, report = convert(model, *IMAGES)
    assert counts(converted) == (1 + others, 0)
    assert [m.path for m in report.merged] == ["own" if head == "own forward" else "reparam"]
    assert reparamkit.plan(converted).edits == []


@pytest.mark.parametrize("head", HEADS)
def test_norm_that_is_read_in_between_stays(head: str) -> None:
    model = Net(mean, HEADS[head])
    model.between = lambda x: (x.mean((2, 3)), x)
    model.head = lambda m, pair: (HEADS[head](m, pair[0]), pair[1])
    converted, _ = convert(model, *IMAGES)
    assert any(isinstance(m, nn.BatchNorm2d) for m in converted.modules())


def test_norm_behind_a_sum_of_layers() -> None:
    model = Fn(
        lambda m, x: m.norm((m.one(x) + m.two(x)).flatten(0, 1)).view(2, -1, 3),
        one=nn.Linear(C, 3), two=nn.Linear(C, 3), norm=nn.BatchNorm1d(3),
    )  # fmt: skip
    converted, _ = convert(model, (2, 5, C), (2, 3, C), example_inputs=torch.randn(2, 5, C, dtype=torch.float64))
    assert counts(converted) == (1, 0)


def test_a_sum_of_layers_crosses_into_a_kernel_that_nobody_else_calls() -> None:
    """A convolution that is called twice keeps its numbers."""
    model = Fn(
        lambda m, x: m.one(tokens(m.conv(x))) + m.two(tokens(m.conv(x))),
        conv=nn.Conv2d(C, C, 1), one=nn.Linear(C, 3), two=nn.Linear(C, 3),
    )  # fmt: skip
    once = Fn(
        lambda m, x: (lambda t: m.one(t) + m.two(t))(tokens(m.conv(x))),
        conv=nn.Conv2d(C, C, 1), one=nn.Linear(C, 3), two=nn.Linear(C, 3),
    )  # fmt: skip
    assert counts(convert(model, *IMAGES)[0]) == (3, 0)
    assert counts(convert(once, *IMAGES)[0]) == (1, 0)


@pytest.mark.parametrize("flat", [nn.Flatten(), nn.Flatten(1, 2)])
def test_one_number_for_all_channels_crosses_any_flatten(flat: nn.Module) -> None:
    """Whatever axes it makes the channels of, here of a size the layer behind it fixes."""
    width = C * 3 * 2 if flat.end_dim == -1 else 2  # type: ignore[union-attr]
    affine = Fn(lambda m, x: m.scale * x + m.shift)
    affine.scale, affine.shift = nn.Parameter(torch.ones(1)), nn.Parameter(torch.zeros(1))
    model = nn.Sequential(nn.Conv2d(C, C, 1), nn.ReLU(), affine, flat, nn.Linear(width, 3))
    converted, report = convert(model, (2, C, 3, 2))
    assert [m.path for m in report.merged] == ["4"]
    assert not list(converted[2].parameters())  # type: ignore[index]
    assert reparamkit.plan(converted).edits == []
