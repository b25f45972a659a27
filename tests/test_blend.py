"""Calls that scale and add at once, and products with constant matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers import convert, counts

C = 4
SEQUENCES = ((1, C, 7), (2, C, 8), (3, C, 5))


def pair(kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(C, C, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(C))


class Fn(nn.Module):
    def __init__(self, forward: Callable[[Any, Tensor], Tensor], **children: Any) -> None:
        super().__init__()
        self.a, self.b = pair(3), pair(1)
        self.gain = nn.Parameter(torch.rand(1, C, 1, 1) + 0.5)
        self.share = nn.Parameter(torch.tensor(0.3))
        self.register_buffer("mask", torch.tensor([True, False, True, True]).view(1, C, 1, 1))
        self.register_buffer("plane", torch.rand(1, 1, 7, 7) > 0.5)
        for name, child in children.items():
            setattr(self, name, child)
        self.run = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


@pytest.mark.parametrize(
    "run",
    [
        lambda m, x: torch.lerp(m.a(x), m.b(x), m.share).relu(),
        lambda m, x: m.a(x).lerp(m.b(x), 0.25).relu(),
        lambda m, x: torch.lerp(m.a(x), m.b(x) + x, m.gain).relu(),
        lambda m, x: torch.addcmul(m.b(x), m.a(x), m.gain, value=-0.5).relu(),
        lambda m, x: torch.addcmul(m.b(x), m.gain, m.a(x)).relu(),
        lambda m, x: m.b(x).addcmul_(m.a(x), m.gain).relu(),
        lambda m, x: torch.addcdiv(m.b(x), m.a(x), m.gain, value=2).relu(),
        lambda m, x: torch.where(m.mask, m.a(x), m.b(x)).relu(),
        lambda m, x: m.a(x).where(m.mask, m.b(x)).relu(),
        lambda m, x: (m.a(x).masked_fill(m.mask, 0.25) + m.b(x)).relu(),
        lambda m, x: (torch.where(m.mask, 0.0, m.a(x)) + torch.where(m.mask, m.b(x), 2.0)).relu(),
        lambda m, x: (torch.where(m.mask, m.a(x), m.gain) + m.b(x)).relu(),
    ],
)
def test_branches_become_one(run: Any) -> None:
    converted, _ = convert(Fn(run), (1, C, 7, 7))
    assert counts(converted) == (1, 0)


@pytest.mark.parametrize(
    "run",
    [
        lambda m, x: torch.lerp(m.a(x), m.b(x), x.mean().sigmoid()).relu(),
        lambda m, x: torch.addcmul(m.b(x), m.a(x), x).relu(),
        lambda m, x: torch.addcdiv(m.b(x), m.gain, m.a(x)).relu(),
        lambda m, x: torch.where(m.plane, m.a(x), m.b(x)).relu(),
        lambda m, x: torch.where(x > 0, m.a(x), m.b(x)).relu(),
        lambda m, x: m.a(x).masked_fill(x > 0, 0.0).relu() + m.b(x).relu(),
    ],
)
def test_what_depends_on_the_input_or_the_position_stays(run: Any) -> None:
    converted, _ = convert(Fn(run), (1, C, 7, 7))
    assert counts(converted) == (2, 0)


def test_numbers_that_are_not_finite_are_not_filled_in() -> None:
    converted, _ = convert(Fn(lambda m, x: (m.a(x).masked_fill(m.mask, float("inf")) + m.b(x)).sigmoid()), (1, C, 7, 7))
    assert counts(converted) == (2, 0)


class Product(nn.Module):
    """A matrix times a sequence, or the other way round, between a convolution and a norm."""

    def __init__(self, run: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(C, C, 3, padding=1, bias=False), nn.BatchNorm1d(C)
        self.matrix = nn.Parameter(torch.randn(C, C))
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x).relu()


@pytest.mark.parametrize(
    "run",
    [
        lambda m, x: m.norm(m.matrix @ m.conv(x)),
        lambda m, x: m.norm(torch.matmul(m.matrix, m.conv(x))),
        lambda m, x: m.norm((m.conv(x).transpose(1, 2) @ m.matrix).transpose(1, 2)),
        lambda m, x: m.norm(m.conv(x).transpose(1, 2).matmul(m.matrix.t()).transpose(1, 2)),
    ],
)
def test_products_with_a_matrix_are_layers(run: Any) -> None:
    converted, _ = convert(Product(run), *SEQUENCES)
    assert counts(converted) == (1, 0)
    assert not hasattr(converted, "matrix")


@pytest.mark.parametrize(
    "run",
    [
        lambda m, x: m.norm(m.conv(x) @ (x.transpose(1, 2) @ x)),
        lambda m, x: m.norm(m.matrix.expand(len(x), C, C) @ m.conv(x)),
    ],
)
def test_products_of_values_and_batches_of_matrices_stay(run: Any) -> None:
    converted, _ = convert(Product(run), (2, C, C))
    assert counts(converted)[1] == 1 or hasattr(converted, "matrix")
