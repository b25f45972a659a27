"""Hazards of sums in all their spellings, and of hooks that observe everything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.hazards.models import same
from tests.hazards.row import hazard
from tests.helpers import Fn, convert, counts, places

Run = Callable[[Any, Tensor], Any]
MERGED: dict[str, Run] = {
    "alpha": lambda m, x: torch.add(m.a(x), m.b(x), alpha=2.5),
    "alpha of a method": lambda m, x: m.a(x).add(m.b(x), alpha=2),
    "alpha in place": lambda m, x: m.a(x).add_(m.b(x), alpha=2),
    "sub": lambda m, x: m.a(x) - m.b(x),
    "alpha of sub": lambda m, x: torch.sub(m.a(x), m.b(x), alpha=-0.3),
    "rsub": lambda m, x: torch.rsub(m.a(x), m.b(x), alpha=3),
    "negative": lambda m, x: -m.a(x) + m.b(x),
    "a number before": lambda m, x: 1 - (m.a(x) + m.b(x)),
    "sum of a list": lambda m, x: sum([m.a(x), m.b(x)]),
    "sum of a stack": lambda m, x: torch.stack([m.a(x), m.b(x)]).sum(0),
    "sum of a stack along another axis": lambda m, x: torch.stack([m.a(x), m.b(x)], 1).sum(1),
    "mean of a stack": lambda m, x: torch.stack([m.a(x), m.b(x)]).mean(0),
    "division": lambda m, x: torch.true_divide(m.a(x), 2) + m.b(x),
    "in place": lambda m, x: m.a(x).__iadd__(m.b(x)),
}
LEFT: dict[str, Run] = {
    "out": lambda m, x: torch.add(m.a(x), m.b(x), out=torch.empty(0, dtype=x.dtype)),
    "cat": lambda m, x: torch.cat([m.a(x), m.b(x)], 2),
    "product": lambda m, x: m.a(x) * m.b(x),
    "addcmul": lambda m, x: torch.addcmul(m.a(x), m.b(x), x, value=2),
    "floor": lambda m, x: torch.div(m.a(x), 2, rounding_mode="floor") + m.b(x),
    "integer division": lambda m, x: m.a(x) // 2 + m.b(x),
    "power": lambda m, x: m.a(x) ** 2 + m.b(x),
    "maximum": lambda m, x: torch.maximum(m.a(x), m.b(x)),
    "norm of a stack": lambda m, x: torch.stack([m.a(x), m.b(x)]).norm(dim=0),
    "sum over positions": lambda m, x: torch.stack([m.a(x), m.b(x)]).sum(3),
}


@hazard("C17", "alpha=, sub, out=, sum of a list, stack().sum(), cat", "each with its factor, or left alone", "RK309")
@pytest.mark.parametrize("run", MERGED.values(), ids=MERGED)
def test_c17_sums_in_all_spellings(run: Run) -> None:
    converted, _ = convert(Fn(run, a=same(), b=same(1)))
    assert counts(converted) == (1, 0)


@pytest.mark.parametrize("case", LEFT)
def test_c17_what_only_looks_like_a_sum_is_left(case: str) -> None:
    converted, report = convert(Fn(LEFT[case], a=same(), b=same(1)))
    assert counts(converted) == (2, 0)
    if case == "out" and not report.untraceable:  # torch 2.6 cannot trace the `empty` it writes to
        assert places(report, "RK309") == ["add"]
