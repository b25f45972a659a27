"""Transposed convolutions beside each other: kernels of any size, where they give equally many outputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from reparamkit.errors import Refusal
from reparamkit.operators import ConvTranspose
from reparamkit.operators.conv_transpose import conv_transpose
from reparamkit.rules.branch_sum import add_transposed
from reparamkit.rules.transposed_padding import align
from tests.helpers import codes, convert, counts


def pair(*args: Any, **kwargs: Any) -> nn.Sequential:
    return nn.Sequential(nn.ConvTranspose2d(4, 4, *args, bias=False, **kwargs), nn.BatchNorm2d(4))


class Up(nn.Module):
    def __init__(self, a: nn.Module, b: nn.Module) -> None:
        super().__init__()
        self.a, self.b = a, b

    def forward(self, x: Tensor) -> Tensor:
        return (self.a(x) + self.b(x)).relu()


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (pair(4, 2, 1), pair(2, 2)),
        (pair(4, 2, 1), pair(6, 2, 2)),
        (pair(3, 2, 1, output_padding=1), pair(2, 2)),
        (pair(3, 1, 1), pair(1)),
        (pair(3, 1, 2, dilation=2), pair(1)),
        (pair((4, 2), 2, (1, 0)), pair((2, 4), 2, (0, 1))),
        (pair(4, 2, 1, groups=2), pair(2, 2, groups=2)),
    ],
)
def test_one_is_left(a: nn.Module, b: nn.Module) -> None:
    converted, report = convert(Up(a, b), policy="always")
    assert counts(converted) == (1, 0)
    assert report.merged[0].after.startswith("ConvTranspose2d(4, 4, ")


@pytest.mark.parametrize(
    ("a", "b", "code"),
    [
        (pair(3, 1, 2, dilation=2), pair(3, 1, 1), "RK314"),
        (pair(4, 2, 1), pair(2, 2, groups=2), "RK315"),
    ],
)
def test_what_does_not_line_up_is_refused(a: nn.Module, b: nn.Module, code: str) -> None:
    converted, report = convert(Up(a, b), policy="always")
    assert counts(converted) == (2, 0)
    assert code in codes(report)


def _operator(draw: Any, stride: int) -> ConvTranspose:
    taps, dilation, padding = draw(st.integers(1, 5)), draw(st.integers(1, 3)), draw(st.integers(0, 4))
    extra = draw(st.integers(0, max(stride, dilation) - 1))
    weight = torch.randn(2, 3, taps, dtype=torch.float64, generator=torch.Generator().manual_seed(taps))
    return conv_transpose(
        weight, None, 1, stride=(stride,), padding=(padding,), output_padding=(extra,), dilation=(dilation,)
    )


@given(st.data())
@settings(max_examples=300, deadline=None, derandomize=True)
def test_the_sum_is_exact_or_refused(data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, 4))
    a, b = (data.draw(st.composite(lambda draw: _operator(draw, stride))()) for _ in range(2))
    x = torch.randn(1, 2, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    made = align(a, b)
    try:
        wanted = a.apply(x) + b.apply(x)
    except RuntimeError:  # there is no output, or the outputs differ
        return
    if isinstance(made, Refusal):
        assert made.code in ("RK314", "RK317")
        return
    one, other = made
    assert isinstance(one, ConvTranspose)
    assert isinstance(other, ConvTranspose)
    total = add_transposed(one, other)
    assert isinstance(total, ConvTranspose)
    assert torch.allclose(total.apply(x), wanted, rtol=0, atol=1e-12)
