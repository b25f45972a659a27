"""Attributes and weights that were given to a convolution after it was built, as code that dilates a backbone does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tests.helpers import convert, counts

C = 4


def dilated(conv: Any) -> None:
    conv.dilation, conv.padding, conv.stride = (2, 2), (2, 2), (1, 1)


def numbers(conv: Any) -> None:
    """Torch takes plain numbers as well, though its constructor makes tuples of them."""
    conv.stride, conv.padding = 2, 0


def same(conv: Any) -> None:
    conv.padding, conv.dilation = "same", (2, 1)


def unread(conv: Any) -> None:
    """A padding mode other than zeros pads with what it was built for."""
    conv.padding_mode, conv.padding = "reflect", (2, 2)


def wider(conv: Any) -> None:
    conv.weight = nn.Parameter(torch.randn(C + 2, C, 5, 1, generator=torch.Generator().manual_seed(0)))
    conv.bias = None


@pytest.mark.parametrize("change", [dilated, numbers, same, unread, wider])
def test_convolution_computes_what_its_attributes_say_now(change: Callable[[Any], None]) -> None:
    conv = nn.Conv2d(C, C, 3, padding=1)
    change(conv)
    converted, _ = convert(nn.Sequential(conv, nn.BatchNorm2d(len(conv.weight))))
    assert counts(converted) == (1, 0)


def test_merged_layer_is_not_mistaken_for_the_changed_one() -> None:
    """It has the geometry that the changed one was built with, and computes something else."""
    conv = nn.Conv2d(C, C, 3, padding=1)
    conv.padding = (0, 0)
    converted, _ = convert(nn.Sequential(nn.ZeroPad2d(1), conv, nn.BatchNorm2d(C)))
    assert counts(converted) == (1, 0)
    assert not any(isinstance(module, nn.ZeroPad2d) for module in converted.modules())


def test_transposed_convolution_with_plain_numbers() -> None:
    conv = nn.ConvTranspose2d(C, C, 3, padding=1)
    conv.stride, conv.padding, conv.output_padding = 2, (0, 0), 1
    converted, _ = convert(nn.Sequential(conv, nn.BatchNorm2d(C)))
    assert counts(converted) == (1, 0)
