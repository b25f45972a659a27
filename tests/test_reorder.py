"""Sums of branches that stand apart: what merges is added first, and only then does the order change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import reparamkit
from tests.helpers import Fn, conv_bn, convert, counts


def _model(run: Any) -> Fn:
    """Convolutions `a`, `c`, a norm `n`, and `b`, which is no operator of the input alone."""
    (a, n), c = conv_bn(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1)
    return Fn(run, a=a, n=n, c=c, b=nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()))


def _in_place(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    y += m.b(x)
    y += m.c(x)
    y -= m.n(x)
    return y


def _method(m: Any, x: Tensor) -> Tensor:
    return m.a(x).add_(m.b(x)).add(m.c(x)).sub(m.n(x))  # type: ignore[no-any-return]


MERGED: dict[str, Any] = {
    "far apart": lambda m, x: m.a(x) + m.b(x) + m.c(x) + m.n(x),
    "scaled norm last": lambda m, x: m.c(x) + m.b(x) + m.a(x) + 0.5 * m.n(x),
    "to the right": lambda m, x: m.a(x) + (m.b(x) + (m.c(x) + m.n(x))),
    "subtracted": lambda m, x: m.b(x) - m.a(x) - m.c(x) - m.n(x),
    "subtracted from": lambda m, x: m.b(x) - (m.a(x) + m.b(x).sigmoid() - (m.c(x) - m.n(x))),
    "list": lambda m, x: sum([m.a(x), m.b(x), m.c(x), m.n(x)]),
    "the input itself": lambda m, x: m.a(x) + m.b(x) + m.c(x) + m.n(x) + x,
    "in place": _in_place,
    "methods": _method,
}


@pytest.mark.parametrize("run", MERGED.values(), ids=MERGED.keys())
def test_branches_that_stand_apart_are_one(run: Any) -> None:
    converted, _ = convert(_model(run))
    assert counts(converted) == (2, 0)
    assert reparamkit.apply(converted, return_report=True)[1].merged == ()


def test_two_sources_are_two_groups() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        y = x.relu()
        return m.a(x) + m.c(y) + m.b(x) + m.n(x) + m.d(y)  # type: ignore[no-any-return]

    model = _model(run)
    model.d = nn.Conv2d(4, 4, 1)
    assert counts(convert(model)[0]) == (3, 0)


class Inner(nn.Module):
    """A block in a block: its own forward is written anew."""

    def __init__(self) -> None:
        super().__init__()
        self.f = nn.ModuleList(nn.Conv2d(4, 4, k, padding=k // 2) for k in (1, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.f[0](x) + x.relu() + self.f[1](x)  # type: ignore[no-any-return]


def test_blocks_that_are_alike() -> None:
    converted, report = convert(nn.Sequential(Inner(), nn.ReLU(), Inner()))
    assert counts(converted) == (2, 0)
    assert [m.kind for m in report.merged] == ["rewrite", "rewrite"]


def _read_between(m: Any, x: Tensor) -> Tensor:
    y = m.a(x) + m.b(x)
    return torch.cat([y, y + m.c(x)], 1)


def _changed_input(m: Any, x: Tensor) -> Tensor:
    x = x.relu()
    z = x
    z += m.b(x)
    z += x
    return z + m.a(x)  # type: ignore[no-any-return]


def _read_twice(m: Any, x: Tensor) -> Tensor:
    a = m.a(x)
    return (a + m.b(x) + m.c(x)) * a  # type: ignore[no-any-return]


STAYS: dict[str, Any] = {
    "the sum so far is read": _read_between,
    "a branch is read again": _read_twice,
    "the source is changed in between": _changed_input,
    "no two of one source": lambda m, x: m.a(x) + m.b(x) + m.c(x.relu()),
}


@pytest.mark.parametrize("run", STAYS.values(), ids=STAYS.keys())
def test_what_does_not_merge_stays_in_order(run: Any) -> None:
    converted, report = convert(_model(run))
    assert not [merge for merge in report.merged if merge.kind == "rewrite"]
    assert type(converted) is Fn


def test_what_would_be_dearer_stays_in_order() -> None:
    """A depthwise branch is not made dense to take a pointwise one in, nor is the sum's order changed for it."""
    wide, a = nn.Conv2d(4, 4, 7, padding=3, groups=4), nn.Conv2d(4, 4, 1)
    model = Fn(lambda m, x: m.wide(x) + x.relu() + m.a(x), wide=wide, a=a)
    converted, report = convert(model)
    assert report.merged == ()
    assert counts(converted) == (2, 0)
    assert counts(convert(model, policy="always")[0]) == (1, 0)
