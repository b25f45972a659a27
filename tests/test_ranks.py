"""How many axes a value has decides which one a `BatchNorm1d` means: told by calls in between, or not known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import reparamkit
from tests.helpers import Fn, codes, convert, counts, places, randomize

VECTORS = ((2, 8), (3, 8))
IMAGES = ((2, 8, 4, 5), (3, 8, 2, 2))


def head(run: Any) -> nn.Module:
    """A layer, `run`, a norm, a linear layer."""
    return Fn(
        lambda m, x: m.last(m.bn(run(m, x))),
        fc=nn.Linear(8, 8), conv=nn.Conv2d(8, 8, 1), bn=nn.BatchNorm1d(8), last=nn.Linear(8, 4),
    )  # fmt: skip


ELEMENTWISE: dict[str, Any] = {
    "square": torch.square,
    "log1p": lambda y: torch.log1p(y.abs()),
    "method": lambda y: y.sin(),
    "clip": lambda y: y.clip(-1, 1),
    "masked": lambda y: y.masked_fill(y > 0, 0.5),
    "maximum": lambda y: torch.maximum(y, y.neg()),
    "softsign": F.softsign,
}


@pytest.mark.parametrize("what", ELEMENTWISE)
def test_elementwise_calls_keep_the_axes(what: str) -> None:
    run = ELEMENTWISE[what]
    deploy, report = convert(head(lambda m, x: run(m.fc(x.flatten(1)))), *VECTORS)
    assert counts(deploy)[1] == 0, str(report)


POOLED: dict[str, Any] = {
    "squeezed": lambda y: F.adaptive_avg_pool2d(y, 1).squeeze(-1).squeeze(-1),
    "squeezed at once": lambda y: F.adaptive_avg_pool2d(y, 1).squeeze((2, 3)),
    "kept, then squeezed": lambda y: y.mean((2, 3), keepdim=True).squeeze(3).squeeze(2),
    "smallest": lambda y: y.amin((2, 3)),
    "deviation": lambda y: y.flatten(2).std(-1),
    "einsum": lambda y: torch.einsum("nchw -> nc", y),
}


@pytest.mark.parametrize("what", POOLED)
def test_axes_left_by_a_pooling(what: str) -> None:
    run = POOLED[what]
    deploy, report = convert(head(lambda m, x: run(m.conv(x))), *IMAGES)
    assert counts(deploy)[1] == 0, str(report)


def test_norm_of_one_axis_more() -> None:
    """`unsqueeze` gives the norm its axis of positions."""
    model = Fn(lambda m, x: F.relu(m.bn(m.fc(x.flatten(1)).unsqueeze(-1))), fc=nn.Linear(8, 8), bn=nn.BatchNorm1d(8))
    deploy, _ = convert(model, *VECTORS)
    assert counts(deploy) == (1, 0)


UNKNOWN: dict[str, Any] = {
    "squeeze of what may be longer": lambda m, x: m.conv(x).squeeze(-1),
    "squeeze of everything": lambda m, x: F.adaptive_avg_pool2d(m.conv(x), 1).squeeze(),
    "einsum with dots": lambda m, x: torch.einsum("...hw->...", m.conv(x)),
}


@pytest.mark.parametrize("what", UNKNOWN)
def test_unknown_axes_are_not_guessed(what: str) -> None:
    """The must-refuse twins."""
    model = randomize(head(UNKNOWN[what])).double()
    _, report = reparamkit.apply(model.eval(), return_report=True)
    assert places(report, "RK203") == ["bn"]


class Listed(nn.Module):
    """As timm's DenseNet: the input of a 2-D norm is a list or a tensor, joined."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Any) -> Tensor:
        y = torch.cat([x, x * 2], 1)
        return self.conv(F.relu(self.norm(y)))


def test_a_norm_of_images_tells_its_axes_and_its_place_is_told() -> None:
    report = reparamkit.plan(randomize(Listed()).eval())
    assert [r.code for r in report.refusals if r.where == "norm"] == ["RK321"]


class Untraced(nn.Module):
    """Loops over a size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.conv(x[i : i + 1]) for i in range(x.shape[0])])


def test_each_reason_is_told_once() -> None:
    """A forward that cannot be traced is met at the call of it and by itself."""
    model = Fn(lambda m, x: m.inner(m.conv(x)), inner=Untraced(), conv=nn.Conv2d(8, 8, 1))
    _, report = reparamkit.apply(randomize(model).eval(), return_report=True)
    assert "RK604" in codes(report)
    told = [(r.where, r.reason) for r in (*report.untraceable, *report.refused)]
    assert len(told) == len(set(told))


def test_what_a_layer_reads_has_the_axes_that_an_example_shows_behind_it() -> None:
    """Nothing tells how many axes `where` gives; the linear layer behind it was seen to give four."""

    def run(m: Any, x: Tensor) -> Any:
        y = m.first(torch.where(x > 0, x, -x).movedim(1, -1)).movedim(-1, 1)
        return m.last(y.mean((2, 3)))

    model = Fn(run, first=nn.Linear(8, 8), last=nn.Linear(8, 4))
    converted, report = convert(model, *IMAGES, example_inputs=torch.randn(2, 8, 4, 5, dtype=torch.float64))
    assert counts(converted) == (1, 0)
    assert not report.refused
