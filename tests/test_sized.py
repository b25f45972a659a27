"""Sizes of the input among numbers of parameters: such forwards are traced, and still compute the same."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reparamkit.trace.forward import trace
from tests.helpers import codes, conv_bn, convert, counts


class Positioned(nn.Module):
    """A convolution and its norm, then `add` with a table of positions."""

    def __init__(self, add: Any) -> None:
        super().__init__()
        self.conv, self.bn = conv_bn(4, 6, 3, padding=1)
        self.table, self.scale, self.add = nn.Parameter(torch.ones(1, 6, 12, 12)), nn.Parameter(torch.ones(6)), add

    def forward(self, x: Tensor) -> Any:
        return self.add(self, self.bn(self.conv(x)))


READ: dict[str, Any] = {
    "slice of a parameter": lambda m, y: y + m.table[:, :, : y.size(2), : y.size(3)],
    "slice of what is computed": lambda m, y: y + torch.exp(m.table)[..., : y.shape[2], : y.shape[3]],
    "expanded": lambda m, y: y * m.scale.view(1, -1, 1, 1).expand(y.size(0), -1, y.size(2), y.size(3)),
    "zeros of a parameter": lambda m, y: torch.cat([y, m.scale.new_zeros(y.size(0), 2, y.size(2), y.size(3))], 1),
    "ones": lambda m, y: y * torch.ones(y.size(2), y.size(3), dtype=y.dtype).triu(),
    "root of a size": lambda m, y: y / math.sqrt(y.size(1)),
    "tensor of a size": lambda m, y: y * torch.tensor(y.size(1), dtype=y.dtype),
    "is a parameter": lambda m, y: y + m.table[:, :, : y.size(2), : y.size(3)] if _is_parameter(m.table) else y,
}


def _is_parameter(table: Any) -> bool:
    return isinstance(table, nn.Parameter) and table.requires_grad


@pytest.mark.parametrize("how", READ)
def test_a_norm_in_front_of_it_folds(how: str) -> None:
    deploy, report = convert(Positioned(READ[how]), (1, 4, 7, 7), (2, 4, 8, 5))
    assert counts(deploy) == (1, 0)
    assert "RK604" not in codes(report)


def test_a_loop_over_a_size_is_not_followed() -> None:
    """The must-refuse twin: how often it goes round is not known."""
    block = Positioned(lambda m, y: torch.stack([m.bn(y[i : i + 1]) for i in range(y.size(0))]))
    _, report = convert(block, (1, 4, 7, 7))
    assert "RK604" in codes(report)


def test_a_type_error_of_the_forward_itself_is_told_as_it_is() -> None:
    block = Positioned(lambda m, y: y + len(m.conv.padding[0]))
    assert "no len()" in str(trace(block.eval(), frozenset()))
