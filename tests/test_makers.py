"""How many parts a value has, and how many sizes a shape, where the layers in front of it tell."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reparamkit.trace.forward import trace
from reparamkit.trace.traced import Forked, Traced
from tests.helpers import Fn, codes, conv_bn, convert, counts

C = 4


def pair(into: int = C) -> nn.Sequential:
    return nn.Sequential(*conv_bn(C, into, 3, padding=1))


def radix(m: Any, x: Tensor) -> Tensor:
    """ResNeSt's split attention, as far as it is linear."""
    y = m.stem(x)
    _, channels = y.shape[:2]
    return sum(torch.split(y, int(channels // 2), dim=1))  # type: ignore[return-value]


ONE_WAY: dict[str, Any] = {
    "rest of a shape": lambda m, x: (lambda y: y.view(y.shape[0], -1, *y.shape[2:]))(m.stem(x)),
    "front and rest": lambda m, x: (lambda y: y.reshape(*y.shape[:2], *y.shape[2:]))(m.stem(x)),
    "whole size": lambda m, x: (lambda y: y.reshape(*y.size()))(m.stem(x)),
    "behind an activation": lambda m, x: (lambda y: y.reshape(y.size(0), C, *y.shape[2:]))(m.stem(x).relu()),
    "zeros as shortcut A": lambda m, x: (
        lambda y: torch.cat([y, torch.zeros(y.size(0), 8 - y.size(1), *y.shape[2:], dtype=y.dtype)], 1)
    )(m.stem(x)),
    "rest by name": lambda m, x: (lambda y: _named(y))(m.stem(x)),
    "split by a part of the channels": radix,
    "chunks": lambda m, x: sum(m.stem(x).chunk(2, 1)),
    "chunks of a concatenation": lambda m, x: sum(torch.cat([m.stem[0](x), m.stem[1](x)], 1).chunk(2, 1)),
}
MORE_WAYS: dict[str, Any] = {
    "chunks of the input": lambda m, x: sum(x.chunk(2, 1)),
    "chunks of positions": lambda m, x: sum(m.stem(x).chunk(2, 2)),
    "rest of the shape of the input": lambda m, x: m.stem(x.view(x.shape[0], -1, *x.shape[2:])),
}
NO_WAY: dict[str, Any] = {
    "split by a size of the positions": lambda m, x: sum(torch.split(m.stem(x), x.shape[2] // 2, dim=2)),
    "parts of a child that is no layer": lambda m, x: sum(m.odd(x).chunk(2, 1)[: x.shape[0]]),
}


def _named(y: Tensor) -> Tensor:
    batch, *rest = y.shape
    return y.reshape(batch, *rest)


def network(run: Any, stem: nn.Module | None = None) -> nn.Module:
    return Fn(run, stem=stem or pair(), odd=Fn(lambda m, x: x)).eval()


@pytest.mark.parametrize("what", ONE_WAY)
def test_the_forward_goes_one_way(what: str) -> None:
    model = network(ONE_WAY[what])
    assert isinstance(trace(model, frozenset()), Traced)
    deploy, report = convert(model, (1, C, 5, 8), (2, C, 6, 3))
    assert counts(deploy) == (1, 0), report
    assert "RK604" not in codes(report)


@pytest.mark.parametrize("what", MORE_WAYS)
def test_where_nothing_tells_every_number_is_tried(what: str) -> None:
    assert isinstance(trace(network(MORE_WAYS[what]), frozenset()), Forked)


@pytest.mark.parametrize("what", NO_WAY)
def test_where_the_number_is_open_there_is_no_trace(what: str) -> None:
    assert "RK604" in str(trace(network(NO_WAY[what]), frozenset()))


def test_what_a_hook_may_change_is_not_relied_on() -> None:
    """The must-refuse twin: a hook may return something of other channels."""
    model = network(ONE_WAY["chunks"])
    model.get_submodule("stem").register_forward_hook(lambda m, a, y: y)
    assert isinstance(trace(model, frozenset()), Forked)


def test_blocks_of_other_widths_have_traces_of_their_own() -> None:
    """Three channels in two parts, then one: the trace of the first block is not that of the second."""
    blocks = nn.Sequential(Summed(4), Summed(1))
    deploy, _ = convert(blocks, (1, C, 5, 8))
    assert counts(deploy)[1] == 0


class Summed(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem, self.out = pair(width), nn.Conv2d((width + 1) // 2, C, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(sum(self.stem(x).chunk(2, 1)).relu())  # type: ignore[union-attr]
